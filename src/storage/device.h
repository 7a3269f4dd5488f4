// Device: carries out single reads, several at once; the seam between Storage's queue and the operating system.
//
// io_uring, a pool of pread threads and the fault-injecting double of the tests stand behind it. A Device knows no
// priorities, retries or requests: Storage gives it at most `depth` reads at a time and interprets what comes back.
// One thread calls it, Storage's owner. Results are what the system call gave: bytes, or -errno.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/result.h"
#include "platform/direct_file.h"

namespace mlxf::storage {

using Clock = std::chrono::steady_clock;
using TimePoint = Clock::time_point;
constexpr TimePoint kNever = TimePoint::max();

struct DeviceRead {
  uint32_t slot = 0;  // Comes back in the result; unique among the reads under way.
  uint32_t file = 0;  // Index in the order of add_file().
  int descriptor = -1;
  bool direct = false;
  uint64_t offset = 0;
  uint64_t bytes = 0;
  uint8_t* into = nullptr;  // Stays valid until the result was reaped.
};

struct DeviceResult {
  uint32_t slot = 0;
  int64_t result = 0;  // Bytes read, 0 at the end of the file, or -errno.
};

class Device {
 public:
  Device() = default;
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  // REQUIRES: every started read was reaped.
  virtual ~Device() = default;

  // For logs and doctor: "io_uring, 16 deep".
  [[nodiscard]] virtual std::string description() const = 0;
  // Told of each file before the first read of it. `file` outlives this.
  virtual void add_file(const platform::DirectFile& file) = 0;
  // Never blocks on the disk. The read may begin only with the next flush() or reap().
  virtual void start(const DeviceRead& read) = 0;
  virtual void flush() = 0;
  // Stores finished reads, at most results.size(), and returns how many. Blocks until there is at least one or
  // `deadline` passed; never blocks if `deadline` is TimePoint::min().
  [[nodiscard]] virtual size_t reap(std::span<DeviceResult> results, TimePoint deadline) = 0;
};

}  // namespace mlxf::storage
