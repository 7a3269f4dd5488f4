#include <cmath>

#include "model/families/families.h"
#include "tensor/float16.h"

namespace mlxf::model {

// Norms on both sides of each sublayer, soft-capped logits, every other layer sliding, embeddings scaled by the square
// root of the width (rounded to bf16, as the reference keeps it in the model's precision).
Result<ModelSpec> gemma2(const Source& source) {
  ASSIGN_OR_RETURN(
      ModelSpec spec,
      decoder(source,
              {.output_bias_follows = true, .norm_add_one = true, .sandwich_norms = true, .tied = true}));
  spec.embedding_scale = f32_from_bf16(bf16_from_f32(std::sqrt(static_cast<float>(spec.hidden))));
  for (uint32_t i = 0; i < spec.layers.size(); ++i) {
    AttentionSpec& a = spec.layers[i].attention();
    a.scale = 1.0f / std::sqrt(source.number("query_pre_attn_scalar", a.head_dim));
    ASSIGN_OR_RETURN(spec.layers[i].ffn, dense_mlp(source, spec, i, Activation::kGeluTanh));
  }
  RETURN_IF_ERROR(set_windows(source, spec, [](uint32_t i) { return i % 2 == 0; }));
  return spec;
}

}  // namespace mlxf::model
