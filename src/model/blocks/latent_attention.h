// LatentAttention: the multi-head latent attention block, over one row of latents per position.
//
// In the absorbed form, for prompts and decoding alike: a head's query is multiplied with its part of the keys' matrix,
// so that it meets the latents themselves, and what it gathers of them is multiplied with its part of the values'. So
// all heads read one cached row per position, and any chunking gives the same bits. Owned by Forward; the engine's
// thread. Its scratch memory is laid out by place() and belongs to the pass.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "compute/cpu.h"
#include "kv/sequence.h"
#include "model/arena.h"
#include "model/blocks/linear.h"
#include "model/blocks/rope_tables.h"
#include "model/chunk.h"
#include "model/spec.h"
#include "tensor/matrix.h"

namespace mlxf::model {

struct BoundLatentAttention {
  MatrixView q_a, q, kv_a, kv_b, k_b, v_b, o;
  Vector q_a_bias, kv_a_bias, o_bias, q_norm, kv_norm;

  [[nodiscard]] std::array<MatrixView*, 7> matrices() { return {&q_a, &q, &kv_a, &kv_b, &k_b, &v_b, &o}; }
  [[nodiscard]] std::array<const MatrixView*, 7> matrices() const {
    return {&q_a, &q, &kv_a, &kv_b, &k_b, &v_b, &o};
  }
  [[nodiscard]] std::array<Vector*, 5> vectors() {
    return {&q_a_bias, &kv_a_bias, &o_bias, &q_norm, &kv_norm};
  }
};

// What a sequence keeps for a layer of this kind.
[[nodiscard]] kv::LayerShape cache_shape(const LatentAttentionSpec& spec);

class LatentAttention {
 public:
  struct Scratch {
    float* q_latent = nullptr;  // [rows, query_rank]
    float* q = nullptr;         // [rows, heads, nope_dim + rope_dim]
    float* latent = nullptr;    // [rows, rank + rope_dim]
    float* values = nullptr;    // [rows, heads, value_dim]
    // Of the rows that are attended for at once:
    float* absorbed = nullptr;                   // [rows, heads, padded rank + rope_dim]
    float* gathered = nullptr;                   // [rows, heads, padded rank]
    kernels::AttentionQuery* queries = nullptr;  // [rows, heads]

    [[nodiscard]] static Scratch place(Arena& arena, const ModelSpec& spec, uint32_t rows);
  };

  // Both outlive this.
  LatentAttention(compute::Cpu& cpu, const RopeTables& ropes) : cpu_(cpu), ropes_(ropes) {}

  // One layer of a pass.
  struct Layer {
    uint32_t index;
    const LatentAttentionSpec& spec;
    const BoundLatentAttention& weights;
  };
  // out [rows, hidden] from x [rows, hidden], the rows of `chunks`.
  void run(const Layer& layer, const Scratch& scratch, std::span<const Chunk> chunks, const float* x,
           uint32_t rows, float* out);

 private:
  // Rows [begin, begin + count) of the pass.
  struct Piece {
    uint32_t begin;
    uint32_t count;
  };
  void project(const Layer& layer, const Scratch& scratch, const float* x, uint32_t rows);
  void rotate_and_store(const Layer& layer, const Scratch& scratch, std::span<const Chunk> chunks);
  void store(const LatentAttentionSpec& spec, kv::LatentPages& pages, uint32_t position,
             const float* latent) const;
  void absorb(const Layer& layer, const Scratch& scratch, const Piece& piece);
  void absorb_transposed(const Layer& layer, const Scratch& scratch, const Piece& piece);
  void attend(const Layer& layer, const Scratch& scratch, std::span<const Chunk> chunks, const Piece& piece);
  void expand_values(const Layer& layer, const Scratch& scratch, const Piece& piece);

  compute::Cpu& cpu_;
  const RopeTables& ropes_;
  std::vector<compute::MatmulJob> products_;
  std::vector<compute::AttentionJob> jobs_;
};

}  // namespace mlxf::model
