// SettledRate: what a disk gives in the long run, from the reads that ended in each tenth of a second.
//
// Disks begin faster than they go on: SSDs and hosts answer from caches, and limits of bandwidth pay idle time back.
// So leading windows are left out as long as they are clearly faster than the mean of those behind them. Limits also
// come in slices: Linux' blkio controller lets a tenth of a second's bytes through at once and then none until it is
// over, beginning with the first read. Half a second and a little has six of these bursts, and seems 20 % faster than
// the limit. So a window is as long as such a slice, and the first begins in the middle of one: whole windows then have
// whole bursts. Times are seconds since the first read began. Pure; one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace mlxf::storage {

class SettledRate {
 public:
  static constexpr double kWindowSeconds = 0.1;
  static constexpr double kLeadSeconds = kWindowSeconds / 2;
  // The most that the first window kept may have of the mean of the others.
  static constexpr double kTolerance = 1.1;

  // Wanted: that long, in whole windows, and as many bytes at that rate. 0 seconds: no windows, the bytes alone.
  SettledRate(double seconds, uint64_t bytes);

  // A read of so many bytes ended. REQUIRES: times never go back.
  void add(double at, uint64_t bytes);
  // What is wanted is there.
  [[nodiscard]] bool settled() const;

  struct Amount {
    double seconds = 0;
    uint64_t bytes = 0;
    double left_out_seconds = 0;  // Before.
  };
  // What counts: the settled windows; if not settled() the last ones that come to what is wanted, or else everything.
  [[nodiscard]] Amount amount() const;
  [[nodiscard]] uint64_t bytes() const { return bytes_; }  // All.
  [[nodiscard]] double seconds() const { return at_; }     // Until the last read ended.

 private:
  [[nodiscard]] size_t windows() const { return borders_.empty() ? 0 : borders_.size() - 1; }
  [[nodiscard]] double bytes_of(size_t from, size_t to) const {  // Windows, without `to`.
    return static_cast<double>(borders_[to] - borders_[from]);
  }
  [[nodiscard]] size_t first_settled() const;
  [[nodiscard]] bool enough_from(size_t window) const;
  size_t windows_wanted_;
  uint64_t bytes_wanted_;
  std::vector<uint64_t>
      borders_;  // Bytes of all reads that ended before the first window and each one's end.
  uint64_t bytes_ = 0;
  double at_ = 0;
};

}  // namespace mlxf::storage
