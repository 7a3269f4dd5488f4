// Model: a loaded checkpoint and its one forward pass.
//
// A family file (families/) turns the checkpoint's configuration into a ModelSpec; the layers, caches and the order
// of operations below are the same for all families. Owned by the engine and used by its one thread. Weights are
// immutable; everything that belongs to a conversation lives in a kv::Sequence of the caller.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "base/result.h"
#include "compute/cpu.h"
#include "formats/manifest.h"
#include "kv/sequence.h"
#include "model/chunk.h"
#include "model/spec.h"
#include "storage/storage.h"
#include "weights/record_cache.h"

namespace mlxf::model {

class WeightStream;

// How much memory the process may take, and where the weights come from that do not fit.
struct MemoryOptions {
  uint64_t budget_bytes = 0;    // Of the whole process; 0: no limit, everything is loaded.
  uint64_t held_bytes_min = 0;  // Of it, what is taken to be held before the model, if that is more than is.
  storage::Storage* storage = nullptr;  // Outlives the model. REQUIRES: not null with a limit.
  // For weights alone, whatever the process takes besides, instead of a budget: for programs that do their own
  // accounting, and for tests.
  uint64_t weight_bytes = 0;
  uint64_t granule_bytes = weights::RecordCache::kGranuleBytes;  // Of the cache of streamed weights.
  uint32_t context_tokens = 0;  // Positions of keys and values that room is kept for.
  uint32_t sequences = 1;       // Whose logits and sampling take memory at once.
  weights::Policy policy = weights::Policy::kLfu;
  bool look_ahead = true;
  bool guess = false;  // With look_ahead: also of experts that the next layer may choose.
};

struct LoadOptions {
  MemoryOptions memory = {};
  bool int8_rows = false;  // Quantise 16-bit matrices at load.
  // Round the rotary frequencies to bf16, as a reference does that was cast to bf16 with all its buffers: for
  // comparing with logits made that way. It turns far positions by a wrong angle, so it is never right for answers.
  bool bf16_rope_frequencies = false;
  std::function<void(uint64_t bytes_done, uint64_t bytes_total)> progress = {};
};

class Model {
 public:
  // Errors name the tensor or configuration field; an unknown architecture is refused with the list of those known.
  [[nodiscard]] static Result<std::unique_ptr<Model>> load(const formats::ModelManifest& manifest,
                                                           compute::Cpu& cpu, const LoadOptions& options);
  ~Model();

  [[nodiscard]] const ModelSpec& spec() const;
  [[nodiscard]] uint64_t weight_bytes() const;
  // Of the budget, what this model may come to take: weights, slots, and room for the rest; 0 without a budget.
  [[nodiscard]] uint64_t claimed_bytes() const;
  // Tokens of one forward() call that room is kept for; longer prompts come in chunks of this.
  [[nodiscard]] uint32_t chunk_tokens() const;
  // Some weights are read from the SSD while the model runs, or may come to be.
  [[nodiscard]] bool streams() const;
  [[nodiscard]] bool may_stream() const;
  // The part of the memory for weights that can change while the model runs: experts, or a dense model's layers. Null
  // where there is none. It changes between two calls of forward() by its set_bytes(), without changing a result.
  [[nodiscard]] WeightStream* resizable();
  // The cache of streamed experts or layers; null when all are resident, so far.
  [[nodiscard]] weights::RecordCache* weight_cache();
  // The same where it holds experts, not layers.
  [[nodiscard]] weights::RecordCache* expert_cache();
  // Seconds that each layer has waited for streamed weights; empty when all are resident.
  [[nodiscard]] std::span<const double> layer_stalls() const;
  // The same for an embedding that is read by row.
  [[nodiscard]] double embedding_stall() const;
  // Bytes of weights that one token's decoding reads (dense + routed), and the routed part of them.
  [[nodiscard]] uint64_t active_bytes() const;
  [[nodiscard]] uint64_t active_expert_bytes() const;
  // Of a dense model: the layers that are read from the SSD for every token; part of active_bytes().
  [[nodiscard]] uint64_t streamed_layer_bytes() const;

  [[nodiscard]] std::unique_ptr<kv::Sequence> make_sequence(uint32_t context_max);
  // The most bytes that a sequence holds until it has `positions`.
  [[nodiscard]] uint64_t sequence_bytes(uint32_t positions) const;
  // What of `positions` two sequences that begin so share; what all sequences hold more than once, each for itself; and
  // their memory: what was once held at the same time.
  [[nodiscard]] uint64_t lasting_bytes(uint32_t positions) const;
  [[nodiscard]] uint64_t doubled_bytes() const;
  [[nodiscard]] uint64_t page_bytes() const;

  // Appends the chunks' tokens to their sequences. With a budget, what keys and values take beyond the room kept for
  // them is taken from the streamed weights' cache; kOutOfBudget when that is at its least. kIo, kChanged: a streamed
  // weight could not be read; kCancelled: interrupted. In all cases of failure the sequences are as they were.
  // `logits` receives f32 [rows, vocab], rows in chunk order, one per chunk or one per token (all_logits), none of a
  // chunk whose state is asked for. Token ids outside the vocabulary: kInvalidArgument, nothing changed.
  [[nodiscard]] Status forward(std::span<const Chunk> chunks, float* logits,
                               const HiddenObserver& hidden = {});

  void observe_routing(RoutingObserver observer);

  // Asked before each layer of a forward(): true ends it with kCancelled. For long chunks that nobody waits for.
  void interrupt_when(std::function<bool()> interrupt);

 private:
  struct State;
  explicit Model(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace mlxf::model
