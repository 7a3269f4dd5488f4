#include <algorithm>
#include <cmath>

#include "model/families/families.h"
#include "model/families/gemma_layers.h"

namespace mlxf::model {
namespace {

constexpr DecoderTraits kTraits{.qk_norm = QkNorm::kPerHead, .sandwich_norms = true, .tied = true};

// The number of standard deviations below which a share `p` of normally distributed values lies.
double normal_quantile(double p) {
  double low = -40.0, high = 40.0;
  for (int i = 0; i < 200; ++i) {
    const double middle = (low + high) / 2;
    (0.5 * std::erfc(-middle / std::sqrt(2.0)) < p ? low : high) = middle;
  }
  return (low + high) / 2;
}

// Which layers keep outstanding gates only, and how far these must stand out.
Result<std::vector<std::optional<float>>> cutoffs(const Source& source, uint32_t layers) {
  std::vector<std::optional<float>> list(layers);
  std::vector<double> values;
  if (source.gguf) {
    const auto scales = source.manifest->metadata.find_numbers("gemma3n.activation_sparsity_scale");
    if (scales) values = *scales;
  } else {
    const Json* pattern = find_member(source.config, "activation_sparsity_pattern");
    if (pattern != nullptr && pattern->is_array())
      for (const Json& share : *pattern) values.push_back(share.is_number() ? share.get<double>() : -1.0);
    if (pattern == nullptr || pattern->is_null()) {
      values.assign(layers, 0.0);
      if (layers > 10) std::fill_n(values.begin(), 10, 0.95);
    }
  }
  if (values.size() != layers)
    return fail(ErrorCode::kCorrupt, source.manifest->path + ": activation_sparsity_pattern must have " +
                                         std::to_string(layers) + " values, one for each layer");
  for (uint32_t i = 0; i < layers; ++i) {
    if (source.gguf) {
      if (std::isfinite(values[i])) list[i] = static_cast<float>(values[i]);
      continue;
    }
    if (!(values[i] >= 0.0 && values[i] < 1.0))
      return fail(
          ErrorCode::kCorrupt,
          source.manifest->path + ": each value of activation_sparsity_pattern must be from 0 to below 1");
    if (values[i] > 0.0) list[i] = static_cast<float>(normal_quantile(values[i]));
  }
  return list;
}

Status add_altup(const Source& source, ModelSpec& spec) {
  AltupSpec altup;
  ASSIGN_OR_RETURN(altup.streams, source.count("altup_num_inputs", 4, AltupSpec::kStreamsMax));
  ASSIGN_OR_RETURN(altup.active, count_or_none(source, "altup_active_idx", AltupSpec::kStreamsMax));
  if (altup.streams < 2 || altup.active >= altup.streams)
    return fail(ErrorCode::kCorrupt, source.manifest->path + ": altup_active_idx " +
                                         std::to_string(altup.active) + " is not one of altup_num_inputs " +
                                         std::to_string(altup.streams) + " (2 or more)");
  altup.router_scale = in_bf16(1.0 / spec.hidden);
  const uint32_t h = spec.hidden;
  const uint32_t n = altup.streams;
  const auto stacked = [&](const char* hf, const char* gguf, uint32_t i) {
    // llama.cpp stacks them into one tensor.
    return source.gguf
               ? MatrixSource{gguf, h, h, i * h, (n - 1) * h}
               : MatrixSource{source.global(std::string(hf) + "." + std::to_string(i), ""), h, h, 0, h};
  };
  for (uint32_t i = 0; i + 1 < n; ++i) {
    altup.projections.push_back(stacked("altup_projections", "altup_proj", i));
    altup.merge.push_back(stacked("altup_unembed_projections", "altup_unembd_proj", i));
  }
  spec.altup = altup;
  ASSIGN_OR_RETURN(const uint32_t rank, source.count("laurel_rank", 64, kernels::kMatmulColsMax));
  for (uint32_t i = 0; i < spec.layers.size(); ++i) {
    LayerSpec& layer = spec.layers[i];
    const auto tensor = [&](const char* hf, const char* gguf) { return source.layer(i, hf, gguf); };
    AltupLayerSpec& a = layer.altup.emplace();
    a.router = {tensor("altup.modality_router", "altup_router"), n, h, 0, n};
    a.router_norm = {tensor("altup.router_norm.weight", "altup_router_norm.weight"), h, false};
    a.prediction = {tensor("altup.prediction_coefs.weight", "altup_predict_coef.weight"), n * n * n, false};
    a.correction = {tensor("altup.correction_coefs.weight", "altup_correct_coef.weight"), n * n, false};
    if (source.flag("altup_correct_scale", true))
      a.output_scale = {tensor("altup.correct_output_scale", "altup_correct_scale.weight"), h, false};
    LaurelSpec& laurel = layer.laurel.emplace();
    laurel.left = {tensor("laurel.linear_left", "laurel_l"), rank, h, 0, rank};
    laurel.right = {tensor("laurel.linear_right", "laurel_r"), h, rank, 0, h};
    laurel.norm = {tensor("laurel.post_laurel_norm.weight", "laurel_post_norm.weight"), h, false};
  }
  return {};
}

// Defaults of the reference's configuration, which files leave out.
Source with_defaults(const Source& source) {
  Source plain = source;
  if (source.gguf) {
    // The file has no key for it.
    const formats::TensorEntry* left = source.manifest->find("blk.0.laurel_l.weight");
    if (left != nullptr && !left->shape.empty()) plain.config["laurel_rank"] = left->shape.front();
    return plain;
  }
  for (const auto& [field, value] : {std::pair{"num_attention_heads", 8},
                                     {"num_key_value_heads", 2},
                                     {"head_dim", 256},
                                     {"hidden_size", 2048},
                                     {"intermediate_size", 16384},
                                     {"num_hidden_layers", 35},
                                     {"vocab_size", 262400},
                                     {"max_position_embeddings", 32768},
                                     {"sliding_window", 512},
                                     {"num_kv_shared_layers", 15},
                                     {"hidden_size_per_layer_input", 256}})
    if (!source.config.contains(field)) plain.config[field] = value;
  if (!source.config.contains("final_logit_softcapping")) plain.config["final_logit_softcapping"] = 30.0;
  // Text configurations of before transformers 5 scale the full layers' rope.
  Json& ropes = plain.config["rope_parameters"];
  if (!ropes.is_object()) ropes = Json::object();
  if (const Json* scaling = find_member(source.config, "rope_scaling"); scaling && scaling->is_object()) {
    Json& full = ropes["full_attention"];
    if (!full.is_object()) full = Json::object();
    full.update(*scaling);
  }
  return plain;
}

}  // namespace

// A residual stream of several widths (alternating updates), a low-rank residual beside attention, per-layer
// embeddings, keys and values shared between the last layers, and gates of the first layers kept only where they
// stand out.
Result<ModelSpec> gemma3n(const Source& source) {
  const Source plain = with_defaults(source);
  if (const Json* overrides = find_member(source.config, "per_layer_config");
      overrides && !overrides->empty())
    return fail(ErrorCode::kUnsupported, source.manifest->path + ": per_layer_config is not supported");
  Source common = plain;
  common.config["rope_parameters"] = {{"rope_type", "default"}};
  for (const char* field : {"rope_dimensions", "rope_scaling"}) common.config.erase(field);
  ASSIGN_OR_RETURN(ModelSpec spec, decoder(common, kTraits));
  const auto layers = static_cast<uint32_t>(spec.layers.size());
  spec.embedding_scale = in_bf16(std::sqrt(static_cast<float>(spec.hidden)));
  ASSIGN_OR_RETURN(const std::vector<bool> slides, sliding_layers(plain, layers, 5));
  ASSIGN_OR_RETURN(const Activation activation, gemma_activation(plain));
  ASSIGN_OR_RETURN(const uint32_t window, plain.count("sliding_window", 0, INT32_MAX));
  ASSIGN_OR_RETURN(const auto widths,
                   per_layer_counts(plain, "intermediate_size", layers, kernels::kMatmulColsMax));
  ASSIGN_OR_RETURN(const auto cutoff, cutoffs(plain, layers));
  for (uint32_t i = 0; i < layers; ++i) {
    AttentionSpec& a = spec.layers[i].attention();
    a.window = slides[i] ? window : 0;
    a.rope = slides[i] ? 1 : 0;
    a.scale = 1.0f;
    a.value_norm = true;
    Source own = plain;
    own.config["intermediate_size"] = widths[i];
    ASSIGN_OR_RETURN(MlpSpec mlp, dense_mlp(own, spec, i, activation));
    mlp.cutoff_deviations = cutoff[i];
    spec.layers[i].ffn = mlp;
  }
  const uint32_t head_dim = spec.layers[0].attention().head_dim;
  RETURN_IF_ERROR(set_layer_ropes(plain, spec, head_dim, head_dim));
  RETURN_IF_ERROR(share_keys(plain, spec));
  RETURN_IF_ERROR(add_altup(plain, spec));
  ASSIGN_OR_RETURN(const uint32_t width, plain.count("hidden_size_per_layer_input", 0, 1 << 16));
  RETURN_IF_ERROR(add_per_layer_inputs(plain, spec, width, activation));
  // Here these two are constants in the model's precision.
  spec.per_layer_inputs->projection_scale = in_bf16(1.0 / std::sqrt(static_cast<double>(spec.hidden)));
  spec.per_layer_inputs->sum_scale = in_bf16(std::sqrt(0.5));
  return spec;
}

}  // namespace mlxf::model
