// Mutex, MutexLock and CondVar: the standard ones with clang's thread-safety attributes, which libstdc++ lacks, so
// that -Wthread-safety can prove that guarded members are touched only under their lock.
// The only file that may name std::mutex.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

#if defined(__clang__)
#define MLXF_THREAD_ATTRIBUTE(x) __attribute__((x))
#else
#define MLXF_THREAD_ATTRIBUTE(x)
#endif
#define MLXF_GUARDED_BY(x) MLXF_THREAD_ATTRIBUTE(guarded_by(x))
#define MLXF_REQUIRES(...) MLXF_THREAD_ATTRIBUTE(requires_capability(__VA_ARGS__))
#define MLXF_EXCLUDES(...) MLXF_THREAD_ATTRIBUTE(locks_excluded(__VA_ARGS__))

namespace mlxf {

class MLXF_THREAD_ATTRIBUTE(capability("mutex")) Mutex {
 public:
  void lock() MLXF_THREAD_ATTRIBUTE(acquire_capability()) { mutex_.lock(); }
  void unlock() MLXF_THREAD_ATTRIBUTE(release_capability()) { mutex_.unlock(); }

 private:
  friend class CondVar;
  std::mutex mutex_;
};

class MLXF_THREAD_ATTRIBUTE(scoped_lockable) MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) MLXF_THREAD_ATTRIBUTE(acquire_capability(mutex)) : mutex_(mutex) {
    mutex_.lock();
  }
  ~MutexLock() MLXF_THREAD_ATTRIBUTE(release_capability()) { mutex_.unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

class CondVar {
 public:
  // REQUIRES: `mutex` held. May wake without a notification: wait in a loop on the condition.
  void wait(Mutex& mutex) MLXF_REQUIRES(mutex) {
    std::unique_lock<std::mutex> lock(mutex.mutex_, std::adopt_lock);
    condition_.wait(lock);
    lock.release();
  }
  // Returns false when `timeout` passed first.
  bool wait_for(Mutex& mutex, std::chrono::nanoseconds timeout) MLXF_REQUIRES(mutex) {
    std::unique_lock<std::mutex> lock(mutex.mutex_, std::adopt_lock);
    const bool in_time = condition_.wait_for(lock, timeout) == std::cv_status::no_timeout;
    lock.release();
    return in_time;
  }
  void notify_one() { condition_.notify_one(); }
  void notify_all() { condition_.notify_all(); }

 private:
  std::condition_variable condition_;
};

}  // namespace mlxf
