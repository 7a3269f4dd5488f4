#include "model/families/families.h"

namespace mlxf::model {

// q and k are normed over all heads at once; the experts have the width that dense families give their layers.
Result<ModelSpec> olmoe(const Source& source) {
  ASSIGN_OR_RETURN(ModelSpec spec, decoder(source, {.qk_norm = QkNorm::kFullWidth}));
  ASSIGN_OR_RETURN(const uint32_t width, source.count("intermediate_size", 0, kernels::kMatmulColsMax));
  const bool normalise = source.flag("norm_topk_prob", false);
  for (uint32_t i = 0; i < spec.layers.size(); ++i) {
    ASSIGN_OR_RETURN(spec.layers[i].ffn, mixture(source, spec, i, {}, width, normalise));
  }
  return spec;
}

}  // namespace mlxf::model
