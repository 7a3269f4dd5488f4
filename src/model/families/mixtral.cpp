#include "model/families/families.h"

namespace mlxf::model {

Result<ModelSpec> mixtral(const Source& source) {
  ASSIGN_OR_RETURN(ModelSpec spec, decoder(source, {.rope_base = 1e6, .gguf_interleaved_rope = true}));
  ASSIGN_OR_RETURN(const uint32_t width, source.count("intermediate_size", 0, kernels::kMatmulColsMax));
  for (uint32_t i = 0; i < spec.layers.size(); ++i) {
    MoeNames names{"block_sparse_moe", "w1", "w3", "w2"};
    if (!source.gguf && !source.has(source.layer(i, "block_sparse_moe.gate", ""))) names = MoeNames{};
    ASSIGN_OR_RETURN(spec.layers[i].ffn, mixture(source, spec, i, names, width, true));
  }
  RETURN_IF_ERROR(set_windows(source, spec, [](uint32_t) { return true; }));
  return spec;
}

}  // namespace mlxf::model
