// Sequence: what one conversation keeps per layer, for all positions that later tokens may attend to.
//
// Each layer has a cache of the kind that its LayerShape names; a kind is a class with the functions of Pages that the
// sequence calls. Layers that forget keep enough for truncate() to go back kRollbackPositions at any time: sliding ones
// to any length, recurrent ones to a multiple of kStateBlock. Beyond that they go back to what mark() was asked for.
// Sequences may share their beginnings: share() makes one that holds another's pages, and each goes on for itself. Both
// may be written to, truncated and destroyed in any order.
// Owned by the caller of Model::make_sequence, destroyed before the model; one thread (the engine's).
// Invariants: (1) each layer has room for the reserved positions; (2) length() <= context_max().
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <variant>
#include <vector>

#include "base/result.h"
#include "kv/latent_pages.h"
#include "kv/marks.h"
#include "kv/no_cache.h"
#include "kv/page_pool.h"
#include "kv/pages.h"
#include "kv/recurrent.h"

namespace mlxf::kv {

// The shape of one layer's cache.
using LayerShape = std::variant<PageShape, LatentShape, RecurrentShape, NoShape>;

class Sequence {
 public:
  Sequence(PagePool& pool, std::span<const LayerShape> layers, uint32_t context_max,
           Element element = Element::kF16);
  Sequence(const Sequence&) = delete;
  Sequence& operator=(const Sequence&) = delete;

  [[nodiscard]] uint32_t length() const { return length_; }
  [[nodiscard]] uint32_t context_max() const { return context_max_; }
  [[nodiscard]] Element element() const { return element_; }

  // Makes room for `tokens` positions after length(). kInvalidArgument beyond context_max, kOutOfBudget without
  // memory; then nothing has changed.
  [[nodiscard]] Status reserve(uint32_t tokens);
  // What reserve() would take from the pool: bytes of pages.
  [[nodiscard]] uint64_t missing_bytes(uint32_t tokens) const;
  // The reserved positions up to length() + tokens have been written in every layer.
  void advance(uint32_t tokens);
  // The longest length up to `length` that truncate() can go back to; from there the caller's tokens must be computed
  // again. 0 is always one.
  [[nodiscard]] uint32_t truncatable(uint32_t length) const;
  // Some layer cannot go back to every length.
  [[nodiscard]] bool forgets() const;
  // Forgets the positions from `length` on. kInvalidArgument when a layer no longer has what the token at `length`
  // would see, or when length() is shorter.
  [[nodiscard]] Status truncate(uint32_t length);
  // Where layers forget: from now on it can go back to `position`, once it has come there. Another mark may have to go
  // for it: see Marks. False without memory. REQUIRES: forgets(); a multiple of kStateBlock, beyond length() and not
  // beyond context_max().
  [[nodiscard]] bool mark(uint32_t position);
  void unmark_all();
  [[nodiscard]] std::span<const uint32_t> marks() const { return marks_.all(); }
  // The most bytes that are held for these marks, beside what is held without.
  [[nodiscard]] uint64_t mark_bytes(std::span<const uint32_t> marks) const;
  // Those of its own.
  [[nodiscard]] uint64_t marked_bytes() const { return marks().empty() ? 0 : mark_bytes(marks()); }

  // Appends `positions` of pseudo-random contents: a benchmark's long context without its prefill.
  [[nodiscard]] Status fill(uint32_t positions);

  // REQUIRES: the layer has a PageShape.
  [[nodiscard]] Pages& pages(uint32_t layer) { return *std::get_if<Pages>(&layers_[layer]); }
  // REQUIRES: the layer has a LatentShape.
  [[nodiscard]] LatentPages& latents(uint32_t layer) { return *std::get_if<LatentPages>(&layers_[layer]); }

  // REQUIRES: the layer has a RecurrentShape.
  [[nodiscard]] Recurrent& recurrent(uint32_t layer) { return *std::get_if<Recurrent>(&layers_[layer]); }

  // Copies of a sequence: what must be equal in another one that takes its contents,
  [[nodiscard]] Words geometry() const;
  // its marks, and which of its positions and states are held, layer by layer,
  [[nodiscard]] Words layout() const;
  // and the memory that holds them: whole pages and states, in the order of the layers, theirs until the next change.
  // REQUIRES: no more is reserved than length().
  [[nodiscard]] Contents contents();
  // Makes it one of `length` and `layout` whose contents() the caller then overwrites, all of them: until then they are
  // undefined. kCorrupt for a layout that no sequence of this geometry has, kInvalidArgument beyond context_max,
  // kOutOfBudget without memory; then it is empty. REQUIRES: an empty sequence.
  [[nodiscard]] Status restore(uint32_t length, std::span<const uint32_t> layout);
  // Of what restore() has taken, the memory that nobody has touched yet: a thread that writes contents() may do that
  // before, all at once. Pages that lay free are not in it, nor those that are smaller than the system's.
  [[nodiscard]] std::span<uint8_t> untouched() const { return untouched_; }

  // Makes it one that holds the first `length` positions of `source`, as if that had been truncated there: full pages
  // are shared, the last one and states are copied. kOutOfBudget without memory; then it is empty. What a thread reads
  // by the source's contents() stays as it is. REQUIRES: an empty sequence of the same geometry and pool;
  // 0 < length == source.truncatable(length).
  [[nodiscard]] Status share(Sequence& source, uint32_t length);

  // Takes the marks that a layout begins with from it; nothing of one that does not.
  [[nodiscard]] static std::optional<Marks> marks_of(std::span<const uint32_t>& layout);

  // Bytes of pages and states held, shared ones and marks included.
  [[nodiscard]] uint64_t bytes() const;
  // The most bytes that a sequence of such layers ever holds until it has `positions`, given at most `chunk` tokens at
  // a time, and without marks.
  [[nodiscard]] static uint64_t bytes_max(std::span<const LayerShape> layers, Element element,
                                          uint32_t positions, uint32_t chunk);
  // What a sequence that shares its first `positions` has together with the other one for as long as both have them:
  // PagePool::doubled_bytes() grows by that.
  [[nodiscard]] static uint64_t lasting_bytes(std::span<const LayerShape> layers, Element element,
                                              uint32_t positions);

 private:
  // Room that was reserved, and marks that were not reached, go.
  void shrink(uint32_t length);
  void unmark(uint32_t position);

  PagePool& pool_;
  const uint32_t context_max_;
  const Element element_;
  std::vector<std::variant<Pages, LatentPages, Recurrent, NoCache>> layers_;
  Marks marks_;  // Every layer's that forgets.
  uint32_t length_ = 0;
  std::span<uint8_t> untouched_;
};

}  // namespace mlxf::kv
