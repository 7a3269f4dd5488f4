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

enum class ShapeFamily : uint8_t { kQwen3, kQwen3Moe, kLlama, kMixtral };

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
};

[[nodiscard]] const std::vector<ModelShape>& known_shapes();

// Refused with the list of names when there is none.
[[nodiscard]] Result<ModelShape> find_shape(std::string_view name);

}  // namespace mlxf::convert
