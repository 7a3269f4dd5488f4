#if !defined(__APPLE__)
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <span>
#include <utility>
#include <vector>

#include "platform/memory_info.h"
#include "platform/memory_text.h"

namespace mlxf::platform {
namespace {

// A file of /proc or of a group, kept open: pread from its start makes the kernel write it anew.
class LiveFile {
 public:
  LiveFile() = default;
  explicit LiveFile(const std::string& path) : descriptor_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {}
  LiveFile(LiveFile&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  LiveFile& operator=(LiveFile&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }
  ~LiveFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }

  [[nodiscard]] bool is_open() const { return descriptor_ >= 0; }
  // As much of the text as fits; empty when it cannot be read.
  [[nodiscard]] std::string_view read(std::span<char> into) const {
    if (descriptor_ < 0) return {};
    size_t length = 0;
    while (length < into.size()) {
      const ssize_t got =
          ::pread(descriptor_, into.data() + length, into.size() - length, static_cast<off_t>(length));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return {};
      length += static_cast<size_t>(got);
      // These files come whole in one read if they fit at all: only a full buffer's worth goes on.
      if (got == 0 || static_cast<size_t>(got) < 4096) break;
    }
    return {into.data(), length};
  }

 private:
  int descriptor_ = -1;
};

// Files of /proc that grow with the number of mounts, read once.
std::string read_all(const std::string& path) {
  constexpr size_t kBytesMax = size_t{4} << 20;
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  std::string text;
  std::array<char, 16384> buffer;
  while (descriptor >= 0 && text.size() < kBytesMax) {
    const ssize_t got = ::read(descriptor, buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    text.append(buffer.data(), static_cast<size_t>(got));
  }
  if (descriptor >= 0) ::close(descriptor);
  return text;
}

// Both versions' memory.stat is 1 to 2 KiB on Linux 6.18; what is looked up lies within.
constexpr size_t kStatBytes = 8192;
// memory.stat costs as much as all else together: it is read for the tightest group in every reading, and for all
// limited groups in one of so many.
constexpr uint32_t kFullReadingEvery = 16;

// One group with its limits and its use. Both limits of version 2 count: above memory.high the kernel stalls us.
struct Group {
  GroupVersion version = GroupVersion::kV2;
  LiveFile limit;
  LiveFile high;  // Version 2 only.
  LiveFile usage;
  LiveFile stat;
  // Version 1 tells the tightest limit above, even of groups that a container does not show.
  uint64_t hidden_limit_bytes = kNoMemoryLimit;

  // As of the reading under way; the cache possibly of an earlier one.
  uint64_t limit_bytes = kNoMemoryLimit;
  uint64_t usage_bytes = 0;
  uint64_t cache_bytes = 0;
  bool cache_is_fresh = false;

  // What is left below the limit once the cache that was not used lately is dropped.
  [[nodiscard]] uint64_t room_bytes() const {
    if (limit_bytes == kNoMemoryLimit) return kNoMemoryLimit;
    const uint64_t held = usage_bytes - std::min(usage_bytes, cache_bytes);
    return limit_bytes - std::min(limit_bytes, held);
  }
};

uint64_t read_limit(const LiveFile& file) {
  std::array<char, 64> buffer;
  return parse_group_bytes(file.read(buffer)).value_or(kNoMemoryLimit);
}

// False when the group is gone; it then limits nothing.
bool read_use(Group& group) {
  group.cache_is_fresh = false;
  group.limit_bytes = std::min({read_limit(group.limit), read_limit(group.high), group.hidden_limit_bytes});
  if (group.limit_bytes == kNoMemoryLimit) return true;
  std::array<char, 64> buffer;
  const auto usage = parse_group_bytes(group.usage.read(buffer));
  if (!usage) group.limit_bytes = kNoMemoryLimit;
  group.usage_bytes = usage.value_or(0);
  return usage.has_value();
}

void read_cache(Group& group) {
  std::array<char, kStatBytes> stat;
  const bool v1 = group.version == GroupVersion::kV1;
  group.cache_bytes =
      find_stat(group.stat.read(stat), v1 ? "total_inactive_file" : "inactive_file").value_or(0);
  group.cache_is_fresh = true;
}

Group open_group(GroupVersion version, const std::string& folder) {
  Group group;
  group.version = version;
  if (version == GroupVersion::kV2) {
    group.limit = LiveFile(folder + "/memory.max");
    group.high = LiveFile(folder + "/memory.high");
    group.usage = LiveFile(folder + "/memory.current");
  } else {
    group.limit = LiveFile(folder + "/memory.limit_in_bytes");
    group.usage = LiveFile(folder + "/memory.usage_in_bytes");
  }
  group.stat = LiveFile(folder + "/memory.stat");
  if (version == GroupVersion::kV1) {
    std::array<char, kStatBytes> stat;
    const auto hidden = find_stat(group.stat.read(stat), "hierarchical_memory_limit");
    if (hidden && *hidden < (uint64_t{1} << 62)) group.hidden_limit_bytes = *hidden;
  }
  return group;
}

}  // namespace

struct MemorySource::State {
  std::string root;
  LiveFile meminfo;
  LiveFile host_stalls;
  LiveFile group_stalls;
  std::vector<Group> groups;
  uint32_t readings = 0;

  void open_groups() {
    groups.clear();
    readings = 0;
    group_stalls = LiveFile();
    const auto paths =
        find_groups(read_all(root + "/proc/self/cgroup"), read_all(root + "/proc/self/mountinfo"));
    for (const GroupPath& path : paths) {
      for (const std::string& folder : path.folders) {
        Group group = open_group(path.version, root + folder);
        // The root group has no limit file, nor has one whose parent does not pass the memory controller on.
        if (group.usage.is_open() && (group.limit.is_open() || group.high.is_open()))
          groups.push_back(std::move(group));
      }
      // The root group's stalls are the host's; only it lacks cgroup.type.
      const std::string own = root + path.folders.front();
      if (path.version == GroupVersion::kV2 && ::access((own + "/cgroup.type").c_str(), F_OK) == 0)
        group_stalls = LiveFile(own + "/memory.pressure");
    }
  }

  // False when a group could not be read.
  [[nodiscard]] bool read_groups(MemoryReading& reading) {
    bool whole = true;
    reading.limit_bytes = kNoMemoryLimit;
    for (Group& group : groups) {
      whole = read_use(group) && whole;
      reading.limit_bytes = std::min(reading.limit_bytes, group.limit_bytes);
      if (readings % kFullReadingEvery == 0 && group.limit_bytes != kNoMemoryLimit) read_cache(group);
    }
    ++readings;
    reading.limit_room_bytes = kNoMemoryLimit;
    const auto by_room = [](const Group& a, const Group& b) { return a.room_bytes() < b.room_bytes(); };
    for (;;) {  // Ends: each round makes one group fresh.
      const auto tightest = std::min_element(groups.begin(), groups.end(), by_room);
      if (tightest == groups.end()) return whole;
      reading.limit_room_bytes = tightest->room_bytes();
      if (tightest->cache_is_fresh || reading.limit_room_bytes == kNoMemoryLimit) return whole;
      read_cache(*tightest);
    }
  }
};

MemorySource::MemorySource(std::unique_ptr<State> state) : state_(std::move(state)) {}
MemorySource::MemorySource(MemorySource&& other) noexcept = default;
MemorySource& MemorySource::operator=(MemorySource&& other) noexcept = default;
MemorySource::~MemorySource() = default;

Result<MemorySource> MemorySource::open(const std::string& root) {
  auto state = std::make_unique<State>();
  state->root = root;
  state->meminfo = LiveFile(root + "/proc/meminfo");
  state->host_stalls = LiveFile(root + "/proc/pressure/memory");
  state->open_groups();
  MemorySource source(std::move(state));
  if (auto first = source.read(); !first)
    return fail(ErrorCode::kUnsupported,
                first.error().message + ": how much memory there is cannot be known");
  return source;
}

Result<MemoryReading> MemorySource::read() {
  std::array<char, 4096> buffer;
  const auto host = parse_meminfo(state_->meminfo.read(buffer));
  if (!host)
    return fail(ErrorCode::kIo,
                state_->root + "/proc/meminfo cannot be read, or has no MemTotal and MemAvailable");
  MemoryReading reading;
  reading.total_bytes = host->total_bytes;
  reading.available_bytes = host->available_bytes;
  if (!state_->read_groups(reading)) {  // We were moved, and the old group is gone.
    state_->open_groups();
    (void)state_->read_groups(reading);  // What is unreadable even now stays no limit.
  }
  reading.host_stalls = parse_stalls(state_->host_stalls.read(buffer)).value_or(MemoryStalls{});
  reading.group_stalls = parse_stalls(state_->group_stalls.read(buffer)).value_or(MemoryStalls{});
  return reading;
}

}  // namespace mlxf::platform
#endif
