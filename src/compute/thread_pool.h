// ThreadPool: runs short chunks of work on a fixed set of threads, with barriers that cost microseconds.
//
// One owner thread calls parallel_for and works as worker 0; the others are created by the constructor and joined by
// the destructor. Each thread takes the chunks of a part of its own in ascending order, then one at a time what is left
// of the others' parts: a thread that loses its core to another process delays only the chunk in its hands, and each
// reads one ascending run of memory, which the hardware's prefetchers follow over the borders of chunks. A waiting
// thread spins for a few microseconds and then sleeps in the kernel: a spinning waiter would keep the core that the
// delayed thread could continue on. Not re-entrant: a chunk must not call parallel_for. Chunks never block.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

namespace mlxf::compute {

// A borrowed callable (chunk, worker); valid during the call only.
class ChunkFn {
 public:
  template <typename F>
  ChunkFn(const F& callable)  // NOLINT: implicit, so that a lambda can be passed.
      : object_(&callable), call_([](const void* object, uint32_t chunk, uint32_t worker) {
          (*static_cast<const F*>(object))(chunk, worker);
        }) {}
  void operator()(uint32_t chunk, uint32_t worker) const { call_(object_, chunk, worker); }

 private:
  const void* object_;
  void (*call_)(const void*, uint32_t, uint32_t);
};

class ThreadPool {
 public:
  // `threads` counts the calling thread; at least 1.
  explicit ThreadPool(uint32_t threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // Calls fn(chunk, worker) once for every chunk < chunks, in any order, and returns when all are done.
  void parallel_for(uint32_t chunks, ChunkFn fn);

  // Called by the owner after each of its own chunks, some thousand times a second: whoever keeps a disk busy while
  // this computes looks after it here. It must not call parallel_for. Null: nothing. By the owner, between calls.
  void set_between(std::function<void()> between) { between_ = std::move(between); }

  [[nodiscard]] uint32_t threads() const { return threads_; }

 private:
  struct Shared;
  const uint32_t threads_;
  std::unique_ptr<Shared> shared_;
  std::function<void()> between_;
};

}  // namespace mlxf::compute
