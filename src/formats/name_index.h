// NameIndex: finds a name among many and proves that none occurs twice.
//
// A vector of (hash, position) sorted by hash and then by name, so that building is n log n even for names
// that an adversary chose to collide, and a lookup is one binary search. It does not keep the names: every
// call gets a function that returns the name at a position, and the names must not have changed since
// build(). A plain value, without synchronisation.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

namespace mlxf::formats {

class NameIndex {
 public:
  // Indexes the names at positions [0, count). Returns two positions that hold the same name, if there are
  // any. REQUIRES: count < 2^32.
  template <typename NameAt>
  [[nodiscard]] std::optional<std::pair<uint32_t, uint32_t>> build(size_t count, const NameAt& name_at) {
    slots_.resize(count);
    for (size_t i = 0; i < count; ++i) slots_[i] = {hash(name_at(i)), static_cast<uint32_t>(i)};
    std::sort(slots_.begin(), slots_.end(), [&](const Slot& a, const Slot& b) {
      if (a.hash != b.hash) return a.hash < b.hash;
      const int order = std::string_view(name_at(a.position)).compare(name_at(b.position));
      return order != 0 ? order < 0 : a.position < b.position;
    });
    for (size_t i = 1; i < slots_.size(); ++i) {
      if (slots_[i - 1].hash == slots_[i].hash &&
          name_at(slots_[i - 1].position) == name_at(slots_[i].position)) {
        return std::make_pair(slots_[i - 1].position, slots_[i].position);
      }
    }
    return std::nullopt;
  }

  template <typename NameAt>
  [[nodiscard]] std::optional<uint32_t> find(std::string_view name, const NameAt& name_at) const {
    const uint64_t wanted = hash(name);
    auto slot = std::lower_bound(slots_.begin(), slots_.end(), wanted,
                                 [](const Slot& s, uint64_t value) { return s.hash < value; });
    for (; slot != slots_.end() && slot->hash == wanted; ++slot) {
      if (name_at(slot->position) == name) return slot->position;
    }
    return std::nullopt;
  }

 private:
  struct Slot {
    uint64_t hash = 0;
    uint32_t position = 0;
  };
  static uint64_t hash(std::string_view name) { return std::hash<std::string_view>{}(name); }

  std::vector<Slot> slots_;
};

}  // namespace mlxf::formats
