// LatentAttentionSpec: multi-head latent attention of one layer, as data.
//
// blocks/latent_attention.h computes it. Keys and values of all heads are products of one latent per position,
// which alone is cached. Widths are elements of a row; BoundLatentAttention lists matrices and vectors in the order in
// which they stand here.
#pragma once

#include <array>
#include <cstdint>

#include "model/spec/rope.h"
#include "model/spec/tensor_source.h"

namespace mlxf::model {

struct BoundLatentAttention;

// The key of a head is [nope_dim] of the latent's product and the same rotated [rope_dim] for all heads.
struct LatentAttentionSpec {
  using Bound = BoundLatentAttention;
  static constexpr uint32_t kRankMax = 4096;  // Of latents: a row of them fits a worker's stack.
  uint32_t heads = 0;
  uint32_t nope_dim = 0;    // Of a head's query and key, not rotated,
  uint32_t rope_dim = 0;    // and rotated.
  uint32_t value_dim = 0;   // Of a head's value.
  uint32_t rank = 0;        // Of the latent, at most kRankMax.
  uint32_t query_rank = 0;  // Of the query's own latent; 0: `q` takes the layer's input.
  uint32_t rope = kNoRope;  // Index into ModelSpec::ropes.
  float scale = 0.0f;
  float latent_eps = 0.0f;  // Of the latents' norms.
  MatrixSource q_a;         // [query_rank, hidden]
  MatrixSource q;           // [heads * (nope_dim + rope_dim), query_rank or hidden]
  MatrixSource kv_a;        // [rank + rope_dim, hidden]
  // Keys and values from the latent: both, head by head [nope_dim + value_dim, rank];
  MatrixSource kv_b;
  // or the keys' transposed, head by head [rank, nope_dim], and the values', head by head [value_dim, rank].
  MatrixSource k_b, v_b;
  MatrixSource o;  // [hidden, heads * value_dim]
  VectorSource q_a_bias, kv_a_bias, o_bias;
  VectorSource q_norm, kv_norm;

  [[nodiscard]] uint32_t q_head_dim() const { return nope_dim + rope_dim; }
  [[nodiscard]] uint32_t q_width() const { return heads * q_head_dim(); }
  [[nodiscard]] uint32_t latent_width() const { return rank + rope_dim; }
  [[nodiscard]] uint32_t value_width() const { return heads * value_dim; }
  [[nodiscard]] std::array<const MatrixSource*, 7> matrices() const {
    return {&q_a, &q, &kv_a, &kv_b, &k_b, &v_b, &o};
  }
  [[nodiscard]] std::array<const VectorSource*, 5> vectors() const {
    return {&q_a_bias, &kv_a_bias, &o_bias, &q_norm, &kv_norm};
  }
};

}  // namespace mlxf::model
