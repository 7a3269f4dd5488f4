#include "convert/synth_plan.h"

#include <cmath>
#include <numbers>

#include "convert/random_blocks.h"
#include "convert/synth_families.h"

namespace mlxf::convert {
namespace {

constexpr uint64_t kCommonCols = 256;
// Energy of the common component relative to an embedding row without it.
constexpr double kCommonEnergy = 0.5;
// The share of the common direction in a normalised hidden state, |u . x| / |x|. The embedding gives
// sqrt(0.5 / (0.5 * 4/3 + 1 - 256/width)), 0.56 at width 2048; what the layers add lowers it to 0.45 by the
// last one.
constexpr double kCommonShare = 0.5;
constexpr double kLogitSigma = 2.0;

double embedding_sigma(const ModelShape& shape) {
  return shape.tied ? kLogitSigma / std::sqrt(shape.width) : 1.0;
}

PlannedTensor vector_of(TensorRole role, uint32_t layer, uint64_t width) {
  return {.role = role, .layer = layer, .shape = {width}};
}

// y = W x of variance gain^2 for x of unit variance.
PlannedTensor matrix_of(TensorRole role, uint32_t layer, std::vector<uint64_t> shape, double gain) {
  const double sigma = gain / std::sqrt(static_cast<double>(shape.back()));
  return {.role = role, .layer = layer, .shape = std::move(shape), .sigma = sigma};
}

void plan_layer(const ModelShape& shape, uint32_t layer, std::vector<PlannedTensor>& plan) {
  if (is_newer_family(shape.family)) return plan_family_layer(shape, layer, plan);
  const uint64_t width = shape.width;
  const uint64_t q_width = uint64_t{shape.heads} * shape.head_dim;
  const uint64_t kv_width = uint64_t{shape.kv_heads} * shape.head_dim;
  const uint64_t ffn = shape.ffn_width;
  const uint64_t experts = shape.experts;
  // All layers together add about as much to the residual stream as the embedding began with.
  const double out_gain = 1.0 / std::sqrt(2.0 * shape.layers);
  plan.push_back(vector_of(TensorRole::kAttentionNorm, layer, width));
  plan.push_back(matrix_of(TensorRole::kQ, layer, {q_width, width}, 1.0));
  plan.push_back(matrix_of(TensorRole::kK, layer, {kv_width, width}, 1.0));
  plan.push_back(matrix_of(TensorRole::kV, layer, {kv_width, width}, 1.0));
  plan.push_back(matrix_of(TensorRole::kAttentionOutput, layer, {width, q_width}, out_gain));
  if (shape.family == ShapeFamily::kQwen3 || shape.family == ShapeFamily::kQwen3Moe) {
    plan.push_back(vector_of(TensorRole::kQNorm, layer, shape.head_dim));
    plan.push_back(vector_of(TensorRole::kKNorm, layer, shape.head_dim));
  }
  plan.push_back(vector_of(TensorRole::kFfnNorm, layer, width));
  if (experts == 0) {
    plan.push_back(matrix_of(TensorRole::kGate, layer, {ffn, width}, 1.0));
    plan.push_back(matrix_of(TensorRole::kUp, layer, {ffn, width}, 1.0));
    plan.push_back(matrix_of(TensorRole::kDown, layer, {width, ffn}, out_gain));
    return;
  }
  plan.push_back(matrix_of(TensorRole::kRouter, layer, {experts, width}, 1.0));
  plan.push_back(matrix_of(TensorRole::kExpertGate, layer, {experts, ffn, width}, 1.0));
  plan.push_back(matrix_of(TensorRole::kExpertUp, layer, {experts, ffn, width}, 1.0));
  plan.push_back(matrix_of(TensorRole::kExpertDown, layer, {experts, width, ffn}, out_gain));
}

// Normal values from random bytes (Box and Muller).
std::vector<float> normal_values(RandomBytes random, uint64_t count) {
  std::vector<uint32_t> bits((count + 1) / 2 * 2);
  random.fill({reinterpret_cast<uint8_t*>(bits.data()), bits.size() * sizeof(uint32_t)});
  std::vector<float> values(bits.size());
  for (size_t i = 0; i < bits.size(); i += 2) {
    const double radius = std::sqrt(-2.0 * std::log((bits[i] + 0.5) / 4294967296.0));
    const double angle = 2.0 * std::numbers::pi * (bits[i + 1] + 0.5) / 4294967296.0;
    values[i] = static_cast<float>(radius * std::cos(angle));
    values[i + 1] = static_cast<float>(radius * std::sin(angle));
  }
  values.resize(count);
  return values;
}

}  // namespace

std::vector<PlannedTensor> plan_tensors(const ModelShape& shape, bool skewed) {
  std::vector<PlannedTensor> plan;
  const uint64_t vocabulary = make_vocabulary(shape.vocabulary).tokens.size();
  PlannedTensor embedding{.role = TensorRole::kEmbedding, .shape = {vocabulary, shape.width}};
  embedding.sigma = embedding_sigma(shape);
  if (skewed) {
    embedding.positive_cols = kCommonCols;
    embedding.positive_mean = embedding.sigma * std::sqrt(kCommonEnergy * shape.width / kCommonCols);
  }
  plan.push_back(std::move(embedding));
  if (is_newer_family(shape.family)) plan_family_globals(shape, vocabulary, plan);
  for (uint32_t layer = 0; layer < shape.layers; ++layer) plan_layer(shape, layer, plan);
  plan.push_back(vector_of(TensorRole::kOutputNorm, 0, shape.width));
  if (!shape.tied) plan.push_back(matrix_of(TensorRole::kOutput, 0, {vocabulary, shape.width}, kLogitSigma));
  return plan;
}

std::vector<float> router_weights(const ModelShape& shape, uint32_t layer, double routing_skew,
                                  uint64_t seed) {
  constexpr uint64_t kNoiseStream = uint64_t{1} << 40;
  constexpr uint64_t kPreferenceStream = uint64_t{2} << 40;
  std::vector<float> weights =
      normal_values(RandomBytes(seed, kNoiseStream, layer), uint64_t{shape.experts} * shape.width);
  const std::vector<float> preferences =
      normal_values(RandomBytes(seed, kPreferenceStream, layer), shape.experts);
  const double unit = 1.0 / std::sqrt(shape.width);
  // u has kCommonCols equal entries of 1 / sqrt(kCommonCols), and u . x = kCommonShare * sqrt(width).
  const double along_u = routing_skew * unit / (kCommonShare * std::sqrt(double{kCommonCols}));
  for (uint64_t expert = 0; expert < shape.experts; ++expert) {
    float* row = weights.data() + expert * shape.width;
    // Without skew nothing is common to all hidden states. With it, the random part is made orthogonal to u,
    // or it would add a preference of its own.
    double along = 0.0;
    if (routing_skew > 0.0) {
      for (uint64_t col = 0; col < kCommonCols; ++col) along += row[col] / double{kCommonCols};
    }
    for (uint64_t col = 0; col < shape.width; ++col) {
      const bool common = col < kCommonCols;
      const double random = (row[col] - (common ? along : 0.0)) * unit;
      row[col] = static_cast<float>(random + (common ? preferences[expert] * along_u : 0.0));
    }
  }
  return weights;
}

}  // namespace mlxf::convert
