#include "storage/uring_device.h"

#include <liburing.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <vector>

#include "base/check.h"

namespace mlxf::storage {
namespace {

constexpr uint32_t kRegisteredFilesMax = 128;
constexpr uint32_t kRefusalsMax =
    1000;  // Of submissions in a row with nothing under way; then the ring is broken.

class UringDevice final : public Device {
 public:
  explicit UringDevice(uint32_t depth) : depth_(depth), reads_(depth) { failed_.reserve(depth); }
  ~UringDevice() override {
    if (open_) io_uring_queue_exit(&ring_);
  }

  // 0 or -errno.
  int open() {
    // Cooperative: completions are taken up when this thread enters the kernel anyway instead of by interrupting it.
    // Kernels before 5.19 do not know the flags.
    for (const unsigned flags : {IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG, 0U}) {
      const int result = io_uring_queue_init(depth_, &ring_, flags);
      open_ = result == 0;
      if (open_) break;
      if (result != -EINVAL) return result;
    }
    if (!open_) return -EINVAL;
    const int probed = probe();
    if (probed != 0) return probed;
    files_registered_ = io_uring_register_files_sparse(&ring_, 2 * kRegisteredFilesMax) == 0;
    return 0;
  }

  std::string description() const override { return "io_uring, " + std::to_string(depth_) + " deep"; }

  void add_file(const platform::DirectFile& file) override {
    const uint32_t index = files_++;
    if (!files_registered_ || index >= kRegisteredFilesMax) return;
    const std::array<int, 2> descriptors{file.direct_descriptor(), file.buffered_descriptor()};
    if (io_uring_register_files_update(&ring_, 2 * index, descriptors.data(), 2) != 2)
      files_registered_ = false;
  }

  void start(const DeviceRead& read) override {
    reads_[read.slot] = read;
    io_uring_sqe* entry = broken_ == 0 ? io_uring_get_sqe(&ring_) : nullptr;
    if (entry == nullptr) {
      failed_.push_back({read.slot, broken_ == 0 ? -EAGAIN : -broken_});
      return;
    }
    if (files_registered_ && read.file < kRegisteredFilesMax) {
      prepare(entry, read, static_cast<int>(2 * read.file + (read.direct ? 0 : 1)));
      entry->flags |= IOSQE_FIXED_FILE;
    } else {
      prepare(entry, read, read.descriptor);
    }
    unsubmitted_.push_back(read.slot);
  }

  void flush() override {
    if (!unsubmitted_.empty() && broken_ == 0) submitted(io_uring_submit(&ring_));
  }

  size_t reap(std::span<DeviceResult> results, TimePoint deadline) override {
    for (;;) {
      flush();
      const size_t count = collect(results);
      if (count > 0 || deadline == TimePoint::min()) return count;
      const TimePoint now = deadline == kNever ? TimePoint::min() : Clock::now();
      if (now >= deadline) return 0;
      if (in_kernel_ == 0) continue;  // Submission was refused for the moment, and nothing can wake a wait.
      wait(deadline == kNever ? std::chrono::hours(1)
                              : std::min<Clock::duration>(deadline - now, std::chrono::hours(1)));
    }
  }

 private:
  static void prepare(io_uring_sqe* entry, const DeviceRead& read, int file) {
    io_uring_prep_read(entry, file, read.into, static_cast<unsigned>(read.bytes), read.offset);
    io_uring_sqe_set_data64(entry, read.slot);
  }

  // Filters may let a ring be made and refuse its use, and kernels before 5.6 have no read: one no-op, and a question.
  int probe() {
    io_uring_probe* known = io_uring_get_probe_ring(&ring_);
    if (known == nullptr) return -ENOSYS;
    const bool reads = io_uring_opcode_supported(known, IORING_OP_READ) != 0;
    io_uring_free_probe(known);
    if (!reads) return -ENOSYS;
    io_uring_prep_nop(io_uring_get_sqe(&ring_));
    const int submitted = io_uring_submit_and_wait(&ring_, 1);
    if (submitted < 0) return submitted;
    io_uring_cqe* done = nullptr;
    const int waited = io_uring_wait_cqe(&ring_, &done);
    if (waited < 0) return waited;
    io_uring_cqe_seen(&ring_, done);
    return 0;
  }

  void submitted(int result) {
    if (result > 0) {
      refusals_ = 0;
      unsubmitted_.erase(unsubmitted_.begin(),
                         unsubmitted_.begin() + std::min<ptrdiff_t>(result, std::ssize(unsubmitted_)));
      in_kernel_ += static_cast<uint32_t>(result);
      return;
    }
    const bool passing = result == 0 || result == -EINTR || result == -EAGAIN || result == -EBUSY;
    if (passing && (in_kernel_ > 0 || ++refusals_ < kRefusalsMax)) return;  // reap() tries again.
    broken_ = result == 0 ? EIO : -result;
    for (const uint32_t slot : unsubmitted_) failed_.push_back({slot, -broken_});
    unsubmitted_.clear();
  }

  size_t collect(std::span<DeviceResult> results) {
    size_t count = 0;
    while (count < results.size() && !failed_.empty()) {
      results[count++] = failed_.back();
      failed_.pop_back();
    }
    io_uring_cqe* done = nullptr;
    while (count < results.size() && io_uring_peek_cqe(&ring_, &done) == 0) {
      const uint64_t slot = io_uring_cqe_get_data64(done);
      const int result = done->res;
      io_uring_cqe_seen(&ring_, done);
      if (slot == LIBURING_UDATA_TIMEOUT) continue;  // How old kernels end a wait with a deadline.
      CHECK(slot < reads_.size() && in_kernel_ > 0);
      --in_kernel_;
      const DeviceRead& read = reads_[slot];
      if (!read.direct && result > 0)
        platform::drop_cached(read.descriptor, read.offset, static_cast<uint64_t>(result));
      results[count++] = {static_cast<uint32_t>(slot), result};
    }
    return count;
  }

  // Every outcome, a signal and the time included, is for reap() to look at again.
  void wait(Clock::duration timeout) {
    const auto nanoseconds = std::chrono::duration_cast<std::chrono::nanoseconds>(timeout).count();
    __kernel_timespec limit{nanoseconds / 1'000'000'000, nanoseconds % 1'000'000'000};
    io_uring_cqe* done = nullptr;
    io_uring_wait_cqes(&ring_, &done, 1, &limit, nullptr);
  }

  const uint32_t depth_;
  io_uring ring_{};
  bool open_ = false;
  bool files_registered_ = false;
  uint32_t files_ = 0;
  int broken_ = 0;  // The errno that ended submission for good.
  uint32_t refusals_ = 0;
  uint32_t in_kernel_ = 0;
  std::vector<DeviceRead> reads_;      // By slot.
  std::vector<uint32_t> unsubmitted_;  // In the ring's order.
  std::vector<DeviceResult> failed_;   // Not accepted by the ring.
};

}  // namespace

Result<std::unique_ptr<Device>> make_uring_device(uint32_t depth) {
  auto device = std::make_unique<UringDevice>(depth);
  if (const int result = device->open(); result != 0)
    return fail(ErrorCode::kUnsupported,
                std::string("io_uring is refused by the system: ") + std::strerror(-result));
  return device;
}

}  // namespace mlxf::storage
