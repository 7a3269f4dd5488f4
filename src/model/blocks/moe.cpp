#include "model/blocks/moe.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "model/blocks/linear.h"
#include "model/weight_stream.h"

namespace mlxf::model {
namespace {

using compute::MatmulJob;

float sigmoid(float value) { return 1.0f / (1.0f + std::exp(-value)); }

}  // namespace

Moe::Scratch Moe::Scratch::place(Arena& arena, const ModelSpec& spec, uint32_t rows) {
  uint64_t pairs = 0, width = 0, shared_width = 0;  // The largest of any layer; widths per row.
  bool norms = false;
  for (const LayerSpec& layer : spec.layers) {
    const auto* moe = std::get_if<MoeSpec>(&layer.ffn);
    if (moe == nullptr) continue;
    pairs = std::max<uint64_t>(pairs, moe->top_k);
    width = std::max<uint64_t>(width, uint64_t{moe->top_k} * moe->width);
    norms = norms || !moe->router_norm.name.empty() || !moe->routed_norm.name.empty();
    if (moe->shared) shared_width = std::max<uint64_t>(shared_width, moe->shared->width);
  }
  if (pairs == 0) return {};
  Scratch scratch;
  scratch.scores = Router::place(arena, spec, rows);
  scratch.out = arena.take<float>(rows * pairs * spec.hidden);
  if (shared_width != 0) scratch.shared_out = arena.take<float>(uint64_t{rows} * spec.hidden);
  scratch.shared_gate = arena.take<float>(rows);
  if (norms) scratch.routed = arena.take<float>(uint64_t{rows} * spec.hidden);
  Arena turn = arena;
  scratch.shared = MlpScratch::place(turn, shared_width, rows);
  scratch.experts = MlpScratch::place(arena, width, rows);
  arena.cover(turn);
  return scratch;
}

Status Moe::run(const Layer& layer, const Scratch& scratch, const float* x, uint32_t rows, float* out) {
  const MoeSpec& spec = layer.spec;
  const BoundMoe& weights = layer.weights;
  const float* routed = x;
  const auto read_through = [&](const Vector& norm) {
    routed = norm.empty() ? x : scratch.routed;
    if (!norm.empty()) normalise(layer.residual, norm, layer.norm_eps, rows, scratch.routed);
  };
  read_through(weights.router_norm);
  router_.select(layer.index, spec, {weights.router, weights.router_bias, weights.choice_bias}, routed, rows,
                 scratch.scores);
  read_through(weights.routed_norm);
  const Work work{spec, weights, scratch, routed, rows, out};
  // The experts of a layer read the same rows: these are quantised once, however many batches arrive.
  cpu_.hold_input(routed);
  Status status;
  if (stream_ != nullptr && stream_->has_experts(layer.index)) {
    status = stream_experts(layer, work, x);
  } else {
    compute_shared(layer, work, x);
    batch_.clear();
    for (const uint32_t e : router_.chosen())
      batch_.push_back({e, &weights.experts[e].gate, &weights.experts[e].up, &weights.experts[e].down});
    compute_experts(batch_, work);
  }
  cpu_.release_input();
  if (!status) return status;
  sum_experts(work);
  if (!weights.routed_post_norm.empty()) normalise(out, weights.routed_post_norm, layer.norm_eps, rows, out);
  if (spec.shared) add_shared(work);
  return {};
}

void Moe::normalise(const float* in, const Vector& weight, float eps, uint32_t rows, float* out) {
  const auto hidden = static_cast<uint32_t>(weight.size());
  cpu_.rms_norm({in, hidden, out, hidden, rows, hidden}, weight.data(), eps);
}

// Experts in the order in which they arrive; their sum does not depend on it.
Status Moe::stream_experts(const Layer& layer, const Work& work, const float* x) {
  RETURN_IF_ERROR(stream_->begin_experts(layer.index, router_.chosen(), work.rows));
  if (reads_asked) reads_asked(layer.index);
  compute_shared(layer, work, x);
  while (true) {
    ASSIGN_OR_RETURN(const auto ready, stream_->next_experts());
    if (ready.empty()) return {};
    stream_->expect_experts(layer.index + 1);
    batch_.clear();
    for (const WeightStream::ReadyExpert& e : ready)
      batch_.push_back({e.expert, &e.matrices[0], &e.matrices[1], &e.matrices[2]});
    compute_experts(batch_, work);
  }
}

// The batch's gates and ups in one call, then its downs. Pairs are sorted by expert; runs of neighbouring experts are
// neighbours in the pairs' buffers.
void Moe::compute_experts(std::span<const ExpertWeights> experts, const Work& work) {
  const MoeSpec& spec = work.spec;
  jobs_.clear();
  for (const ExpertWeights& e : experts) {
    const std::span<const uint32_t> rows = router_.rows_of(e.expert);
    const uint64_t begin = router_.first_pair(e.expert);
    for (const auto& [matrix, out] :
         {std::pair{e.gate, work.scratch.experts.gate}, {e.up, work.scratch.experts.up}}) {
      MatmulJob job = product(*matrix, work.x, static_cast<uint32_t>(rows.size()), out + begin * spec.width);
      job.x_rows = work.rows;
      job.token_index = rows.data();
      jobs_.push_back(job);
    }
  }
  cpu_.matmul(jobs_);
  jobs_.clear();
  for (size_t i = 0, end = 0; i < experts.size(); i = end) {
    const uint32_t begin = router_.first_pair(experts[i].expert);
    uint32_t pairs = 0;
    for (; end < experts.size() && router_.first_pair(experts[end].expert) == begin + pairs; ++end)
      pairs += static_cast<uint32_t>(router_.rows_of(experts[end].expert).size());
    adjust_pairs(begin, pairs, work);
    float* rows = work.scratch.experts.gate + uint64_t{begin} * spec.width;
    cpu_.gated_activation(cpu_activation(spec.activation), rows,
                          work.scratch.experts.up + uint64_t{begin} * spec.width, rows, spec.width, pairs,
                          spec.width);
    uint32_t row = 0;
    for (size_t j = i; j < end; ++j) {
      const MatrixView& down = *experts[j].down;
      const auto count = static_cast<uint32_t>(router_.rows_of(experts[j].expert).size());
      MatmulJob job = product(down, rows, count, work.scratch.out + (uint64_t{begin} + row) * down.rows);
      job.x_rows = pairs;
      job.x_row = row;
      jobs_.push_back(job);
      row += count;
    }
  }
  cpu_.matmul(jobs_);
}

// What happens to the products of gate and up before the activation. A weight on an expert's input is one on these.
void Moe::adjust_pairs(uint32_t begin, uint32_t count, const Work& work) {
  const MoeSpec& spec = work.spec;
  if (work.weights.gate_bias.empty() && !spec.weighs_input) return;
  const auto adjust = [&](uint32_t i, uint32_t) {
    const uint32_t pair = begin + i;
    for (const auto& [rows, bias] : {std::pair{work.scratch.experts.gate, &work.weights.gate_bias},
                                     {work.scratch.experts.up, &work.weights.up_bias}}) {
      float* values = rows + uint64_t{pair} * spec.width;
      if (spec.weighs_input)
        for (uint32_t k = 0; k < spec.width; ++k) values[k] *= router_.weight_of(pair);
      if (!bias->empty()) {
        const float* added = bias->data() + uint64_t{router_.expert_of(pair)} * spec.width;
        for (uint32_t k = 0; k < spec.width; ++k) values[k] += added[k];
      }
    }
  };
  constexpr uint64_t kSerialElements = 1 << 15;
  if (uint64_t{count} * spec.width <= kSerialElements) {
    for (uint32_t i = 0; i < count; ++i) adjust(i, 0);
  } else {
    cpu_.for_each_row(count, adjust);
  }
}

// The sum over a row's experts runs in expert order, whatever order they were computed in.
void Moe::sum_experts(const Work& work) {
  const kernels::KernelTable& kernels = cpu_.kernels();
  const uint32_t hidden = work.weights.router.cols;
  const auto row_sum = [&](uint32_t row, uint32_t) {
    float* out = work.out + uint64_t{row} * hidden;
    std::fill_n(out, hidden, 0.0f);
    const Vector& scales = work.weights.expert_scales;
    for (const Selection& selection : router_.row(row)) {
      float weight = work.spec.weighs_input ? 1.0f : selection.weight;
      if (!scales.empty()) weight *= scales[static_cast<size_t>(selection.expert)];
      kernels.add_scaled(work.scratch.out + uint64_t{selection.pair} * hidden, weight, hidden, out);
      if (!work.weights.down_bias.empty())
        kernels.add_scaled(work.weights.down_bias.data() + static_cast<uint64_t>(selection.expert) * hidden,
                           weight, hidden, out);
    }
  };
  if (work.rows == 1) {
    row_sum(0, 0);
  } else {
    cpu_.for_each_row(work.rows, row_sum);
  }
}

void Moe::compute_shared(const Layer& layer, const Work& work, const float* x) {
  if (!work.spec.shared) return;
  const MatrixView& gate = work.weights.shared_gate;
  float* shared = work.scratch.shared_out;
  run_mlp(cpu_, *work.spec.shared, work.weights.shared, work.scratch.shared, x, work.rows, shared);
  if (const Vector& norm = work.weights.shared_post_norm; !norm.empty())
    normalise(shared, norm, layer.norm_eps, work.rows, shared);
  if (gate.data == nullptr) return;
  MatmulJob job = product(gate, x, work.rows, work.scratch.shared_gate);
  job.force_f32 = true;
  cpu_.matmul({&job, 1});
}

void Moe::add_shared(const Work& work) {
  const uint32_t hidden = work.weights.router.cols;
  const bool gated = work.weights.shared_gate.data != nullptr;
  for (uint32_t row = 0; row < work.rows; ++row) {
    const float scale = gated ? sigmoid(work.scratch.shared_gate[row]) : 1.0f;
    cpu_.kernels().add_scaled(work.scratch.shared_out + uint64_t{row} * hidden, scale, hidden,
                              work.out + uint64_t{row} * hidden);
  }
}

}  // namespace mlxf::model
