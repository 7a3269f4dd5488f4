#include "compute/thread_pool.h"

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "base/check.h"

namespace mlxf::compute {
namespace {

// A worker between two parallel_for calls of one token waits 2-20 us while the owner does serial work: it
// should not go to sleep for that, because waking it costs about as much. The owner waiting for the last
// chunk gives up its core sooner, so that a worker that lost its core can continue there.
constexpr auto kWorkerSpin = std::chrono::microseconds(40);
constexpr auto kOwnerSpin = std::chrono::microseconds(15);

void cpu_relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

template <typename Condition>
bool spin_until(std::chrono::nanoseconds limit, const Condition& condition) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  for (;;) {
    for (int i = 0; i < 16; ++i) {
      if (condition()) return true;
      cpu_relax();
    }
    if (std::chrono::steady_clock::now() >= deadline) return condition();
  }
}

constexpr uint32_t kClosed = 1u << 31;

// The chunks that one worker begins with: those before `end`, of which `next` is the next to hand out.
struct alignas(64) Part {
  std::atomic<uint32_t> next{0};  // Relaxed: gate orders the data.
  uint32_t end = 0;
};

}  // namespace

// The state of one parallel_for. `gate` counts the workers inside it and carries kClosed while there is none;
// a worker enters only while it is open, so the owner never waits for a worker that has not begun.
struct ThreadPool::Shared {
  // Grows with each parallel_for; release: publishes what gate's line holds.
  alignas(64) std::atomic<uint32_t> epoch{0};
  std::atomic<bool> stop{false};                    // Written before epoch's last increment.
  alignas(64) std::atomic<uint32_t> gate{kClosed};  // Release on leaving pairs with the owner's acquire.
  // Both are written while the gate is closed and empty, and read by those inside.
  const ChunkFn* fn = nullptr;
  std::vector<Part> parts;
  std::vector<std::thread> workers;

  explicit Shared(uint32_t threads) : parts(threads) {}

  // The worker's own part, then what is left of the others'.
  void work(uint32_t worker, const std::function<void()>& between = nullptr) {
    const auto count = static_cast<uint32_t>(parts.size());
    for (uint32_t i = 0; i < count; ++i) {
      Part& part = parts[(worker + i) % count];
      if (part.next.load(std::memory_order_relaxed) >= part.end) continue;
      for (uint32_t chunk; (chunk = part.next.fetch_add(1, std::memory_order_relaxed)) < part.end;) {
        (*fn)(chunk, worker);
        if (between) between();
      }
    }
  }

  bool enter() {
    uint32_t seen = gate.load(std::memory_order_relaxed);
    while ((seen & kClosed) == 0)
      if (gate.compare_exchange_weak(seen, seen + 1, std::memory_order_acquire, std::memory_order_relaxed))
        return true;
    return false;
  }

  void leave() {
    if (gate.fetch_sub(1, std::memory_order_release) == (kClosed | 1u)) gate.notify_one();
  }

  void run_worker(uint32_t worker) {
    uint32_t seen = 0;
    for (;;) {
      if (!spin_until(kWorkerSpin, [&] { return epoch.load(std::memory_order_acquire) != seen; }))
        epoch.wait(seen, std::memory_order_acquire);
      seen = epoch.load(std::memory_order_acquire);
      if (stop.load(std::memory_order_relaxed)) return;
      if (!enter()) continue;
      work(worker);
      leave();
    }
  }
};

ThreadPool::ThreadPool(uint32_t threads) : threads_(threads), shared_(std::make_unique<Shared>(threads)) {
  CHECK(threads >= 1);
  for (uint32_t worker = 1; worker < threads; ++worker)
    shared_->workers.emplace_back([shared = shared_.get(), worker] { shared->run_worker(worker); });
}

ThreadPool::~ThreadPool() {
  shared_->stop.store(true, std::memory_order_relaxed);
  shared_->epoch.fetch_add(1, std::memory_order_release);
  shared_->epoch.notify_all();
  for (std::thread& worker : shared_->workers) worker.join();
}

void ThreadPool::parallel_for(uint32_t chunks, ChunkFn fn) {
  if (chunks == 0) return;
  if (chunks == 1 || threads_ == 1) {
    for (uint32_t chunk = 0; chunk < chunks; ++chunk) {
      fn(chunk, 0);
      if (between_) between_();
    }
    return;
  }
  Shared& s = *shared_;
  s.fn = &fn;
  for (uint32_t i = 0; i < threads_; ++i) {
    s.parts[i].next.store(static_cast<uint32_t>(uint64_t{chunks} * i / threads_), std::memory_order_relaxed);
    s.parts[i].end = static_cast<uint32_t>(uint64_t{chunks} * (i + 1) / threads_);
  }
  s.gate.store(0, std::memory_order_release);
  s.epoch.fetch_add(1, std::memory_order_release);
  s.epoch.notify_all();
  s.work(0, between_);
  s.gate.fetch_or(kClosed, std::memory_order_relaxed);
  const auto empty = [&] { return s.gate.load(std::memory_order_acquire) == kClosed; };
  while (!spin_until(kOwnerSpin, empty)) {
    const uint32_t seen = s.gate.load(std::memory_order_acquire);
    if (seen != kClosed) s.gate.wait(seen, std::memory_order_acquire);
  }
}

}  // namespace mlxf::compute
