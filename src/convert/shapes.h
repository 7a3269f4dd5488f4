// ModelShape: the exact dimensions of well-known models, for synthetic weights of that shape.
//
// Plain numbers from the models' published configurations; nothing is read from disk. Widths are elements.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "convert/synthetic_vocabulary.h"

namespace mlxf::convert {

enum class ShapeFamily : uint8_t {
  kQwen3,
  kQwen3Moe,
  kLlama,
  kMixtral,
  // Written as GGUF only.
  kDeepseekV3,
  kQwen3Next,
  kQwen35Moe,
  kGptOss,
  kGlm4Moe,
  kLlama4,
  kGemma4,
};

// Multi-head latent attention: the keys and values of all heads come from one row of `rank` and `rope_dim` elements.
struct LatentSizes {
  uint32_t query_rank = 0;
  uint32_t rank = 0;
  uint32_t nope_dim = 0, rope_dim = 0;  // Of a query and key head.
  uint32_t value_dim = 0;
};

// A gated delta net.
struct DeltaNetSizes {
  uint32_t key_heads = 0, value_heads = 0;
  uint32_t head_dim = 0;  // Of keys and values.
  uint32_t taps = 0;
};

struct ModelShape {
  std::string_view name;   // As given to --shape.
  std::string_view title;  // general.name.
  ShapeFamily family = ShapeFamily::kLlama;
  uint32_t layers = 0;
  uint32_t width = 0;
  uint32_t ffn_width = 0;        // Of the dense ffn; of one expert where there are experts.
  uint32_t dense_ffn_width = 0;  // What the configuration calls intermediate_size.
  uint32_t heads = 0;
  uint32_t kv_heads = 0;
  uint32_t head_dim = 0;
  uint32_t experts = 0;  // 0: dense.
  uint32_t experts_used = 0;
  uint32_t context = 0;
  float rope_base = 0.0f;
  float norm_eps = 0.0f;
  bool tied = false;
  VocabularyKind vocabulary = VocabularyKind::kQwen;
  // The newer families.
  uint32_t dense_layers = 0;  // The first ones have a dense ffn instead of experts.
  uint32_t shared_width = 0;  // Of the expert that every token uses; 0: none.
  uint32_t expert_groups = 0, expert_groups_used = 0;
  float routed_scale = 0.0f;  // Of the experts' weights; 0: the family has no such option.
  uint32_t full_interval =
      0;  // Layers n - 1, 2 n - 1 … attend to all; the others slide, see chunks or are delta nets.
  uint32_t window = 0;                            // Of the sliding layers.
  uint32_t full_head_dim = 0, full_kv_heads = 0;  // Of the full layers where they differ.
  bool full_values_are_keys = false;              // The full layers have one projection for both.
  uint32_t rope_dims = 0;                         // Of each head; 0: all.
  float sliding_rope_base = 0.0f;
  uint32_t kv_shared_layers = 0;  // The last ones read the keys and values of earlier ones.
  uint32_t per_layer_width = 0;   // Of the per-layer embeddings.
  LatentSizes latent = {};
  DeltaNetSizes delta = {};

  [[nodiscard]] bool is_full(uint32_t layer) const {
    return full_interval == 0 || (layer + 1) % full_interval == 0;
  }
  [[nodiscard]] bool has_experts(uint32_t layer) const { return experts > 0 && layer >= dense_layers; }
};

// The first `layers` of a shape. Layers that share keys and values keep their share of the layers, as far as those with
// keys of their own remain whole intervals, which they share by. REQUIRES: 0 < layers <= shape.layers.
[[nodiscard]] ModelShape cut_layers(const ModelShape& shape, uint32_t layers);

[[nodiscard]] const std::vector<ModelShape>& known_shapes();
[[nodiscard]] std::string shape_names();  // "qwen3-30b-a3b, qwen3-8b, …"

// Refused with the list of names when there is none.
[[nodiscard]] Result<ModelShape> find_shape(std::string_view name);

}  // namespace mlxf::convert
