// The gated feed-forward block: down(act(gate x) * up x).
//
// Its scratch memory is laid out by place() and belongs to the pass. The engine's thread.
#pragma once

#include <array>
#include <cstdint>

#include "compute/cpu.h"
#include "model/arena.h"
#include "model/blocks/linear.h"
#include "model/spec/mlp.h"
#include "tensor/matrix.h"

namespace mlxf::model {

struct BoundMlp {
  MatrixView gate, up, down;
  Vector gate_bias, up_bias, down_bias;

  [[nodiscard]] std::array<MatrixView*, 3> matrices() { return {&gate, &up, &down}; }
  [[nodiscard]] std::array<const MatrixView*, 3> matrices() const { return {&gate, &up, &down}; }
  [[nodiscard]] std::array<Vector*, 3> vectors() { return {&gate_bias, &up_bias, &down_bias}; }
};

struct MlpScratch {
  float* gate = nullptr;  // [rows, width]
  float* up = nullptr;    // [rows, width]

  [[nodiscard]] static MlpScratch place(Arena& arena, uint64_t width, uint32_t rows);
};

[[nodiscard]] compute::Cpu::Activation cpu_activation(Activation activation);

// out [rows, hidden] from x [rows, hidden].
void run_mlp(compute::Cpu& cpu, const MlpSpec& spec, const BoundMlp& weights, const MlpScratch& scratch,
             const float* x, uint32_t rows, float* out);

}  // namespace mlxf::model
