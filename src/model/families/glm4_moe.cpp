#include "model/families/families.h"

namespace mlxf::model {
namespace {

Result<MoeSpec> experts_of(const Source& source, const ModelSpec& spec, uint32_t index) {
  ASSIGN_OR_RETURN(const uint32_t width, source.count("moe_intermediate_size", 0, kernels::kMatmulColsMax));
  ASSIGN_OR_RETURN(MoeSpec moe, mixture(source, spec, index, {}, width, source.flag("norm_topk_prob", true)));
  moe.score = RouterScore::kSigmoid;
  moe.routed_scale = source.number("routed_scaling_factor", 1.0);
  if (source.gguf && moe.routed_scale == 0.0f) moe.routed_scale = 1.0f;  // How llama.cpp says none.
  moe.choice_bias = {source.layer(index, "mlp.gate.e_score_correction_bias", "exp_probs_b.bias"),
                     static_cast<uint32_t>(moe.experts.size()), false};
  ASSIGN_OR_RETURN(moe.groups, expert_groups(source, moe, {1, 1, ExpertGroups::Score::kTwoLargest}));
  if (find_int(source.config, "n_shared_experts") == 0) return moe;
  ASSIGN_OR_RETURN(const uint32_t shared, source.count("n_shared_experts", 1, 1024));
  if (uint64_t{shared} * width > kernels::kMatmulColsMax)
    return fail(ErrorCode::kCorrupt, source.manifest->path + ": n_shared_experts " + std::to_string(shared) +
                                         " of width " + std::to_string(width) + " are too many");
  moe.shared = gated_mlp(source, index, {"mlp.shared_experts", "_shexp"}, spec.hidden, shared * width);
  return moe;
}

}  // namespace

// Dense layers first, then sigmoid-routed experts beside a shared one; half of each head rotates. The layers behind the
// last, which predict further tokens, are left alone.
Result<ModelSpec> glm4_moe(const Source& source) {
  Source plain = source;
  RETURN_IF_ERROR(expect_option(source, "hidden_act", "silu"));
  RETURN_IF_ERROR(expect_option(source, "expert_gating_func", 2));  // GGUF's number of the sigmoid.
  if (const auto routed = find_int(source.config, "n_routed_experts")) plain.config["num_experts"] = *routed;
  if (find_member(source.config, "partial_rotary_factor") == nullptr)
    plain.config["partial_rotary_factor"] = 0.5;
  const bool normed =
      source.gguf ? source.has(source.layer(0, "", "attn_q_norm")) : source.flag("use_qk_norm", false);
  ASSIGN_OR_RETURN(ModelSpec spec, decoder(plain, {.output_bias_follows = false,
                                                   .qk_norm = normed ? QkNorm::kPerHead : QkNorm::kNone}));
  const auto dense = find_int(source.config, "first_k_dense_replace").value_or(1);
  for (uint32_t i = 0; i < spec.layers.size(); ++i) {
    LayerSpec& layer = spec.layers[i];
    if (source.gguf) layer.ffn_norm.name = source.layer(i, "", "post_attention_norm.weight");
    if (i < dense) {
      ASSIGN_OR_RETURN(layer.ffn, dense_mlp(plain, spec, i, Activation::kSilu));
    } else {
      ASSIGN_OR_RETURN(layer.ffn, experts_of(plain, spec, i));
    }
  }
  return spec;
}

}  // namespace mlxf::model
