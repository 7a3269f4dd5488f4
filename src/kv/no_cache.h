// NoCache: the cache of a layer that keeps nothing of its own: it reads an earlier layer's keys and values.
//
// Has the functions of Pages that a Sequence calls; a value without state.
#pragma once

#include <cstdint>
#include <span>

#include "kv/pages.h"

namespace mlxf::kv {

struct NoShape {
  [[nodiscard]] uint64_t bytes(uint64_t, Element) const { return 0; }
  [[nodiscard]] uint64_t lasting_bytes(uint64_t, Element) const { return 0; }
  [[nodiscard]] uint64_t bytes_max(uint64_t, uint32_t, Element) const { return 0; }
};

struct NoCache {
  [[nodiscard]] bool grow(uint32_t) { return true; }
  void shrink(uint32_t) {}
  void advance(uint32_t) {}
  [[nodiscard]] uint32_t truncatable(uint32_t length) const { return length; }
  [[nodiscard]] bool forgets() const { return false; }
  void truncate(uint32_t) {}
  [[nodiscard]] bool mark(uint32_t) { return true; }
  void unmark(uint32_t) {}
  [[nodiscard]] uint64_t mark_bytes(std::span<const uint32_t>) const { return 0; }
  [[nodiscard]] uint64_t missing_bytes(uint32_t) const { return 0; }
  [[nodiscard]] uint64_t bytes() const { return 0; }
  void fill_from(uint32_t, uint32_t&) {}
  void add_geometry(Words&) const {}
  void add_layout(Words&) const {}
  void add_contents(Contents&) {}
  [[nodiscard]] Status restore(uint32_t, const Marks&, std::span<const uint32_t>&) { return {}; }
  [[nodiscard]] bool share(const NoCache&, uint32_t) { return true; }
};

}  // namespace mlxf::kv
