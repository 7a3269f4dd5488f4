// DeltaNetSpec: a gated delta net (linear attention with a recurrent state) of one layer, as data.
//
// blocks/delta_net.h computes it. Widths are elements of a row; BoundDeltaNet lists matrices and vectors in the order
// in which they stand here. Checkpoints differ in how the rows of the projections are ordered, which the flags say.
#pragma once

#include <array>
#include <cstdint>

#include "model/spec/tensor_source.h"

namespace mlxf::model {

struct BoundDeltaNet;

struct DeltaNetSpec {
  using Bound = BoundDeltaNet;
  uint32_t key_heads = 0;
  uint32_t value_heads = 0;  // A multiple of key_heads.
  uint32_t key_dim = 0;
  uint32_t value_dim = 0;
  uint32_t taps = 0;  // Of the causal convolution over q, k and v.

  // Value head h goes with key head h % key_heads; else with h / (value_heads / key_heads).
  bool tiled_heads = false;
  // `inputs` holds, for each key head, its q, its k, its value heads' v and their z; there is no `z`. Else all heads'
  // q, all k, all v.
  bool inputs_by_key_head = false;
  // `beta` holds, for each key head, beta and alpha of its value heads; there is no `alpha`.
  bool gates_by_key_head = false;
  bool decay_is_log = false;  // Stored as log(A), else as -A.

  MatrixSource inputs, z, beta, alpha, out;
  VectorSource conv;       // [key_width, key_width, value_width channels][taps]
  VectorSource time_bias;  // [value_heads], added to alpha.
  VectorSource decay;      // [value_heads]
  VectorSource norm;       // [value_dim]

  [[nodiscard]] uint32_t key_width() const { return key_heads * key_dim; }
  [[nodiscard]] uint32_t value_width() const { return value_heads * value_dim; }
  [[nodiscard]] uint32_t channels() const { return 2 * key_width() + value_width(); }
  [[nodiscard]] uint32_t heads_per_key() const { return value_heads / key_heads; }
  [[nodiscard]] uint32_t key_head_of(uint32_t value_head) const {
    return tiled_heads ? value_head % key_heads : value_head / heads_per_key();
  }
  // The state of a sequence: one matrix for each value head, and the inputs of the last taps - 1 positions.
  [[nodiscard]] uint64_t head_state_floats() const { return uint64_t{key_dim} * value_dim; }
  [[nodiscard]] uint64_t state_floats() const {
    return value_heads * head_state_floats() + uint64_t{taps - 1} * channels();
  }
  [[nodiscard]] std::array<const MatrixSource*, 5> matrices() const {
    return {&inputs, &z, &beta, &alpha, &out};
  }
  [[nodiscard]] std::array<const VectorSource*, 4> vectors() const {
    return {&conv, &time_bias, &decay, &norm};
  }
};

}  // namespace mlxf::model
