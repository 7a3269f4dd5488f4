// What a Ticket and the engine's thread share of one request. Internal to the scheduler.
//
// Wakeup is for any thread; each member of Ticket::Channel says who writes it.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <utility>

#include "base/bounded_queue.h"
#include "base/mutex.h"
#include "engine/scheduler.h"

namespace mlxf::engine {

// A flag to wait for: wakes at once when it was set before.
class Wakeup {
 public:
  void wake() {
    {
      const MutexLock lock(mutex_);
      set_ = true;
    }
    ready_.notify_one();
  }
  void wait(std::chrono::nanoseconds timeout) {
    const MutexLock lock(mutex_);
    if (!set_) ready_.wait_for(mutex_, timeout);
    set_ = false;
  }

 private:
  Mutex mutex_;
  CondVar ready_;
  bool set_ MLXF_GUARDED_BY(mutex_) = false;
};

struct Ticket::Channel {
  Channel(size_t event_max, std::shared_ptr<Wakeup> wakes) : events(event_max), wakeup(std::move(wakes)) {}
  BoundedQueue<Event> events;
  const std::shared_ptr<Wakeup> wakeup;
  std::atomic<bool> cancelled{false};  // Set by the ticket, read by the engine's thread; seq_cst.
  // Set by the engine's thread while the queue is full; seq_cst with its check.
  std::atomic<bool> paused{false};
  // Written by the engine's thread, read by the ticket; relaxed, each is a fact of its own.
  std::atomic<Progress::Stage> stage{Progress::Stage::kQueued};
  std::atomic<uint32_t> position{0};
  std::atomic<uint32_t> prompt_done{0};
};

}  // namespace mlxf::engine
