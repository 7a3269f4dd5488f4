// disk_time: how long reads take, from a measured table of rates by block size and depth.
//
// ssd_rate() is of a steady stream. BatchTime is of reads that are asked for at once on an idle disk and waited for
// together, as a layer asks for the experts that it misses. While k of them are under way, the next one is there after
// block / rate(k), what k at a time take in a steady stream for each; once none waits for its turn, fewer and fewer are
// under way, and the last is alone. So a small batch never sees the rate of a full queue. A read's processor time is
// part of it, for the probe submits and takes up its reads on one thread, as the engine does. Pure, any thread; seconds
// and bytes.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "plan/hardware_profile.h"

namespace mlxf::plan {

// What the disk delivers for reads of `block_bytes`, `depth` at a time: between the rows of a measured table, or its
// nearest row; blocks smaller than any cost what they have in common with the two smallest. 0 for an empty table.
[[nodiscard]] double ssd_rate(std::span<const SsdRate> table, double block_bytes, double depth);

class BatchTime {
 public:
  // REQUIRES: `table` is not empty.
  BatchTime(std::span<const SsdRate> table, double block_bytes);
  // Until the last of so many is there; parts of a read count as such.
  [[nodiscard]] double of(double reads) const;
  // The mean, where each of `records` is read with a chance of `chance`, in `reads_each` reads.
  [[nodiscard]] double expected(uint32_t records, double chance, double reads_each) const;

 private:
  std::vector<double> last_;  // Seconds until the last of so many, up to the queue's depth.
  double full_ = 0;           // Of each one while the queue is full.
};

}  // namespace mlxf::plan
