// MemorySource: what the system says about memory right now: how much there is, how much could be had, the limits of
// the control groups (cgroups, version 1 and 2) above this process, and whether programs wait for memory.
//
// Meant to be asked many times a second: on Linux the files stay open and a reading is a few preads, measured in
// docs/measurements/2026-11-memory.md; on macOS it is three system calls. Owned by whoever watches memory; one thread.
// Sizes are bytes.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/result.h"

namespace mlxf::platform {

constexpr uint64_t kNoMemoryLimit = ~uint64_t{0};

// Pressure stall information: how long programs waited for memory. "Some": at least one; "full": all at once.
struct MemoryStalls {
  double some_avg10 = 0;  // Percent of the last ten seconds.
  double full_avg10 = 0;
  uint64_t some_total_us = 0;  // Since the system (or the group) started.
  uint64_t full_total_us = 0;
  bool known = false;  // False where the system does not tell: all else is then 0.
};

// What macOS makes of its own state; kNormal elsewhere.
enum class MemoryPressure : uint8_t { kNormal, kWarning, kCritical };

struct MemoryReading {
  uint64_t total_bytes = 0;      // Physical memory that the system manages.
  uint64_t available_bytes = 0;  // Could be had without swapping: free, and caches that can be dropped.
  // The tightest limit of any group above us, and the least that any of them has left: its limit less its use, in
  // which file cache that was not read again lately counts as free. They may be of different groups.
  // kNoMemoryLimit where nothing limits us.
  uint64_t limit_bytes = kNoMemoryLimit;
  uint64_t limit_room_bytes = kNoMemoryLimit;
  MemoryStalls host_stalls;
  MemoryStalls group_stalls;  // Of our own group; unknown in the root group and under version 1.
  MemoryPressure pressure = MemoryPressure::kNormal;
};

class MemorySource {
 public:
  // `root` stands before every path (a test's folder); "" is the running system. kUnsupported where the system
  // does not tell how much memory there is.
  [[nodiscard]] static Result<MemorySource> open(const std::string& root = "");
  MemorySource(MemorySource&& other) noexcept;
  MemorySource& operator=(MemorySource&& other) noexcept;
  ~MemorySource();

  // kIo when the system stopped telling. A group that cannot be read (any more) counts as no limit, after the groups
  // were looked up again.
  [[nodiscard]] Result<MemoryReading> read();

 private:
  struct State;
  explicit MemorySource(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace mlxf::platform
