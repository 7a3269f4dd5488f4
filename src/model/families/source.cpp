#include "model/families/source.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace mlxf::model {
namespace {

// GGUF keys (after "<architecture>.") and the config.json fields that mean the same.
struct KeyPair {
  const char* gguf;
  const char* hf;
};
constexpr KeyPair kIntegers[] = {
    {"block_count", "num_hidden_layers"},
    {"embedding_length", "hidden_size"},
    {"feed_forward_length", "intermediate_size"},
    {"attention.head_count", "num_attention_heads"},
    {"attention.head_count_kv", "num_key_value_heads"},
    {"attention.key_length", "head_dim"},
    {"attention.key_length_swa", "sliding_head_dim"},
    {"attention.shared_kv_layers", "num_kv_shared_layers"},
    {"embedding_length_per_layer_input", "hidden_size_per_layer_input"},
    {"altup.num_inputs", "altup_num_inputs"},
    {"altup.active_idx", "altup_active_idx"},
    {"context_length", "max_position_embeddings"},
    {"expert_count", "num_experts"},
    {"expert_used_count", "num_experts_per_tok"},
    {"expert_feed_forward_length", "moe_intermediate_size"},
    {"expert_shared_feed_forward_length", "shared_expert_intermediate_size"},
    {"attention.sliding_window", "sliding_window"},
    {"ssm.conv_kernel", "linear_conv_kernel_dim"},
    {"ssm.state_size", "linear_key_head_dim"},
    {"ssm.inner_size", "linear_inner_size"},
    {"ssm.group_count", "linear_num_key_heads"},
    {"ssm.time_step_rank", "linear_num_value_heads"},
    {"rope.dimension_count", "rope_dimensions"},
    {"rope.scaling.original_context_length", "original_max_position_embeddings"},
    {"expert_group_count", "n_group"},
    {"expert_group_used_count", "topk_group"},
    {"expert_shared_count", "n_shared_experts"},
    {"expert_gating_func", "expert_gating_func"},
    {"leading_dense_block_count", "first_k_dense_replace"},
    {"interleave_moe_layer_step", "interleave_moe_layer_step"},
};
constexpr KeyPair kNumbers[] = {
    {"attention.layer_norm_rms_epsilon", "rms_norm_eps"},
    {"rope.freq_base", "rope_theta"},
    {"rope.freq_base_swa", "rope_local_base_freq"},
    {"attn_logit_softcapping", "attn_logit_softcapping"},
    {"final_logit_softcapping", "final_logit_softcapping"},
    {"attention.clamp_kqv", "clip_qkv"},
    {"rope.scaling.attn_factor", "rope_attention_factor"},
    {"expert_weights_scale", "routed_scaling_factor"},
};

std::string type_of_gguf(const std::string& architecture, const Json& config) {
  if (architecture == "llama" && find_int(config, "num_experts").value_or(0) > 0) return "mixtral";
  if (architecture == "qwen2moe") return "qwen2_moe";
  if (architecture == "qwen3moe") return "qwen3_moe";
  if (architecture == "deepseek2")
    return find_string(config, "scoring_func") == "sigmoid" ? "deepseek_v3" : "deepseek_v2";
  if (architecture == "qwen3next") return "qwen3_next";
  if (architecture == "qwen35") return "qwen3_5";
  if (architecture == "qwen35moe") return "qwen3_5_moe";
  if (architecture == "gpt-oss") return "gpt_oss";
  if (architecture == "glm4moe") return "glm4_moe";
  if (architecture == "minimax-m2") return "minimax_m2";
  return architecture;
}

// llama.cpp knows the largest models of these families by their depth: their queries are scaled by width / heads.
void add_query_scale(const std::string& architecture, Json& config) {
  const auto layers = find_int(config, "num_hidden_layers");
  const auto heads = find_int(config, "num_attention_heads");
  const auto hidden = find_int(config, "hidden_size");
  const bool largest =
      (architecture == "gemma2" && layers == 46) || (architecture == "gemma3" && layers == 62);
  if (largest && hidden && heads && *heads > 0) config["query_pre_attn_scalar"] = *hidden / *heads;
}

// Latent attention, as DeepSeek's configurations describe it, and the mixture beside it: what llama.cpp leaves out is
// off or one.
void add_latent_attention(const formats::ModelManifest& manifest, const std::string& prefix, Json& config) {
  const auto integer = [&](const char* key) { return manifest.metadata.find_int(prefix + key); };
  const auto rank = integer("attention.kv_lora_rank");
  if (!rank) return;
  config["kv_lora_rank"] = *rank;
  if (const auto value = integer("attention.q_lora_rank")) config["q_lora_rank"] = *value;
  // Older files describe the heads, newer ones what is cached of them and the heads apart.
  const auto key = integer("attention.key_length_mla");
  const auto value = integer("attention.value_length_mla");
  const int64_t rope = integer("rope.dimension_count").value_or(0);
  config["qk_rope_head_dim"] = rope;
  config["qk_nope_head_dim"] = key.value_or(integer("attention.key_length").value_or(0)) - rope;
  config["v_head_dim"] = value.value_or(integer("attention.value_length").value_or(0));
  // Files without the key are of the second version, unless experts are chosen with the third one's correction.
  int64_t gating = integer("expert_gating_func").value_or(0);
  const int64_t dense = integer("leading_dense_block_count").value_or(0);
  if (gating == 0 && manifest.find("blk." + std::to_string(dense) + ".exp_probs_b.bias") != nullptr)
    gating = 2;
  config["scoring_func"] = gating <= 1 ? Json("softmax") : gating == 2 ? Json("sigmoid") : Json(gating);
  const int64_t groups = integer("expert_group_count").value_or(1);
  config["n_group"] = groups;
  config["topk_group"] = integer("expert_group_used_count").value_or(groups);
  if (gating != 2) config["topk_method"] = groups > 1 ? "group_limited_greedy" : "greedy";
  config["first_k_dense_replace"] = dense;
  config["n_shared_experts"] = integer("expert_shared_count").value_or(0);
  config["norm_topk_prob"] = manifest.metadata.find_bool(prefix + "expert_weights_norm").value_or(false);
  const double scale = manifest.metadata.find_number(prefix + "expert_weights_scale").value_or(0.0);
  config["routed_scaling_factor"] = scale == 0.0 ? 1.0 : scale;
  if (const auto temperature = manifest.metadata.find_number(prefix + "attention.temperature_scale"))
    config["attention_temperature_scale"] = *temperature;
  // llama.cpp's converter writes a tenth of it; mscale itself is the same in all published models.
  const auto multiplier = manifest.metadata.find_number(prefix + "rope.scaling.yarn_log_multiplier");
  if (multiplier && config.contains("rope_scaling"))
    config["rope_scaling"]["mscale"] = config["rope_scaling"]["mscale_all_dim"] = *multiplier * 10.0;
}

Result<Source> gguf_source(const formats::ModelManifest& manifest) {
  Source source;
  source.gguf = true;
  source.manifest = &manifest;
  const auto architecture = manifest.metadata.find_string("general.architecture");
  if (!architecture) return fail(ErrorCode::kCorrupt, manifest.path + ": general.architecture is missing");
  const std::string prefix = *architecture + ".";
  source.config = Json::object();
  for (const KeyPair& key : kIntegers)
    if (const auto value = manifest.metadata.find_int(prefix + key.gguf)) source.config[key.hf] = *value;
  for (const KeyPair& key : kNumbers)
    if (const auto value = manifest.metadata.find_number(prefix + key.gguf)) source.config[key.hf] = *value;
  if (const auto type = manifest.metadata.find_string(prefix + "rope.scaling.type");
      type && *type != "none") {
    Json scaling = Json::object();
    scaling["rope_type"] = *type;
    if (const auto factor = manifest.metadata.find_number(prefix + "rope.scaling.factor"))
      scaling["factor"] = *factor;
    if (const auto factor = manifest.metadata.find_number(prefix + "rope.scaling.attn_factor"))
      scaling["attention_factor"] = *factor;
    for (const char* field : {"beta_fast", "beta_slow"})
      if (const auto beta = manifest.metadata.find_number(prefix + "rope.scaling.yarn_" + field))
        scaling[field] = *beta;
    source.config["rope_scaling"] = scaling;
  }
  // The last blocks are the extra ones that predict further tokens.
  const auto extra = manifest.metadata.find_int(prefix + "nextn_predict_layers");
  const auto blocks = find_int(source.config, "num_hidden_layers");
  if (extra && blocks && *extra > 0) source.config["num_hidden_layers"] = *blocks - std::min(*blocks, *extra);
  if (const auto normalise = manifest.metadata.find_bool(prefix + "expert_weights_norm"))
    source.config["norm_topk_prob"] = *normalise;
  add_latent_attention(manifest, prefix, source.config);
  add_query_scale(*architecture, source.config);
  const formats::TensorEntry* embedding = manifest.find("token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2)
    return fail(ErrorCode::kCorrupt, manifest.path + ": tensor token_embd.weight is missing or not a matrix");
  source.config["vocab_size"] = embedding->shape[0];
  source.config["tie_word_embeddings"] = manifest.find("output.weight") == nullptr;
  source.type = type_of_gguf(*architecture, source.config);
  return source;
}

Result<Source> safetensors_source(const formats::ModelManifest& manifest) {
  Source source;
  source.manifest = &manifest;
  source.config = manifest.config;
  const auto outer = find_string(source.config, "model_type");
  if (const Json* text = find_member(manifest.config, "text_config")) {
    if (!text->is_object())
      return fail(ErrorCode::kCorrupt, manifest.path + ": text_config in config.json must be an object");
    source.config = *text;
    if (!find_member(source.config, "tie_word_embeddings"))
      if (const auto tied = find_bool(manifest.config, "tie_word_embeddings"))
        source.config["tie_word_embeddings"] = *tied;
  }
  source.type = find_string(source.config, "model_type").value_or(outer.value_or(""));
  if (source.type.empty())
    return fail(ErrorCode::kCorrupt, manifest.path + ": config.json has no model_type");
  for (const char* prefix : {"model.", "language_model.model.", "model.language_model.", ""}) {
    source.prefix = prefix;
    if (source.has(source.prefix + "embed_tokens")) return source;
  }
  return fail(ErrorCode::kNotFound,
              manifest.path + " has no tensor model.embed_tokens.weight; is it a language model?");
}

Status parse_scaling(const Source& source, const Json& params, const std::string& type, RopeSpec& rope) {
  const double positions = source.number("max_position_embeddings", 0);
  const double original = find_number(params, "original_max_position_embeddings")
                              .value_or(source.number("original_max_position_embeddings", positions));
  const double factor = find_number(params, "factor").value_or(original > 0 ? positions / original : 1.0);
  rope.factor = static_cast<float>(factor);
  rope.original_positions = static_cast<float>(original);
  const auto attention_factor = find_number(params, "attention_factor");
  if (type == "linear") {
    rope.scaling = RopeScaling::kLinear;
  } else if (type == "dynamic") {
    rope.scaling = RopeScaling::kDynamic;
  } else if (type == "llama3") {
    rope.scaling = RopeScaling::kLlama3;
    rope.low_frequency_factor = static_cast<float>(find_number(params, "low_freq_factor").value_or(1.0));
    rope.high_frequency_factor = static_cast<float>(find_number(params, "high_freq_factor").value_or(4.0));
  } else if (type == "yarn") {
    rope.scaling = RopeScaling::kYarn;
    rope.beta_fast = static_cast<float>(find_number(params, "beta_fast").value_or(32.0));
    rope.beta_slow = static_cast<float>(find_number(params, "beta_slow").value_or(1.0));
    rope.truncate = find_bool(params, "truncate").value_or(true);
    const double all = find_number(params, "mscale_all_dim").value_or(0.0);
    const double own = find_number(params, "mscale").value_or(0.0);
    const double by_scale = own != 0.0 && all != 0.0 ? yarn_scale(factor, own) / yarn_scale(factor, all)
                                                     : yarn_scale(factor, 1.0);
    rope.attention_factor = static_cast<float>(attention_factor.value_or(by_scale));
  } else if (type == "proportional") {
    rope.scaling = RopeScaling::kProportional;
    rope.factor = static_cast<float>(find_number(params, "factor").value_or(1.0));
  } else if (type == "longrope" || type == "su") {
    rope.scaling = RopeScaling::kLongRope;
    const double stretch = original > 0 ? positions / original : 1.0;
    rope.attention_factor = static_cast<float>(attention_factor.value_or(
        stretch <= 1.0 ? 1.0 : std::sqrt(1.0 + std::log(stretch) / std::log(original))));
    for (const auto& [field, factors] :
         {std::pair{"short_factor", &rope.short_factors}, {"long_factor", &rope.long_factors}}) {
      const Json* values = find_member(params, field);
      if (values == nullptr || !values->is_array()) continue;
      for (const Json& value : *values) factors->push_back(value.is_number() ? value.get<float>() : 0.0f);
    }
  } else {
    return fail(ErrorCode::kUnsupported, "rope scaling \"" + type +
                                             "\" is not supported; supported are default, linear, "
                                             "dynamic, llama3, yarn, longrope and proportional");
  }
  if (!(rope.factor > 0.0f) || !(rope.original_positions >= 0.0f))
    return fail(ErrorCode::kCorrupt,
                "the rope scaling's factor and original_max_position_embeddings must be positive");
  return {};
}

}  // namespace

std::string Source::layer(uint32_t index, const std::string& hf_name, const std::string& gguf_name) const {
  return gguf ? "blk." + std::to_string(index) + "." + gguf_name
              : prefix + "layers." + std::to_string(index) + "." + hf_name;
}

std::string Source::global(const std::string& hf_name, const std::string& gguf_name) const {
  if (gguf) return gguf_name;
  if (hf_name != "lm_head") return prefix + hf_name;
  // The head sits beside the model, not inside it.
  return prefix == "language_model.model." ? "language_model.lm_head" : "lm_head";
}

bool Source::has(const std::string& name) const {
  return manifest->find(name + ".weight") != nullptr || manifest->find(name) != nullptr;
}

Result<uint32_t> Source::count(const std::string& field, int64_t fallback, int64_t limit) const {
  const Json* member = find_member(config, field);
  if (member == nullptr && fallback != 0) return static_cast<uint32_t>(fallback);
  const auto value = find_int(config, field);
  if (!value || *value < 1 || *value > limit)
    return fail(ErrorCode::kCorrupt, manifest->path + ": the configuration's " + field +
                                         " must be an integer from 1 to " + std::to_string(limit) +
                                         (member == nullptr ? ", but is missing" : ", but is ") +
                                         (member == nullptr ? "" : dump_json(*member).substr(0, 40)));
  return static_cast<uint32_t>(*value);
}

float Source::number(const std::string& field, double fallback) const {
  return static_cast<float>(find_number(config, field).value_or(fallback));
}

bool Source::flag(const std::string& field, bool fallback) const {
  return find_bool(config, field).value_or(fallback);
}

Result<Source> make_source(const formats::ModelManifest& manifest) {
  return manifest.container == formats::Container::kGguf ? gguf_source(manifest)
                                                         : safetensors_source(manifest);
}

std::string_view gguf_key(std::string_view field) {
  const auto find = [field](const auto& keys) -> const KeyPair* {
    const auto* found = std::find_if(std::begin(keys), std::end(keys),
                                     [field](const KeyPair& key) { return field == key.hf; });
    return found == std::end(keys) ? nullptr : found;
  };
  const KeyPair* key = find(kIntegers);
  if (key == nullptr) key = find(kNumbers);
  CHECK(key != nullptr);
  return key->gguf;
}

double yarn_scale(double factor, double mscale) {
  return factor <= 1.0 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

Result<RopeSpec> parse_rope(const Source& source, const Json* params, uint32_t head_dim, double base) {
  RopeSpec rope;
  const Json empty = Json::object();
  const Json& p = params != nullptr ? *params : empty;
  rope.base = static_cast<float>(find_number(p, "rope_theta").value_or(base));
  const double partial =
      find_number(p, "partial_rotary_factor").value_or(source.number("partial_rotary_factor", 1.0));
  const std::string type = find_string(p, "rope_type").value_or(find_string(p, "type").value_or("default"));
  // Proportional frequencies are those of the whole head, and only the first of them turn.
  const bool proportional = type == "proportional";
  rope.dims = proportional ? head_dim : static_cast<uint32_t>(static_cast<double>(head_dim) * partial);
  if (const auto dims = find_int(source.config, "rope_dimensions"); dims && *dims > 0 && *dims <= head_dim)
    rope.dims = static_cast<uint32_t>(*dims);
  if (!(rope.base > 0.0f) || rope.dims < 2 || rope.dims % 2 != 0 || rope.dims > head_dim)
    return fail(ErrorCode::kCorrupt, source.manifest->path + ": rope over " + std::to_string(rope.dims) +
                                         " of " + std::to_string(head_dim) + " elements with base " +
                                         std::to_string(rope.base) + " is not possible");
  if (proportional) {
    if (!(partial >= 0.0 && partial <= 1.0))
      return fail(ErrorCode::kCorrupt, source.manifest->path + ": partial_rotary_factor must be from 0 to 1");
    rope.rotated_pairs = static_cast<uint32_t>(partial * head_dim / 2.0);
  }
  if (type != "default") RETURN_IF_ERROR(parse_scaling(source, p, type, rope));
  return rope;
}

}  // namespace mlxf::model
