#include "model/blocks/router.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace mlxf::model {
namespace {

// In place. Softmax is left without its division: returns the sum that it would divide by.
float score(RouterScore kind, std::span<float> values) {
  if (kind == RouterScore::kSigmoid) {
    for (float& value : values) value = 1.0f / (1.0f + std::exp(-value));
    return 1.0f;
  }
  const float largest = *std::max_element(values.begin(), values.end());
  float sum = 0.0f;
  for (float& value : values) sum += value = std::exp(value - largest);
  return sum;
}

float group_score(ExpertGroups::Score kind, std::span<const float> group) {
  constexpr float kNone = -std::numeric_limits<float>::infinity();
  float first = kNone, second = kNone;
  for (const float value : group) {
    second = std::max(second, std::min(first, value));
    first = std::max(first, value);
  }
  return kind == ExpertGroups::Score::kLargest ? first : first + second;
}

}  // namespace

float* Router::place(Arena& arena, const ModelSpec& spec, uint32_t rows) {
  uint64_t experts = 0;
  for (const LayerSpec& layer : spec.layers)
    if (const auto* moe = std::get_if<MoeSpec>(&layer.ffn))
      experts = std::max<uint64_t>(experts, moe->experts.size());
  return arena.take<float>(rows * experts);
}

void Router::select(uint32_t layer, const MoeSpec& spec, const Weights& weights, const float* x,
                    uint32_t rows, float* scores) {
  const auto experts = static_cast<uint32_t>(spec.experts.size());
  compute::MatmulJob job = product(weights.matrix, x, rows, scores);
  job.force_f32 = true;
  cpu_.matmul({&job, 1});
  add_bias(scores, rows, experts, weights.bias);
  top_k_ = spec.top_k;
  selections_.resize(uint64_t{rows} * top_k_);
  for (uint32_t row = 0; row < rows; ++row)
    choose(layer, spec, weights.choice_bias, row, scores + uint64_t{row} * experts);
  number_pairs(rows, experts);
}

// Gives the groups that are not among the best a rank behind all others; of equal groups the first is better.
void Router::leave_groups_out(const MoeSpec& spec) {
  const size_t size = ranked_.size() / spec.groups.count;
  group_scores_.resize(spec.groups.count);
  for (size_t g = 0; g < spec.groups.count; ++g)
    group_scores_[g] = group_score(spec.groups.score, {ranked_.data() + g * size, size});
  for (size_t g = 0; g < spec.groups.count; ++g) {
    uint32_t better = 0;
    for (size_t other = 0; other < spec.groups.count; ++other)
      if (group_scores_[other] > group_scores_[g] || (group_scores_[other] == group_scores_[g] && other < g))
        ++better;
    if (better >= spec.groups.used)
      std::fill_n(ranked_.data() + g * size, size, -std::numeric_limits<float>::infinity());
  }
}

// What the experts of one row are chosen by.
const float* Router::rank_by(const MoeSpec& spec, const Vector& bias, const float* scores) {
  const bool grouped = spec.groups.used < spec.groups.count;
  if (bias.empty() && !grouped) return scores;
  ranked_.assign(scores, scores + spec.experts.size());
  for (size_t e = 0; e < bias.size(); ++e) ranked_[e] += bias[e];
  if (grouped) leave_groups_out(spec);
  return ranked_.data();
}

// Scores over all experts in f32, the top_k of them; ties go to the lower id.
void Router::choose(uint32_t layer, const MoeSpec& spec, const Vector& bias, uint32_t row, float* scores) {
  const auto experts = static_cast<uint32_t>(spec.experts.size());
  // Without a bias the logits rank as sigmoids do, and without the ties that those round to.
  const bool by_logits =
      spec.score == RouterScore::kSigmoid && bias.empty() && spec.groups.used == spec.groups.count;
  if (by_logits) ranked_.assign(scores, scores + experts);
  const float sum = score(spec.score, {scores, experts});
  const float* ranked = by_logits ? ranked_.data() : rank_by(spec, bias, scores);
  order_.resize(experts);
  for (uint32_t e = 0; e < experts; ++e) order_[e] = static_cast<int32_t>(e);
  std::partial_sort(order_.begin(), order_.begin() + top_k_, order_.end(), [ranked](int32_t a, int32_t b) {
    return ranked[a] != ranked[b] ? ranked[a] > ranked[b] : a < b;
  });
  if (observer) observer(layer, row, {order_.data(), top_k_});
  // Sigmoids may all vanish; of softmax's the largest is one.
  float chosen = spec.score == RouterScore::kSigmoid ? 1e-20f : 0.0f;
  for (uint32_t j = 0; j < top_k_; ++j) chosen += scores[order_[j]];
  const float scale = spec.routed_scale / (spec.normalise_top_k ? chosen : sum);
  std::sort(order_.begin(), order_.begin() + top_k_);
  for (uint32_t j = 0; j < top_k_; ++j)
    selections_[uint64_t{row} * top_k_ + j] = {order_[j], scores[order_[j]] * scale, 0};
}

void Router::number_pairs(uint32_t rows, uint32_t experts) {
  pair_begin_.assign(experts + 1, 0);
  for (const Selection& selection : selections_) ++pair_begin_[static_cast<size_t>(selection.expert) + 1];
  chosen_.clear();
  for (uint32_t e = 0; e < experts; ++e) {
    if (pair_begin_[e + 1] != 0) chosen_.push_back(e);
    pair_begin_[e + 1] += pair_begin_[e];
  }
  pair_rows_.resize(selections_.size());
  pair_experts_.resize(selections_.size());
  pair_weights_.resize(selections_.size());
  pair_next_.assign(pair_begin_.begin(), pair_begin_.end());
  for (uint32_t row = 0; row < rows; ++row)
    for (uint32_t j = 0; j < top_k_; ++j) {
      Selection& selection = selections_[uint64_t{row} * top_k_ + j];
      selection.pair = pair_next_[static_cast<size_t>(selection.expert)]++;
      pair_rows_[selection.pair] = row;
      pair_experts_[selection.pair] = static_cast<uint32_t>(selection.expert);
      pair_weights_[selection.pair] = selection.weight;
    }
}

}  // namespace mlxf::model
