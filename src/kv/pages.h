// Pages: one layer's keys and values of one sequence, in pages of kPagePositions positions.
//
// Keys [kv_head][dim][position], because the attention kernels want positions in lanes, values
// [kv_head][position][dim]; dims are padded to 16 with zeros. A page of keys and one of values are taken from the pool
// when the first position in them is reserved. A sliding or chunked layer gives pages back once no token from
// `length - kRollbackPositions` on can see them, nor one behind a mark. Owned by its Sequence; one thread
// (the engine's). Sizes are in bytes.
//
// Another cache may hold the same pages, those that were full when it came to share them: only truncate() leads back
// into one, and what is written next then goes to a copy.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "kernels/kernel_table.h"
#include "kv/marks.h"
#include "kv/page_pool.h"

namespace mlxf::kv {

// f16, or f32 where results are compared with f32 references: f16 alone costs 1e-3 of relative error in the logits.
enum class Element : uint8_t { kF16, kF32 };

// Dims rounded up to what the attention kernels want.
[[nodiscard]] inline uint32_t padded_dim(uint32_t dim) { return (dim + 15) / 16 * 16; }

[[nodiscard]] inline uint32_t pages_for(uint32_t positions) {
  return positions / kernels::kPagePositions + (positions % kernels::kPagePositions != 0 ? 1 : 0);
}

// Pseudo-random elements: finite, and never denormal.
void fill_with_noise(uint16_t* page, uint64_t bytes, uint32_t& random);

// Numbers about a cache, and the memory that it consists of, for copies of it: see Sequence::layout().
using Words = std::vector<uint32_t>;
using Contents = std::vector<std::span<uint8_t>>;
// Takes the first of `words`; false: there is none.
[[nodiscard]] bool take_word(std::span<const uint32_t>& words, uint32_t& word);

// How far truncate() can go back where layers forget.
inline constexpr uint32_t kRollbackPositions = 64;

// Which pages of a cache others may hold too, so that nobody asks the pool where nothing was ever shared.
struct SharedPages {
  uint32_t end = 0;  // Those from this one on are its own.
  bool splits =
      false;  // The last one is partly filled and before `end`: it must be its own before it is written to.

  // No more than `positions` are left.
  void cut(uint32_t positions) {
    end = std::min(end, pages_for(positions));
    splits = positions % kernels::kPagePositions != 0 && positions / kernels::kPagePositions < end;
  }
};

// `window` is the number of positions a token sees, itself included; 0: all. With `chunk` it sees none before the last
// multiple of that.
struct PageShape {
  uint32_t kv_heads = 0;
  uint32_t key_dim = 0;    // Padded to 16.
  uint32_t value_dim = 0;  // Padded to 16.
  uint32_t window = 0;
  uint32_t chunk = 0;

  // What `positions` of a sequence take, pages counted by the positions in them.
  [[nodiscard]] uint64_t bytes(uint64_t positions, Element element) const {
    return positions * kv_heads * (key_dim + value_dim) * (element == Element::kF32 ? 4 : 2);
  }
  // What of `positions` stays as long as the sequence does, in whole pages.
  [[nodiscard]] uint64_t lasting_bytes(uint32_t positions, Element element) const {
    return window != 0 || chunk != 0
               ? 0
               : bytes(uint64_t{positions} / kernels::kPagePositions * kernels::kPagePositions, element);
  }
  // The most that is ever held until there are `positions`, given at most `step` at a time; whole pages.
  [[nodiscard]] uint64_t bytes_max(uint32_t positions, uint32_t step, Element element) const;
};

class Pages {
 public:
  // `pool` outlives this.
  Pages(PagePool& pool, const PageShape& shape, Element element);
  ~Pages() { shrink(0); }
  Pages(Pages&&) noexcept = default;
  Pages& operator=(Pages&&) = delete;

  // The functions that every kind of cache has; see Sequence for what they are for.
  // Room for positions [0, positions); false without memory, and then some of them may be there.
  [[nodiscard]] bool grow(uint32_t positions);
  // Forgets the room from `positions` on.
  void shrink(uint32_t positions);
  void advance(uint32_t length);
  // The longest length up to `length` that truncate() can go back to; 0, the empty cache, is always one.
  [[nodiscard]] uint32_t truncatable(uint32_t length) const;
  // There are lengths that it cannot go back to.
  [[nodiscard]] bool forgets() const { return shape_.window != 0 || shape_.chunk != 0; }
  // Forgets the positions and marks from `length` on. REQUIRES: truncatable(length) == length.
  void truncate(uint32_t length) { shrink(length); }
  // From now on it can go back to `position`, a multiple of kPagePositions beyond the length, once it has come there,
  // and no longer after unmark(). False without memory. REQUIRES: there is room among its marks.
  [[nodiscard]] bool mark(uint32_t position);
  void unmark(uint32_t position);
  // The most that is held for `marks` alone.
  [[nodiscard]] uint64_t mark_bytes(std::span<const uint32_t> marks) const;
  // What grow() would take from the pool.
  [[nodiscard]] uint64_t missing_bytes(uint32_t positions) const;
  [[nodiscard]] uint64_t bytes() const;
  // Pseudo-random contents of the pages that begin at `position` or later.
  void fill_from(uint32_t position, uint32_t& random);
  // Appends the shape's numbers, those of what is held, and the memory that holds it.
  void add_geometry(Words& words) const;
  void add_layout(Words& words) const;
  void add_contents(Contents& contents);
  // Takes its own words of a layout and makes room for contents of `length` with `marks`. kCorrupt for a layout that no
  // cache of this shape has, kOutOfBudget without memory; then some of it may be there. REQUIRES: an empty cache,
  // length > 0, marks up to it.
  [[nodiscard]] Status restore(uint32_t length, const Marks& marks, std::span<const uint32_t>& layout);
  // Holds the first `length` positions of `source`, and its marks among them, as if that had been truncated there, from
  // then on each for itself. False without memory; then some of them may be there. REQUIRES: an empty cache of the same
  // shape and pool; 0 < length, which is the source's or one that it could be truncated to.
  [[nodiscard]] bool share(Pages& source, uint32_t length);

  [[nodiscard]] Element element() const { return element_; }
  // The first position that the token at `position` sees.
  [[nodiscard]] uint32_t first_visible(uint32_t position) const;
  // Element 0 of head 0 of `position`: its further elements are kPagePositions apart, heads kPagePositions * key_dim.
  // REQUIRES: T is float or uint16_t, as element() says.
  template <typename T>
  [[nodiscard]] T* key(uint32_t position) {
    return reinterpret_cast<T*>(keys_[position / kernels::kPagePositions]) +
           position % kernels::kPagePositions;
  }
  // The same for values: elements are neighbours, heads kPagePositions * value_dim apart.
  template <typename T>
  [[nodiscard]] T* value(uint32_t position) {
    return reinterpret_cast<T*>(values_[position / kernels::kPagePositions]) +
           position % kernels::kPagePositions * uint64_t{shape_.value_dim};
  }
  // Pages by position / kPagePositions; null for those that were given back.
  [[nodiscard]] const uint16_t* const* key_pages() const { return keys_.data(); }
  [[nodiscard]] const uint16_t* const* value_pages() const { return values_.data(); }

 private:
  [[nodiscard]] uint64_t key_bytes() const;
  [[nodiscard]] uint64_t value_bytes() const;
  [[nodiscard]] bool split_last();
  [[nodiscard]] bool take_page(uint16_t*& key, uint16_t*& value);
  void give_back(uint32_t page);
  // The first page that the token at `position` sees.
  [[nodiscard]] uint32_t first_visible_page(uint32_t position) const {
    return first_visible(position) / kernels::kPagePositions;
  }
  // Going back to a mark needs `page`.
  [[nodiscard]] bool marked(uint32_t page) const;
  // From which on all pages are held.
  [[nodiscard]] uint32_t first_held() const;

  PagePool& pool_;
  const PageShape shape_;
  const Element element_;
  std::vector<uint16_t*> keys_;
  std::vector<uint16_t*> values_;
  uint32_t first_page_ = 0;  // Pages before it have been given back, but for those that marks need.
  Marks marks_;              // Empty where nothing is forgotten.
  SharedPages shared_;
};

}  // namespace mlxf::kv
