#include "model/families/gemma_layers.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "kernels/kernel_table.h"
#include "tensor/float16.h"

namespace mlxf::model {
namespace {

std::string number_text(uint64_t value) { return std::to_string(value); }

// An array of the file's metadata, under the architecture's own prefix.
std::optional<std::vector<double>> gguf_numbers(const Source& source, const std::string& key) {
  if (!source.gguf) return std::nullopt;
  const auto architecture = source.manifest->metadata.find_string("general.architecture");
  return source.manifest->metadata.find_numbers(*architecture + "." + key);
}

}  // namespace

float in_bf16(double value) { return f32_from_bf16(bf16_from_f32(static_cast<float>(value))); }

Result<std::vector<bool>> sliding_layers(const Source& source, uint32_t layers, uint32_t period) {
  std::vector<bool> slides(layers);
  if (const auto pattern = gguf_numbers(source, "attention.sliding_window_pattern")) {
    if (pattern->size() != layers)
      return fail(ErrorCode::kCorrupt, source.manifest->path + ": attention.sliding_window_pattern has " +
                                           number_text(pattern->size()) + " values for " +
                                           number_text(layers) + " layers");
    std::transform(pattern->begin(), pattern->end(), slides.begin(),
                   [](double value) { return value != 0.0; });
    return slides;
  }
  for (uint32_t i = 0; i < layers; ++i) slides[i] = (i + 1) % period != 0;
  const Json* types = find_member(source.config, "layer_types");
  if (types == nullptr || types->is_null()) return slides;
  if (!types->is_array() || types->size() != layers)
    return fail(ErrorCode::kCorrupt, source.manifest->path + ": layer_types must be a list of " +
                                         number_text(layers) + " names, as num_hidden_layers says");
  for (uint32_t i = 0; i < layers; ++i) {
    slides[i] = (*types)[i] == "sliding_attention";
    if (!slides[i] && (*types)[i] != "full_attention")
      return fail(ErrorCode::kUnsupported,
                  source.manifest->path + ": layer type " + dump_json((*types)[i]).substr(0, 40) +
                      " is not supported; supported are full_attention and sliding_attention");
  }
  return slides;
}

Result<std::vector<uint32_t>> per_layer_counts(const Source& source, const std::string& field,
                                               uint32_t layers, int64_t limit) {
  std::vector<double> values;
  const char* key = field == "intermediate_size" ? "feed_forward_length" : "attention.head_count_kv";
  if (auto numbers = gguf_numbers(source, key)) {
    values = std::move(*numbers);
  } else if (const Json* list = find_member(source.config, field); list != nullptr && list->is_array()) {
    for (const Json& value : *list) values.push_back(value.is_number_integer() ? value.get<double>() : -1.0);
  } else {
    ASSIGN_OR_RETURN(const uint32_t value, source.count(field, 0, limit));
    values.assign(layers, value);
  }
  if (values.size() != layers)
    return fail(ErrorCode::kCorrupt, source.manifest->path + ": " + field + " has " +
                                         number_text(values.size()) + " values for " + number_text(layers) +
                                         " layers");
  std::vector<uint32_t> counts;
  for (const double value : values) {
    if (!(value >= 1.0 && value <= static_cast<double>(limit)))
      return fail(ErrorCode::kCorrupt, source.manifest->path + ": each value of " + field +
                                           " must be an integer from 1 to " + std::to_string(limit));
    counts.push_back(static_cast<uint32_t>(value));
  }
  return counts;
}

Status set_layer_ropes(const Source& source, ModelSpec& spec, uint32_t full_dim, uint32_t sliding_dim) {
  const Json* ropes = find_member(source.config, "rope_parameters");
  if (source.gguf && find_member(source.config, "rope_scaling") != nullptr)
    return fail(ErrorCode::kUnsupported, source.manifest->path + ": rope.scaling.type is not supported for " +
                                             spec.architecture + " in GGUF");
  const auto rope_of = [&](const char* type, double base, uint32_t dim) -> Result<RopeSpec> {
    const Json* found = ropes != nullptr ? find_member(*ropes, type) : nullptr;
    Json params = found != nullptr && found->is_object() ? *found : Json::object();
    // The default rope turns whole heads, whatever else is written there.
    if (find_string(params, "rope_type").value_or("default") == "default")
      params["partial_rotary_factor"] = 1.0;
    Source plain = source;
    plain.config.erase("rope_dimensions");
    return parse_rope(plain, &params, dim, base);
  };
  const double full_base = source.number("rope_theta", 1e6);
  ASSIGN_OR_RETURN(RopeSpec full, rope_of("full_attention", full_base, full_dim));
  ASSIGN_OR_RETURN(const RopeSpec sliding,
                   rope_of("sliding_attention", source.number("rope_local_base_freq", 1e4), sliding_dim));
  // GGUF has large divisors for the pairs that stand still.
  if (source.gguf && source.has("rope_freqs")) full.divisors = {"rope_freqs.weight", full.dims / 2, false};
  spec.ropes = {full, sliding};
  return {};
}

Result<uint32_t> count_or_none(const Source& source, const std::string& field, int64_t limit) {
  if (const auto value = find_int(source.config, field); value && *value == 0) return 0u;
  return find_member(source.config, field) == nullptr ? Result<uint32_t>(0u) : source.count(field, 0, limit);
}

Status share_keys(const Source& source, ModelSpec& spec) {
  const auto layers = static_cast<uint32_t>(spec.layers.size());
  ASSIGN_OR_RETURN(const uint32_t shared, count_or_none(source, "num_kv_shared_layers", UINT32_MAX));
  if (shared >= layers)
    return fail(ErrorCode::kCorrupt, source.manifest->path + ": num_kv_shared_layers " + number_text(shared) +
                                         " leaves none of the " + number_text(layers) +
                                         " layers with keys and values");
  for (uint32_t i = layers - shared; i < layers; ++i) {
    AttentionSpec& a = spec.layers[i].attention();
    uint32_t from = layers - shared;
    while (from > 0 && (spec.layers[from - 1].attention().window != 0) != (a.window != 0)) --from;
    if (from == 0)
      return fail(
          ErrorCode::kCorrupt,
          source.manifest->path + ": layer " + number_text(i) +
              " shares keys and values by num_kv_shared_layers, but no layer before has the same type");
    const AttentionSpec& owner = spec.layers[--from].attention();
    if (owner.head_dim != a.head_dim || owner.kv_heads != a.kv_heads)
      return fail(ErrorCode::kCorrupt, source.manifest->path + ": layer " + number_text(i) +
                                           " shares the keys of layer " + number_text(from) +
                                           ", whose heads have another shape");
    a.keys_of = from;
    a.k.name = a.v.name = a.k_bias.name = a.v_bias.name = a.k_norm.name = "";
  }
  return {};
}

Status add_per_layer_inputs(const Source& source, ModelSpec& spec, uint32_t width, Activation activation) {
  const uint64_t all = uint64_t{width} * spec.layers.size();
  const std::string table = source.global("embed_tokens_per_layer", "per_layer_token_embd");
  const formats::TensorEntry* entry = source.manifest->find(table + ".weight");
  if (entry == nullptr || entry->shape.size() != 2 || entry->shape[0] == 0)
    return fail(entry == nullptr ? ErrorCode::kNotFound : ErrorCode::kCorrupt,
                source.manifest->path + ": tensor " + table +
                    ".weight must be a matrix of per-layer embeddings, as hidden_size_per_layer_input says");
  if (all > kernels::kMatmulColsMax || entry->shape[0] > UINT32_MAX)
    return fail(ErrorCode::kCorrupt, source.manifest->path + ": hidden_size_per_layer_input " +
                                         number_text(width) + " times the layers exceeds " +
                                         number_text(kernels::kMatmulColsMax));
  PerLayerInputsSpec inputs;
  inputs.width = width;
  inputs.projection_scale = 1.0f / std::sqrt(static_cast<float>(spec.hidden));
  inputs.table_scale = in_bf16(std::sqrt(width));
  inputs.sum_scale = std::sqrt(0.5f);
  const auto rows = static_cast<uint32_t>(entry->shape[0]);
  const auto cols = static_cast<uint32_t>(all);
  inputs.table = {table, rows, cols, 0, rows};
  inputs.projection = {source.global("per_layer_model_projection", "per_layer_model_proj"), cols, spec.hidden,
                       0, cols};
  inputs.norm = {source.global("per_layer_projection_norm.weight", "per_layer_proj_norm.weight"), width,
                 false};
  spec.per_layer_inputs = inputs;
  for (uint32_t i = 0; i < spec.layers.size(); ++i) {
    PerLayerSpec layer;
    layer.activation = activation;
    layer.gate = {source.layer(i, "per_layer_input_gate", "inp_gate"), width, spec.hidden, 0, width};
    layer.projection = {source.layer(i, "per_layer_projection", "proj"), spec.hidden, width, 0, spec.hidden};
    layer.norm = {source.layer(i, "post_per_layer_input_norm.weight", "post_norm.weight"), spec.hidden,
                  false};
    spec.layers[i].per_layer = layer;
  }
  return {};
}

Result<Activation> gemma_activation(const Source& source) {
  const std::string name = find_string(source.config, "hidden_activation").value_or("gelu_pytorch_tanh");
  if (name == "gelu_pytorch_tanh") return Activation::kGeluTanh;
  if (name == "silu") return Activation::kSilu;
  return fail(ErrorCode::kUnsupported, source.manifest->path + ": hidden_activation \"" + name +
                                           "\" is not supported; supported are gelu_pytorch_tanh and silu");
}

}  // namespace mlxf::model
