// LatentPages: one layer's latents of one sequence, in pages of kPagePositions positions.
//
// Multi-head latent attention caches one row per position for all heads: the compressed keys and values, then the
// rotated part of the key. Rows are [position][width], the width padded to 16; a page is taken from the pool when the
// first position in it is reserved. Nothing is forgotten before its sequence says so. Owned by its Sequence; one
// thread (the engine's). Sizes are in bytes.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/kernel_table.h"
#include "kv/page_pool.h"
#include "kv/pages.h"

namespace mlxf::kv {

struct LatentShape {
  uint32_t width = 0;  // Padded to 16.

  // What `positions` of a sequence take, pages counted by the positions in them.
  [[nodiscard]] uint64_t bytes(uint64_t positions, Element element) const {
    return positions * width * (element == Element::kF32 ? 4 : 2);
  }
  [[nodiscard]] uint64_t lasting_bytes(uint32_t positions, Element element) const {
    return bytes(uint64_t{positions} / kernels::kPagePositions * kernels::kPagePositions, element);
  }
  // The same in whole pages: nothing more is held on the way.
  [[nodiscard]] uint64_t bytes_max(uint32_t positions, uint32_t, Element element) const {
    return bytes(uint64_t{pages_for(positions)} * kernels::kPagePositions, element);
  }
};

class LatentPages {
 public:
  // `pool` outlives this.
  LatentPages(PagePool& pool, const LatentShape& shape, Element element)
      : pool_(pool), shape_(shape), element_(element) {}
  ~LatentPages() { shrink(0); }
  LatentPages(LatentPages&&) noexcept = default;
  LatentPages& operator=(LatentPages&&) = delete;

  // The functions that every kind of cache has; see Pages and Sequence.
  [[nodiscard]] bool grow(uint32_t positions);
  void shrink(uint32_t positions);
  void advance(uint32_t length);
  [[nodiscard]] uint32_t truncatable(uint32_t length) const { return length; }
  [[nodiscard]] bool forgets() const { return false; }
  void truncate(uint32_t length) { shrink(length); }
  [[nodiscard]] bool mark(uint32_t) { return true; }
  void unmark(uint32_t) {}
  [[nodiscard]] uint64_t mark_bytes(std::span<const uint32_t>) const { return 0; }
  [[nodiscard]] uint64_t missing_bytes(uint32_t positions) const;
  [[nodiscard]] uint64_t bytes() const { return pages_.size() * page_bytes(); }
  void fill_from(uint32_t position, uint32_t& random);
  void add_geometry(Words& words) const { words.push_back(shape_.width); }
  void add_layout(Words&) const {}
  void add_contents(Contents& contents);
  [[nodiscard]] Status restore(uint32_t length, const Marks&, std::span<const uint32_t>&);
  [[nodiscard]] bool share(LatentPages& source, uint32_t length);

  [[nodiscard]] Element element() const { return element_; }
  // The row of `position`. REQUIRES: T is float or uint16_t, as element() says.
  template <typename T>
  [[nodiscard]] T* row(uint32_t position) {
    return reinterpret_cast<T*>(pages_[position / kernels::kPagePositions]) +
           position % kernels::kPagePositions * uint64_t{shape_.width};
  }
  // Pages by position / kPagePositions.
  [[nodiscard]] const uint16_t* const* pages() const { return pages_.data(); }

 private:
  [[nodiscard]] uint64_t page_bytes() const { return shape_.bytes(kernels::kPagePositions, element_); }

  PagePool& pool_;
  const LatentShape shape_;
  const Element element_;
  std::vector<uint16_t*> pages_;
  SharedPages shared_;
};

}  // namespace mlxf::kv
