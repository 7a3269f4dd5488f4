#include "model/families/families.h"

namespace mlxf::model {

// Sigmoid-routed experts in every layer, q and k normed over all heads at once, a part of each head rotates.
Result<ModelSpec> minimax_m2(const Source& source) {
  Source plain = source;
  for (const auto& [field, value] : {std::pair<const char*, Json>{"hidden_act", "silu"},
                                     {"expert_gating_func", 2},  // GGUF's number of the sigmoid.
                                     {"scoring_func", "sigmoid"},
                                     {"qk_norm_type", "per_layer"},
                                     {"shared_intermediate_size", 0}})
    RETURN_IF_ERROR(expect_option(source, field, value));
  if (const Json* kinds = find_member(source.config, "attn_type_list"); kinds != nullptr && kinds->is_array())
    for (const Json& kind : *kinds)
      if (kind != 1)
        return fail(ErrorCode::kUnsupported,
                    source.manifest->path + ": attn_type_list has linear attention, which is not supported");
  // Where rope_parameters are given they say all; older configurations have rotary_dim.
  if (!source.gguf && find_member(source.config, "rope_parameters") == nullptr)
    if (const auto dims = find_int(source.config, "rotary_dim")) plain.config["rope_dimensions"] = *dims;
  const bool normed = source.has(source.layer(0, "self_attn.q_norm", "attn_q_norm"));
  ASSIGN_OR_RETURN(ModelSpec spec, decoder(plain, {.qk_norm = normed ? QkNorm::kFullWidth : QkNorm::kNone,
                                                   .rope_base = 5e6}));
  ASSIGN_OR_RETURN(const uint32_t width, source.count("intermediate_size", 0, kernels::kMatmulColsMax));
  const MoeNames names{"block_sparse_moe", "w1", "w3", "w2"};
  for (uint32_t i = 0; i < spec.layers.size(); ++i) {
    ASSIGN_OR_RETURN(MoeSpec moe, mixture(source, spec, i, names, width, true));
    moe.score = RouterScore::kSigmoid;
    moe.choice_bias = {source.layer(i, "block_sparse_moe.e_score_correction_bias", "exp_probs_b.bias"),
                       static_cast<uint32_t>(moe.experts.size()), false};
    spec.layers[i].ffn = std::move(moe);
  }
  return spec;
}

}  // namespace mlxf::model
