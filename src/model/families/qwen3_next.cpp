#include <algorithm>

#include "model/families/families.h"

namespace mlxf::model {
namespace {

constexpr uint32_t kTapsMax = 16;

tl::unexpected<Error> refuse(const Source& source, const std::string& what) {
  return fail(ErrorCode::kUnsupported, source.manifest->path + ": " + what);
}

// What the reference's configurations of these families say when they are silent.
Source with_defaults(const Source& source, uint32_t kv_heads) {
  Source full = source;
  const std::pair<const char*, double> numbers[] = {{"partial_rotary_factor", 0.25}};
  const std::pair<const char*, uint32_t> counts[] = {{"head_dim", 256},
                                                     {"num_key_value_heads", kv_heads},
                                                     {"linear_conv_kernel_dim", 4},
                                                     {"linear_key_head_dim", 128},
                                                     {"linear_value_head_dim", 128},
                                                     {"linear_num_key_heads", 16},
                                                     {"linear_num_value_heads", 32}};
  if (const auto inner = find_int(full.config, "linear_inner_size"))  // GGUF: of all heads.
    if (const auto heads = find_int(full.config, "linear_num_value_heads"); heads && *heads > 0)
      full.config["linear_value_head_dim"] = *inner / *heads;
  const auto set = [&full](const auto& defaults) {
    for (const auto& [field, value] : defaults)
      if (find_member(full.config, field) == nullptr) full.config[field] = value;
  };
  set(numbers);
  set(counts);
  return full;
}

Status check_options(const Source& source) {
  if (const auto activation = find_string(source.config, "hidden_act"); activation && *activation != "silu")
    return refuse(source,
                  "hidden_act \"" + *activation + "\" is not supported with a gated delta net, only silu");
  if (!source.flag("attn_output_gate", true))
    return refuse(source, "attn_output_gate false is not supported: attention without its output gate");
  return {};
}

Result<DeltaNetSpec> dimensions(const Source& source) {
  DeltaNetSpec net;
  ASSIGN_OR_RETURN(net.key_heads, source.count("linear_num_key_heads", 0, 4096));
  ASSIGN_OR_RETURN(net.value_heads, source.count("linear_num_value_heads", 0, 4096));
  ASSIGN_OR_RETURN(net.key_dim, source.count("linear_key_head_dim", 0, 4096));
  ASSIGN_OR_RETURN(net.value_dim, source.count("linear_value_head_dim", 0, 4096));
  ASSIGN_OR_RETURN(net.taps, source.count("linear_conv_kernel_dim", 0, kTapsMax));
  if (net.value_heads % net.key_heads != 0)
    return fail(ErrorCode::kCorrupt,
                source.manifest->path + ": linear_num_value_heads " + std::to_string(net.value_heads) +
                    " is not a multiple of linear_num_key_heads " + std::to_string(net.key_heads));
  if (uint64_t{net.value_heads} * net.value_dim > kernels::kMatmulColsMax ||
      uint64_t{net.key_heads} * net.key_dim > kernels::kMatmulColsMax)
    return fail(ErrorCode::kCorrupt, source.manifest->path +
                                         ": the heads of linear attention are wider in all than " +
                                         std::to_string(kernels::kMatmulColsMax));
  return net;
}

void delta_tensors(const Source& source, uint32_t index, uint32_t hidden, DeltaNetSpec& net) {
  const auto name = [&](const char* hf, const char* gguf) {
    return source.layer(index, std::string("linear_attn.") + hf, gguf);
  };
  const auto matrix = [&](const char* hf, const char* gguf, uint32_t rows, uint32_t cols) {
    return MatrixSource{name(hf, gguf), rows, cols, 0, rows};
  };
  net.inputs_by_key_head = source.has(name("in_proj_qkvz", "ssm_in"));
  if (net.inputs_by_key_head) {
    net.inputs = matrix("in_proj_qkvz", "ssm_in", net.channels() + net.value_width(), hidden);
  } else {
    net.inputs = matrix("in_proj_qkv", "attn_qkv", net.channels(), hidden);
    net.z = matrix("in_proj_z", "attn_gate", net.value_width(), hidden);
  }
  net.gates_by_key_head = source.has(name("in_proj_ba", "ssm_ba"));
  if (net.gates_by_key_head) {
    net.beta = matrix("in_proj_ba", "ssm_ba", 2 * net.value_heads, hidden);
  } else {
    net.beta = matrix("in_proj_b", "ssm_beta", net.value_heads, hidden);
    net.alpha = matrix("in_proj_a", "ssm_alpha", net.value_heads, hidden);
  }
  net.out = matrix("out_proj", "ssm_out", hidden, net.value_width());
  net.conv = {name("conv1d.weight", "ssm_conv1d.weight"), net.channels() * net.taps, false};
  net.time_bias = {name("dt_bias", "ssm_dt.bias"), net.value_heads, false};
  net.decay = {name("A_log", "ssm_a"), net.value_heads, false};
  net.norm = {name("norm.weight", "ssm_norm.weight"), net.value_dim, false};
  // llama.cpp stores A itself, and the heads of the later architectures in its own order.
  net.decay_is_log = !source.gguf;
  net.tiled_heads = source.gguf && source.type != "qwen3_next";
}

// By layer: whether it is a delta net; the others attend.
Result<std::vector<bool>> recurrent_layers(const Source& source) {
  ASSIGN_OR_RETURN(const uint32_t layers, source.count("num_hidden_layers", 0, 1024));
  std::vector<bool> recurrent(layers);
  const Json* types = find_member(source.config, "layer_types");
  if (!source.gguf && types != nullptr && types->is_array()) {
    if (types->size() != layers)
      return fail(ErrorCode::kCorrupt, source.manifest->path + ": layer_types has " +
                                           std::to_string(types->size()) + " entries for " +
                                           std::to_string(layers) + " layers");
    for (uint32_t i = 0; i < layers; ++i) {
      recurrent[i] = (*types)[i] == "linear_attention";
      if (!recurrent[i] && (*types)[i] != "full_attention")
        return refuse(source, "layer type " + dump_json((*types)[i]).substr(0, 40) + " is not supported");
    }
    return recurrent;
  }
  ASSIGN_OR_RETURN(const uint32_t interval, source.count("full_attention_interval", 4, 1024));
  for (uint32_t i = 0; i < layers; ++i)
    recurrent[i] = source.gguf ? source.has(source.layer(i, "", "ssm_conv1d")) : (i + 1) % interval != 0;
  return recurrent;
}

// mlx-lm adds the one to the norms' weights when it turns the convolution's [channels, 1, taps] into
// [channels, taps, 1].
bool is_rewritten_by_mlx(const Source& source, const std::vector<bool>& recurrent) {
  const auto first = std::find(recurrent.begin(), recurrent.end(), true);
  if (source.gguf || first == recurrent.end()) return false;
  const auto index = static_cast<uint32_t>(first - recurrent.begin());
  const formats::TensorEntry* conv =
      source.manifest->find(source.layer(index, "linear_attn.conv1d.weight", ""));
  return conv != nullptr && conv->shape.size() == 3 && conv->shape[1] != 1 && conv->shape[2] == 1;
}

}  // namespace

Result<ModelSpec> delta_decoder(const Source& given, uint32_t kv_heads) {
  const Source source = with_defaults(given, kv_heads);
  RETURN_IF_ERROR(check_options(source));
  ASSIGN_OR_RETURN(const std::vector<bool> recurrent, recurrent_layers(source));
  ASSIGN_OR_RETURN(const DeltaNetSpec net, dimensions(source));
  const DecoderTraits traits{.qk_norm = QkNorm::kPerHead,
                             .norm_add_one = !is_rewritten_by_mlx(source, recurrent)};
  ASSIGN_OR_RETURN(ModelSpec spec, decoder(source, traits));
  for (uint32_t i = 0; i < spec.layers.size(); ++i) {
    LayerSpec& layer = spec.layers[i];
    layer.ffn_norm.name = source.layer(i, "post_attention_layernorm.weight", "post_attention_norm.weight");
    if (recurrent[i]) {
      delta_tensors(source, i, spec.hidden, layer.mixer.emplace<DeltaNetSpec>(net));
      continue;
    }
    AttentionSpec& a = layer.attention();
    a.output_gate = true;
    name_attention(source, traits, i, spec.hidden, a);
  }
  return spec;
}

Result<ModelSpec> qwen3_next(const Source& source) {
  ASSIGN_OR_RETURN(ModelSpec spec, delta_decoder(source, 2));
  // The reference has experts where num_experts is absent, and none where it is 0.
  const bool dense = find_int(source.config, "num_experts") == 0;
  for (uint32_t i = 0; i < spec.layers.size(); ++i) {
    if (dense || !is_sparse_layer(source, i)) {
      ASSIGN_OR_RETURN(spec.layers[i].ffn, dense_mlp(source, spec, i, Activation::kSilu));
      continue;
    }
    ASSIGN_OR_RETURN(const uint32_t width,
                     source.count("moe_intermediate_size", 512, kernels::kMatmulColsMax));
    ASSIGN_OR_RETURN(MoeSpec moe, mixture(source, spec, i, {}, width, source.flag("norm_topk_prob", true)));
    RETURN_IF_ERROR(add_gated_shared_expert(source, spec, i, moe));
    spec.layers[i].ffn = std::move(moe);
  }
  return spec;
}

}  // namespace mlxf::model
