// The memory budget: what the user asked for (`auto`, a share, a size), and the bytes that it comes to here and now.
//
// A budget is hard: everything that this process holds and that only it can give back (anonymous and shared pages,
// swapped ones included) stays within it. Pure functions; any thread. Sizes are bytes; in texts GiB are 2^30.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"
#include "platform/memory_info.h"

namespace mlxf::memory {

struct BudgetRequest {
  enum class Kind : uint8_t { kAuto, kShare, kBytes };
  Kind kind = Kind::kAuto;
  double share = 0;           // kShare: above 0, at most 1.
  uint64_t bytes = 0;         // kBytes: above 0.
  std::string text = "auto";  // As it was written.
};

// "auto", "50%", "4GiB", "4096MiB", "1.5G", "512m" (K, M, G, T alone are the binary units), "8GB" (powers of 1000)
// or plain bytes; letters in either case. kInvalidArgument names the text and these forms.
[[nodiscard]] Result<BudgetRequest> parse_budget(std::string_view text);

struct Budget {
  uint64_t bytes = 0;
  std::string
      reason;  // One line for people: "auto: 11.2 GiB available, cgroup limit 8 GiB, 1.5 GiB left for …".
};

// What a request comes to. `held_by_us` is what this process holds already (platform::own_memory_bytes): the system
// counts it as used, but it is ours to spend. Never more than may be had at most, and never refuses: where next to
// nothing is free the budget is half of that.
[[nodiscard]] Budget resolve_budget(const BudgetRequest& request, const platform::MemoryReading& reading,
                                    uint64_t held_by_us);

// What may be had at most: physical memory or the tightest group's limit.
[[nodiscard]] uint64_t most_bytes(const platform::MemoryReading& reading);

// What is left to others: of the host's available memory to the user's programs, of a group's room to what else is
// charged to it. Never more than half of what could be had, `held_by_us` included.
struct Reserves {
  uint64_t host_bytes = 0;
  uint64_t group_bytes = 0;  // 0 where no group limits us.
};
[[nodiscard]] Reserves reserves_for(const platform::MemoryReading& reading, uint64_t held_by_us);

// "11.2 GiB", "512 MiB", "8 GiB", "100 bytes": one decimal, none where it is zero.
[[nodiscard]] std::string size_text(uint64_t bytes);

}  // namespace mlxf::memory
