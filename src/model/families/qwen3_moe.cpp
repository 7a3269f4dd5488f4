#include "model/families/families.h"

namespace mlxf::model {

Result<ModelSpec> qwen3_moe(const Source& source) {
  ASSIGN_OR_RETURN(ModelSpec spec, decoder(source, {.qk_norm = QkNorm::kPerHead, .rope_base = 1e6}));
  ASSIGN_OR_RETURN(const uint32_t width, source.count("moe_intermediate_size", 0, kernels::kMatmulColsMax));
  const bool normalise =
      source.flag("norm_topk_prob", source.gguf);  // GGUF: every published model normalises.
  for (uint32_t i = 0; i < spec.layers.size(); ++i) {
    if (is_sparse_layer(source, i)) {
      ASSIGN_OR_RETURN(spec.layers[i].ffn, mixture(source, spec, i, {}, width, normalise));
    } else {
      ASSIGN_OR_RETURN(spec.layers[i].ffn, dense_mlp(source, spec, i, Activation::kSilu));
    }
  }
  // Unlike in the dense family, max_window_layers has no say: the reference slides in every layer.
  if (source.flag("use_sliding_window", false))
    RETURN_IF_ERROR(set_windows(source, spec, [](uint32_t) { return true; }));
  return spec;
}

}  // namespace mlxf::model
