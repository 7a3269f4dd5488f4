// LayerPlaces: which layers of a dense model are in memory, which are to be, and in what steps the one becomes the
// other when the memory for them changes while the model runs.
//
// Plain data: it decides, and whoever owns the memory does it and says so. Less memory is given back at once, by
// set_bytes(). All else happens a few layers a pass, each just after it was computed: one that is streamed and is to
// stay is taken out of its slot, read anyway; one that is to be streamed gives its memory to such a one. So the layers
// that are streamed come to stand as evenly as spread_layers() has them, without a read more than streaming needs.
// Invariants: (1) layers in memory and the ring's slots, once any layer is streamed, take no more than set_bytes() was
// given, or the slots alone; (2) with the same memory the moves come to an end. One thread. Sizes are bytes.
#pragma once

#include <cstdint>
#include <vector>

#include "model/weight_sizes.h"

namespace mlxf::model {

// Which of the layers are streamed when `count` of them are: evenly between those that stay, the head counted as the
// layers whose bytes it has, so that computing never outruns the next one's read by much. REQUIRES: not more than all.
[[nodiscard]] std::vector<uint32_t> spread_layers(const WeightSizes& sizes, uint32_t count);

// The least of those, `least` or more, that leave no more than `bytes` to stay; all where even that is too much.
[[nodiscard]] std::vector<uint32_t> streamed_within(const WeightSizes& sizes, uint64_t bytes, uint32_t least);

class LayerPlaces {
 public:
  // `sizes.layers` are what each takes, or would take, in memory of its own. REQUIRES: the ring takes less than all.
  LayerPlaces(WeightSizes sizes, uint64_t ring_bytes, const std::vector<uint32_t>& streamed);

  [[nodiscard]] bool streamed(uint32_t layer) const { return !here_[layer]; }
  [[nodiscard]] bool streams() const { return streams_; }
  // Of the layers in memory, and of the ring where it is in use.
  [[nodiscard]] uint64_t held_bytes() const { return held_; }
  // The least and the most that it makes sense to have: the ring alone; nothing left to read.
  [[nodiscard]] uint64_t floor_bytes() const { return ring_bytes_; }
  [[nodiscard]] uint64_t most_bytes() const;

  // From now on the layers and the ring may take `bytes`. Returns the layers to give back now: they are streamed.
  [[nodiscard]] std::vector<uint32_t> set_bytes(uint64_t bytes);

  enum class Move : uint8_t {
    kNone,
    kTake,      // Out of its slot into memory of its own: took() when that is done.
    kGiveBack,  // gave_back() when that is done.
  };
  // What is to become of `layer`, which was just computed. Layers come in order, pass after pass.
  [[nodiscard]] Move next_move(uint32_t layer);
  void took(uint32_t layer);
  void gave_back(uint32_t layer);

 private:
  [[nodiscard]] bool fits(uint32_t layer) const { return held_ + sizes_.layers[layer] <= room_; }
  [[nodiscard]] bool waits_for_memory() const;
  void count_moves();

  const WeightSizes sizes_;
  const uint64_t ring_bytes_;
  std::vector<bool> here_;   // By layer: in memory,
  std::vector<bool> stays_;  // and to be.
  bool streams_ = false;     // The ring is in use; it then stays so.
  uint64_t held_ = 0;
  uint64_t room_ = 0;
  uint32_t moves_ = 0;          // Layers that are not yet as they are to be.
  uint32_t takes_in_pass_ = 0;  // What is left of a pass's share of moves.
  uint32_t gives_in_pass_ = 0;
};

}  // namespace mlxf::model
