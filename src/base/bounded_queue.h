// BoundedQueue: values from one thread to another, at most `capacity` of them waiting.
//
// Thread-safe: BoundedQueue. Values come out in the order in which they went in. A full queue refuses: what to do then
// (wait for room, slow down, give up) is the producer's business. close() lets what is inside still come out.
#pragma once

#include <chrono>
#include <cstddef>
#include <deque>
#include <optional>
#include <utility>

#include "base/mutex.h"

namespace mlxf {

template <typename T>
class BoundedQueue {
 public:
  explicit BoundedQueue(size_t capacity) : capacity_(capacity) {}
  BoundedQueue(const BoundedQueue&) = delete;
  BoundedQueue& operator=(const BoundedQueue&) = delete;

  // False, and `value` is dropped, when the queue is full or closed.
  bool push(T value) MLXF_EXCLUDES(mutex_) {
    {
      const MutexLock lock(mutex_);
      if (closed_ || values_.size() >= capacity_) return false;
      values_.push_back(std::move(value));
    }
    ready_.notify_one();
    return true;
  }
  // As push(), into a full queue too: for the one value that must not be lost, an end. Closes the queue.
  void push_last(T value) MLXF_EXCLUDES(mutex_) {
    {
      const MutexLock lock(mutex_);
      if (closed_) return;
      values_.push_back(std::move(value));
      closed_ = true;
    }
    ready_.notify_all();
  }

  // The oldest value, or nothing when there is none now.
  [[nodiscard]] std::optional<T> poll() MLXF_EXCLUDES(mutex_) {
    const MutexLock lock(mutex_);
    return take();
  }
  // The same, waiting for a value until `timeout` has passed or the queue is closed.
  [[nodiscard]] std::optional<T> wait(std::chrono::nanoseconds timeout) MLXF_EXCLUDES(mutex_) {
    const auto deadline = std::chrono::steady_clock::now() + timeout;
    const MutexLock lock(mutex_);
    while (values_.empty() && !closed_) {
      const auto left = deadline - std::chrono::steady_clock::now();
      if (left.count() <= 0) break;
      ready_.wait_for(mutex_, left);
    }
    return take();
  }

  void close() MLXF_EXCLUDES(mutex_) {
    {
      const MutexLock lock(mutex_);
      closed_ = true;
    }
    ready_.notify_all();
  }

  [[nodiscard]] bool full() const MLXF_EXCLUDES(mutex_) { return size() >= capacity_; }
  [[nodiscard]] size_t size() const MLXF_EXCLUDES(mutex_) {
    const MutexLock lock(mutex_);
    return values_.size();
  }

 private:
  std::optional<T> take() MLXF_REQUIRES(mutex_) {
    if (values_.empty()) return std::nullopt;
    std::optional<T> value(std::move(values_.front()));
    values_.pop_front();
    return value;
  }

  const size_t capacity_;
  mutable Mutex mutex_;
  CondVar ready_;
  std::deque<T> values_ MLXF_GUARDED_BY(mutex_);
  bool closed_ MLXF_GUARDED_BY(mutex_) = false;
};

}  // namespace mlxf
