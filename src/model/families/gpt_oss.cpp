#include "model/families/families.h"

namespace mlxf::model {
namespace {

// One list for all experts of a layer. The hub's checkpoints alternate those of gate and up.
void expert_biases(const Source& source, uint32_t index, uint32_t hidden, MoeSpec& moe) {
  const auto experts = static_cast<uint32_t>(moe.experts.size());
  const std::string fused = source.layer(index, "mlp.experts.gate_up_proj_bias", "");
  const bool alternate = !source.gguf && source.has(fused);
  const auto bias = [&](const char* hf, const char* gguf, uint32_t size) {
    return VectorSource{source.layer(index, hf, gguf), experts * size, false};
  };
  if (alternate) {
    moe.gate_bias = {fused, experts * moe.width, false, 0, 2};
    moe.up_bias = {fused, experts * moe.width, false, 1, 2};
    moe.down_bias = bias("mlp.experts.down_proj_bias", "", hidden);
    return;
  }
  moe.gate_bias = bias("mlp.experts.gate_proj.bias", "ffn_gate_exps.bias", moe.width);
  moe.up_bias = bias("mlp.experts.up_proj.bias", "ffn_up_exps.bias", moe.width);
  moe.down_bias = bias("mlp.experts.down_proj.bias", "ffn_down_exps.bias", hidden);
}

}  // namespace

// Sinks beside the keys, every other layer sliding, clamped experts with biases, and a softmax over the chosen ones,
// which is that over all of them scaled to sum to one.
Result<ModelSpec> gpt_oss(const Source& source) {
  Source plain = source;
  RETURN_IF_ERROR(expect_option(source, "hidden_act", "silu"));
  RETURN_IF_ERROR(expect_option(source, "swiglu_limit", 7.0));
  if (!source.gguf && find_member(source.config, "rope_parameters") == nullptr &&
      find_member(source.config, "rope_scaling") == nullptr)
    plain.config["rope_scaling"] = {{"rope_type", "yarn"},
                                    {"factor", 32.0},
                                    {"truncate", false},
                                    {"original_max_position_embeddings", 4096}};
  ASSIGN_OR_RETURN(ModelSpec spec, decoder(plain, {.qkv_bias = true, .rope_base = 150000.0}));
  if (source.gguf) spec.ropes[0].truncate = false;  // Which the file has no key for.
  ASSIGN_OR_RETURN(const uint32_t width, source.count("intermediate_size", 0, kernels::kMatmulColsMax));
  const MoeNames names{.router = "router", .fused_transposed = true, .fused_alternates = true};
  for (uint32_t i = 0; i < spec.layers.size(); ++i) {
    LayerSpec& layer = spec.layers[i];
    if (source.gguf) layer.ffn_norm.name = source.layer(i, "", "post_attention_norm.weight");
    AttentionSpec& a = layer.attention();
    a.sinks = {source.layer(i, "self_attn.sinks", "attn_sinks.weight"), a.heads, false};
    ASSIGN_OR_RETURN(MoeSpec moe, mixture(source, spec, i, names, width, true));
    moe.activation = Activation::kClampedSwiglu;
    moe.router_bias = {source.layer(i, "mlp.router.bias", "ffn_gate_inp.bias"),
                       static_cast<uint32_t>(moe.experts.size()), false};
    expert_biases(source, i, spec.hidden, moe);
    layer.ffn = std::move(moe);
  }
  RETURN_IF_ERROR(set_windows(source, spec, [](uint32_t i) { return i % 2 == 0; }));
  return spec;
}

}  // namespace mlxf::model
