// The learned augmented residual (LAuReL): y + norm(right left y), beside the mixer.
//
// Its scratch memory belongs to the pass. The engine's thread.
#pragma once

#include <array>
#include <cstdint>

#include "compute/cpu.h"
#include "model/arena.h"
#include "model/blocks/linear.h"
#include "model/spec.h"
#include "tensor/matrix.h"

namespace mlxf::model {

struct BoundLaurel {
  MatrixView left, right;
  Vector norm;

  [[nodiscard]] std::array<MatrixView*, 2> matrices() { return {&left, &right}; }
  [[nodiscard]] std::array<const MatrixView*, 2> matrices() const { return {&left, &right}; }
  [[nodiscard]] std::array<Vector*, 1> vectors() { return {&norm}; }
};

struct LaurelScratch {
  float* narrow = nullptr;  // [rows, rank]
  float* wide = nullptr;    // [rows, hidden]

  [[nodiscard]] static LaurelScratch place(Arena& arena, const ModelSpec& spec, uint32_t rows);
};

// x = (x + y + norm(right left y)) / sqrt(2), rows [rows, hidden].
void add_laurel(compute::Cpu& cpu, const BoundLaurel& weights, const LaurelScratch& scratch, const float* y,
                uint32_t rows, float norm_eps, float* x);

}  // namespace mlxf::model
