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
// and the head are computed (docs/design/0004-dense-ring.md).
// What experts or layers take can change between two passes: set_bytes(). Dense layers that stay have memory of their
// own each, so that one that is given back frees all of it; layers come back by being copied out of the slot that they
// were streamed through (docs/design/0005-dense-squeeze.md). Owned by the model; the engine's thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "formats/manifest.h"
#include "kernels/side_by_side.h"
#include "model/guess_gate.h"
#include "model/layer_places.h"
#include "model/spec.h"
#include "model/weight_sizes.h"
#include "platform/huge_memory.h"
#include "storage/storage.h"
#include "tensor/matrix.h"
#include "weights/record_cache.h"
#include "weights/routing_trace.h"
#include "weights/row_reader.h"

namespace mlxf::model {

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
// `bytes` are for weights alone. kOutOfBudget below the smallest amount that works, which the message names with
// `overhead`, what the process needs besides, added.
[[nodiscard]] Result<Residency> plan_residency(const WeightSizes& sizes, uint64_t bytes, uint64_t overhead);

class WeightStream {
 public:
  struct Options {
    Residency residency;
    // Not null: of a dense model whose layers may come and go. All may be resident so far.
    const WeightSizes* resizable = nullptr;
    uint64_t cache_bytes = 0;
    uint64_t granule_bytes = weights::RecordCache::kGranuleBytes;
    weights::Policy policy = weights::Policy::kLfu;
    bool look_ahead = true;  // Reads ahead what is certain to be needed,
    bool guess = false;      // and experts that may be, while the disk is idle.
    weights::Rows rows =
        weights::Rows::kAsStored;  // kInt8: 16- and 32-bit matrices become int8 in their slots,
    compute::ThreadPool* pool =
        nullptr;  // on this. The disk is kept busy between its chunks, see set_between().
    // Not null: in layers that come to stay rows go side by side (weights/side_by_side.h).
    kernels::SideBySideFn put_side_by_side = nullptr;
  };
  // `storage` and the pool outlive this.
  [[nodiscard]] static Result<std::unique_ptr<WeightStream>> make(const formats::ModelManifest& manifest,
                                                                  const ModelSpec& spec,
                                                                  storage::Storage& storage,
                                                                  const Options& options);
  ~WeightStream();
  WeightStream(const WeightStream&) = delete;
  WeightStream& operator=(const WeightStream&) = delete;

  // Takes over the memory of the dense layers that are resident: by layer, nothing for those that are streamed.
  void keep_layers(std::vector<platform::HugeMemory> layers);

  // Something is read from the SSD, or was.
  [[nodiscard]] bool reads() const {
    return per_layer_ != nullptr || embedding_ != nullptr || cache() != nullptr;
  }
  [[nodiscard]] bool has_experts(uint32_t layer) const { return first_expert_[layer] != kNone; }
  // The dense layer is streamed.
  [[nodiscard]] bool has_layer(uint32_t layer) const { return places_ && places_->streamed(layer); }

  // What set_bytes() can change: all slots, and a dense model's layers.
  struct Room {
    uint64_t bytes = 0;          // Mapped,
    uint64_t touched_bytes = 0;  // and of that, what the system has really given.
    uint64_t floor_bytes = 0;    // Of `bytes`, the least,
    uint64_t most_bytes = 0;     // and what is of use at most.
    uint64_t chunk_bytes = 0;    // What they come and go by.
  };
  [[nodiscard]] bool resizable() const { return cache_ != nullptr; }
  // REQUIRES: resizable().
  [[nodiscard]] Room room() const;
  // Between two passes. Less is given back at once; more is taken as it comes. What of it is mapped now, above `bytes`
  // only at the least that works, or where the model's files are no longer those that it was loaded from.
  uint64_t set_bytes(uint64_t bytes);

  // A pass over `experts` of a layer, in batches; see RecordCache. `rows` tokens chose them.
  struct ReadyExpert {
    uint32_t expert = 0;
    std::span<const MatrixView> matrices;  // gate, up, down
  };
  [[nodiscard]] Status begin_experts(uint32_t layer, std::span<const uint32_t> experts, uint32_t rows);
  [[nodiscard]] Result<std::span<const ReadyExpert>> next_experts();
  // A pass for so many tokens is one of a sweep: it goes once through a good part of every layer, which the next one
  // comes back to when it has gone through all the others.
  static constexpr uint32_t kSweepRows = 32;
  // A pass that needs this share of its layer's experts is one, too, and then the next layer's will nearly all be
  // needed: reads those that fit beside this layer's.
  static constexpr double kSweepShare = 0.75;
  void expect_experts(uint32_t layer);

  // Whether guesses about `layer`, the next with experts, are welcome: the last ones have paid, or it is time to try
  // again. Reads them while the disk is idle.
  [[nodiscard]] bool wants_guess(uint32_t layer);
  void guess_experts(uint32_t layer, std::span<const uint32_t> experts);

  // The matrices of a streamed dense layer (set_matrices() takes them), valid until finish_layer() or the next call;
  // begins reading the layers after it.
  [[nodiscard]] Result<std::span<const MatrixView>> acquire_layer(uint32_t layer);
  // The layer was computed, streamed or not. Its slot is read into while those that stay are. Where it is now one of
  // these, returns its matrices, valid until it is streamed again; else nothing.
  [[nodiscard]] std::span<const MatrixView> finish_layer(uint32_t layer);

  // Rows of the per-layer embeddings' table; null where it is resident.
  [[nodiscard]] weights::RowReader* per_layer_rows() { return per_layer_.get(); }

  // The rows of an embedding that is read by row; see RowReader.
  [[nodiscard]] bool has_embedding() const { return embedding_ != nullptr; }
  [[nodiscard]] Status read_embedding(std::span<const uint32_t> rows, const weights::RowReader::Use& use) {
    return embedding_->read(rows, use);
  }

  // kChanged when a file is no longer what was opened.
  [[nodiscard]] Status check_files() const;
  // Null where only rows of tables are read, so far.
  [[nodiscard]] weights::RecordCache* cache() const {
    return places_ && !places_->streams() ? nullptr : cache_.get();
  }
  // What reading a dense layer takes; of all that are streamed, where the slots do not hold them for good.
  [[nodiscard]] uint64_t record_bytes(uint32_t layer) const { return cache_->records()[layer].bytes(); }
  [[nodiscard]] uint64_t streamed_layer_bytes() const;
  // Memory of the dense layers that are resident.
  [[nodiscard]] uint64_t layer_bytes() const;
  // Seconds waited for rows, of both tables.
  [[nodiscard]] double embedding_stall() const;
  // Seconds that each layer has waited for its weights.
  [[nodiscard]] std::span<const double> layer_stalls() const { return layer_stalls_; }

 private:
  static constexpr uint32_t kNone = UINT32_MAX;
  WeightStream() = default;
  // Charges to `layer` what the cache has waited since the last call.
  void charge_stall(uint32_t layer);
  void read_ahead(uint32_t layer);
  void look_after_disk();
  [[nodiscard]] bool take(uint32_t layer);
  [[nodiscard]] Status add_layers(const formats::ModelManifest& manifest, const ModelSpec& spec,
                                  const Options& options, std::vector<weights::Record>& records);
  [[nodiscard]] Status open_files(const formats::ModelManifest& manifest);
  // An error of the cache, with the expert or the layer that it could not bring.
  [[nodiscard]] tl::unexpected<Error> named(const Error& error) const;

  storage::Storage* storage_ = nullptr;
  compute::ThreadPool* pool_ = nullptr;  // Null: it does not look after the disk.
  std::vector<storage::FileId> files_;
  std::unique_ptr<weights::RecordCache> cache_;
  std::unique_ptr<weights::RowReader> per_layer_;
  std::unique_ptr<weights::RowReader> embedding_;
  std::vector<uint32_t> first_expert_;  // By layer: the record of its expert 0.
  std::vector<uint32_t> expert_count_;  // By layer.
  std::optional<LayerPlaces>
      places_;  // Of a dense model's layers, each of which is the record of its number.
  std::vector<platform::HugeMemory> layer_memory_;  // By layer: of those that stay.
  std::span<const MatrixView> acquired_;            // Of the layer that is computed.
  std::vector<MatrixView> taken_;                   // Of the one that came to stay last.
  bool look_ahead_ = true;
  kernels::SideBySideFn put_side_by_side_ = nullptr;
  bool guess_ = false;
  GuessGate guess_gate_;
  std::vector<uint32_t> wanted_;
  std::vector<ReadyExpert> ready_;
  uint32_t pass_layer_ = 0;
  bool nearly_all_ = false;  // Of its layer's experts are needed by the pass.
  std::vector<double> layer_stalls_;
  double charged_stalls_ = 0.0;
};

}  // namespace mlxf::model
