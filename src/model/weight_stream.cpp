#include "model/weight_stream.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <string>

#include "base/check.h"
#include "weights/matrix_copy.h"
#include "weights/side_by_side.h"

namespace mlxf::model {
namespace {

using formats::ModelManifest;
using weights::Record;
using weights::RecordSlice;

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
  slice.by_row = source.by_row;
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
  plan.streamed_layers = streamed_within(sizes, bytes - trunk - plan.cache_bytes, 1);
  return plan;
}

Result<std::unique_ptr<WeightStream>> WeightStream::make(const ModelManifest& manifest, const ModelSpec& spec,
                                                         storage::Storage& storage, const Options& options) {
  std::unique_ptr<WeightStream> stream(new WeightStream());
  stream->look_ahead_ = options.look_ahead;
  stream->put_side_by_side_ = options.put_side_by_side;
  stream->guess_ = options.look_ahead && options.guess;
  stream->first_expert_.assign(spec.layers.size(), kNone);
  stream->expert_count_.assign(spec.layers.size(), 0);
  stream->layer_stalls_.assign(spec.layers.size(), 0.0);
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
  } else if (options.resizable != nullptr) {
    RETURN_IF_ERROR(stream->add_layers(manifest, spec, options, records));
    cache_options.policy = weights::Policy::kLru;
    cache_options.equal_slots = true;
  }
  cache_options.bytes -= std::min(cache_options.bytes, transpose_bytes(records));
  stream->storage_ = &storage;
  RETURN_IF_ERROR(stream->open_files(manifest));
  const std::vector<storage::FileId>& files = stream->files_;
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
  if (records.empty()) return stream;
  ASSIGN_OR_RETURN(stream->cache_,
                   weights::RecordCache::make(storage, files, std::move(records), cache_options));
  stream->pool_ = options.pool;
  if (stream->cache() != nullptr) stream->look_after_disk();
  return stream;
}

// Every layer is a record, those that stay as well: which of them are streamed may change.
Status WeightStream::add_layers(const ModelManifest& manifest, const ModelSpec& spec, const Options& options,
                                std::vector<Record>& records) {
  for (const LayerSpec& layer : spec.layers) {
    ASSIGN_OR_RETURN(Record record, record_of(manifest, layer.matrices()));
    records.push_back(std::move(record));
  }
  WeightSizes sizes = *options.resizable;
  for (size_t i = 0; i < records.size(); ++i)
    sizes.layers[i] = platform::HugeMemory::tight_bytes(
        sizes.layers[i] + weights::copy_slack_bytes(records[i].matrices.size()));
  places_.emplace(std::move(sizes), options.cache_bytes, options.residency.streamed_layers);
  layer_memory_.resize(spec.layers.size());
  return {};
}

Status WeightStream::open_files(const ModelManifest& manifest) {
  for (size_t i = 0; i < manifest.files.size(); ++i) {
    ASSIGN_OR_RETURN(const storage::FileId file, storage_->open(manifest.files[i]));
    if (storage_->file_bytes(file) != manifest.file_bytes[i])
      return fail(ErrorCode::kChanged, manifest.files[i] + " has changed since its header was read");
    files_.push_back(file);
  }
  return {};
}

void WeightStream::look_after_disk() {
  if (pool_ != nullptr) pool_->set_between(this, [cache = cache_.get()] { cache->advance(); });
}

WeightStream::~WeightStream() {
  if (pool_ != nullptr) pool_->end_between(this);
}

tl::unexpected<Error> WeightStream::named(const Error& error) const {
  const uint32_t record = cache_->failed_record();
  if (places_) return tl::unexpected<Error>(error.within("layer " + std::to_string(record)));
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

Status WeightStream::begin_experts(uint32_t layer, std::span<const uint32_t> experts, uint32_t rows) {
  pass_layer_ = layer;
  wanted_.clear();
  for (const uint32_t expert : experts) wanted_.push_back(first_expert_[layer] + expert);
  nearly_all_ = static_cast<double>(experts.size()) >= kSweepShare * expert_count_[layer];
  if (const Status status = cache_->begin(wanted_, nearly_all_ || rows >= kSweepRows); !status)
    return named(status.error());
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
  if (!nearly_all_ || !look_ahead_ || layer >= first_expert_.size() || !has_experts(layer)) return;
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

void WeightStream::keep_layers(std::vector<platform::HugeMemory> layers) {
  CHECK(places_ && layers.size() == layer_memory_.size());
  layer_memory_ = std::move(layers);
}

uint64_t WeightStream::layer_bytes() const {
  uint64_t total = 0;
  for (const platform::HugeMemory& memory : layer_memory_) total += memory.bytes();
  return total;
}

uint64_t WeightStream::streamed_layer_bytes() const {
  uint64_t total = 0;
  uint32_t count = 0;
  for (uint32_t i = 0; i < layer_memory_.size(); ++i) {
    if (!has_layer(i)) continue;
    total += record_bytes(i);
    ++count;
  }
  return count > kRingSlots ? total : 0;
}

WeightStream::Room WeightStream::room() const {
  Room room;
  room.touched_bytes = layer_bytes() + cache_->touched_bytes();
  if (!places_) {
    room.bytes = cache_->bytes();
    room.floor_bytes = weights::RecordCache::floor_bytes(cache_->records(), false);
    room.most_bytes = UINT64_MAX;
    room.chunk_bytes = cache_->chunk_bytes();
    return room;
  }
  room.bytes = layer_bytes() + (places_->streams() ? cache_->bytes() : 0);
  room.floor_bytes = places_->floor_bytes();
  room.most_bytes = places_->most_bytes();
  room.chunk_bytes = storage::Storage::kAlign;  // Layers are of any size.
  return room;
}

uint64_t WeightStream::set_bytes(uint64_t bytes) {
  if (!places_) return cache_->set_bytes(bytes);
  // What is in memory stands for files that are gone: it cannot be read again.
  if (!places_->streams() && !check_files()) return room().bytes;
  const bool streamed = places_->streams();
  for (const uint32_t layer : places_->set_bytes(bytes)) layer_memory_[layer] = {};
  if (!streamed && places_->streams()) look_after_disk();
  return room().bytes;
}

Result<std::span<const MatrixView>> WeightStream::acquire_layer(uint32_t layer) {
  acquired_ = {};
  if (const Status status = cache_->begin({&layer, 1}); !status) return named(status.error());
  const auto batch = cache_->next();
  charge_stall(layer);
  if (!batch) return named(batch.error());
  read_ahead(layer);
  acquired_ = (*batch)[0].matrices;
  return acquired_;
}

std::span<const MatrixView> WeightStream::finish_layer(uint32_t layer) {
  if (!places_) return {};
  const bool streamed = has_layer(layer);
  bool taken = false;
  switch (places_->next_move(layer)) {
    case LayerPlaces::Move::kNone:
      break;
    case LayerPlaces::Move::kTake:
      taken = take(layer);
      break;
    case LayerPlaces::Move::kGiveBack:
      layer_memory_[layer] = {};
      places_->gave_back(layer);
  }
  if (streamed) {
    cache_->release();
    read_ahead(layer);
  }
  if (!taken) return {};
  return taken_;
}

// Where the system refuses the memory the layer is streamed on.
bool WeightStream::take(uint32_t layer) {
  auto copy = weights::copy_matrices(acquired_, cache_->records()[layer].matrices, pool_);
  if (!copy) return false;
  layer_memory_[layer] = std::move(copy->memory);
  taken_ = std::move(copy->matrices);
  if (put_side_by_side_ != nullptr)
    weights::put_side_by_side(put_side_by_side_, taken_, cache_->records()[layer].matrices, pool_);
  places_->took(layer);
  return true;
}

// The streamed layers after `layer`, in turn and around: the next token begins with the first of them again.
void WeightStream::read_ahead(uint32_t layer) {
  if (!look_ahead_) return;
  const auto layers = static_cast<uint32_t>(layer_memory_.size());
  wanted_.clear();
  for (uint32_t i = 1; i <= layers && wanted_.size() < kRingSlots; ++i)
    if (has_layer((layer + i) % layers)) wanted_.push_back((layer + i) % layers);
  cache_->prefetch(wanted_, true);
}

}  // namespace mlxf::model
