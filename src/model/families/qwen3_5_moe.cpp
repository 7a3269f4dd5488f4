#include "model/families/families.h"

namespace mlxf::model {

// qwen3_5 with experts in every layer, whose weights always sum to one.
Result<ModelSpec> qwen3_5_moe(const Source& source) {
  ASSIGN_OR_RETURN(ModelSpec spec, delta_decoder(source, 2));
  ASSIGN_OR_RETURN(const uint32_t width, source.count("moe_intermediate_size", 512, kernels::kMatmulColsMax));
  for (uint32_t i = 0; i < spec.layers.size(); ++i) {
    ASSIGN_OR_RETURN(MoeSpec moe, mixture(source, spec, i, {}, width, true));
    RETURN_IF_ERROR(add_gated_shared_expert(source, spec, i, moe));
    spec.layers[i].ffn = std::move(moe);
  }
  return spec;
}

}  // namespace mlxf::model
