#include "model/families/families.h"

namespace mlxf::model {

Status add_gated_shared_expert(const Source& source, const ModelSpec& spec, uint32_t index, MoeSpec& moe) {
  ASSIGN_OR_RETURN(const uint32_t width,
                   source.count("shared_expert_intermediate_size", 0, kernels::kMatmulColsMax));
  moe.shared = gated_mlp(source, index, {"mlp.shared_expert", "_shexp"}, spec.hidden, width);
  moe.shared_gate = {source.layer(index, "mlp.shared_expert_gate", "ffn_gate_inp_shexp"), 1, spec.hidden, 0,
                     1};
  return {};
}

// Dense layers where decoder_sparse_step and mlp_only_layers say so; elsewhere experts beside a gated shared one.
Result<ModelSpec> qwen2_moe(const Source& source) {
  ASSIGN_OR_RETURN(ModelSpec spec, decoder(source, {.qkv_bias = true, .output_bias_follows = false}));
  ASSIGN_OR_RETURN(const uint32_t width, source.count("moe_intermediate_size", 0, kernels::kMatmulColsMax));
  const bool normalise = source.flag("norm_topk_prob", false);
  for (uint32_t i = 0; i < spec.layers.size(); ++i) {
    if (!is_sparse_layer(source, i)) {
      ASSIGN_OR_RETURN(spec.layers[i].ffn, dense_mlp(source, spec, i, Activation::kSilu));
      continue;
    }
    ASSIGN_OR_RETURN(MoeSpec moe, mixture(source, spec, i, {}, width, normalise));
    RETURN_IF_ERROR(add_gated_shared_expert(source, spec, i, moe));
    spec.layers[i].ffn = moe;
  }
  // Where layer_types does not say, every other of the first max_window_layers slides.
  const auto end = find_int(source.config, "max_window_layers").value_or(28);
  const bool used = source.flag("use_sliding_window", false);
  if (used)
    RETURN_IF_ERROR(
        set_windows(source, spec, [end](uint32_t layer) { return layer % 2 == 0 && layer < end; }));
  return spec;
}

}  // namespace mlxf::model
