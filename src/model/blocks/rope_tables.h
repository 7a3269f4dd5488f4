// RopeTables: the cosines and sines of a pass's rows, for each rope of the model, shared by all layers.
//
// Owned by Forward, borrowed by the mixers; the engine's thread. The tables lie in the pass's scratch memory.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/arena.h"
#include "model/blocks/rope.h"
#include "model/chunk.h"
#include "model/spec.h"

namespace mlxf::model {

class RopeTables {
 public:
  // `ropes` outlives this.
  explicit RopeTables(const std::vector<Rope>& ropes) : ropes_(ropes), tables_(ropes.size()) {}

  // Memory for fill(): [rows, 2 * pairs] for each rope.
  [[nodiscard]] static float* place(Arena& arena, const ModelSpec& spec, uint32_t rows);
  // REQUIRES: `scratch` was placed for this number of rows.
  void fill(std::span<const Chunk> chunks, uint32_t rows, float* scratch);

  // Rotates one head of `row` in place.
  void rotate(uint32_t rope, uint32_t row, float* head) const {
    ropes_[rope].rotate(tables_[rope] + uint64_t{row} * 2 * ropes_[rope].pairs(), head);
  }

 private:
  const std::vector<Rope>& ropes_;
  std::vector<float*> tables_;
};

}  // namespace mlxf::model
