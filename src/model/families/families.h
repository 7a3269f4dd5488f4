// The families: one function per architecture that composes a ModelSpec from a checkpoint's configuration.
//
// Each lives in the file of its name; registry.cpp finds it by the checkpoint's model_type. They share decoder() for
// what almost all have in common and then say what is theirs.
#pragma once

#include <string>

#include "base/result.h"
#include "kernels/kernel_table.h"
#include "model/families/source.h"
#include "model/spec.h"

namespace mlxf::model {

// What the families differ in where their configurations are silent.
struct DecoderTraits {
  bool qkv_bias = false;            // Default of attention_bias / qkv_bias for q, k, v.
  bool output_bias_follows = true;  // attention_bias also means a bias of o_proj.
  QkNorm qk_norm = QkNorm::kNone;
  bool norm_add_one = false;    // Norm weights are stored minus one (safetensors).
  bool sandwich_norms = false;  // Norms behind the sublayers as well.
  bool tied = false;            // Default of tie_word_embeddings.
  double rope_base = 10000.0;
  bool gguf_interleaved_rope = false;  // llama.cpp permutes this architecture's q and k rows.
};

// Everything but the feed-forward layers: dimensions, norms, attention, ropes, embedding and head.
[[nodiscard]] Result<ModelSpec> decoder(const Source& source, const DecoderTraits& traits);

// The tensors of attention layer `index`, by its heads and their width.
void name_attention(const Source& source, const DecoderTraits& traits, uint32_t index, uint32_t hidden,
                    AttentionSpec& a);

// Dense feed-forward of layer `index`.
[[nodiscard]] Result<MlpSpec> dense_mlp(const Source& source, const ModelSpec& spec, uint32_t index,
                                        Activation activation);

struct MlpNames {
  std::string block;        // The layer's module.
  std::string gguf_suffix;  // Behind ffn_gate, ffn_up and ffn_down.
};
// A gated feed-forward without biases: a dense layer's, or a shared expert.
[[nodiscard]] MlpSpec gated_mlp(const Source& source, uint32_t index, const MlpNames& names, uint32_t hidden,
                                uint32_t width);

// kUnsupported, naming the field, unless it is absent or has this value.
[[nodiscard]] Status expect_option(const Source& source, const char* field, const Json& value);

// Sets the windows of the layers for which `slides(index)` holds; config's layer_types, where given, decide instead.
template <typename Slides>
[[nodiscard]] Status set_windows(const Source& source, ModelSpec& spec, const Slides& slides) {
  const Json* types = find_member(source.config, "layer_types");
  const bool listed = types != nullptr && types->is_array() && types->size() == spec.layers.size();
  for (uint32_t i = 0; i < spec.layers.size(); ++i) {
    const bool sliding = listed ? (*types)[i] == "sliding_attention" : slides(i);
    const Json* window = find_member(source.config, "sliding_window");
    if (!sliding || window == nullptr || *window == 0) continue;  // GGUF writes 0 for none.
    ASSIGN_OR_RETURN(spec.layers[i].attention().window, source.count("sliding_window", 0, INT32_MAX));
  }
  return {};
}

// Where a mixture of experts keeps its tensors.
struct MoeNames {
  std::string block = "mlp";  // The layer's module.
  std::string gate = "gate_proj", up = "up_proj",
              down = "down_proj";  // Of one expert, or of the stacked ones.
  std::string router = "gate";
  bool fused_transposed = false;  // experts.gate_up_proj and down_proj are [experts, in, out],
  bool fused_alternates = false;  // and rows of gate and up take turns.
};

// The mixture of layer `index`: experts one by one, stacked as mlx-lm and llama.cpp write them, or fused.
[[nodiscard]] Result<MoeSpec> mixture(const Source& source, const ModelSpec& spec, uint32_t index,
                                      const MoeNames& names, uint32_t width, bool normalise_top_k);

// n_group and topk_group for a mixture that has its experts. `groups`: where the configuration is silent.
[[nodiscard]] Result<ExpertGroups> expert_groups(const Source& source, const MoeSpec& moe,
                                                 ExpertGroups groups);

// Whether mlp_only_layers and decoder_sparse_step give layer `index` experts (the Qwen mixtures).
[[nodiscard]] bool is_sparse_layer(const Source& source, uint32_t index);

// The expert that every token of layer `index` uses, scaled by a gate of its own (the Qwen mixtures).
[[nodiscard]] Status add_gated_shared_expert(const Source& source, const ModelSpec& spec, uint32_t index,
                                             MoeSpec& moe);

// decoder() for the families whose layers are gated delta nets, every few of them gated attention. `kv_heads`: where
// the configuration does not say.
[[nodiscard]] Result<ModelSpec> delta_decoder(const Source& source, uint32_t kv_heads);

[[nodiscard]] Result<ModelSpec> llama(const Source& source);
[[nodiscard]] Result<ModelSpec> mistral(const Source& source);
[[nodiscard]] Result<ModelSpec> phi3(const Source& source);
[[nodiscard]] Result<ModelSpec> qwen2(const Source& source);
[[nodiscard]] Result<ModelSpec> qwen3(const Source& source);
[[nodiscard]] Result<ModelSpec> gemma2(const Source& source);
[[nodiscard]] Result<ModelSpec> gemma3(const Source& source);
[[nodiscard]] Result<ModelSpec> gemma3n(const Source& source);
[[nodiscard]] Result<ModelSpec> gemma4(const Source& source);
[[nodiscard]] Result<ModelSpec> mixtral(const Source& source);
[[nodiscard]] Result<ModelSpec> qwen2_moe(const Source& source);
[[nodiscard]] Result<ModelSpec> qwen3_moe(const Source& source);
[[nodiscard]] Result<ModelSpec> qwen3_next(const Source& source);
[[nodiscard]] Result<ModelSpec> qwen3_5(const Source& source);
[[nodiscard]] Result<ModelSpec> qwen3_5_moe(const Source& source);
[[nodiscard]] Result<ModelSpec> olmoe(const Source& source);
[[nodiscard]] Result<ModelSpec> deepseek_v2(const Source& source);
[[nodiscard]] Result<ModelSpec> deepseek_v3(const Source& source);
[[nodiscard]] Result<ModelSpec> gpt_oss(const Source& source);
[[nodiscard]] Result<ModelSpec> glm4_moe(const Source& source);
[[nodiscard]] Result<ModelSpec> minimax_m2(const Source& source);
[[nodiscard]] Result<ModelSpec> llama4(const Source& source);

// The spec of a checkpoint; an unknown architecture is refused by name with the list of those supported.
[[nodiscard]] Result<ModelSpec> make_spec(const formats::ModelManifest& manifest);

}  // namespace mlxf::model
