// The texts in which Linux tells about memory, as pure functions: /proc/meminfo, pressure stall information, the
// counters of a control group, and which groups a process is in.
//
// Text in, values out; anything that does not read as it should is an empty optional or is left out, because these
// files differ between kernels and containers. Compiled everywhere; any thread. Sizes are bytes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "platform/memory_info.h"

namespace mlxf::platform {

struct HostMemory {
  uint64_t total_bytes = 0;
  uint64_t available_bytes = 0;
};
// /proc/meminfo. Where MemAvailable is missing (before Linux 3.14), MemFree + Inactive(file).
[[nodiscard]] std::optional<HostMemory> parse_meminfo(std::string_view text);

// /proc/pressure/memory, or a group's memory.pressure. The line "full" may be missing.
[[nodiscard]] std::optional<MemoryStalls> parse_stalls(std::string_view text);

// A file of one number: bytes, or kNoMemoryLimit for "max" and for what version 1 writes instead (about 2^63).
[[nodiscard]] std::optional<uint64_t> parse_group_bytes(std::string_view text);

// The value behind `name` in memory.stat, one "name value" a line.
[[nodiscard]] std::optional<uint64_t> find_stat(std::string_view text, std::string_view name);

enum class GroupVersion : uint8_t { kV1, kV2 };

// The folders of the groups that limit a process, innermost first, up to the root that is visible to it.
struct GroupPath {
  GroupVersion version = GroupVersion::kV2;
  std::vector<std::string> folders;
};
// From /proc/self/cgroup and /proc/self/mountinfo: the unified hierarchy and the memory hierarchy of version 1,
// each if mounted. A group outside what its mount shows (a container without a name space of its own) leaves
// the mount's top folder, which is then the container's own group or one above it.
[[nodiscard]] std::vector<GroupPath> find_groups(std::string_view self_cgroup, std::string_view mountinfo);

}  // namespace mlxf::platform
