// Recurrent: one layer's recurrent state of one sequence: a fixed number of floats, whatever the length.
//
// The state after the last position, and what it was at the last two borders (multiples of kStateBlock) before that, so
// that truncate() can go back there: a state cannot be undone, only be kept; and what it was at marks. A pass reads
// states and writes others, and advance() makes the written ones valid: until then, and when a pass fails, everything
// is as it was, except that older borders may have been forgotten. What the floats mean is the block's business
// (model/blocks). Zero before position 0. Owned by its Sequence; one thread (the engine's). Sizes are in bytes.
//
// Invariants: (1) with room, the current state holds and its position is the sequence's length; (2) states that hold
// have different positions, none beyond the current one's.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/kernel_table.h"
#include "kv/marks.h"
#include "kv/page_pool.h"
#include "kv/pages.h"

namespace mlxf::kv {

inline constexpr uint32_t kStateBlock = kernels::kPagePositions;
inline constexpr uint32_t kKeptBorders = 2;

struct RecurrentShape {
  uint64_t state_floats = 0;

  // The current state, the one that a pass writes, and the borders'.
  static constexpr uint32_t kStates = 2 + kKeptBorders;
  [[nodiscard]] uint64_t state_bytes() const { return state_floats * sizeof(float); }
  // What `positions` of a sequence take. States are f32 whatever pages hold.
  [[nodiscard]] uint64_t bytes(uint64_t positions, Element) const {
    return positions == 0 ? 0 : kStates * state_bytes();
  }
  [[nodiscard]] uint64_t lasting_bytes(uint32_t, Element) const { return 0; }
  // The same: nothing more is held on the way.
  [[nodiscard]] uint64_t bytes_max(uint32_t positions, uint32_t, Element element) const {
    return bytes(positions, element);
  }
};

class Recurrent {
 public:
  // `pool` outlives this.
  Recurrent(PagePool& pool, const RecurrentShape& shape, Element);
  ~Recurrent() { shrink(0); }
  Recurrent(Recurrent&&) noexcept = default;
  Recurrent& operator=(Recurrent&&) = delete;

  // The functions that every kind of cache has; see Pages and Sequence.
  [[nodiscard]] bool grow(uint32_t positions);
  void shrink(uint32_t positions);
  void advance(uint32_t length);
  [[nodiscard]] uint32_t truncatable(uint32_t length) const;
  [[nodiscard]] bool forgets() const { return true; }
  void truncate(uint32_t length);
  [[nodiscard]] bool mark(uint32_t position);
  void unmark(uint32_t position);
  [[nodiscard]] uint64_t mark_bytes(std::span<const uint32_t> marks) const {
    return marks.size() * shape_.state_bytes();
  }
  [[nodiscard]] uint64_t missing_bytes(uint32_t positions) const;
  [[nodiscard]] uint64_t bytes() const;
  void fill_from(uint32_t position, uint32_t& random);
  void add_geometry(Words& words) const;
  void add_layout(Words& words) const;
  void add_contents(Contents& contents);
  [[nodiscard]] Status restore(uint32_t length, const Marks& marks, std::span<const uint32_t>& layout);
  // Copies: a state is not so large that sharing it would pay, and the next pass writes another one in any case. Those
  // at marks are never written again, and shared.
  [[nodiscard]] bool share(const Recurrent& source, uint32_t length);

  // A part of a pass: from the state `from` at the end of the part before it, over the positions up to `end`, to `to`.
  struct Step {
    uint32_t end = 0;
    const float* from = nullptr;
    float* to = nullptr;
  };
  // The parts of a pass over the positions from the length up to `end`; they stay valid until advance(end).
  // REQUIRES: room for `end` > length.
  [[nodiscard]] std::span<const Step> begin(uint32_t end);

 private:
  struct State {
    uint16_t* memory = nullptr;
    uint32_t position = 0;
    bool holds = false;
    [[nodiscard]] float* values() const { return reinterpret_cast<float*>(memory); }
  };
  [[nodiscard]] bool
  take_states();  // Where there are none; what they hold is undefined. False without memory.
  [[nodiscard]] uint32_t free_state() const;
  // Those that a copy needs, by position, without the marks': the current one is the last.
  [[nodiscard]] std::vector<State> held() const;
  void cut_marks(uint32_t length);
  // Makes the mark at `length`, which is there, the current state, in the slot `slot`.
  void go_to_mark(uint32_t length, uint32_t slot);

  PagePool& pool_;
  const RecurrentShape shape_;
  std::vector<State> states_;  // Empty without room, else kStates.
  std::vector<State> marked_;  // By position; one holds once the length has come there.
  uint32_t current_ = 0;
  bool filled_ = false;  // The current state is that of any length: see fill_from().
  static constexpr uint32_t kStepsMax = 1 + kKeptBorders + Marks::kMax;
  static constexpr uint32_t kToMark = UINT32_MAX;
  std::array<Step, kStepsMax> steps_{};
  std::array<uint32_t, kStepsMax> targets_{};  // Indices of the states that the steps write, or kToMark.
  uint32_t step_count_ = 0;
};

}  // namespace mlxf::kv
