#include <cmath>

#include "model/families/families.h"

namespace mlxf::model {
namespace {

struct Dimensions {
  uint32_t layers = 0, heads = 0, kv_heads = 0, head_dim = 0;
};

Result<Dimensions> dimensions(const Source& source, ModelSpec& spec) {
  Dimensions d;
  ASSIGN_OR_RETURN(spec.hidden, source.count("hidden_size", 0, 1 << 17));
  ASSIGN_OR_RETURN(spec.vocab, source.count("vocab_size"));
  ASSIGN_OR_RETURN(spec.context_max, source.count("max_position_embeddings", 4096, INT32_MAX));
  ASSIGN_OR_RETURN(d.layers, source.count("num_hidden_layers", 0, 1024));
  ASSIGN_OR_RETURN(d.heads, source.count("num_attention_heads", 0, 4096));
  ASSIGN_OR_RETURN(d.kv_heads, source.count("num_key_value_heads", d.heads, 4096));
  ASSIGN_OR_RETURN(d.head_dim, source.count("head_dim", std::max(1u, spec.hidden / d.heads), 4096));
  if (d.heads % d.kv_heads != 0)
    return fail(ErrorCode::kCorrupt,
                source.manifest->path + ": num_attention_heads " + std::to_string(d.heads) +
                    " is not a multiple of num_key_value_heads " + std::to_string(d.kv_heads));
  if (uint64_t{d.heads} * d.head_dim > kernels::kMatmulColsMax)
    return fail(ErrorCode::kCorrupt, source.manifest->path + ": num_attention_heads " +
                                         std::to_string(d.heads) + " times head_dim " +
                                         std::to_string(d.head_dim) + " exceeds " +
                                         std::to_string(kernels::kMatmulColsMax));
  spec.norm_eps = source.number("rms_norm_eps", 1e-6);
  if (!(spec.norm_eps >= 0.0f && spec.norm_eps < 1.0f))
    return fail(ErrorCode::kCorrupt, source.manifest->path + ": rms_norm_eps must be between 0 and 1");
  return d;
}

// llama.cpp's converter can write one matrix of the rows of q, k and v (--fuse-qkv), their biases likewise.
void name_fused_attention(const Source& source, uint32_t index, uint32_t hidden, AttentionSpec& a) {
  const std::string qkv = source.layer(index, "", "attn_qkv");
  const std::string bias = qkv + ".bias";
  const uint32_t all = a.q_rows() + 2 * a.kv_width();
  const bool biased = source.has(bias);
  uint32_t row = 0;
  const auto next = [&](uint32_t rows, MatrixSource& matrix, VectorSource& vector) {
    matrix = {qkv, rows, hidden, row, all};
    vector = biased ? VectorSource{.name = bias, .size = rows, .first = row, .stored = all} : VectorSource{};
    row += rows;
  };
  next(a.q_rows(), a.q, a.q_bias);
  next(a.kv_width(), a.k, a.k_bias);
  next(a.kv_width(), a.v, a.v_bias);
}

}  // namespace

void name_attention(const Source& source, const DecoderTraits& traits, uint32_t index, uint32_t hidden,
                    AttentionSpec& a) {
  const auto matrix = [&](const char* hf, const char* gguf, uint32_t rows, uint32_t cols) {
    return MatrixSource{source.layer(index, hf, gguf), rows, cols, 0, rows};
  };
  a.q = matrix("self_attn.q_proj", "attn_q", a.q_rows(), hidden);
  a.k = matrix("self_attn.k_proj", "attn_k", a.kv_width(), hidden);
  a.v = matrix("self_attn.v_proj", "attn_v", a.kv_width(), hidden);
  a.o = matrix("self_attn.o_proj", "attn_output", hidden, a.q_width());
  const auto bias = [&](const char* hf, const char* gguf, uint32_t size, bool expected) {
    const std::string name = source.layer(index, hf, gguf);
    // GGUF has no flag for biases: there the tensor itself tells.
    const bool present = source.gguf ? source.has(name) : expected;
    return present ? VectorSource{name, size, false} : VectorSource{};
  };
  const bool qkv = source.flag("attention_bias", source.flag("qkv_bias", traits.qkv_bias));
  a.q_bias = bias("self_attn.q_proj.bias", "attn_q.bias", a.q_rows(), qkv);
  a.k_bias = bias("self_attn.k_proj.bias", "attn_k.bias", a.kv_width(), qkv);
  a.v_bias = bias("self_attn.v_proj.bias", "attn_v.bias", a.kv_width(), qkv);
  a.o_bias = bias("self_attn.o_proj.bias", "attn_output.bias", hidden, qkv && traits.output_bias_follows);
  if (source.gguf && !source.has(a.q.name) && source.has(source.layer(index, "", "attn_qkv")))
    name_fused_attention(source, index, hidden, a);
  if (traits.qk_norm == QkNorm::kNone) return;
  const bool full = traits.qk_norm == QkNorm::kFullWidth;
  const bool add_one = traits.norm_add_one && !source.gguf;
  a.q_norm = {source.layer(index, "self_attn.q_norm.weight", "attn_q_norm.weight"),
              full ? a.q_width() : a.head_dim, add_one};
  a.k_norm = {source.layer(index, "self_attn.k_norm.weight", "attn_k_norm.weight"),
              full ? a.kv_width() : a.head_dim, add_one};
}

namespace {

LayerSpec layer_norms(const Source& source, const DecoderTraits& traits, uint32_t index, uint32_t hidden) {
  LayerSpec layer;
  const bool add_one = traits.norm_add_one && !source.gguf;
  const auto norm = [&](const char* hf, const char* gguf) {
    return VectorSource{source.layer(index, std::string(hf) + ".weight", std::string(gguf) + ".weight"),
                        hidden, add_one};
  };
  layer.mixer_norm = norm("input_layernorm", "attn_norm");
  if (traits.sandwich_norms) {
    layer.mixer_post_norm = norm("post_attention_layernorm", "post_attention_norm");
    layer.ffn_norm = norm("pre_feedforward_layernorm", "ffn_norm");
    layer.ffn_post_norm = norm("post_feedforward_layernorm", "post_ffw_norm");
  } else {
    layer.ffn_norm = norm("post_attention_layernorm", "ffn_norm");
  }
  return layer;
}

}  // namespace

Result<ModelSpec> decoder(const Source& source, const DecoderTraits& traits) {
  ModelSpec spec;
  spec.architecture = source.type;
  ASSIGN_OR_RETURN(const Dimensions d, dimensions(source, spec));
  const Json* rope_params = find_member(source.config, "rope_parameters");
  if (rope_params == nullptr) rope_params = find_member(source.config, "rope_scaling");
  ASSIGN_OR_RETURN(RopeSpec rope,
                   parse_rope(source, rope_params, d.head_dim,
                              find_number(source.config, "rope_theta").value_or(traits.rope_base)));
  if (source.gguf && traits.gguf_interleaved_rope) rope.layout = RopeLayout::kInterleaved;
  if (source.gguf && source.has("rope_freqs")) rope.divisors = {"rope_freqs.weight", rope.dims / 2, false};
  spec.ropes.push_back(rope);
  spec.embedding = {source.global("embed_tokens", "token_embd"), spec.vocab, spec.hidden, 0, spec.vocab};
  spec.head = spec.embedding;
  if (!source.flag("tie_word_embeddings", traits.tied)) spec.head.name = source.global("lm_head", "output");
  spec.final_norm = {source.global("norm.weight", "output_norm.weight"), spec.hidden,
                     traits.norm_add_one && !source.gguf};
  spec.final_soft_cap = source.number("final_logit_softcapping", 0.0);
  for (uint32_t i = 0; i < d.layers; ++i) {
    LayerSpec layer = layer_norms(source, traits, i, spec.hidden);
    AttentionSpec& a = layer.attention();
    a.heads = d.heads;
    a.kv_heads = d.kv_heads;
    a.head_dim = d.head_dim;
    a.rope = 0;
    a.scale = 1.0f / std::sqrt(static_cast<float>(d.head_dim));
    a.soft_cap = source.number("attn_logit_softcapping", 0.0);
    a.clip_qkv = source.number("clip_qkv", 0.0);
    a.qk_norm = traits.qk_norm;
    name_attention(source, traits, i, spec.hidden, a);
    spec.layers.push_back(std::move(layer));
  }
  const Json* eos = find_member(source.config, "eos_token_id");
  if (eos != nullptr && eos->is_number_integer()) spec.eos.push_back(eos->get<TokenId>());
  if (eos != nullptr && eos->is_array())
    for (const Json& id : *eos)
      if (id.is_number_integer()) spec.eos.push_back(id.get<TokenId>());
  return spec;
}

MlpSpec gated_mlp(const Source& source, uint32_t index, const MlpNames& names, uint32_t hidden,
                  uint32_t width) {
  const auto matrix = [&](const char* hf, const char* gguf, uint32_t rows, uint32_t cols) {
    return MatrixSource{source.layer(index, names.block + "." + hf, gguf + names.gguf_suffix), rows, cols, 0,
                        rows};
  };
  MlpSpec mlp;
  mlp.width = width;
  mlp.gate = matrix("gate_proj", "ffn_gate", width, hidden);
  mlp.up = matrix("up_proj", "ffn_up", width, hidden);
  mlp.down = matrix("down_proj", "ffn_down", hidden, width);
  return mlp;
}

Status expect_option(const Source& source, const char* field, const Json& value) {
  const Json* found = find_member(source.config, field);
  if (found == nullptr || *found == value) return {};
  return fail(ErrorCode::kUnsupported, source.manifest->path + ": " + field + " is " +
                                           dump_json(*found).substr(0, 40) + "; " + source.type +
                                           " is supported with " + dump_json(value) + " only");
}

Result<MlpSpec> dense_mlp(const Source& source, const ModelSpec& spec, uint32_t index,
                          Activation activation) {
  ASSIGN_OR_RETURN(const uint32_t width, source.count("intermediate_size", 0, kernels::kMatmulColsMax));
  MlpSpec mlp = gated_mlp(source, index, {"mlp", ""}, spec.hidden, width);
  mlp.activation = activation;
  if (source.flag("mlp_bias", false)) {
    mlp.gate_bias = {source.layer(index, "mlp.gate_proj.bias", "ffn_gate.bias"), mlp.width, false};
    mlp.up_bias = {source.layer(index, "mlp.up_proj.bias", "ffn_up.bias"), mlp.width, false};
    mlp.down_bias = {source.layer(index, "mlp.down_proj.bias", "ffn_down.bias"), spec.hidden, false};
  }
  return mlp;
}

bool is_sparse_layer(const Source& source, uint32_t index) {
  if (source.gguf) return source.has(source.layer(index, "", "ffn_gate_inp"));
  if (const Json* dense = find_member(source.config, "mlp_only_layers");
      dense != nullptr && dense->is_array())
    for (const Json& layer : *dense)
      if (layer == index) return false;
  const auto step = find_int(source.config, "decoder_sparse_step").value_or(1);
  return step > 0 && (index + 1) % step == 0;
}

}  // namespace mlxf::model
