#include "storage/pool_device.h"

#include <algorithm>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/mutex.h"

namespace mlxf::storage {
namespace {

// A first-in, first-out queue of at most `capacity` entries that allocates only once. One lock guards it, outside.
template <typename Entry>
class Ring {
 public:
  explicit Ring(size_t capacity) : entries_(capacity) {}
  [[nodiscard]] bool empty() const { return count_ == 0; }
  void push(const Entry& entry) {
    CHECK(count_ < entries_.size());
    entries_[(first_ + count_++) % entries_.size()] = entry;
  }
  [[nodiscard]] Entry pop() {
    const Entry entry = entries_[first_];
    first_ = (first_ + 1) % entries_.size();
    --count_;
    return entry;
  }

 private:
  std::vector<Entry> entries_;
  size_t first_ = 0;
  size_t count_ = 0;
};

class PoolDevice final : public Device {
 public:
  PoolDevice(uint32_t depth, uint32_t threads) : depth_(depth), waiting_(depth), finished_(depth) {
    threads_.reserve(threads);
    for (uint32_t i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
  }
  ~PoolDevice() override {
    {
      const MutexLock lock(mutex_);
      stopping_ = true;
    }
    work_to_do_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  std::string description() const override {
    return "pread, " + std::to_string(threads_.size()) + " threads, " + std::to_string(depth_) + " deep";
  }
  void add_file(const platform::DirectFile&) override {}
  void start(const DeviceRead& read) override {
    {
      const MutexLock lock(mutex_);
      waiting_.push(read);
    }
    work_to_do_.notify_one();
  }
  void flush() override {}

  size_t reap(std::span<DeviceResult> results, TimePoint deadline) override {
    const MutexLock lock(mutex_);
    while (finished_.empty()) {
      if (deadline == kNever) {
        work_done_.wait(mutex_);
        continue;
      }
      const TimePoint now = deadline == TimePoint::min() ? deadline : Clock::now();
      if (now >= deadline) return 0;
      // In steps, so that no deadline is too far away to be added to the clock's time.
      work_done_.wait_for(mutex_, std::min<Clock::duration>(deadline - now, std::chrono::hours(1)));
    }
    size_t count = 0;
    while (count < results.size() && !finished_.empty()) results[count++] = finished_.pop();
    return count;
  }

 private:
  void work() {
    for (;;) {
      DeviceRead read;
      {
        const MutexLock lock(mutex_);
        while (waiting_.empty() && !stopping_) work_to_do_.wait(mutex_);
        if (waiting_.empty()) return;
        read = waiting_.pop();
      }
      const int64_t result = platform::read_some(read.descriptor, read.offset, read.into, read.bytes);
      if (!read.direct && result > 0)
        platform::drop_cached(read.descriptor, read.offset, static_cast<uint64_t>(result));
      {
        const MutexLock lock(mutex_);
        finished_.push({read.slot, result});
      }
      work_done_.notify_one();
    }
  }

  const uint32_t depth_;
  std::vector<std::thread> threads_;  // The owner's; the threads do not touch it.
  Mutex mutex_;
  CondVar work_to_do_;
  CondVar work_done_;
  Ring<DeviceRead> waiting_ MLXF_GUARDED_BY(mutex_);
  Ring<DeviceResult> finished_ MLXF_GUARDED_BY(mutex_);
  bool stopping_ MLXF_GUARDED_BY(mutex_) = false;
};

}  // namespace

std::unique_ptr<Device> make_pool_device(uint32_t depth, uint32_t threads) {
  return std::make_unique<PoolDevice>(depth, threads);
}

}  // namespace mlxf::storage
