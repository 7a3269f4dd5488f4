#include <algorithm>
#include <charconv>
#include <cmath>

#include "model/families/families.h"
#include "model/families/gemma_layers.h"

namespace mlxf::model {
namespace {

constexpr DecoderTraits kTraits{.qk_norm = QkNorm::kPerHead, .sandwich_norms = true, .tied = true};

// What each layer has of its own: num_key_value_heads and head_dim.
struct Heads {
  uint32_t kv_heads = 0, head_dim = 0;
};

// Layers by their index, and of each nothing but the heads.
Status check_overrides(const Source& source, const Json& overrides, uint32_t layers) {
  const std::string field = source.manifest->path + ": per_layer_config";
  const auto of_field = [&field](const std::string& rest) { return field + "." + rest; };
  if (!overrides.is_object()) return fail(ErrorCode::kCorrupt, field + " must be an object");
  for (const auto& layer : overrides.items()) {
    const std::string& key = layer.key();
    uint32_t index = layers;
    std::from_chars(key.data(), key.data() + key.size(), index);
    if (index >= layers || std::to_string(index) != key || !layer.value().is_object())
      return fail(ErrorCode::kCorrupt,
                  of_field(key) + " must be an object under the index of one of the layers");
    for (const auto& own : layer.value().items())
      if (own.key() != "head_dim" && own.key() != "num_key_value_heads")
        return fail(ErrorCode::kUnsupported,
                    of_field(key).append(".").append(own.key()) + " is not supported");
  }
  return {};
}

// An override of `field` for layer `index`, or the fallback.
Result<uint32_t> override_of(const Source& source, uint32_t index, const char* field, uint32_t fallback) {
  const Json* layers = find_member(source.config, "per_layer_config");
  const Json* layer = layers != nullptr ? find_member(*layers, std::to_string(index)) : nullptr;
  if (layer == nullptr || find_member(*layer, field) == nullptr) return fallback;
  const auto value = find_int(*layer, field);
  if (!value || *value < 1 || *value > 4096)
    return fail(ErrorCode::kCorrupt, source.manifest->path + ": per_layer_config." + std::to_string(index) +
                                         "." + field + " must be an integer from 1 to 4096");
  return static_cast<uint32_t>(*value);
}

// Full layers have wider heads, and fewer of keys and values where these share a projection.
Result<std::vector<Heads>> heads_of_layers(const Source& source, const std::vector<bool>& slides,
                                           Heads sliding) {
  const auto layers = static_cast<uint32_t>(slides.size());
  std::vector<Heads> heads(layers, sliding);
  if (source.gguf) {
    ASSIGN_OR_RETURN(const auto kv_heads, per_layer_counts(source, "num_key_value_heads", layers, 4096));
    ASSIGN_OR_RETURN(const uint32_t full_dim, source.count("head_dim", 0, 4096));
    for (uint32_t i = 0; i < layers; ++i) heads[i] = {kv_heads[i], slides[i] ? sliding.head_dim : full_dim};
    return heads;
  }
  Heads full = sliding;
  const Json* overrides = find_member(source.config, "per_layer_config");
  if (overrides == nullptr || overrides->is_null()) {
    ASSIGN_OR_RETURN(full.head_dim, source.count("global_head_dim", 512, 4096));
    if (source.flag("attention_k_eq_v", false) && find_int(source.config, "num_global_key_value_heads")) {
      ASSIGN_OR_RETURN(full.kv_heads, source.count("num_global_key_value_heads", 0, 4096));
    }
  } else {
    RETURN_IF_ERROR(check_overrides(source, *overrides, layers));
  }
  for (uint32_t i = 0; i < layers; ++i) {
    const Heads& kind = slides[i] ? sliding : full;
    ASSIGN_OR_RETURN(heads[i].kv_heads, override_of(source, i, "num_key_value_heads", kind.kv_heads));
    ASSIGN_OR_RETURN(heads[i].head_dim, override_of(source, i, "head_dim", kind.head_dim));
  }
  return heads;
}

// Routed experts: stacked and fused (transformers), stacked (mlx-lm), one by one (packed), or either stack (GGUF).
void name_experts(const Source& source, const ModelSpec& spec, uint32_t index, uint32_t experts,
                  MoeSpec& moe) {
  const auto tensor = [&](const std::string& hf, const char* gguf) { return source.layer(index, hf, gguf); };
  const auto single = [&](uint32_t e, const char* name) {
    return tensor("experts." + std::to_string(e) + "." + name, "");
  };
  const bool alone = !source.gguf && source.has(single(0, "gate_proj"));
  const bool mlx = !source.gguf && source.has(tensor("experts.switch_glu.gate_proj", ""));
  const std::string fused = tensor("experts.gate_up_proj", "ffn_gate_up_exps");
  const bool is_fused = source.gguf ? source.has(fused) : !mlx;
  const std::string gate = tensor("experts.switch_glu.gate_proj", "ffn_gate_exps");
  const std::string up = tensor("experts.switch_glu.up_proj", "ffn_up_exps");
  const std::string down =
      tensor(mlx ? "experts.switch_glu.down_proj" : "experts.down_proj", "ffn_down_exps");
  const uint32_t width = moe.width;
  const uint32_t hidden = spec.hidden;
  for (uint32_t e = 0; e < experts; ++e) {
    ExpertSource expert;
    if (alone) {
      expert.gate = {single(e, "gate_proj"), width, hidden, 0, width};
      expert.up = {single(e, "up_proj"), width, hidden, 0, width};
      expert.down = {single(e, "down_proj"), hidden, width, 0, hidden};
    } else {
      const uint32_t stacked = experts * width;
      expert.gate = is_fused ? MatrixSource{fused, width, hidden, e * 2 * width, 2 * stacked}
                             : MatrixSource{gate, width, hidden, e * width, stacked};
      expert.up = is_fused ? MatrixSource{fused, width, hidden, (e * 2 + 1) * width, 2 * stacked}
                           : MatrixSource{up, width, hidden, e * width, stacked};
      expert.down = {down, hidden, width, e * hidden, experts * hidden};
    }
    moe.experts.push_back(std::move(expert));
  }
}

// Experts beside the dense feed-forward layer, both behind norms of their own: the latter is every token's expert.
Result<MoeSpec> experts_beside(const Source& source, const ModelSpec& spec, uint32_t index,
                               const MlpSpec& mlp) {
  MoeSpec moe;
  moe.normalise_top_k = true;
  moe.activation = mlp.activation;
  moe.shared = mlp;
  const auto tensor = [&](const char* hf, const char* gguf) { return source.layer(index, hf, gguf); };
  ASSIGN_OR_RETURN(const uint32_t experts, source.count("num_experts", 0, 65536));
  ASSIGN_OR_RETURN(moe.top_k, source.count(source.gguf ? "num_experts_per_tok" : "top_k_experts", 0, 1024));
  // Before transformers 5 it had another name.
  const char* width_field = find_member(source.config, "moe_intermediate_size") != nullptr
                                ? "moe_intermediate_size"
                                : "expert_intermediate_size";
  ASSIGN_OR_RETURN(moe.width, source.count(width_field, 0, kernels::kMatmulColsMax));
  if (uint64_t{2} * experts * std::max(moe.width, spec.hidden) > INT32_MAX)
    return fail(ErrorCode::kCorrupt, source.manifest->path + ": " + std::to_string(experts) +
                                         " experts of width " + std::to_string(moe.width) + " are too many");
  moe.router = {tensor("router.proj", "ffn_gate_inp"), experts, spec.hidden, 0, experts};
  const formats::TensorEntry* router = source.manifest->find(moe.router.name + ".weight");
  if (moe.top_k > experts || router == nullptr || router->shape.empty() || router->shape.front() != experts)
    return fail(router == nullptr ? ErrorCode::kNotFound : ErrorCode::kCorrupt,
                source.manifest->path + ": tensor " + moe.router.name +
                    ".weight must exist with one row for each of " + std::to_string(experts) +
                    " experts, of which a token visits " + std::to_string(moe.top_k));
  moe.router_norm = {tensor("router.scale", "ffn_gate_inp.scale"), spec.hidden, false};
  moe.router_norm_scale = 1.0f / std::sqrt(static_cast<float>(spec.hidden));
  moe.routed_norm = {tensor("pre_feedforward_layernorm_2.weight", "pre_ffw_norm_2.weight"), spec.hidden,
                     false};
  moe.routed_post_norm = {tensor("post_feedforward_layernorm_2.weight", "post_ffw_norm_2.weight"),
                          spec.hidden, false};
  moe.shared_post_norm = {tensor("post_feedforward_layernorm_1.weight", "post_ffw_norm_1.weight"),
                          spec.hidden, false};
  moe.expert_scales = {tensor("router.per_expert_scale", "ffn_down_exps.scale"), experts, false};
  name_experts(source, spec, index, experts, moe);
  return moe;
}

// Defaults of the reference's configuration, which files leave out, and the sliding layers' shape as the common one.
Result<Source> with_defaults(const Source& source) {
  Source plain = source;
  // Text stays causal where only images attend in both directions.
  const Json* both_ways = find_member(source.config, "use_bidirectional_attention");
  if (both_ways != nullptr && *both_ways != "vision" && *both_ways != false)
    return fail(ErrorCode::kUnsupported, source.manifest->path + ": use_bidirectional_attention " +
                                             dump_json(*both_ways).substr(0, 40) + " is not supported");
  if (source.gguf) {
    ASSIGN_OR_RETURN(const uint32_t layers, source.count("num_hidden_layers", 0, 1024));
    ASSIGN_OR_RETURN(const auto kv_heads, per_layer_counts(source, "num_key_value_heads", layers, 4096));
    ASSIGN_OR_RETURN(const auto widths,
                     per_layer_counts(source, "intermediate_size", layers, kernels::kMatmulColsMax));
    // Every layer's own are set below.
    plain.config["num_key_value_heads"] = 1;
    plain.config["intermediate_size"] = widths[0];
    plain.config["head_dim"] =
        source.config.value("sliding_head_dim", source.config.value("head_dim", Json()));
  } else {
    for (const auto& [field, value] : {std::pair{"num_attention_heads", 8},
                                       {"num_key_value_heads", 4},
                                       {"head_dim", 256},
                                       {"hidden_size", 2304},
                                       {"intermediate_size", 9216},
                                       {"num_hidden_layers", 30},
                                       {"vocab_size", 262144},
                                       {"max_position_embeddings", 131072},
                                       {"sliding_window", 512},
                                       {"hidden_size_per_layer_input", 256}})
      if (!source.config.contains(field)) plain.config[field] = value;
    const Json* ropes = find_member(source.config, "rope_parameters");
    if (ropes == nullptr || !ropes->is_object())
      plain.config["rope_parameters"] = {
          {"full_attention", {{"rope_type", "proportional"}, {"partial_rotary_factor", 0.25}}}};
  }
  return plain;
}

Status set_attention(const Source& plain, ModelSpec& spec, const std::vector<bool>& slides,
                     const std::vector<Heads>& heads) {
  ASSIGN_OR_RETURN(const uint32_t window, plain.count("sliding_window", 0, INT32_MAX));
  const bool keys_are_values = plain.flag("attention_k_eq_v", false);
  for (uint32_t i = 0; i < spec.layers.size(); ++i) {
    AttentionSpec& a = spec.layers[i].attention();
    a.kv_heads = heads[i].kv_heads;
    a.head_dim = heads[i].head_dim;
    if (a.heads % a.kv_heads != 0 || uint64_t{a.heads} * a.head_dim > kernels::kMatmulColsMax)
      return fail(ErrorCode::kCorrupt, plain.manifest->path + ": layer " + std::to_string(i) +
                                           " cannot have " + std::to_string(a.heads) + " heads of " +
                                           std::to_string(a.head_dim) + " with num_key_value_heads " +
                                           std::to_string(a.kv_heads));
    a.window = slides[i] ? window : 0;
    a.rope = slides[i] ? 1 : 0;
    a.scale = 1.0f;
    a.value_norm = true;
    name_attention(plain, kTraits, i, spec.hidden, a);
    a.values_are_keys = plain.gguf ? !plain.has(a.v.name) : keys_are_values && !slides[i];
    if (a.values_are_keys) a.v.name = a.v_bias.name = "";
  }
  RETURN_IF_ERROR(share_keys(plain, spec));
  const auto dim_of = [&](bool sliding) {
    const auto first = std::find(slides.begin(), slides.end(), sliding);
    return heads[first == slides.end() ? 0 : static_cast<size_t>(first - slides.begin())].head_dim;
  };
  for (uint32_t i = 0; i < spec.layers.size(); ++i)
    if (heads[i].head_dim != dim_of(slides[i]))
      return fail(ErrorCode::kUnsupported,
                  plain.manifest->path + ": layers of one type with different head_dim are not supported");
  return set_layer_ropes(plain, spec, dim_of(false), dim_of(true));
}

Status set_feed_forward(const Source& plain, ModelSpec& spec, const std::vector<uint32_t>& widths,
                        Activation activation) {
  const bool double_wide = plain.flag("use_double_wide_mlp", false);
  Source own = plain;
  for (uint32_t i = 0; i < spec.layers.size(); ++i) {
    const bool doubled = double_wide && spec.layers[i].attention().keys_of != kOwnKeys;
    own.config["intermediate_size"] = widths[i] * (doubled ? 2 : 1);
    ASSIGN_OR_RETURN(const MlpSpec mlp, dense_mlp(own, spec, i, activation));
    spec.layers[i].ffn = mlp;
    const bool sparse =
        plain.gguf ? plain.has(plain.layer(i, "", "ffn_gate_inp")) : plain.flag("enable_moe_block", false);
    if (!sparse) continue;
    ASSIGN_OR_RETURN(spec.layers[i].ffn, experts_beside(plain, spec, i, mlp));
  }
  return {};
}

}  // namespace

// gemma3 with plain norm weights, a norm over values, unscaled attention, wider heads in full layers, of which few
// pairs turn, and a scale behind each layer; the large models have experts beside the dense layers, the small ones
// share keys and values between their last layers and have per-layer embeddings.
Result<ModelSpec> gemma4(const Source& source) {
  ASSIGN_OR_RETURN(const Source plain, with_defaults(source));
  Source common = plain;
  common.config["rope_parameters"] = {{"rope_type", "default"}};
  common.config.erase("rope_dimensions");
  ASSIGN_OR_RETURN(ModelSpec spec, decoder(common, kTraits));
  const auto layers = static_cast<uint32_t>(spec.layers.size());
  spec.embedding_scale = in_bf16(std::sqrt(static_cast<float>(spec.hidden)));
  ASSIGN_OR_RETURN(std::vector<bool> slides, sliding_layers(plain, layers, 6));
  if (!plain.gguf) slides.back() = false;  // The reference forces it.
  const Heads sliding{spec.layers[0].attention().kv_heads, spec.layers[0].attention().head_dim};
  // In GGUF the lists and the full layers' head_dim are the file's own.
  const Source& lists = source.gguf ? source : plain;
  ASSIGN_OR_RETURN(const auto heads, heads_of_layers(lists, slides, sliding));
  RETURN_IF_ERROR(set_attention(plain, spec, slides, heads));
  ASSIGN_OR_RETURN(const Activation activation, gemma_activation(plain));
  ASSIGN_OR_RETURN(const auto widths,
                   per_layer_counts(lists, "intermediate_size", layers, kernels::kMatmulColsMax / 2));
  RETURN_IF_ERROR(set_feed_forward(plain, spec, widths, activation));
  for (uint32_t i = 0; i < layers; ++i) {
    const std::string name = plain.layer(i, "layer_scalar", "layer_output_scale.weight");
    if (!plain.gguf || plain.has(name)) spec.layers[i].output_scale = {name, 1, false};
  }
  ASSIGN_OR_RETURN(const uint32_t width, count_or_none(plain, "hidden_size_per_layer_input", 1 << 16));
  if (width != 0) RETURN_IF_ERROR(add_per_layer_inputs(plain, spec, width, activation));
  return spec;
}

}  // namespace mlxf::model
