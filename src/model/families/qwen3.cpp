#include "model/families/families.h"

namespace mlxf::model {

// A norm over each head of q and k, before the rotation.
Result<ModelSpec> qwen3(const Source& source) {
  ASSIGN_OR_RETURN(ModelSpec spec, decoder(source, {.qk_norm = QkNorm::kPerHead, .rope_base = 1e6}));
  for (uint32_t i = 0; i < spec.layers.size(); ++i) {
    ASSIGN_OR_RETURN(spec.layers[i].ffn, dense_mlp(source, spec, i, Activation::kSilu));
  }
  const auto first = find_int(source.config, "max_window_layers").value_or(0);
  const bool used = source.flag("use_sliding_window", false);
  if (used) RETURN_IF_ERROR(set_windows(source, spec, [first](uint32_t layer) { return layer >= first; }));
  return spec;
}

}  // namespace mlxf::model
