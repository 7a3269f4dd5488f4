#include <cmath>

#include "model/families/families.h"
#include "tensor/float16.h"

namespace mlxf::model {

// gemma2 with norms over the heads of q and k, five sliding layers to one full, and a rope of their own for them.
Result<ModelSpec> gemma3(const Source& source) {
  Source plain = source;
  const Json* ropes = find_member(source.config, "rope_parameters");
  const Json* full = ropes != nullptr ? find_member(*ropes, "full_attention") : nullptr;
  const Json* local = ropes != nullptr ? find_member(*ropes, "sliding_attention") : nullptr;
  if (full != nullptr) plain.config["rope_parameters"] = *full;
  // The multimodal checkpoints' text_config leaves out whatever equals these.
  if (!source.gguf)
    for (const auto& [field, value] : {std::pair{"num_attention_heads", 8},
                                       {"num_key_value_heads", 4},
                                       {"head_dim", 256},
                                       {"vocab_size", 262208},
                                       {"max_position_embeddings", 131072},
                                       {"query_pre_attn_scalar", 256}})
      if (find_member(plain.config, field) == nullptr) plain.config[field] = value;
  ASSIGN_OR_RETURN(ModelSpec spec, decoder(plain, {.qk_norm = QkNorm::kPerHead,
                                                   .norm_add_one = true,
                                                   .sandwich_norms = true,
                                                   .tied = true,
                                                   .rope_base = 1e6}));
  const uint32_t head_dim = spec.layers[0].attention().head_dim;
  ASSIGN_OR_RETURN(RopeSpec sliding_rope,
                   parse_rope(source, local, head_dim, source.number("rope_local_base_freq", 10000.0)));
  spec.ropes.push_back(sliding_rope);
  spec.embedding_scale = f32_from_bf16(bf16_from_f32(std::sqrt(static_cast<float>(spec.hidden))));
  const auto pattern = find_int(source.config, "sliding_window_pattern")
                           .value_or(find_int(source.config, "_sliding_window_pattern").value_or(6));
  RETURN_IF_ERROR(
      set_windows(source, spec, [pattern](uint32_t i) { return pattern > 0 && (i + 1) % pattern != 0; }));
  for (uint32_t i = 0; i < spec.layers.size(); ++i) {
    AttentionSpec& a = spec.layers[i].attention();
    a.scale = 1.0f / std::sqrt(plain.number("query_pre_attn_scalar", a.head_dim));
    if (a.window != 0) a.rope = 1;
    ASSIGN_OR_RETURN(spec.layers[i].ffn, dense_mlp(source, spec, i, Activation::kGeluTanh));
  }
  return spec;
}

}  // namespace mlxf::model
