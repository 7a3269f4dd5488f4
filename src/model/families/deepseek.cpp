#include <cmath>

#include "model/families/families.h"

namespace mlxf::model {
namespace {

// What the versions differ in, and where their configurations are silent.
struct Version {
  RouterScore score;
  bool normalise_top_k;
  float routed_scale;
  uint32_t dense_layers, shared_experts;
  uint32_t groups, groups_used;
};
constexpr Version kV2{RouterScore::kSoftmax, false, 1.0f, 0, 2, 1, 1};
constexpr Version kV3{RouterScore::kSigmoid, true, 2.5f, 3, 1, 8, 4};

// The reference builds the latents' norms without the configuration's epsilon.
constexpr float kLatentEps = 1e-6f;

bool given(const Source& source, const char* field) { return find_member(source.config, field) != nullptr; }

Status refuse(const Source& source, const std::string& field, const std::string& supported) {
  const Json* member = find_member(source.config, field);
  return fail(ErrorCode::kUnsupported,
              source.manifest->path + ": the configuration's " + field + " " +
                  (member == nullptr ? "(absent)" : dump_json(*member).substr(0, 40)) +
                  " is not supported for " + source.type + "; supported: " + supported);
}

// A count that may be zero; null counts as zero.
Result<uint32_t> count_or_zero(const Source& source, const char* field, uint32_t fallback) {
  if (!source.config.contains(field)) return fallback;
  if (!given(source, field) || source.config[field] == 0) return uint32_t{0};
  return source.count(field, 0, 65536);
}

Status check_options(const Source& source, const Version& version) {
  const bool sigmoid = version.score == RouterScore::kSigmoid;
  const char* score = sigmoid ? "sigmoid" : "softmax";
  if (given(source, "scoring_func") && source.config["scoring_func"] != score)
    return refuse(source, "scoring_func", score);
  if (sigmoid && given(source, "topk_method") && source.config["topk_method"] != "noaux_tc")
    return refuse(source, "topk_method", "noaux_tc");
  if (given(source, "moe_layer_freq") && source.config["moe_layer_freq"] != 1)
    return refuse(source, "moe_layer_freq", "1");
  if (given(source, "attention_temperature_scale") && source.config["attention_temperature_scale"] != 0)
    return refuse(source, "attention_temperature_scale", "0");
  return {};
}

Result<Activation> activation(const Source& source) {
  const std::string name = find_string(source.config, "hidden_act").value_or("silu");
  if (name == "silu" || name == "swish") return Activation::kSilu;
  if (name == "gelu_pytorch_tanh" || name == "gelu_new") return Activation::kGeluTanh;
  RETURN_IF_ERROR(refuse(source, "hidden_act", "silu, gelu_pytorch_tanh"));
  return Activation::kSilu;
}

// YaRN's correction of the logits, which the reference applies whatever stretches the rope.
double logit_scale(const Source& source, const RopeSpec& rope) {
  if (rope.scaling == RopeScaling::kNone) return 1.0;
  const Json* params = find_member(source.config, "rope_parameters");
  if (params == nullptr) params = find_member(source.config, "rope_scaling");
  const double all = params != nullptr ? find_number(*params, "mscale_all_dim").value_or(0.0) : 0.0;
  if (all == 0.0) return 1.0;
  const double mscale = yarn_scale(rope.factor, all);
  return mscale * mscale;
}

// What all layers have alike.
Result<LatentAttentionSpec> dimensions(const Source& source, const ModelSpec& spec) {
  LatentAttentionSpec a;
  ASSIGN_OR_RETURN(a.heads, source.count("num_attention_heads", 0, 4096));
  ASSIGN_OR_RETURN(a.nope_dim, source.count("qk_nope_head_dim", 128, 4096));
  ASSIGN_OR_RETURN(a.rope_dim, source.count("qk_rope_head_dim", 64, 4096));
  ASSIGN_OR_RETURN(a.value_dim, source.count("v_head_dim", 128, 4096));
  ASSIGN_OR_RETURN(a.rank, source.count("kv_lora_rank", 512, LatentAttentionSpec::kRankMax));
  // Null, and in GGUF absence, means that there is none.
  if (given(source, "q_lora_rank") || !(source.gguf || source.config.contains("q_lora_rank"))) {
    ASSIGN_OR_RETURN(a.query_rank, source.count("q_lora_rank", 1536, kernels::kMatmulColsMax));
  }
  if (uint64_t{a.heads} * std::max(a.q_head_dim(), a.value_dim) > kernels::kMatmulColsMax)
    return fail(ErrorCode::kCorrupt, source.manifest->path + ": num_attention_heads " +
                                         std::to_string(a.heads) + " times the width of a head exceeds " +
                                         std::to_string(kernels::kMatmulColsMax));
  const RopeSpec& rope = spec.ropes[0];
  if (rope.dims != a.rope_dim)
    return fail(ErrorCode::kUnsupported, source.manifest->path + ": rope over " + std::to_string(rope.dims) +
                                             " of the " + std::to_string(a.rope_dim) +
                                             " elements of qk_rope_head_dim is not supported");
  a.rope = 0;
  a.scale = static_cast<float>(logit_scale(source, rope) / std::sqrt(static_cast<double>(a.q_head_dim())));
  a.latent_eps = kLatentEps;
  return a;
}

// The keys' and values' matrices: of both as published, or in two as MLX and llama.cpp write them.
Status latent_products(const Source& source, uint32_t index, LatentAttentionSpec& a) {
  const std::string keys = source.layer(index, "self_attn.embed_q", "attn_k_b");
  if (source.has(keys)) {
    const std::string values = source.layer(index, "self_attn.unembed_out", "attn_v_b");
    a.k_b = {keys, a.heads * a.rank, a.nope_dim, 0, a.heads * a.rank};
    a.v_b = {values, a.value_width(), a.rank, 0, a.value_width()};
    a.k_b.by_row = a.v_b.by_row = true;
    return {};
  }
  const uint32_t rows = a.heads * (a.nope_dim + a.value_dim);
  a.kv_b = {source.layer(index, "self_attn.kv_b_proj", "attn_kv_b"), rows, a.rank, 0, rows};
  a.kv_b.by_row = true;
  const formats::TensorEntry* stored = source.manifest->find(a.kv_b.name + ".weight");
  // Scales are per 128 rows, and each head's rows are multiplied on their own.
  if (stored != nullptr && stored->dtype == DType::kF8E4M3 &&
      (a.nope_dim % 128 != 0 || a.value_dim % 128 != 0))
    return fail(ErrorCode::kUnsupported,
                source.manifest->path + ": tensor " + stored->name +
                    " in fp8 needs a qk_nope_head_dim and v_head_dim that are multiples of 128");
  return {};
}

Status attention(const Source& source, uint32_t index, uint32_t hidden, LatentAttentionSpec& a) {
  const auto matrix = [&](const char* hf, const char* gguf, uint32_t rows, uint32_t cols) {
    return MatrixSource{source.layer(index, hf, gguf), rows, cols, 0, rows};
  };
  const auto bias = [&](const char* hf, const char* gguf, uint32_t size) {
    const std::string name = source.layer(index, hf, gguf);
    const bool present = source.gguf ? source.has(name) : source.flag("attention_bias", false);
    return present ? VectorSource{name, size, false} : VectorSource{};
  };
  if (a.query_rank != 0) {
    a.q_a = matrix("self_attn.q_a_proj", "attn_q_a", a.query_rank, hidden);
    a.q_a_bias = bias("self_attn.q_a_proj.bias", "attn_q_a.bias", a.query_rank);
    a.q_norm = {source.layer(index, "self_attn.q_a_layernorm.weight", "attn_q_a_norm.weight"), a.query_rank,
                false};
    a.q = matrix("self_attn.q_b_proj", "attn_q_b", a.q_width(), a.query_rank);
  } else {
    a.q = matrix("self_attn.q_proj", "attn_q", a.q_width(), hidden);
  }
  a.kv_a = matrix("self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa", a.latent_width(), hidden);
  a.kv_a_bias = bias("self_attn.kv_a_proj_with_mqa.bias", "attn_kv_a_mqa.bias", a.latent_width());
  a.kv_norm = {source.layer(index, "self_attn.kv_a_layernorm.weight", "attn_kv_a_norm.weight"), a.rank,
               false};
  a.o = matrix("self_attn.o_proj", "attn_output", hidden, a.value_width());
  a.o_bias = bias("self_attn.o_proj.bias", "attn_output.bias", hidden);
  return latent_products(source, index, a);
}

Result<ExpertGroups> groups(const Source& source, const Version& version, const MoeSpec& moe) {
  const std::string method = find_string(source.config, "topk_method").value_or("greedy");
  const bool sigmoid = version.score == RouterScore::kSigmoid;
  if (!sigmoid && method == "greedy") return ExpertGroups{};
  if (!sigmoid && method != "group_limited_greedy") {
    RETURN_IF_ERROR(refuse(source, "topk_method", "greedy, group_limited_greedy"));
  }
  return expert_groups(source, moe,
                       {version.groups, version.groups_used,
                        sigmoid ? ExpertGroups::Score::kTwoLargest : ExpertGroups::Score::kLargest});
}

Result<MoeSpec> experts(const Source& source, const ModelSpec& spec, uint32_t index, const Version& version,
                        Activation activation) {
  ASSIGN_OR_RETURN(const uint32_t width, source.count("moe_intermediate_size", 0, kernels::kMatmulColsMax));
  // The second version's reference has the option and does not read it.
  const bool normalises = version.score == RouterScore::kSigmoid || source.gguf;
  const bool normalise = normalises && source.flag("norm_topk_prob", version.normalise_top_k);
  ASSIGN_OR_RETURN(MoeSpec moe, mixture(source, spec, index, {}, width, normalise));
  const auto count = static_cast<uint32_t>(moe.experts.size());
  moe.activation = activation;
  moe.score = version.score;
  moe.routed_scale = source.number("routed_scaling_factor", version.routed_scale);
  ASSIGN_OR_RETURN(moe.groups, groups(source, version, moe));
  const std::string bias = source.layer(index, "mlp.gate.e_score_correction_bias", "exp_probs_b.bias");
  if (source.gguf ? source.has(bias) : version.score == RouterScore::kSigmoid)
    moe.choice_bias = {bias, count, false};
  ASSIGN_OR_RETURN(const uint32_t shared, count_or_zero(source, "n_shared_experts", version.shared_experts));
  if (shared == 0) return moe;
  if (uint64_t{shared} * width > kernels::kMatmulColsMax)
    return fail(ErrorCode::kCorrupt, source.manifest->path + ": n_shared_experts " + std::to_string(shared) +
                                         " times moe_intermediate_size " + std::to_string(width) +
                                         " exceeds " + std::to_string(kernels::kMatmulColsMax));
  MlpSpec mlp = gated_mlp(source, index, {"mlp.shared_experts", "_shexp"}, spec.hidden, shared * width);
  mlp.activation = activation;
  if (source.flag("mlp_bias", false)) {
    mlp.gate_bias = {source.layer(index, "mlp.shared_experts.gate_proj.bias", ""), mlp.width, false};
    mlp.up_bias = {source.layer(index, "mlp.shared_experts.up_proj.bias", ""), mlp.width, false};
    mlp.down_bias = {source.layer(index, "mlp.shared_experts.down_proj.bias", ""), spec.hidden, false};
  }
  moe.shared = mlp;
  return moe;
}

// Latent attention; dense layers first, then experts beside shared ones. Layers behind the last (the extra ones that
// predict further tokens) are not part of the model and stay unread.
Result<ModelSpec> deepseek(Source source, const Version& version) {
  RETURN_IF_ERROR(check_options(source, version));
  ASSIGN_OR_RETURN(const Activation act, activation(source));
  // What decoder() reads as a head is the rotated part alone.
  ASSIGN_OR_RETURN(const uint32_t rope_dim, source.count("qk_rope_head_dim", 64, 4096));
  source.config["head_dim"] = rope_dim;
  source.config.erase("num_key_value_heads");
  const bool mixture = given(source, source.gguf ? "num_experts" : "n_routed_experts");
  if (!source.gguf && mixture) source.config["num_experts"] = source.config["n_routed_experts"];
  ASSIGN_OR_RETURN(ModelSpec spec, decoder(source, {}));
  const bool interleaved =
      version.score == RouterScore::kSoftmax || source.gguf || source.flag("rope_interleave", true);
  spec.ropes[0].layout = interleaved ? RopeLayout::kInterleaved : RopeLayout::kHalfSplit;
  ASSIGN_OR_RETURN(const LatentAttentionSpec alike, dimensions(source, spec));
  ASSIGN_OR_RETURN(const uint32_t dense,
                   count_or_zero(source, "first_k_dense_replace", version.dense_layers));
  for (uint32_t i = 0; i < spec.layers.size(); ++i) {
    LatentAttentionSpec a = alike;
    RETURN_IF_ERROR(attention(source, i, spec.hidden, a));
    spec.layers[i].mixer = std::move(a);
    if (mixture && i >= dense) {
      ASSIGN_OR_RETURN(spec.layers[i].ffn, experts(source, spec, i, version, act));
    } else {
      ASSIGN_OR_RETURN(spec.layers[i].ffn, dense_mlp(source, spec, i, act));
    }
  }
  return spec;
}

}  // namespace

Result<ModelSpec> deepseek_v2(const Source& source) { return deepseek(source, kV2); }

Result<ModelSpec> deepseek_v3(const Source& source) { return deepseek(source, kV3); }

}  // namespace mlxf::model
