#include <algorithm>

#include "model/families/families.h"

namespace mlxf::model {
namespace {

// What configurations leave out where it equals these.
Json with_defaults(const Source& source) {
  Json config = source.config;
  if (source.gguf) return config;
  const Json defaults = {
      {"vocab_size", 202048},           {"hidden_size", 5120},      {"intermediate_size", 8192},
      {"intermediate_size_mlp", 16384}, {"num_hidden_layers", 48},  {"num_attention_heads", 40},
      {"num_key_value_heads", 8},       {"head_dim", 128},          {"max_position_embeddings", 131072},
      {"rms_norm_eps", 1e-5},           {"num_experts_per_tok", 1}, {"num_local_experts", 16}};
  for (const auto& [field, value] : defaults.items())
    if (!config.contains(field)) config[field] = value;
  return config;
}

// Whether the list `field` says 1 for `index`; `fallback` where there is no list.
bool listed(const Source& source, const char* field, uint32_t index, bool fallback) {
  const Json* list = find_member(source.config, field);
  if (list == nullptr || !list->is_array() || list->empty()) return fallback;
  return index < list->size() && (*list)[index] == 1;
}

bool is_moe_layer(const Source& source, uint32_t index) {
  const Json* list = find_member(source.config, "moe_layers");
  if (list != nullptr && list->is_array())
    return std::any_of(list->begin(), list->end(), [index](const Json& layer) { return layer == index; });
  const auto step = find_int(source.config, "interleave_moe_layer_step").value_or(1);
  return step > 0 && (index + 1) % step == 0;
}

// Layers with a rope see chunks and norm q and k; those without see everything and grow q with the position.
Status set_attention(const Source& source, uint32_t index, AttentionSpec& a) {
  const auto interval = find_int(source.config, "no_rope_layer_interval").value_or(4);
  // llama.cpp writes a window of 0 where every layer has a rope and sees everything, and nothing where all is as below.
  const bool plain = source.gguf && find_int(source.config, "sliding_window") == 0;
  const bool rotates =
      plain || listed(source, "no_rope_layers", index, interval <= 0 || (index + 1) % interval != 0);
  if (!rotates) a.rope = kNoRope;
  // By its number of experts llama.cpp knows the model that has no norms.
  const bool normed =
      source.gguf ? find_int(source.config, "num_experts") != 128 : source.flag("use_qk_norm", true);
  if (rotates && normed) a.qk_norm = QkNorm::kL2;
  const Json* types = find_member(source.config, "layer_types");
  const bool typed = types != nullptr && types->is_array() && index < types->size();
  const bool chunked = typed ? (*types)[index] == "chunked_attention" : rotates && !plain;
  if (typed && !chunked && (*types)[index] != "full_attention")
    return fail(ErrorCode::kUnsupported,
                source.manifest->path + ": layer_types has " + dump_json((*types)[index]).substr(0, 40) +
                    "; llama4 is supported with chunked_attention and full_attention");
  const bool endless = source.config.contains("attention_chunk_size") &&
                       find_member(source.config, "attention_chunk_size") == nullptr;  // Null.
  if (chunked && !endless) {
    ASSIGN_OR_RETURN(a.chunk, source.count("attention_chunk_size", 8192, INT32_MAX));
  }
  if (rotates || !source.flag("attn_temperature_tuning", true)) return {};
  a.temperature = source.number("attn_scale", 0.1);
  a.temperature_floor = source.number("floor_scale", 8192.0);
  if (a.temperature_floor > 0.0f) return {};
  return fail(ErrorCode::kCorrupt, source.manifest->path + ": floor_scale must be positive");
}

}  // namespace

// Chunked layers with a rope between full ones without; experts beside a shared one, weighted by the sigmoid of their
// logits on the way in.
Result<ModelSpec> llama4(const Source& source) {
  Source plain = source;
  plain.config = with_defaults(source);
  RETURN_IF_ERROR(expect_option(plain, "hidden_act", "silu"));
  ASSIGN_OR_RETURN(ModelSpec spec, decoder(plain, {.rope_base = 500000.0}));
  spec.ropes[0].layout = RopeLayout::kInterleaved;
  const char* widths[] = {source.gguf ? "intermediate_size" : "intermediate_size_mlp",
                          source.gguf ? "moe_intermediate_size" : "intermediate_size"};
  ASSIGN_OR_RETURN(const uint32_t dense, plain.count(widths[0], 0, kernels::kMatmulColsMax));
  ASSIGN_OR_RETURN(const uint32_t width, plain.count(widths[1], 0, kernels::kMatmulColsMax));
  for (uint32_t i = 0; i < spec.layers.size(); ++i) {
    LayerSpec& layer = spec.layers[i];
    RETURN_IF_ERROR(set_attention(plain, i, layer.attention()));
    if (!is_moe_layer(plain, i)) {
      layer.ffn = gated_mlp(plain, i, {"feed_forward", ""}, spec.hidden, dense);
      continue;
    }
    ASSIGN_OR_RETURN(
        MoeSpec moe,
        mixture(plain, spec, i, {.block = "feed_forward", .router = "router", .fused_transposed = true},
                width, false));
    moe.score = RouterScore::kSigmoid;
    moe.weighs_input = true;
    moe.shared = gated_mlp(plain, i, {"feed_forward.shared_expert", "_shexp"}, spec.hidden, width);
    layer.ffn = std::move(moe);
  }
  return spec;
}

}  // namespace mlxf::model
