#include "storage/faulty_storage.h"

#include <algorithm>
#include <cerrno>
#include <random>
#include <utility>

#include "base/check.h"

namespace mlxf::storage {

class FaultyStorage::FaultyDevice final : public Device {
 public:
  explicit FaultyDevice(const FaultPlan& plan) : plan_(plan), random_(plan.seed) {}

  std::string description() const override { return "faults from seed " + std::to_string(plan_.seed); }
  void add_file(const platform::DirectFile& file) override { files_.push_back(&file); }

  void start(const DeviceRead& read) override {
    std::fill_n(read.into, read.bytes, kPoison);
    started_.push_back(read);
    pending_.push_back({read, now_ + below(uint64_t{plan_.ticks_max} + 1), outcome(read)});
  }
  void flush() override {}

  size_t reap(std::span<DeviceResult> results, TimePoint deadline) override {
    CHECK(!results.empty());
    if (pending_.empty()) return 0;
    const auto next_due =
        std::min_element(pending_.begin(), pending_.end(), [](const Pending& a, const Pending& b) {
          return a.due < b.due;
        })->due;
    if (deadline == kNever) now_ = std::max(now_, next_due);
    size_t count = 0;
    for (size_t i = 0; i < pending_.size() && count < results.size();) {
      if (pending_[i].due > now_) {
        ++i;
        continue;
      }
      results[count++] = {pending_[i].read.slot, deliver(pending_[i])};
      pending_.erase(pending_.begin() + static_cast<ptrdiff_t>(i));
    }
    if (count == 0) ++now_;
    return count;
  }

  FaultPlan plan_;
  std::vector<DeviceRead> started_;

 private:
  struct Pending {
    DeviceRead read;
    uint64_t due = 0;
    int64_t result = 0;  // -errno, or the most that may be delivered.
  };

  uint64_t below(uint64_t limit) { return random_() % limit; }
  bool chance(uint32_t per_mille) { return below(1000) < per_mille; }

  // Draws the same count of numbers for every read, so that plans differ only where they say so.
  int64_t outcome(const DeviceRead& read) {
    const bool error = chance(plan_.error_per_mille);
    const bool interrupted = chance(plan_.interrupted_per_mille);
    const bool cut = chance(plan_.short_per_mille);
    const uint64_t short_bytes = read.bytes > 1 ? 1 + below(read.bytes - 1) : 1;
    if (started_.size() == plan_.error_at || error) return -plan_.error_number;
    if (plan_.refuse_direct && read.direct) return -EINVAL;
    if (interrupted) return -EINTR;
    uint64_t bytes = cut ? short_bytes : read.bytes;
    bytes = std::min(bytes, plan_.files_end_at - std::min(plan_.files_end_at, read.offset));
    return static_cast<int64_t>(bytes);
  }

  // Memory is written only now, at completion, as a device does.
  int64_t deliver(const Pending& pending) const {
    if (pending.result <= 0) return pending.result;
    const DeviceRead& read = pending.read;
    const int descriptor = files_[read.file]->buffered_descriptor();
    uint64_t done = 0;
    const auto wanted = static_cast<uint64_t>(pending.result);
    // Through a buffer of its own: a short direct read need not be a multiple of the sector.
    std::vector<uint8_t> bytes(wanted);
    while (done < wanted) {
      const int64_t got =
          platform::read_some(descriptor, read.offset + done, bytes.data() + done, wanted - done);
      if (got == -EINTR) continue;
      if (got < 0) return got;
      if (got == 0) break;
      done += static_cast<uint64_t>(got);
    }
    std::copy_n(bytes.begin(), done, read.into);
    return static_cast<int64_t>(done);
  }

  std::mt19937_64 random_;
  std::vector<const platform::DirectFile*> files_;
  uint64_t now_ = 0;
  std::vector<Pending> pending_;
};

FaultyStorage::FaultyStorage(const FaultPlan& plan, const QueueOptions& options) {
  auto device = std::make_unique<FaultyDevice>(plan);
  device_ = device.get();
  storage_ = std::make_unique<Storage>(std::move(device), options);
}

FaultyStorage::~FaultyStorage() = default;

void FaultyStorage::set_plan(const FaultPlan& plan) { device_->plan_ = plan; }

std::vector<DeviceRead> FaultyStorage::started() const { return device_->started_; }

}  // namespace mlxf::storage
