// WeightStream: the weights of a model that do not stay in memory: tables of which a token uses one row, routed
// experts, or layers of a dense model.
//
// plan_residency() decides from sizes alone what stays: all of it where it fits. Else the table of per-layer embeddings
// goes first, then an embedding table that is not the head as well, both to be read by row; then the routed experts (a
// mixture), or as many layers as must, spread among those that stay (a dense model), read whole through a
// weights::RecordCache. All straight from the model's files; results do not depend on it, only speed does.
// Errors name the layer and the expert beside what the storage says: file, offset, cause.
// Experts come in batches as they arrive, computed in any order and summed in expert order. Dense layers come in turn
// and are known beforehand, so that the next one is always being read, across tokens too, while the layers that stay
// and the head are computed (docs/design/0004-dense-ring.md). Owned by the model; the engine's thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "formats/manifest.h"
#include "model/guess_gate.h"
#include "model/spec.h"
#include "storage/storage.h"
#include "tensor/matrix.h"
#include "weights/record_cache.h"
#include "weights/routing_trace.h"
#include "weights/row_reader.h"

namespace mlxf::model {

// What the layers' weights take, from the headers alone.
struct WeightSizes {
  uint64_t trunk = 0;              // Head, embedding, and whatever is in no list below.
  uint64_t embedding = 0;          // The embedding, where it can be read by row instead,
  uint64_t embedding_window = 0;   // and the memory to do so.
  uint64_t row_table = 0;          // The table of per-layer embeddings,
  uint64_t row_buffer = 0;         // and the memory to read it by row instead.
  uint64_t experts = 0;            // All routed experts.
  std::vector<uint64_t> layers;    // Of a dense model: each layer's matrices. Empty for mixtures.
  uint64_t expert_whole = 0;       // The experts as slots of a cache,
  uint64_t expert_floor = 0;       // and the fewest slots that work.
  uint64_t ring_slot = 0;          // The largest dense layer as a slot.
  uint64_t active_experts = 0;     // Routed experts that one token uses.
  uint64_t expert_reads = 0;       // Ranges of the files that one expert is read from,
  uint64_t expert_read_bytes = 0;  // and what direct reads of them move: whole blocks.
  [[nodiscard]] uint64_t total() const;
  [[nodiscard]] uint64_t floor() const;  // The smallest amount that works.
};
[[nodiscard]] Result<WeightSizes> measure_weights(
    const formats::ModelManifest& manifest, const ModelSpec& spec,
    uint64_t granule_bytes = weights::RecordCache::kGranuleBytes,
    weights::Rows rows = weights::Rows::kAsStored);

// The routed experts as a trace describes them; none for a dense model. kUnsupported where layers choose different
// numbers of experts.
[[nodiscard]] Result<weights::TraceShape> trace_shape(const formats::ModelManifest& manifest,
                                                      const ModelSpec& spec);

// The place of each layer in a trace; of one without routed experts, that of the next with them.
[[nodiscard]] std::vector<uint32_t> trace_layers(const ModelSpec& spec);

struct Residency {
  bool stream_experts = false;
  std::vector<uint32_t> streamed_layers;  // Of a dense model, ascending.
  bool per_layer_by_row = false;
  bool embedding_by_row = false;
  uint64_t cache_bytes = 0;  // Slots that this leaves room for.
  [[nodiscard]] bool streams_records() const { return stream_experts || !streamed_layers.empty(); }
  [[nodiscard]] bool streams() const { return streams_records() || per_layer_by_row || embedding_by_row; }
};
// Which of the layers are streamed when `count` of them are: evenly between those that stay, the head counted as the
// layers whose bytes it has, so that computing never outruns the next one's read by much. REQUIRES: not more than all.
[[nodiscard]] std::vector<uint32_t> spread_layers(const WeightSizes& sizes, uint32_t count);
// `bytes` are for weights alone. kOutOfBudget below the smallest amount that works, which the message names with
// `overhead`, what the process needs besides, added.
[[nodiscard]] Result<Residency> plan_residency(const WeightSizes& sizes, uint64_t bytes, uint64_t overhead);

class WeightStream {
 public:
  struct Options {
    Residency residency;
    uint64_t cache_bytes = 0;
    uint64_t granule_bytes = weights::RecordCache::kGranuleBytes;
    weights::Policy policy = weights::Policy::kLfu;
    bool look_ahead = true;  // Reads ahead what is certain to be needed,
    bool guess = false;      // and experts that may be, while the disk is idle.
    weights::Rows rows =
        weights::Rows::kAsStored;  // kInt8: 16- and 32-bit matrices become int8 in their slots,
    compute::ThreadPool* pool =
        nullptr;  // on this. The disk is kept busy between its chunks, see set_between().
  };
  // `storage` and the pool outlive this.
  [[nodiscard]] static Result<std::unique_ptr<WeightStream>> make(const formats::ModelManifest& manifest,
                                                                  const ModelSpec& spec,
                                                                  storage::Storage& storage,
                                                                  const Options& options);
  ~WeightStream();
  WeightStream(const WeightStream&) = delete;
  WeightStream& operator=(const WeightStream&) = delete;

  [[nodiscard]] bool has_experts(uint32_t layer) const { return first_expert_[layer] != kNone; }
  [[nodiscard]] bool has_layer(uint32_t layer) const { return record_of_layer_[layer] != kNone; }

  // A pass over `experts` of a layer, in batches; see RecordCache. `rows` tokens chose them.
  struct ReadyExpert {
    uint32_t expert = 0;
    std::span<const MatrixView> matrices;  // gate, up, down
  };
  [[nodiscard]] Status begin_experts(uint32_t layer, std::span<const uint32_t> experts);
  [[nodiscard]] Result<std::span<const ReadyExpert>> next_experts();
  // A pass that needs this share of its layer's experts is one of a sweep.
  static constexpr double kSweepShare = 0.75;
  // In a sweep all of the next layer's experts will be needed: reads those that fit beside this layer's.
  void expect_experts(uint32_t layer);

  // Whether guesses about `layer`, the next with experts, are welcome: the last ones have paid, or it is time to try
  // again. Reads them while the disk is idle.
  [[nodiscard]] bool wants_guess(uint32_t layer);
  void guess_experts(uint32_t layer, std::span<const uint32_t> experts);

  // The matrices of a streamed dense layer (set_matrices() takes them), valid until release_layer() or the next call;
  // begins reading the layers after it.
  [[nodiscard]] Result<std::span<const MatrixView>> acquire_layer(uint32_t layer);
  // It was computed: its slot is read into while those that stay are.
  void release_layer(uint32_t layer);

  // Rows of the per-layer embeddings' table; null where it is resident.
  [[nodiscard]] weights::RowReader* per_layer_rows() { return per_layer_.get(); }

  // The rows of an embedding that is read by row; see RowReader.
  [[nodiscard]] bool has_embedding() const { return embedding_ != nullptr; }
  [[nodiscard]] Status read_embedding(std::span<const uint32_t> rows, const weights::RowReader::Use& use) {
    return embedding_->read(rows, use);
  }

  // kChanged when a file is no longer what was opened.
  [[nodiscard]] Status check_files() const;
  // Null where only rows of tables are read.
  [[nodiscard]] weights::RecordCache* cache() { return cache_.get(); }
  // Seconds waited for rows, of both tables.
  [[nodiscard]] double embedding_stall() const;
  // Seconds that each layer has waited for its weights.
  [[nodiscard]] std::span<const double> layer_stalls() const { return layer_stalls_; }

 private:
  static constexpr uint32_t kNone = UINT32_MAX;
  WeightStream() = default;
  // Charges to `layer` what the cache has waited since the last call.
  void charge_stall(uint32_t layer);
  void read_ahead(uint32_t record);
  // An error of the cache, with the expert or the layer that it could not bring.
  [[nodiscard]] tl::unexpected<Error> named(const Error& error) const;

  storage::Storage* storage_ = nullptr;
  compute::ThreadPool* pool_ = nullptr;  // Null: it does not look after the disk.
  std::vector<storage::FileId> files_;
  std::unique_ptr<weights::RecordCache> cache_;
  std::unique_ptr<weights::RowReader> per_layer_;
  std::unique_ptr<weights::RowReader> embedding_;
  std::vector<uint32_t> first_expert_;     // By layer: the record of its expert 0.
  std::vector<uint32_t> expert_count_;     // By layer.
  std::vector<uint32_t> record_of_layer_;  // By layer: kNone where it stays.
  std::vector<uint32_t> streamed_layers_;  // By record.
  bool look_ahead_ = true;
  bool guess_ = false;
  GuessGate guess_gate_;
  std::vector<uint32_t> wanted_;
  std::vector<ReadyExpert> ready_;
  uint32_t pass_layer_ = 0;
  bool sweep_ = false;  // The pass needs nearly all experts of its layer.
  std::vector<double> layer_stalls_;
  double charged_stalls_ = 0.0;
};

}  // namespace mlxf::model
