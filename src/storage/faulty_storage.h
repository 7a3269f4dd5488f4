// FaultyStorage: a Storage over real files whose device fails, stops short, delays and reorders as a seed decides.
//
// For tests of this module and of everything above it: the queue, the retries and the errors are Storage's own, only
// the device is a double. No threads and no clock: time is a count of ticks, one for each look at the device that
// finds nothing (a wait without a deadline goes straight to the next completion), so that a run is replayed exactly by
// its seed. Faults it may inject: an error at the k-th read or by chance, EINTR, short reads, a file that ends early,
// direct access refused, delays, completions out of order. What a read does not deliver holds kPoison in memory, from
// the moment it begins. One thread; owns its Storage.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "storage/storage.h"

namespace mlxf::storage {

struct FaultPlan {
  uint64_t seed = 1;
  uint64_t error_at = 0;  // Which read given to the device fails, counted from 1 and with retries; 0: none.
  int error_number = 5;   // EIO on every system.
  uint32_t error_per_mille = 0;
  uint32_t interrupted_per_mille = 0;
  uint32_t short_per_mille = 0;  // Delivers 1 byte at least and not all.
  uint64_t files_end_at = UINT64_MAX;
  bool refuse_direct = false;  // EINVAL for every direct read.
  uint32_t ticks_max = 0;      // Each read takes 0 to this many ticks; later ones may overtake.
};

class FaultyStorage {
 public:
  static constexpr uint8_t kPoison = 0xDB;

  explicit FaultyStorage(const FaultPlan& plan, const QueueOptions& options = {});
  ~FaultyStorage();

  [[nodiscard]] Storage& storage() { return *storage_; }
  // For the reads that begin from now on; the seed counts only at construction.
  void set_plan(const FaultPlan& plan);
  // Every read that was given to the device, in order.
  [[nodiscard]] std::vector<DeviceRead> started() const;

 private:
  class FaultyDevice;
  FaultyDevice* device_;  // Owned by storage_.
  std::unique_ptr<Storage> storage_;
};

}  // namespace mlxf::storage
