#include "model/families/families.h"

namespace mlxf::model {

// Fused projections: rows of q, k, v one after the other, and of gate and up.
Result<ModelSpec> phi3(const Source& source) {
  ASSIGN_OR_RETURN(ModelSpec spec, decoder(source, {}));
  RopeSpec& rope = spec.ropes[0];
  if (source.gguf && source.has("rope_factors_short")) {
    rope.scaling = RopeScaling::kLongRope;
    rope.original_positions = source.number("original_max_position_embeddings", 4096.0);
    rope.attention_factor = source.number("rope_attention_factor", 1.0);
    rope.short_divisors = {"rope_factors_short.weight", rope.dims / 2, false};
    rope.long_divisors = {"rope_factors_long.weight", rope.dims / 2, false};
  }
  for (uint32_t i = 0; i < spec.layers.size(); ++i) {
    AttentionSpec& a = spec.layers[i].attention();
    const std::string qkv = source.layer(i, "self_attn.qkv_proj", "attn_qkv");
    const uint32_t rows = a.q_width() + 2 * a.kv_width();
    a.q = {qkv, a.q_width(), spec.hidden, 0, rows};
    a.k = {qkv, a.kv_width(), spec.hidden, a.q_width(), rows};
    a.v = {qkv, a.kv_width(), spec.hidden, a.q_width() + a.kv_width(), rows};
    ASSIGN_OR_RETURN(MlpSpec mlp, dense_mlp(source, spec, i, Activation::kSilu));
    const std::string gate_up = source.layer(i, "mlp.gate_up_proj", "ffn_up");
    mlp.gate = {gate_up, mlp.width, spec.hidden, 0, 2 * mlp.width};
    mlp.up = {gate_up, mlp.width, spec.hidden, mlp.width, 2 * mlp.width};
    spec.layers[i].ffn = mlp;
  }
  RETURN_IF_ERROR(set_windows(source, spec, [](uint32_t) { return true; }));
  return spec;
}

}  // namespace mlxf::model
