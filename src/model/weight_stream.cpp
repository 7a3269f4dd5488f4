#include "model/weight_stream.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <string>

#include "base/check.h"

namespace mlxf::model {
namespace {

using formats::ModelManifest;
using weights::Record;
using weights::RecordSlice;

// A dense layer is computed from one slot while the next is read into the other. A third would let computing fall
// behind by one more reading, at the price of one more layer to be read for every token.
constexpr uint32_t kRingSlots = 2;

Result<RecordSlice> slice_of(const ModelManifest& manifest, const MatrixSource& source) {
  RecordSlice slice;
  ASSIGN_OR_RETURN(slice.stored, weights::find_matrix(manifest, source.name));
  MatrixView layout = slice.stored.layout;
  if (source.transposed) {
    ASSIGN_OR_RETURN(layout, weights::transposed_layout(slice.stored));
  }
  const uint32_t stored_rows = source.stored_rows != 0 ? source.stored_rows : source.rows;
  if (layout.rows != stored_rows || layout.cols != source.cols)
    return fail(ErrorCode::kCorrupt, "tensor " + source.name + " has " + std::to_string(layout.rows) +
                                         " rows of " + std::to_string(layout.cols) +
                                         ", but the configuration implies " + std::to_string(stored_rows) +
                                         " rows of " + std::to_string(source.cols));
  slice.row_begin = source.row_begin;
  slice.rows = source.rows;
  slice.row_step = source.row_step;
  slice.transposed = source.transposed;
  return slice;
}

// Bytes of a matrix, or of its slice.
Result<uint64_t> bytes_of(const ModelManifest& manifest, const MatrixSource& source) {
  if (source.name.empty()) return uint64_t{0};
  ASSIGN_OR_RETURN(const RecordSlice slice, slice_of(manifest, source));
  const uint64_t stored = slice.stored.bytes();
  const uint64_t stored_rows = source.stored_rows != 0 ? source.stored_rows : source.rows;
  return slice.rows == stored_rows ? stored : stored / stored_rows * slice.rows;
}

Result<Record> record_of(const ModelManifest& manifest, std::span<const MatrixSource* const> sources) {
  std::vector<RecordSlice> slices;
  for (const MatrixSource* source : sources) {
    if (source->name.empty()) continue;
    ASSIGN_OR_RETURN(RecordSlice slice, slice_of(manifest, *source));
    slices.push_back(slice);
  }
  return weights::make_record(slices);
}

Result<Record> expert_record(const ModelManifest& manifest, const ExpertSource& expert) {
  return record_of(manifest, expert.matrices());
}

bool is_mixture(const ModelSpec& spec) {
  return std::any_of(spec.layers.begin(), spec.layers.end(),
                     [](const LayerSpec& layer) { return std::holds_alternative<MoeSpec>(layer.ffn); });
}

Result<uint64_t> sum_bytes(const ModelManifest& manifest, std::span<const MatrixSource* const> sources) {
  uint64_t total = 0;
  for (const MatrixSource* source : sources) {
    ASSIGN_OR_RETURN(const uint64_t bytes, bytes_of(manifest, *source));
    total += bytes;
  }
  return total;
}

Result<std::vector<Record>> expert_records(const ModelManifest& manifest, const ModelSpec& spec) {
  std::vector<Record> records;
  for (const LayerSpec& layer : spec.layers)
    if (const auto* moe = std::get_if<MoeSpec>(&layer.ffn))
      for (const ExpertSource& expert : moe->experts) {
        ASSIGN_OR_RETURN(Record record, expert_record(manifest, expert));
        records.push_back(std::move(record));
      }
  return records;
}

// A table of which a token uses one row: counted apart where reading it by row frees memory, else in the trunk.
Status measure_table(const ModelManifest& manifest, const MatrixSource& source, WeightSizes& sizes,
                     uint64_t& table, uint64_t& buffer) {
  ASSIGN_OR_RETURN(const RecordSlice slice, slice_of(manifest, source));
  const uint64_t bytes = slice.stored.bytes();
  const uint64_t ring = weights::RowReader::buffer_bytes(slice.stored);
  const bool pays = ring != 0 && ring < bytes;
  buffer = pays ? ring : 0;
  (pays ? table : sizes.trunk) += bytes;
  return {};
}

// What stands beside the layers, the embedding and the head.
Status measure_extras(const ModelManifest& manifest, const ModelSpec& spec, WeightSizes& sizes) {
  std::vector<const MatrixSource*> sources;
  if (spec.altup)
    for (const auto* list : {&spec.altup->projections, &spec.altup->merge})
      for (const MatrixSource& source : *list) sources.push_back(&source);
  if (spec.per_layer_inputs) {
    sources.push_back(&spec.per_layer_inputs->projection);
    RETURN_IF_ERROR(
        measure_table(manifest, spec.per_layer_inputs->table, sizes, sizes.row_table, sizes.row_buffer));
  }
  ASSIGN_OR_RETURN(const uint64_t bytes, sum_bytes(manifest, sources));
  sizes.trunk += bytes;
  return {};
}

// What a record's matrices take where they are loaded as int8 rows and kept.
uint64_t int8_bytes(const Record& record) {
  uint64_t total = 0;
  for (const weights::RecordMatrix& matrix : record.matrices) {
    const MatrixView& w = matrix.layout;
    total += matrix.becomes_int8() ? weights::int8_bytes(w)
                                   : w.rows * (w.row_bytes + 2 * w.scale_row_bytes) / matrix.row_step;
  }
  return total;
}

// Memory besides its slots that a cache of these needs.
uint64_t transpose_bytes(std::span<const Record> records) {
  uint64_t largest = 0;
  for (const Record& record : records) largest = std::max(largest, record.transpose_bytes());
  return largest;
}

std::string mib(uint64_t bytes) { return std::to_string((bytes + (1 << 20) - 1) >> 20) + " MiB"; }

}  // namespace

uint64_t WeightSizes::total() const {
  uint64_t sum = trunk + row_table + embedding + experts;
  for (const uint64_t layer : layers) sum += layer;
  return sum;
}

uint64_t WeightSizes::floor() const {
  return std::min(total(), trunk + row_buffer + embedding_window +
                               (layers.empty() ? expert_floor : kRingSlots * ring_slot));
}

Result<WeightSizes> measure_weights(const ModelManifest& manifest, const ModelSpec& spec,
                                    uint64_t granule_bytes, weights::Rows rows) {
  WeightSizes sizes;
  ASSIGN_OR_RETURN(sizes.trunk, bytes_of(manifest, spec.head));
  if (spec.head.name != spec.embedding.name) {
    RETURN_IF_ERROR(measure_table(manifest, spec.embedding, sizes, sizes.embedding, sizes.embedding_window));
  }
  RETURN_IF_ERROR(measure_extras(manifest, spec, sizes));
  const bool mixture = is_mixture(spec);
  for (const LayerSpec& layer : spec.layers) {
    const std::vector<const MatrixSource*> matrices = layer.matrices();
    ASSIGN_OR_RETURN(const uint64_t bytes, sum_bytes(manifest, matrices));
    if (const auto* moe = std::get_if<MoeSpec>(&layer.ffn)) {
      ASSIGN_OR_RETURN(const Record expert, expert_record(manifest, moe->experts[0]));
      sizes.active_experts += moe->top_k * expert.bytes();
      sizes.expert_reads = expert.extents.size();
      sizes.expert_read_bytes = 0;
      for (const weights::RecordExtent& extent : expert.extents)
        sizes.expert_read_bytes += storage::Storage::span_bytes(extent.offset, extent.bytes);
    }
    if (mixture) {
      sizes.trunk += bytes;
      continue;
    }
    ASSIGN_OR_RETURN(const Record record, record_of(manifest, matrices));
    sizes.layers.push_back(rows == weights::Rows::kInt8 ? int8_bytes(record) : bytes);
    sizes.ring_slot = std::max(sizes.ring_slot, weights::RecordCache::slot_bytes(record, granule_bytes));
  }
  if (!mixture) return sizes;
  ASSIGN_OR_RETURN(const std::vector<Record> records, expert_records(manifest, spec));
  for (const Record& record : records)
    sizes.experts += rows == weights::Rows::kInt8 ? int8_bytes(record) : record.bytes();
  sizes.expert_whole = weights::RecordCache::whole_bytes(records);
  sizes.expert_floor =
      weights::RecordCache::floor_bytes(records, false, granule_bytes) + transpose_bytes(records);
  return sizes;
}

Result<weights::TraceShape> trace_shape(const ModelManifest& manifest, const ModelSpec& spec) {
  weights::TraceShape shape;
  for (const LayerSpec& layer : spec.layers) {
    const auto* moe = std::get_if<MoeSpec>(&layer.ffn);
    if (moe == nullptr) continue;
    if (shape.layers() != 0 && shape.top_k != moe->top_k)
      return fail(ErrorCode::kUnsupported, "the layers of this model choose different numbers of experts (" +
                                               std::to_string(shape.top_k) + ", " +
                                               std::to_string(moe->top_k) + "), which a trace cannot hold");
    shape.top_k = moe->top_k;
    shape.experts.push_back(static_cast<uint32_t>(moe->experts.size()));
    ASSIGN_OR_RETURN(const Record expert, expert_record(manifest, moe->experts[0]));
    shape.expert_bytes.push_back(expert.bytes());
  }
  return shape;
}

std::vector<uint32_t> trace_layers(const ModelSpec& spec) {
  std::vector<uint32_t> places;
  uint32_t next = 0;
  for (const LayerSpec& layer : spec.layers) {
    places.push_back(next);
    if (std::holds_alternative<MoeSpec>(layer.ffn)) ++next;
  }
  return places;
}

Result<Residency> plan_residency(const WeightSizes& sizes, uint64_t bytes, uint64_t overhead) {
  Residency plan;
  if (sizes.total() <= bytes) return plan;
  uint64_t whole = sizes.total();  // With the tables so far read by row.
  plan.per_layer_by_row = sizes.row_table != 0;
  whole = whole - sizes.row_table + sizes.row_buffer;
  if (plan.per_layer_by_row && whole <= bytes) return plan;
  plan.embedding_by_row = sizes.embedding != 0;
  whole = whole - sizes.embedding + sizes.embedding_window;
  if (plan.embedding_by_row && whole <= bytes) return plan;
  const uint64_t trunk = sizes.trunk + sizes.row_buffer + sizes.embedding_window;
  const bool mixture = sizes.layers.empty();
  const uint64_t floor = sizes.floor();
  if (bytes < floor)
    return fail(ErrorCode::kOutOfBudget, "the memory budget is too small for this model: it needs " +
                                             mib(floor + overhead) + " at least (" + mib(trunk) +
                                             " for what every token uses, " + mib(floor - trunk) +
                                             " to stream the rest through, " + mib(overhead) +
                                             " besides weights); raise --memory-budget");
  plan.cache_bytes = bytes - trunk;
  if (mixture) {
    plan.stream_experts = true;
    return plan;
  }
  plan.cache_bytes = kRingSlots * sizes.ring_slot;
  const uint64_t room = bytes - trunk - plan.cache_bytes;
  for (uint32_t count = 1; count <= sizes.layers.size(); ++count) {
    plan.streamed_layers = spread_layers(sizes, count);
    uint64_t resident = std::accumulate(sizes.layers.begin(), sizes.layers.end(), uint64_t{0});
    for (const uint32_t layer : plan.streamed_layers) resident -= sizes.layers[layer];
    if (resident <= room) break;
  }
  return plan;
}

// The last layer is streamed, and from there back every `step`-th of a round of all layers and the head. Where the head
// takes more than a step, the others share what is left.
std::vector<uint32_t> spread_layers(const WeightSizes& sizes, uint32_t count) {
  const auto layers = static_cast<double>(sizes.layers.size());
  CHECK(count >= 1 && count <= sizes.layers.size());
  const uint64_t bytes = std::accumulate(sizes.layers.begin(), sizes.layers.end(), uint64_t{0});
  const double head = bytes != 0 ? layers * static_cast<double>(sizes.trunk) / static_cast<double>(bytes) : 0;
  const double step = std::min((layers + head) / count, (layers - 1) / std::max(1.0, count - 1.0));
  constexpr double kRounding = 1e-9;  // So that thirds add up to a whole.
  std::vector<uint32_t> spread(count);
  for (uint32_t i = 0; i < count; ++i)
    spread[count - 1 - i] = static_cast<uint32_t>(layers - 1 - std::floor(i * step + kRounding));
  return spread;
}

Result<std::unique_ptr<WeightStream>> WeightStream::make(const ModelManifest& manifest, const ModelSpec& spec,
                                                         storage::Storage& storage, const Options& options) {
  std::unique_ptr<WeightStream> stream(new WeightStream());
  stream->look_ahead_ = options.look_ahead;
  stream->guess_ = options.look_ahead && options.guess;
  stream->first_expert_.assign(spec.layers.size(), kNone);
  stream->expert_count_.assign(spec.layers.size(), 0);
  stream->layer_stalls_.assign(spec.layers.size(), 0.0);
  stream->record_of_layer_.assign(spec.layers.size(), kNone);
  std::vector<Record> records;
  weights::RecordCache::Options cache_options;
  cache_options.bytes = options.cache_bytes;
  cache_options.policy = options.policy;
  cache_options.granule_bytes = options.granule_bytes;
  cache_options.rows = options.rows;
  cache_options.pool = options.pool;
  if (options.residency.stream_experts) {
    ASSIGN_OR_RETURN(records, expert_records(manifest, spec));
    uint32_t next = 0;
    for (size_t i = 0; i < spec.layers.size(); ++i)
      if (const auto* moe = std::get_if<MoeSpec>(&spec.layers[i].ffn)) {
        stream->first_expert_[i] = next;
        stream->expert_count_[i] = static_cast<uint32_t>(moe->experts.size());
        cache_options.guess_slots = std::max(cache_options.guess_slots, stream->guess_ ? moe->top_k : 0);
        next += stream->expert_count_[i];
        cache_options.layer_of.resize(next, static_cast<uint32_t>(i));
      }
  } else if (options.residency.streams_records()) {
    stream->streamed_layers_ = options.residency.streamed_layers;
    for (const uint32_t layer : stream->streamed_layers_) {
      stream->record_of_layer_[layer] = static_cast<uint32_t>(records.size());
      ASSIGN_OR_RETURN(Record record, record_of(manifest, spec.layers[layer].matrices()));
      records.push_back(std::move(record));
    }
    cache_options.policy = weights::Policy::kLru;
    cache_options.equal_slots = true;
  }
  cache_options.bytes -= std::min(cache_options.bytes, transpose_bytes(records));
  std::vector<storage::FileId>& files = stream->files_;
  stream->storage_ = &storage;
  for (size_t i = 0; i < manifest.files.size(); ++i) {
    ASSIGN_OR_RETURN(const storage::FileId file, storage.open(manifest.files[i]));
    if (storage.file_bytes(file) != manifest.file_bytes[i])
      return fail(ErrorCode::kChanged, manifest.files[i] + " has changed since its header was read");
    files.push_back(file);
  }
  const auto rows_of = [&](const MatrixSource& source) -> Result<std::unique_ptr<weights::RowReader>> {
    ASSIGN_OR_RETURN(const RecordSlice table, slice_of(manifest, source));
    return std::make_unique<weights::RowReader>(storage, files, table.stored);
  };
  if (options.residency.per_layer_by_row) {
    ASSIGN_OR_RETURN(stream->per_layer_, rows_of(spec.per_layer_inputs->table));
  }
  if (options.residency.embedding_by_row) {
    ASSIGN_OR_RETURN(stream->embedding_, rows_of(spec.embedding));
  }
  if (!options.residency.streams_records()) return stream;
  ASSIGN_OR_RETURN(stream->cache_,
                   weights::RecordCache::make(storage, files, std::move(records), cache_options));
  stream->pool_ = options.pool;
  if (stream->pool_ != nullptr)
    stream->pool_->set_between(stream.get(), [cache = stream->cache_.get()] { cache->advance(); });
  return stream;
}

WeightStream::~WeightStream() {
  if (pool_ != nullptr) pool_->end_between(this);
}

tl::unexpected<Error> WeightStream::named(const Error& error) const {
  const uint32_t record = cache_->failed_record();
  if (!streamed_layers_.empty())
    return tl::unexpected<Error>(error.within("layer " + std::to_string(streamed_layers_[record])));
  auto layer = static_cast<uint32_t>(first_expert_.size());
  while (layer > 0 && (first_expert_[layer - 1] == kNone || first_expert_[layer - 1] > record)) --layer;
  CHECK(layer > 0);
  return tl::unexpected<Error>(error.within("layer " + std::to_string(layer - 1) + " expert " +
                                            std::to_string(record - first_expert_[layer - 1])));
}

double WeightStream::embedding_stall() const {
  double seconds = 0.0;
  for (const weights::RowReader* reader : {per_layer_.get(), embedding_.get()})
    if (reader != nullptr) seconds += reader->stall_seconds();
  return seconds;
}

Status WeightStream::check_files() const {
  for (const storage::FileId file : files_) RETURN_IF_ERROR(storage_->check_identity(file));
  return {};
}

void WeightStream::charge_stall(uint32_t layer) {
  const double all = cache_->stats().stall_seconds;
  layer_stalls_[layer] += all - charged_stalls_;
  charged_stalls_ = all;
}

Status WeightStream::begin_experts(uint32_t layer, std::span<const uint32_t> experts) {
  pass_layer_ = layer;
  wanted_.clear();
  for (const uint32_t expert : experts) wanted_.push_back(first_expert_[layer] + expert);
  // Many tokens choose nearly all experts, in the next layer too.
  sweep_ = static_cast<double>(experts.size()) >= kSweepShare * expert_count_[layer];
  if (const Status status = cache_->begin(wanted_, sweep_); !status) return named(status.error());
  return {};
}

Result<std::span<const WeightStream::ReadyExpert>> WeightStream::next_experts() {
  const auto batch = cache_->next();
  charge_stall(pass_layer_);
  if (!batch) return named(batch.error());
  ready_.clear();
  for (const weights::ReadyRecord& record : *batch)
    ready_.push_back({record.record - first_expert_[pass_layer_], record.matrices});
  std::sort(ready_.begin(), ready_.end(),
            [](const ReadyExpert& a, const ReadyExpert& b) { return a.expert < b.expert; });
  return std::span<const ReadyExpert>(ready_);
}

void WeightStream::expect_experts(uint32_t layer) {
  if (!sweep_ || !look_ahead_ || layer >= first_expert_.size() || !has_experts(layer)) return;
  wanted_.clear();
  for (uint32_t e = 0; e < expert_count_[layer]; ++e) wanted_.push_back(first_expert_[layer] + e);
  cache_->prefetch(wanted_, true);
}

bool WeightStream::wants_guess(uint32_t layer) {
  if (!guess_ || !has_experts(layer)) return false;
  const weights::RecordCacheStats& stats = cache_->stats();
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return guess_gate_.open(
      {stats.guesses, stats.guesses_used, stats.stall_seconds, std::chrono::duration<double>(now).count()});
}

void WeightStream::guess_experts(uint32_t layer, std::span<const uint32_t> experts) {
  wanted_.clear();
  for (const uint32_t expert : experts) wanted_.push_back(first_expert_[layer] + expert);
  cache_->guess(wanted_);
}

Result<std::span<const MatrixView>> WeightStream::acquire_layer(uint32_t layer) {
  const uint32_t record = record_of_layer_[layer];
  if (const Status status = cache_->begin({&record, 1}); !status) return named(status.error());
  const auto batch = cache_->next();
  charge_stall(layer);
  if (!batch) return named(batch.error());
  read_ahead(record);
  return (*batch)[0].matrices;
}

void WeightStream::release_layer(uint32_t layer) {
  cache_->release();
  read_ahead(record_of_layer_[layer]);
}

// The layers after `record`, in turn and around: the next token begins with the first of them again.
void WeightStream::read_ahead(uint32_t record) {
  if (!look_ahead_) return;
  const auto count = static_cast<uint32_t>(streamed_layers_.size());
  wanted_.clear();
  for (uint32_t i = 1; i <= std::min(count, kRingSlots); ++i) wanted_.push_back((record + i) % count);
  cache_->prefetch(wanted_, true);
}

}  // namespace mlxf::model
