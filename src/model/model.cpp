#include "model/model.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <utility>

#include "model/families/families.h"
#include "model/forward.h"
#include "model/memory_plan.h"
#include "model/weight_stream.h"
#include "platform/process.h"

namespace mlxf::model {

struct Model::State {
  ModelSpec spec;
  BoundWeights weights;
  std::vector<Rope> ropes;
  std::vector<kv::LayerShape> layer_shapes;
  kv::PagePool pages;
  kv::Element element = kv::Element::kF16;
  // Streamed experts that one token uses: the views below know the resident ones only.
  uint64_t streamed_active_experts = 0;
  uint64_t kv_allowance = UINT64_MAX;  // Bytes of pages before the cache has to give way.
  uint64_t scratch_allowance = 0;
  uint64_t claimed_besides = 0;  // Of the budget, for all but weights.
  uint32_t chunk_tokens = 512;
  uint32_t sequences = 1;
  std::unique_ptr<WeightStream> stream;
  std::unique_ptr<Forward> forward;

  Status load_within(const formats::ModelManifest& manifest, compute::Cpu& cpu, const LoadOptions& options);
  Status plan_within(const WeightSizes& sizes, compute::Cpu& cpu, const MemoryOptions& memory,
                     Residency& residency);
  [[nodiscard]] weights::RecordCache* weight_cache() const {
    return stream != nullptr ? stream->cache() : nullptr;
  }
  [[nodiscard]] uint64_t weight_bytes() const {
    return weights.resident->bytes() + (stream != nullptr ? stream->layer_bytes() : 0);
  }
  Status open_stream(const formats::ModelManifest& manifest, storage::Storage& storage,
                     const WeightStream::Options& options);
  Status make_room(std::span<const Chunk> chunks);
};

namespace {

uint64_t bytes_of(const MatrixView& w) {
  return w.data == nullptr ? 0
                           : w.rows * (w.row_bytes + (w.scales != nullptr ? w.scale_row_bytes : 0) +
                                       (w.biases != nullptr ? w.scale_row_bytes : 0));
}

}  // namespace

Model::Model(std::unique_ptr<State> state) : state_(std::move(state)) {}
Model::~Model() = default;

Result<std::unique_ptr<Model>> Model::load(const formats::ModelManifest& manifest, compute::Cpu& cpu,
                                           const LoadOptions& options) {
  auto state = std::make_unique<State>();
  ASSIGN_OR_RETURN(state->spec, make_spec(manifest));
  for (RopeSpec& rope : state->spec.ropes) rope.bf16_frequencies = options.bf16_rope_frequencies;
  for (const LayerSpec& layer : state->spec.layers)
    state->layer_shapes.push_back(
        std::visit([](const auto& mixer) { return cache_shape(mixer); }, layer.mixer));
  if (cpu.arithmetic() == compute::Arithmetic::kF32) state->element = kv::Element::kF32;
  RETURN_IF_ERROR(state->load_within(manifest, cpu, options));
  for (const RopeSpec& spec : state->spec.ropes) {
    ASSIGN_OR_RETURN(Rope rope, Rope::make(spec, [&](const VectorSource& source) {
                       return read_vector(*state->weights.resident, source);
                     }));
    state->ropes.push_back(std::move(rope));
  }
  state->forward =
      std::make_unique<Forward>(state->spec, state->weights, state->ropes, cpu, state->stream.get());
  return std::unique_ptr<Model>(new Model(std::move(state)));
}

// Chooses what is resident and how long chunks are.
Status Model::State::plan_within(const WeightSizes& sizes, compute::Cpu& cpu, const MemoryOptions& memory,
                                 Residency& residency) {
  if (memory.budget_bytes == 0) {
    ASSIGN_OR_RETURN(residency, plan_residency(sizes, memory.weight_bytes, 0));
    return {};
  }
  sequences = memory.sequences;
  MemoryRequest request;
  request.budget_bytes = memory.budget_bytes;
  request.held_bytes = std::max(platform::own_memory_bytes(), memory.held_bytes_min);
  request.context_tokens = memory.context_tokens;
  request.sequences = memory.sequences;
  request.threads = cpu.pool().threads();
  request.element = element;
  ASSIGN_OR_RETURN(const MemoryPlan plan, plan_memory(spec, sizes, request));
  residency = plan.residency;
  chunk_tokens = plan.chunk_tokens;
  kv_allowance = plan.kv_bytes;
  scratch_allowance = plan.scratch_bytes;
  claimed_besides = plan.besides_weights() - plan.held_bytes;
  if (residency.per_layer_by_row) claimed_besides += sizes.row_buffer;
  if (residency.embedding_by_row) claimed_besides += sizes.embedding_window;
  return {};
}

// Loads what stays in memory and opens the stream for the rest.
Status Model::State::load_within(const formats::ModelManifest& manifest, compute::Cpu& cpu,
                                 const LoadOptions& options) {
  const MemoryOptions& memory = options.memory;
  const weights::Rows rows = options.int8_rows ? weights::Rows::kInt8 : weights::Rows::kAsStored;
  weights::ResidentWeights::Options load_options;
  load_options.int8_rows = options.int8_rows;
  load_options.put_side_by_side = cpu.put_side_by_side();
  load_options.threads = cpu.pool().threads();
  load_options.progress = options.progress;
  LeftOut left_out;
  Residency residency;
  WeightSizes sizes;
  if (memory.budget_bytes != 0 || memory.weight_bytes != 0) {
    ASSIGN_OR_RETURN(sizes, measure_weights(manifest, spec, memory.granule_bytes, rows));
    RETURN_IF_ERROR(plan_within(sizes, cpu, memory, residency));
    if (residency.stream_experts) streamed_active_experts = sizes.active_experts;
    left_out = {residency.stream_experts, residency.per_layer_by_row, residency.embedding_by_row,
                residency.streamed_layers};
  }
  load_options.drop_cached = residency.streams();
  // Layers of a dense model that stay can be given back later, where a ring's slots are less than all of them.
  const bool layers_move =
      memory.storage != nullptr &&
      kRingSlots * sizes.ring_slot < std::accumulate(sizes.layers.begin(), sizes.layers.end(), uint64_t{0});
  ASSIGN_OR_RETURN(weights, bind_weights(manifest, spec, load_options, left_out,
                                         layers_move ? LayerMemory::kApart : LayerMemory::kTogether));
  if (!residency.streams()) kv_allowance = UINT64_MAX;
  if (!residency.streams() && !layers_move) return {};
  WeightStream::Options stream_options;
  stream_options.resizable = layers_move ? &sizes : nullptr;
  stream_options.residency = residency;
  stream_options.policy = memory.policy;
  stream_options.look_ahead = memory.look_ahead;
  stream_options.guess = memory.guess;
  stream_options.granule_bytes = memory.granule_bytes;
  stream_options.cache_bytes = layers_move ? kRingSlots * sizes.ring_slot : residency.cache_bytes;
  stream_options.rows = rows;
  stream_options.put_side_by_side = load_options.put_side_by_side;
  stream_options.pool = &cpu.pool();
  if (residency.stream_experts && memory.budget_bytes != 0) {
    // All that is left now that the rest is there, which the plan could only estimate.
    const uint64_t held =
        std::max(platform::own_memory_bytes(),
                 memory.held_bytes_min == 0 ? 0 : memory.held_bytes_min + weights.resident->bytes());
    const uint64_t taken = held + scratch_allowance + kv_allowance + unseen_bytes(spec, sequences) +
                           (residency.per_layer_by_row ? sizes.row_buffer : 0) +
                           (residency.embedding_by_row ? sizes.embedding_window : 0);
    const uint64_t room = memory.budget_bytes > taken ? memory.budget_bytes - taken : 0;
    if (room < sizes.expert_floor)
      return fail(
          ErrorCode::kOutOfBudget,
          "the memory budget is too small for this model: loading it took more than planned, and it needs " +
              std::to_string(((taken + sizes.expert_floor) >> 20) + 1) +
              " MiB at least; raise --memory-budget");
    stream_options.cache_bytes = room;
  }
  const Status opened = open_stream(manifest, *memory.storage, stream_options);
  // A model that is all in memory runs without.
  return residency.streams() ? opened : Status();
}

Status Model::State::open_stream(const formats::ModelManifest& manifest, storage::Storage& storage,
                                 const WeightStream::Options& options) {
  ASSIGN_OR_RETURN(stream, WeightStream::make(manifest, spec, storage, options));
  if (options.resizable == nullptr) return {};
  std::vector<platform::HugeMemory> layers(spec.layers.size());
  for (size_t i = 0; i < layers.size(); ++i)
    if (const uint32_t part = weights.layer_parts[i]; part != 0)
      layers[i] = weights.resident->take_part(part);
  stream->keep_layers(std::move(layers));
  return {};
}

// Takes from the streamed weights' cache what keys and values will grow beyond their allowance, before they do.
Status Model::State::make_room(std::span<const Chunk> chunks) {
  if (stream == nullptr || !stream->resizable() || kv_allowance == UINT64_MAX) return {};
  uint64_t growth = 0;
  for (const Chunk& chunk : chunks)
    growth += chunk.sequence->missing_bytes(static_cast<uint32_t>(chunk.tokens.size()));
  const uint64_t needed = pages.bytes() - pages.free_bytes() + growth;
  if (std::max(pages.bytes(), needed) <= kv_allowance) return {};
  const uint64_t wanted = std::max(pages.bytes(), needed) - kv_allowance;
  const uint64_t before = stream->room().bytes;
  const uint64_t after = stream->set_bytes(before > wanted ? before - wanted : 0);
  kv_allowance += before - std::min(before, after);
  if (needed <= kv_allowance) return {};
  return fail(ErrorCode::kOutOfBudget,
              "the context has grown to " + std::to_string(needed >> 20) +
                  " MiB of keys and values, and the streamed weights cannot give way any further: raise "
                  "--memory-budget or shorten the context");
}

const ModelSpec& Model::spec() const { return state_->spec; }
uint64_t Model::weight_bytes() const { return state_->weight_bytes(); }
uint64_t Model::claimed_bytes() const {
  if (state_->claimed_besides == 0) return 0;
  const weights::RecordCache* cache = state_->weight_cache();
  return state_->claimed_besides + weight_bytes() + (cache != nullptr ? cache->bytes() : 0);
}
uint32_t Model::chunk_tokens() const { return state_->chunk_tokens; }
weights::RecordCache* Model::weight_cache() { return state_->weight_cache(); }

weights::RecordCache* Model::expert_cache() {
  return state_->streamed_active_experts != 0 ? state_->weight_cache() : nullptr;
}

bool Model::streams() const { return state_->stream != nullptr && state_->stream->reads(); }
bool Model::may_stream() const { return state_->stream != nullptr; }

WeightStream* Model::resizable() {
  return state_->stream != nullptr && state_->stream->resizable() ? state_->stream.get() : nullptr;
}

double Model::embedding_stall() const {
  return state_->stream != nullptr ? state_->stream->embedding_stall() : 0.0;
}

std::span<const double> Model::layer_stalls() const {
  return streams() ? state_->stream->layer_stalls() : std::span<const double>();
}

uint64_t Model::active_expert_bytes() const {
  uint64_t total = state_->streamed_active_experts;
  for (size_t i = 0; i < state_->spec.layers.size(); ++i) {
    const auto* moe = std::get_if<MoeSpec>(&state_->spec.layers[i].ffn);
    const auto* bound = std::get_if<BoundMoe>(&state_->weights.layers[i].ffn);
    if (moe == nullptr || bound->experts.empty()) continue;
    const auto views = bound->experts[0].matrices();
    const auto sources = moe->experts[0].matrices();
    // A row of every second is as far from the next as two.
    for (size_t m = 0; m < views.size(); ++m)
      total += moe->top_k * bytes_of(*views[m]) / sources[m]->row_step;
  }
  return total;
}

uint64_t Model::streamed_layer_bytes() const {
  return state_->stream != nullptr ? state_->stream->streamed_layer_bytes() : 0;
}

uint64_t Model::active_bytes() const {
  uint64_t total = bytes_of(state_->weights.head) + active_expert_bytes();
  total += bytes_of(state_->weights.per_layer_inputs.projection);
  for (const auto* list : {&state_->weights.altup.projections, &state_->weights.altup.merge})
    for (const MatrixView& matrix : *list) total += bytes_of(matrix);
  for (uint32_t i = 0; i < state_->weights.layers.size(); ++i) {
    if (state_->stream != nullptr && state_->stream->has_layer(i)) {
      total += state_->stream->record_bytes(i);
      continue;
    }
    for (const MatrixView* matrix : state_->weights.layers[i].matrices()) total += bytes_of(*matrix);
  }
  return total;
}

std::unique_ptr<kv::Sequence> Model::make_sequence(uint32_t context_max) {
  return std::make_unique<kv::Sequence>(state_->pages, state_->layer_shapes, context_max, state_->element);
}

uint64_t Model::sequence_bytes(uint32_t positions) const {
  return kv::Sequence::bytes_max(state_->layer_shapes, state_->element, positions, state_->chunk_tokens);
}

uint64_t Model::lasting_bytes(uint32_t positions) const {
  return kv::Sequence::lasting_bytes(state_->layer_shapes, state_->element, positions);
}

uint64_t Model::doubled_bytes() const { return state_->pages.doubled_bytes(); }

uint64_t Model::page_bytes() const { return state_->pages.bytes(); }

Status Model::forward(std::span<const Chunk> chunks, float* logits, const HiddenObserver& hidden) {
  for (const Chunk& chunk : chunks) {
    if (chunk.tokens.empty()) return fail(ErrorCode::kInvalidArgument, "a chunk without tokens");
    for (const TokenId token : chunk.tokens)
      if (token < 0 || static_cast<uint32_t>(token) >= state_->spec.vocab)
        return fail(ErrorCode::kInvalidArgument, "token id " + std::to_string(token) +
                                                     " is not in the vocabulary of " +
                                                     std::to_string(state_->spec.vocab));
  }
  RETURN_IF_ERROR(state_->make_room(chunks));
  for (const Chunk& chunk : chunks)
    RETURN_IF_ERROR(chunk.sequence->reserve(static_cast<uint32_t>(chunk.tokens.size())));
  return state_->forward->run(chunks, logits, hidden);
}

void Model::observe_routing(RoutingObserver observer) {
  state_->forward->observe_routing(std::move(observer));
}

void Model::interrupt_when(std::function<bool()> interrupt) {
  state_->forward->interrupt = std::move(interrupt);
}

}  // namespace mlxf::model
