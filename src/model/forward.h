// Forward: the one forward pass of all families, over the rows of all chunks of a call together.
//
// The layer loop, the residual stream, embedding and head; what a layer computes is in blocks/, one class or function
// per kind. Rows are tokens, in chunk order. Matrix products see all rows at once; mixers run per sequence. A row's
// result never depends on the other rows. Owned by the Model and used by its one thread; scratch memory grows with the
// largest call and is then reused, so that steady decoding allocates nothing.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "compute/aligned_buffer.h"
#include "compute/cpu.h"
#include "model/arena.h"
#include "model/blocks/altup.h"
#include "model/blocks/attention.h"
#include "model/blocks/delta_net.h"
#include "model/blocks/latent_attention.h"
#include "model/blocks/laurel.h"
#include "model/blocks/mlp.h"
#include "model/blocks/moe.h"
#include "model/blocks/per_layer.h"
#include "model/blocks/rope.h"
#include "model/blocks/rope_tables.h"
#include "model/bound_weights.h"
#include "model/chunk.h"
#include "model/look_ahead.h"
#include "model/spec.h"
#include "model/weight_stream.h"

namespace mlxf::model {

class Forward {
 public:
  // All borrowed; they outlive this.
  // `stream` brings the weights that are not resident; null: all are. `weights` is written to for streamed layers.
  Forward(const ModelSpec& spec, BoundWeights& weights, const std::vector<Rope>& ropes, compute::Cpu& cpu,
          WeightStream* stream);
  Forward(const Forward&) = delete;  // moe_ calls back into this.
  Forward& operator=(const Forward&) = delete;

  // Scratch memory of a call with `rows` tokens in all, and of the operations' own.
  [[nodiscard]] static uint64_t scratch_bytes(const ModelSpec& spec, uint32_t rows, uint32_t threads);

  // REQUIRES: the chunks' positions are reserved in their sequences, tokens are in the vocabulary. Fails only where a
  // streamed weight cannot be read or where it is interrupted; then the sequences are as they were.
  [[nodiscard]] Status run(std::span<const Chunk> chunks, float* logits, const HiddenObserver& hidden);

  void observe_routing(RoutingObserver observer) { moe_.observe_routing(std::move(observer)); }
  std::function<bool()> interrupt;  // See Model::interrupt_when().

 private:
  // The memory of a pass.
  struct Scratch {
    float* x = nullptr;         // [rows, hidden] the residual stream
    float* normed = nullptr;    // [rows, hidden] a sublayer's input
    float* sublayer = nullptr;  // [rows, hidden] its output
    float* ropes = nullptr;
    Altup::Scratch altup;
    PerLayerInputs::Scratch per_layer;
    // Sublayers take turns in the rest.
    Attention::Scratch attention;
    LatentAttention::Scratch latent_attention;
    DeltaNet::Scratch delta_net;
    MlpScratch mlp;
    Moe::Scratch moe;
    LaurelScratch laurel;

    [[nodiscard]] static Scratch place(Arena& arena, const ModelSpec& spec, uint32_t rows);
  };

  void place_scratch(uint32_t rows);
  [[nodiscard]] Status embed(std::span<const Chunk> chunks);
  [[nodiscard]] Status run_layer(uint32_t index, std::span<const Chunk> chunks);
  // The per-layer embedding and the scale behind a layer, and the streams around it.
  void finish_layer(uint32_t index);
  // Sublayers of each kind: from normed to sublayer.
  [[nodiscard]] Status run_sublayer(uint32_t layer, const AttentionSpec& spec, const BoundAttention& weights,
                                    std::span<const Chunk> chunks);
  [[nodiscard]] Status run_sublayer(uint32_t layer, const LatentAttentionSpec& spec,
                                    const BoundLatentAttention& weights, std::span<const Chunk> chunks);
  [[nodiscard]] Status run_sublayer(uint32_t layer, const DeltaNetSpec& spec, const BoundDeltaNet& weights,
                                    std::span<const Chunk> chunks);
  [[nodiscard]] Status run_sublayer(uint32_t layer, const MlpSpec& spec, const BoundMlp& weights,
                                    std::span<const Chunk> chunks);
  [[nodiscard]] Status run_sublayer(uint32_t layer, const MoeSpec& spec, const BoundMoe& weights,
                                    std::span<const Chunk> chunks);
  void normalise(const Vector& norm);
  void add_residual(const Vector& post_norm);
  void head(std::span<const Chunk> chunks, float* logits);

  const ModelSpec& spec_;
  BoundWeights& weights_;
  compute::Cpu& cpu_;
  WeightStream* stream_;
  RopeTables ropes_;
  Attention attention_;
  LatentAttention latent_attention_;
  DeltaNet delta_net_;
  Moe moe_;
  Altup altup_;
  PerLayerInputs per_layer_;
  LookAhead look_ahead_;

  uint32_t rows_ = 0;
  compute::AlignedBuffer memory_;
  Scratch scratch_;
  std::vector<uint32_t> embedding_rows_;  // Of the table, by row of the call.
};

}  // namespace mlxf::model
