#include "convert/synth_families.h"

#include <cmath>
#include <string>
#include <utility>

#include "convert/gguf_plan.h"

namespace mlxf::convert {
namespace {

constexpr double kBiasSigma = 0.1;

// Appends the tensors of one layer.
class LayerPlanner {
 public:
  LayerPlanner(const ModelShape& shape, uint32_t layer, std::vector<PlannedTensor>& plan)
      : shape_(shape), layer_(layer), plan_(plan) {}

  void plan();

 private:
  using Extents = std::vector<uint64_t>;

  PlannedTensor& add(TensorRole role, const std::string& name, Extents extents) {
    plan_.push_back({.role = role, .layer = layer_, .shape = std::move(extents)});
    if (!name.empty()) plan_.back().gguf = "blk." + std::to_string(layer_) + "." + name;
    return plan_.back();
  }
  // y = W x of variance gain^2 for x of unit variance. An empty name is the role's.
  void matrix(TensorRole role, const std::string& name, Extents extents, double gain) {
    const double sigma = gain / std::sqrt(static_cast<double>(extents.back()));
    add(role, name, std::move(extents)).sigma = sigma;
  }
  void constant(const std::string& name, uint64_t width, double value = 1.0) {
    PlannedTensor& tensor = add(TensorRole::kAttentionNorm, name, {width});
    tensor.constant = value;
    tensor.type = DType::kF32;
  }
  void noise(const std::string& name, Extents extents, double sigma) {
    PlannedTensor& tensor = add(TensorRole::kAttentionNorm, name, std::move(extents));
    tensor.sigma = sigma;
    tensor.type = DType::kF32;
  }
  void values(const std::string& name, std::vector<float> all) {
    PlannedTensor& tensor = add(TensorRole::kAttentionNorm, name, {all.size()});
    tensor.values = std::move(all);
    tensor.type = DType::kF32;
  }

  [[nodiscard]] bool is(ShapeFamily family) const { return shape_.family == family; }
  // Of a matrix that writes to the residual stream. Gemma has norms behind those, which do it instead.
  [[nodiscard]] double stream_gain() const { return 1.0 / std::sqrt(2.0 * shape_.layers); }
  [[nodiscard]] double out_gain() const { return is(ShapeFamily::kGemma4) ? 1.0 : stream_gain(); }

  void attention();
  void latent_attention();
  void delta_net();
  void dense();
  void mixture();
  void gemma_mixture();
  void gemma_per_layer();

  const ModelShape& shape_;
  const uint32_t layer_;
  std::vector<PlannedTensor>& plan_;
};

void LayerPlanner::attention() {
  const bool full = shape_.is_full(layer_);
  const uint64_t head_dim = full && shape_.full_head_dim > 0 ? shape_.full_head_dim : shape_.head_dim;
  const uint64_t kv_heads = full && shape_.full_kv_heads > 0 ? shape_.full_kv_heads : shape_.kv_heads;
  const uint64_t q_width = shape_.heads * head_dim;
  const uint64_t kv_width = kv_heads * head_dim;
  const uint64_t width = shape_.width;
  const bool gemma = is(ShapeFamily::kGemma4);
  const bool gated = is(ShapeFamily::kQwen3Next) || is(ShapeFamily::kQwen35Moe);
  const bool own_keys = layer_ < shape_.layers - shape_.kv_shared_layers;
  // A gate beside each head's query.
  matrix(TensorRole::kQ, "", {q_width * (gated ? 2 : 1), width}, 1.0);
  if (own_keys) matrix(TensorRole::kK, "", {kv_width, width}, 1.0);
  if (own_keys && !(full && shape_.full_values_are_keys)) matrix(TensorRole::kV, "", {kv_width, width}, 1.0);
  matrix(TensorRole::kAttentionOutput, "", {width, q_width}, out_gain());
  if (gated || gemma) {
    // Gemma does not scale the products of queries and keys.
    constant("attn_q_norm.weight", head_dim, gemma ? 1.0 / std::sqrt(static_cast<double>(head_dim)) : 1.0);
    if (own_keys) constant("attn_k_norm.weight", head_dim);
  }
  if (is(ShapeFamily::kGptOss) || is(ShapeFamily::kGlm4Moe)) {
    noise("attn_q.bias", {q_width}, kBiasSigma);
    noise("attn_k.bias", {kv_width}, kBiasSigma);
    noise("attn_v.bias", {kv_width}, kBiasSigma);
  }
  if (!is(ShapeFamily::kGptOss)) return;
  noise("attn_output.bias", {width}, kBiasSigma * out_gain());
  noise("attn_sinks.weight", {shape_.heads}, 1.0);
}

void LayerPlanner::latent_attention() {
  const LatentSizes& sizes = shape_.latent;
  const uint64_t width = shape_.width;
  const uint64_t heads = shape_.heads;
  const uint64_t q_width = heads * (sizes.nope_dim + sizes.rope_dim);
  matrix(TensorRole::kQ, "attn_q_a.weight", {sizes.query_rank, width}, 1.0);
  constant("attn_q_a_norm.weight", sizes.query_rank);
  matrix(TensorRole::kQ, "attn_q_b.weight", {q_width, sizes.query_rank}, 1.0);
  matrix(TensorRole::kQ, "attn_kv_a_mqa.weight", {sizes.rank + sizes.rope_dim, width}, 1.0);
  constant("attn_kv_a_norm.weight", sizes.rank);
  // Stored transposed, so that a query is multiplied by it: keys, not that product, have unit variance.
  matrix(TensorRole::kQ, "attn_k_b.weight", {heads, sizes.rank, sizes.nope_dim},
         std::sqrt(static_cast<double>(sizes.nope_dim) / sizes.rank));
  matrix(TensorRole::kQ, "attn_v_b.weight", {heads, sizes.value_dim, sizes.rank}, 1.0);
  matrix(TensorRole::kAttentionOutput, "", {width, heads * sizes.value_dim}, out_gain());
}

void LayerPlanner::delta_net() {
  const DeltaNetSizes& sizes = shape_.delta;
  const uint64_t width = shape_.width;
  const uint32_t heads = sizes.value_heads;
  const uint64_t value_width = uint64_t{heads} * sizes.head_dim;
  const uint64_t channels = uint64_t{2} * sizes.key_heads * sizes.head_dim + value_width;
  matrix(TensorRole::kV, "attn_qkv.weight", {channels, width}, 1.0);  // llama.cpp types it like attn_v.
  matrix(TensorRole::kQ, "attn_gate.weight", {value_width, width}, 1.0);
  if (is(ShapeFamily::kQwen3Next)) {
    matrix(TensorRole::kQ, "ssm_ba.weight", {uint64_t{2} * heads, width}, 1.0);
  } else {
    matrix(TensorRole::kQ, "ssm_alpha.weight", {heads, width}, 1.0);
    matrix(TensorRole::kQ, "ssm_beta.weight", {heads, width}, 1.0);
  }
  noise("ssm_conv1d.weight", {channels, sizes.taps}, 1.0 / std::sqrt(static_cast<double>(sizes.taps)));
  // As such nets are initialised: -A from 1 to 16 and steps from 0.001 to 0.1, so that heads forget at rates that
  // differ a thousandfold. The bias is the step's inverse softplus.
  std::vector<float> rates(heads);
  std::vector<float> biases(heads);
  for (uint32_t head = 0; head < heads; ++head) {
    rates[head] = -static_cast<float>(1.0 + 15.0 * (head + 0.5) / heads);
    const double step = 0.001 * std::pow(100.0, std::fmod(0.618034 * (head + 1), 1.0));
    biases[head] = static_cast<float>(std::log(std::expm1(step)));
  }
  values("ssm_a", std::move(rates));
  values("ssm_dt.bias", std::move(biases));
  constant("ssm_norm.weight", sizes.head_dim);
  matrix(TensorRole::kQ, "ssm_out.weight", {width, value_width}, out_gain());
}

void LayerPlanner::dense() {
  const uint64_t width = shape_.width;
  const uint64_t inner = shape_.dense_ffn_width;
  matrix(TensorRole::kGate, "", {inner, width}, 1.0);
  matrix(TensorRole::kUp, "", {inner, width}, 1.0);
  matrix(TensorRole::kDown, "", {width, inner}, out_gain());
}

void LayerPlanner::mixture() {
  const uint64_t width = shape_.width;
  const uint64_t inner = shape_.ffn_width;
  const uint64_t experts = shape_.experts;
  const uint64_t shared = shape_.shared_width;
  matrix(TensorRole::kRouter, "", {experts, width}, 1.0);
  matrix(TensorRole::kExpertGate, "", {experts, inner, width}, 1.0);
  matrix(TensorRole::kExpertUp, "", {experts, inner, width}, 1.0);
  matrix(TensorRole::kExpertDown, "", {experts, width, inner}, out_gain());
  if (is(ShapeFamily::kGptOss)) {
    noise("ffn_gate_inp.bias", {experts}, kBiasSigma);
    noise("ffn_gate_exps.bias", {experts, inner}, kBiasSigma);
    noise("ffn_up_exps.bias", {experts, inner}, kBiasSigma);
    noise("ffn_down_exps.bias", {experts, width}, kBiasSigma * out_gain());
  }
  // What the real models learned so that all experts are used, which random ones are anyway.
  if (is(ShapeFamily::kDeepseekV3) || is(ShapeFamily::kGlm4Moe)) constant("exp_probs_b.bias", experts, 0.0);
  if (shared == 0) return;
  matrix(TensorRole::kGate, "ffn_gate_shexp.weight", {shared, width}, 1.0);
  matrix(TensorRole::kUp, "ffn_up_shexp.weight", {shared, width}, 1.0);
  matrix(TensorRole::kDown, "ffn_down_shexp.weight", {width, shared}, out_gain());
  if (is(ShapeFamily::kQwen3Next) || is(ShapeFamily::kQwen35Moe))
    noise("ffn_gate_inp_shexp.weight", {1, width}, 1.0 / std::sqrt(static_cast<double>(width)));
}

void LayerPlanner::gemma_mixture() {
  const uint64_t width = shape_.width;
  const uint64_t inner = shape_.ffn_width;
  const uint64_t experts = shape_.experts;
  matrix(TensorRole::kRouter, "", {experts, width}, 1.0);
  // The router divides its input by the root of the width.
  constant("ffn_gate_inp.scale", width, std::sqrt(static_cast<double>(width)));
  matrix(TensorRole::kExpertGate, "ffn_gate_up_exps.weight", {experts, 2 * inner, width}, 1.0);
  matrix(TensorRole::kExpertDown, "", {experts, width, inner}, 1.0);
  constant("ffn_down_exps.scale", experts);
  constant("pre_ffw_norm_2.weight", width);
  constant("post_ffw_norm_1.weight", width);
  constant("post_ffw_norm_2.weight", width);
}

void LayerPlanner::gemma_per_layer() {
  matrix(TensorRole::kQ, "inp_gate.weight", {shape_.per_layer_width, shape_.width}, 1.0);
  matrix(TensorRole::kQ, "proj.weight", {shape_.width, shape_.per_layer_width}, 1.0);
  constant("post_norm.weight", shape_.width, stream_gain());
}

void LayerPlanner::plan() {
  const uint64_t width = shape_.width;
  constant("attn_norm.weight", width);
  if (shape_.latent.rank > 0) {
    latent_attention();
  } else if (shape_.delta.taps > 0 && !shape_.is_full(layer_)) {
    delta_net();
  } else {
    attention();
  }
  if (is(ShapeFamily::kGemma4)) {
    constant("post_attention_norm.weight", width, stream_gain());
    constant("ffn_norm.weight", width);
    dense();
    if (shape_.experts > 0) gemma_mixture();
    constant("post_ffw_norm.weight", width, stream_gain());
    if (shape_.per_layer_width > 0) gemma_per_layer();
    constant("layer_output_scale.weight", 1);
    return;
  }
  const bool ffn_norm = is(ShapeFamily::kDeepseekV3) || is(ShapeFamily::kLlama4);
  constant(ffn_norm ? "ffn_norm.weight" : "post_attention_norm.weight", width);
  if (shape_.has_experts(layer_)) {
    mixture();
  } else {
    dense();
  }
}

// Gemma turns the first quarter of the pairs of its full layers' heads; the others are divided to a stand-still.
std::vector<float> gemma_divisors(uint32_t head_dim) {
  std::vector<float> divisors(head_dim / 2, 1e30f);
  for (uint32_t pair = 0; pair < head_dim / 8; ++pair) divisors[pair] = 1.0f;
  return divisors;
}

}  // namespace

bool is_newer_family(ShapeFamily family) { return family >= ShapeFamily::kDeepseekV3; }

void plan_family_globals(const ModelShape& shape, uint64_t vocabulary, std::vector<PlannedTensor>& plan) {
  const auto add_divisors = [&plan](std::vector<float> divisors) {
    PlannedTensor tensor{
        .role = TensorRole::kOutputNorm, .shape = {divisors.size()}, .gguf = "rope_freqs.weight"};
    tensor.values = std::move(divisors);
    plan.push_back(std::move(tensor));
  };
  if (shape.family == ShapeFamily::kLlama4) {
    model::RopeSpec rope;
    rope.dims = shape.head_dim;
    rope.base = shape.rope_base;
    rope.factor = 8.0f;
    rope.original_positions = 8192.0f;
    rope.low_frequency_factor = 1.0f;
    rope.high_frequency_factor = 4.0f;
    add_divisors(llama3_divisors(rope));
  }
  if (shape.family == ShapeFamily::kGemma4 && shape.layers >= shape.full_interval)
    add_divisors(gemma_divisors(shape.full_head_dim));
  if (shape.per_layer_width == 0) return;
  const uint64_t all = uint64_t{shape.per_layer_width} * shape.layers;
  // Rows are multiplied by the root of one layer's width, the projection by one over that of the model's.
  plan.push_back({.role = TensorRole::kEmbedding,
                  .shape = {vocabulary, all},
                  .gguf = "per_layer_token_embd.weight",
                  .sigma = 1.0 / std::sqrt(static_cast<double>(shape.per_layer_width))});
  plan.push_back({.role = TensorRole::kQ,
                  .shape = {all, shape.width},
                  .gguf = "per_layer_model_proj.weight",
                  .type = DType::kBF16,
                  .sigma = 1.0});
  plan.push_back({.role = TensorRole::kOutputNorm,
                  .shape = {shape.per_layer_width},
                  .gguf = "per_layer_proj_norm.weight"});
}

void plan_family_layer(const ModelShape& shape, uint32_t layer, std::vector<PlannedTensor>& plan) {
  LayerPlanner(shape, layer, plan).plan();
}

}  // namespace mlxf::convert
