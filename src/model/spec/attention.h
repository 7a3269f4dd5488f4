// AttentionSpec: softmax attention of one layer, as data.
//
// blocks/attention.h computes it. Widths are elements of a row; BoundAttention lists matrices and vectors in the order
// in which they stand here.
#pragma once

#include <array>
#include <cstdint>
#include <limits>

#include "model/spec/rope.h"
#include "model/spec/tensor_source.h"

namespace mlxf::model {

enum class QkNorm : uint8_t {
  kNone,
  kPerHead,    // One weight of head_dim, over each head.
  kFullWidth,  // Over all heads of the projection at once.
  kL2,         // Over each head without a weight, behind the rope.
};

struct BoundAttention;

inline constexpr uint32_t kOwnKeys = std::numeric_limits<uint32_t>::max();

// Softmax attention with keys and values per position.
struct AttentionSpec {
  using Bound = BoundAttention;
  uint32_t heads = 0;
  uint32_t kv_heads = 0;
  uint32_t head_dim = 0;
  uint32_t window = 0;      // Positions seen, the token's own included; 0: all.
  uint32_t chunk = 0;       // Tokens see no further back than the last multiple of it; 0: no chunks.
  uint32_t rope = kNoRope;  // Index into ModelSpec::ropes.
  float scale = 0.0f;
  float soft_cap = 0.0f;  // 0: none.
  float clip_qkv = 0.0f;  // 0: none.
  // Queries grow with their position p, by 1 + temperature * ln(1 + floor((p + 1) / temperature_floor)); 0: they don't.
  float temperature = 0.0f;
  float temperature_floor = 1.0f;
  QkNorm qk_norm = QkNorm::kNone;
  bool value_norm = false;       // Over each head, without a weight.
  bool values_are_keys = false;  // Before norm and rope; there is no v.
  // The earlier layer whose keys and values this one reads; there are no k and v then.
  uint32_t keys_of = kOwnKeys;
  // The output of each head is scaled by the sigmoid of a gate as wide: `q` has twice the rows, of each head the
  // query's and then the gate's, and so has its bias.
  bool output_gate = false;
  MatrixSource q, k, v, o;
  VectorSource q_bias, k_bias, v_bias, o_bias;
  VectorSource q_norm, k_norm;
  VectorSource sinks;  // By head: a logit that takes part in the softmax and contributes nothing.

  [[nodiscard]] uint32_t q_width() const { return heads * head_dim; }
  [[nodiscard]] uint32_t q_rows() const { return q_width() * (output_gate ? 2 : 1); }
  [[nodiscard]] uint32_t kv_width() const { return kv_heads * head_dim; }
  [[nodiscard]] std::array<const MatrixSource*, 4> matrices() const { return {&q, &k, &v, &o}; }
  [[nodiscard]] std::array<const VectorSource*, 7> vectors() const {
    return {&q_bias, &k_bias, &v_bias, &o_bias, &q_norm, &k_norm, &sinks};
  }
};

}  // namespace mlxf::model
