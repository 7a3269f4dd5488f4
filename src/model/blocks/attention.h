// Attention: the softmax attention block, over pages of keys and values per sequence.
//
// Projects, normalises and rotates the rows of all chunks together, stores keys and values, then attends per
// sequence. Owned by Forward; the engine's thread. Its scratch memory is laid out by place() and belongs to the pass.
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

struct BoundAttention {
  MatrixView q, k, v, o;
  Vector q_bias, k_bias, v_bias, o_bias, q_norm, k_norm, sinks;

  [[nodiscard]] std::array<MatrixView*, 4> matrices() { return {&q, &k, &v, &o}; }
  [[nodiscard]] std::array<const MatrixView*, 4> matrices() const { return {&q, &k, &v, &o}; }
  [[nodiscard]] std::array<Vector*, 7> vectors() {
    return {&q_bias, &k_bias, &v_bias, &o_bias, &q_norm, &k_norm, &sinks};
  }
};

// What a sequence keeps for a layer of this kind.
[[nodiscard]] kv::LayerShape cache_shape(const AttentionSpec& spec);

class Attention {
 public:
  struct Scratch {
    float* q = nullptr;  // [rows, heads * head_dim]
    float* k = nullptr;  // [rows, kv_heads * head_dim]
    float* v = nullptr;
    float* gated_q = nullptr;                    // [rows, 2 * heads * head_dim] of layers with an output gate
    float* gate = nullptr;                       // [rows, heads * head_dim]
    float* padded_q = nullptr;                   // [rows, heads, padded head_dim], zeros behind head_dim
    float* padded_out = nullptr;                 // [rows, heads, padded head_dim]
    kernels::AttentionQuery* queries = nullptr;  // [rows, heads], grouped by chunk and kv head.

    [[nodiscard]] static Scratch place(Arena& arena, const ModelSpec& spec, uint32_t rows);
  };

  // Both outlive this.
  Attention(compute::Cpu& cpu, const RopeTables& ropes) : cpu_(cpu), ropes_(ropes) {}

  // One layer of a pass.
  struct Layer {
    uint32_t index;
    const AttentionSpec& spec;
    const BoundAttention& weights;
    float norm_eps;
  };
  // out [rows, hidden] from x [rows, hidden], the rows of `chunks`.
  void run(const Layer& layer, const Scratch& scratch, std::span<const Chunk> chunks, const float* x,
           uint32_t rows, float* out);

 private:
  void project(const Layer& layer, const Scratch& scratch, const float* x, uint32_t rows);
  void split_gate(const AttentionSpec& spec, const Scratch& scratch, uint32_t rows);
  void normalise(const Layer& layer, const Scratch& scratch, uint32_t rows);
  void rotate(const Layer& layer, uint32_t row, uint32_t position, float* q, float* k) const;
  void rotate_and_store(const Layer& layer, const Scratch& scratch, std::span<const Chunk> chunks);
  void store(const AttentionSpec& spec, kv::Pages& pages, uint32_t position, const float* k,
             const float* v) const;
  void attend(const Layer& layer, const Scratch& scratch, std::span<const Chunk> chunks);

  compute::Cpu& cpu_;
  const RopeTables& ropes_;
  std::vector<compute::AttentionJob> jobs_;
};

}  // namespace mlxf::model
