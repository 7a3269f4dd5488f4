#include "model/families/families.h"

namespace mlxf::model {

// qwen3_next with dense layers and projections of their own for z, beta and alpha. Text alone turns all sections of the
// rope by the same position, so they do not differ from a plain one.
Result<ModelSpec> qwen3_5(const Source& source) {
  ASSIGN_OR_RETURN(ModelSpec spec, delta_decoder(source, 4));
  for (uint32_t i = 0; i < spec.layers.size(); ++i) {
    ASSIGN_OR_RETURN(spec.layers[i].ffn, dense_mlp(source, spec, i, Activation::kSilu));
  }
  return spec;
}

}  // namespace mlxf::model
