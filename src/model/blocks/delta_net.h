// DeltaNet: the gated delta net block: a causal convolution over q, k and v, then the gated delta rule on one state
// per value head, a norm, and the output gate.
//
// Positions run one by one, in ascending order, whatever the chunk (kernels::DeltaRuleFn): a chunked prefill, a whole
// one and decoding give the same bits. Heads run in parallel, and so do sequences. Owned by Forward; the engine's
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
#include "model/chunk.h"
#include "model/spec.h"
#include "tensor/matrix.h"

namespace mlxf::model {

struct BoundDeltaNet {
  MatrixView inputs, z, beta, alpha, out;
  Vector conv;       // [taps][channels], see arrange_vectors().
  Vector time_bias;  // [value_heads]
  Vector decay;      // [value_heads] -A
  Vector norm;       // [value_dim]

  [[nodiscard]] std::array<MatrixView*, 5> matrices() { return {&inputs, &z, &beta, &alpha, &out}; }
  [[nodiscard]] std::array<const MatrixView*, 5> matrices() const {
    return {&inputs, &z, &beta, &alpha, &out};
  }
  [[nodiscard]] std::array<Vector*, 4> vectors() { return {&conv, &time_bias, &decay, &norm}; }
};

// Brings the vectors, as they were stored, into the form that the block reads.
void arrange_vectors(const DeltaNetSpec& spec, BoundDeltaNet& bound);

// What a sequence keeps for a layer of this kind.
[[nodiscard]] kv::LayerShape cache_shape(const DeltaNetSpec& spec);

class DeltaNet {
 public:
  struct Scratch {
    float* inputs = nullptr;           // [rows, channels]: q, k, v of all heads, before the convolution
    float* z = nullptr;                // [rows, value_width]: the output gate, then the gated output
    float* projected_gates = nullptr;  // [rows, 2 * value_heads]: beta and alpha
    float* gates = nullptr;            // [rows, 2 * value_heads]: decay, then beta
    // Projections ordered by key head; then [rows, channels] after the convolution, in whose v the output is written.
    float* mixed = nullptr;

    [[nodiscard]] static Scratch place(Arena& arena, const ModelSpec& spec, uint32_t rows);
  };

  // `cpu` outlives this.
  explicit DeltaNet(compute::Cpu& cpu) : cpu_(cpu) {}

  // One layer of a pass.
  struct Layer {
    uint32_t index;
    const DeltaNetSpec& spec;
    const BoundDeltaNet& weights;
    float norm_eps;
  };
  // out [rows, hidden] from x [rows, hidden], the rows of `chunks`.
  void run(const Layer& layer, const Scratch& scratch, std::span<const Chunk> chunks, const float* x,
           uint32_t rows, float* out);

 private:
  // A chunk's rows and the states that it goes through.
  struct Run {
    uint32_t first_row;
    uint32_t start;  // Position of its first row.
    std::span<const kv::Recurrent::Step> steps;
  };
  void project(const Layer& layer, const Scratch& scratch, const float* x, uint32_t rows);
  void arrange(const Layer& layer, const Scratch& scratch, uint32_t rows);
  void begin(const Layer& layer, std::span<const Chunk> chunks);
  void convolve(const Layer& layer, const Scratch& scratch);
  void normalise_keys(const Layer& layer, const Scratch& scratch, uint32_t rows);
  void recur(const Layer& layer, const Scratch& scratch);
  void keep_inputs(const Layer& layer, const Scratch& scratch);
  void gate(const Layer& layer, const Scratch& scratch, uint32_t rows);

  compute::Cpu& cpu_;
  std::vector<Run> runs_;
  std::vector<const float*> tap_rows_;  // [rows, taps]
  Vector key_scale_, query_scale_;      // [key_dim]
};

}  // namespace mlxf::model
