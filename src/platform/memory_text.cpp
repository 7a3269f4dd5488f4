#include "platform/memory_text.h"

#include <algorithm>
#include <charconv>

#include "base/checked.h"

namespace mlxf::platform {
namespace {

// Deeper than any real hierarchy; bounds the descriptors that are held.
constexpr size_t kFoldersMax = 32;
// Version 1 writes the largest multiple of the page size below 2^63 where there is no limit.
constexpr uint64_t kV1NoLimit = uint64_t{1} << 62;

// Cuts the part before `separator` off the front of `text`; all of it where there is none.
std::string_view cut(std::string_view& text, char separator) {
  const size_t at = text.find(separator);
  const std::string_view part = text.substr(0, at);
  text.remove_prefix(at == std::string_view::npos ? text.size() : at + 1);
  return part;
}

std::string_view trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\n' || text.back() == '\r'))
    text.remove_suffix(1);
  return text;
}

std::optional<uint64_t> whole_number(std::string_view text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// "12.34" as the kernel writes it; from_chars for doubles is absent from clang 14's library on macOS.
std::optional<double> percent(std::string_view text) {
  const std::string_view whole = cut(text, '.');
  const auto integer = whole_number(whole);
  const auto hundredths = text.empty() ? std::optional<uint64_t>(0) : whole_number(text);
  if (!integer || *integer > 100 || !hundredths || text.size() > 6) return std::nullopt;
  double scale = 1;
  for (size_t i = 0; i < text.size(); ++i) scale *= 10;
  return static_cast<double>(*integer) + static_cast<double>(*hundredths) / scale;
}

// "123 kB" in bytes.
std::optional<uint64_t> kib_field(std::string_view text) {
  std::string_view rest = trim(text);
  const auto value = whole_number(cut(rest, ' '));
  if (!value || rest != "kB") return std::nullopt;
  return checked_mul(*value, 1024);
}

// Whether `names`, separated by commas, holds `name`.
bool lists(std::string_view names, std::string_view name) {
  while (!names.empty())
    if (cut(names, ',') == name) return true;
  return false;
}

// mountinfo writes space, tab, newline and backslash as a backslash and three octal digits.
std::string unescape(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    unsigned value = 0;
    const bool octal = text[i] == '\\' && i + 3 < text.size() &&
                       std::all_of(text.begin() + static_cast<ptrdiff_t>(i) + 1,
                                   text.begin() + static_cast<ptrdiff_t>(i) + 4,
                                   [](char c) { return c >= '0' && c <= '7'; });
    if (!octal) {
      out += text[i];
      continue;
    }
    for (size_t k = 1; k <= 3; ++k) value = value * 8 + static_cast<unsigned>(text[i + k] - '0');
    out += static_cast<char>(value);
    i += 3;
  }
  return out;
}

struct Mount {
  GroupVersion version = GroupVersion::kV2;
  std::string root;   // The group that the mount shows at its top.
  std::string point;  // Where.
};

std::optional<Mount> parse_mount(std::string_view line) {
  for (int skipped = 0; skipped < 3; ++skipped) cut(line, ' ');
  const std::string_view root = cut(line, ' ');
  const std::string_view point = cut(line, ' ');
  const size_t dash = line.find(" - ");
  if (root.empty() || point.empty() || dash == std::string_view::npos) return std::nullopt;
  line.remove_prefix(dash + 3);
  const std::string_view type = cut(line, ' ');
  cut(line, ' ');
  if (type == "cgroup2") return Mount{GroupVersion::kV2, unescape(root), unescape(point)};
  if (type == "cgroup" && lists(trim(line), "memory"))
    return Mount{GroupVersion::kV1, unescape(root), unescape(point)};
  return std::nullopt;
}

// `group` as seen from a mount whose top is `top`: "" or "/a/b"; nothing when it is not below.
std::optional<std::string> below(const std::string& top, const std::string& group) {
  if (group.find("/..") != std::string::npos || top.find("/..") != std::string::npos) return std::nullopt;
  const std::string prefix = top == "/" ? "" : top;
  if (group.compare(0, prefix.size(), prefix) != 0) return std::nullopt;
  std::string rest = group.substr(prefix.size());
  if (rest == "/") rest.clear();
  if (!rest.empty() && rest.front() != '/') return std::nullopt;
  return rest;
}

GroupPath walk_up(const Mount& mount, std::string rest) {
  GroupPath path{mount.version, {}};
  const std::string point = mount.point == "/" ? "" : mount.point;
  for (;;) {
    if (path.folders.size() < kFoldersMax) path.folders.push_back(point + rest);
    if (rest.empty()) return path;
    rest.resize(rest.rfind('/'));
  }
}

// The group of the process in one hierarchy, through the mount that shows most of what is above it.
std::optional<GroupPath> find_group(GroupVersion version, const std::string& group,
                                    const std::vector<Mount>& mounts) {
  const Mount* best = nullptr;
  const Mount* other = nullptr;
  for (const Mount& mount : mounts) {
    if (mount.version != version) continue;
    if (!below(mount.root, group)) {
      // A process outside its own name space ("/..") is not below a mount of that space's top either.
      if (other == nullptr && (group.find("/..") == std::string::npos || mount.root.find("/..") == 0))
        other = &mount;
    } else if (best == nullptr || mount.root.size() < best->root.size()) {
      best = &mount;
    }
  }
  if (best != nullptr) return walk_up(*best, *below(best->root, group));
  if (other != nullptr) return walk_up(*other, "");
  return std::nullopt;
}

}  // namespace

std::optional<HostMemory> parse_meminfo(std::string_view text) {
  std::optional<uint64_t> total;
  std::optional<uint64_t> available;
  std::optional<uint64_t> free;
  std::optional<uint64_t> inactive_file;
  while (!text.empty() && !(total && available)) {
    std::string_view line = cut(text, '\n');
    const std::string_view name = cut(line, ':');
    if (name == "MemTotal") total = kib_field(line);
    if (name == "MemAvailable") available = kib_field(line);
    if (name == "MemFree") free = kib_field(line);
    if (name == "Inactive(file)") inactive_file = kib_field(line);
  }
  if (!available && free) available = checked_add(*free, inactive_file.value_or(0));
  if (!total || *total == 0 || !available) return std::nullopt;
  return HostMemory{*total, std::min(*total, *available)};
}

std::optional<MemoryStalls> parse_stalls(std::string_view text) {
  MemoryStalls stalls;
  while (!text.empty()) {
    std::string_view line = cut(text, '\n');
    const std::string_view kind = cut(line, ' ');
    if (kind != "some" && kind != "full") continue;
    std::optional<double> avg10;
    std::optional<uint64_t> total;
    while (!line.empty()) {
      std::string_view value = cut(line, ' ');
      const std::string_view name = cut(value, '=');
      if (name == "avg10") avg10 = percent(value);
      if (name == "total") total = whole_number(value);
    }
    if (!avg10 || !total) return std::nullopt;
    (kind == "some" ? stalls.some_avg10 : stalls.full_avg10) = *avg10;
    (kind == "some" ? stalls.some_total_us : stalls.full_total_us) = *total;
    if (kind == "some") stalls.known = true;
  }
  if (!stalls.known) return std::nullopt;
  return stalls;
}

std::optional<uint64_t> parse_group_bytes(std::string_view text) {
  const std::string_view word = trim(text);
  if (word == "max") return kNoMemoryLimit;
  const auto value = whole_number(word);
  if (value && *value >= kV1NoLimit) return kNoMemoryLimit;
  return value;
}

std::optional<uint64_t> find_stat(std::string_view text, std::string_view name) {
  for (size_t at = text.find(name); at != std::string_view::npos; at = text.find(name, at + 1)) {
    if (at != 0 && text[at - 1] != '\n') continue;
    std::string_view line = text.substr(at, text.find('\n', at) - at);
    if (cut(line, ' ') == name) return whole_number(trim(line));
  }
  return std::nullopt;
}

std::vector<GroupPath> find_groups(std::string_view self_cgroup, std::string_view mountinfo) {
  std::vector<Mount> mounts;
  while (!mountinfo.empty())
    if (auto mount = parse_mount(cut(mountinfo, '\n'))) mounts.push_back(std::move(*mount));
  std::vector<GroupPath> groups;
  while (!self_cgroup.empty()) {
    std::string_view line = cut(self_cgroup, '\n');
    const std::string_view id = cut(line, ':');
    const std::string_view controllers = cut(line, ':');
    const bool unified = id == "0" && controllers.empty();
    if (line.empty() || line.front() != '/' || !(unified || lists(controllers, "memory"))) continue;
    const GroupVersion version = unified ? GroupVersion::kV2 : GroupVersion::kV1;
    if (auto group = find_group(version, std::string(line), mounts)) groups.push_back(std::move(*group));
  }
  return groups;
}

}  // namespace mlxf::platform
