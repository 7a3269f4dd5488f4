#include "model/families/families.h"

namespace mlxf::model {

Result<ModelSpec> llama(const Source& source) {
  ASSIGN_OR_RETURN(ModelSpec spec, decoder(source, {.gguf_interleaved_rope = true}));
  for (uint32_t i = 0; i < spec.layers.size(); ++i) {
    ASSIGN_OR_RETURN(spec.layers[i].ffn, dense_mlp(source, spec, i, Activation::kSilu));
  }
  return spec;
}

}  // namespace mlxf::model
