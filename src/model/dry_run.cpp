#include "model/dry_run.h"

#include <algorithm>
#include <chrono>
#include <random>
#include <vector>

#include "model/forward.h"

namespace mlxf::model {
namespace {

constexpr uint32_t kTokens = 64;  // Different ones.

// Leaves `count` layers, of a mixture such as have experts: it may begin with layers that have none.
void cut_layers(ModelSpec& spec, size_t count) {
  std::vector<LayerSpec>& layers = spec.layers;
  if (count < layers.size()) {
    const auto first = std::find_if(layers.begin(), layers.end(), [](const LayerSpec& layer) {
      return std::holds_alternative<MoeSpec>(layer.ffn);
    });
    if (static_cast<size_t>(layers.end() - first) >= count) layers.erase(layers.begin(), first);
  }
  layers.resize(count);
  if (!spec.per_layer_inputs) return;
  MatrixSource& projection = spec.per_layer_inputs->projection;
  if (projection.stored_rows == 0) projection.stored_rows = projection.rows;
  projection.rows = static_cast<uint32_t>(count * spec.per_layer_inputs->width);
}

}  // namespace

struct DryRun::State {
  ModelSpec spec;
  BoundWeights weights;
  std::vector<Rope> ropes;
  std::vector<kv::LayerShape> layer_shapes;
  kv::PagePool pages;
  kv::Element element = kv::Element::kF16;
  double layer_scale = 1;  // Layers of the model for each that is run.
  std::vector<std::vector<float>> floats;
  std::mt19937 random{1};
  std::unique_ptr<Forward> forward;
  std::vector<float> logits;

  MatrixView random_matrix(uint32_t rows, uint32_t cols) {
    std::vector<float>& values = floats.emplace_back(uint64_t{rows} * cols);
    std::normal_distribution<float> normal;
    for (float& value : values) value = normal(random);
    MatrixView view;
    view.format = WeightFormat::kF32;
    view.rows = rows;
    view.cols = cols;
    view.row_bytes = uint64_t{cols} * sizeof(float);
    view.data = reinterpret_cast<const uint8_t*>(values.data());
    return view;
  }
};

DryRun::DryRun(std::unique_ptr<State> state) : state_(std::move(state)) {}
DryRun::~DryRun() = default;

Result<std::unique_ptr<DryRun>> DryRun::make(const formats::ModelManifest& manifest, const ModelSpec& spec,
                                             compute::Cpu& cpu, const Options& options) {
  auto state = std::make_unique<State>();
  state->spec = spec;
  const size_t layers = std::min<size_t>(spec.layers.size(), options.layers_max);
  state->layer_scale = static_cast<double>(spec.layers.size()) / static_cast<double>(layers);
  cut_layers(state->spec, layers);
  if (cpu.arithmetic() == compute::Arithmetic::kF32) state->element = kv::Element::kF32;
  weights::ResidentWeights::Options blank;
  blank.blank_bytes = std::max<uint64_t>(1, options.arena_bytes);
  blank.int8_rows = options.int8_rows;
  blank.put_side_by_side = cpu.put_side_by_side();
  blank.threads = cpu.pool().threads();
  LeftOut left_out;  // It may be larger than all that a run would hold.
  left_out.per_layer_table = true;
  ASSIGN_OR_RETURN(state->weights, bind_weights(manifest, state->spec, blank, left_out));
  if (const auto& inputs = state->spec.per_layer_inputs)
    state->weights.per_layer_inputs.table = state->random_matrix(kTokens, inputs->projection.rows);
  state->weights.embedding = state->random_matrix(kTokens, spec.hidden);
  // Of a part of the layers, only these are of interest.
  if (layers < spec.layers.size()) state->weights.head = state->random_matrix(kTokens, spec.hidden);
  for (size_t i = 0; i < layers; ++i) {
    if (auto* moe = std::get_if<BoundMoe>(&state->weights.layers[i].ffn))
      moe->router = state->random_matrix(moe->router.rows, moe->router.cols);
    state->layer_shapes.push_back(
        std::visit([](const auto& mixer) { return cache_shape(mixer); }, state->spec.layers[i].mixer));
  }
  for (const RopeSpec& rope : spec.ropes) {
    ASSIGN_OR_RETURN(Rope made, Rope::make(rope, [&](const VectorSource& source) {
                       return read_vector(*state->weights.resident, source);
                     }));
    state->ropes.push_back(std::move(made));
  }
  state->logits.resize(std::max(spec.vocab, kTokens));
  state->forward = std::make_unique<Forward>(state->spec, state->weights, state->ropes, cpu, nullptr);
  return std::unique_ptr<DryRun>(new DryRun(std::move(state)));
}

Result<double> DryRun::measure(uint32_t tokens, uint32_t depth, double seconds) {
  using Clock = std::chrono::steady_clock;
  const auto since = [](Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  constexpr size_t kPassesMin = 3, kPassesMax = 1000;
  std::vector<TokenId> ids(tokens);
  for (uint32_t i = 0; i < tokens; ++i) ids[i] = static_cast<TokenId>(i % kTokens);
  std::unique_ptr<kv::Sequence> sequence;
  std::vector<double> times;
  const auto start = Clock::now();
  while (times.size() < kPassesMin || (since(start) < seconds && times.size() < kPassesMax)) {
    // Layers that forget cannot go back far.
    if (sequence == nullptr || !sequence->truncate(depth)) {
      sequence = std::make_unique<kv::Sequence>(state_->pages, state_->layer_shapes, depth + tokens,
                                                state_->element);
      RETURN_IF_ERROR(sequence->fill(depth));
    }
    RETURN_IF_ERROR(sequence->reserve(tokens));
    for (TokenId& id : ids) id = (id + 1) % static_cast<TokenId>(kTokens);
    const Chunk chunk{sequence.get(), ids, false};
    const auto pass = Clock::now();
    RETURN_IF_ERROR(state_->forward->run({&chunk, 1}, state_->logits.data(), {}));
    times.push_back(since(pass));
  }
  times.erase(times.begin());  // The first warms up.
  const size_t quarter = (times.size() - 1) / 4;
  std::nth_element(times.begin(), times.begin() + static_cast<ptrdiff_t>(quarter), times.end());
  return times[quarter] * state_->layer_scale;
}

}  // namespace mlxf::model
