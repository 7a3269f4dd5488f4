#include "convert/shapes.h"

namespace mlxf::convert {

namespace {

// From the published config.json of each model.
const std::vector<ModelShape> kShapes = {
    {.name = "qwen3-30b-a3b",
     .title = "Synthetic Qwen3 30B A3B",
     .family = ShapeFamily::kQwen3Moe,
     .layers = 48,
     .width = 2048,
     .ffn_width = 768,
     .dense_ffn_width = 6144,
     .heads = 32,
     .kv_heads = 4,
     .head_dim = 128,
     .experts = 128,
     .experts_used = 8,
     .context = 40960,
     .rope_base = 1e6f,
     .norm_eps = 1e-6f,
     .vocabulary = VocabularyKind::kQwen},
    {.name = "qwen3-8b",
     .title = "Synthetic Qwen3 8B",
     .family = ShapeFamily::kQwen3,
     .layers = 36,
     .width = 4096,
     .ffn_width = 12288,
     .dense_ffn_width = 12288,
     .heads = 32,
     .kv_heads = 8,
     .head_dim = 128,
     .context = 40960,
     .rope_base = 1e6f,
     .norm_eps = 1e-6f,
     .vocabulary = VocabularyKind::kQwen},
    {.name = "qwen3-0.6b",
     .title = "Synthetic Qwen3 0.6B",
     .family = ShapeFamily::kQwen3,
     .layers = 28,
     .width = 1024,
     .ffn_width = 3072,
     .dense_ffn_width = 3072,
     .heads = 16,
     .kv_heads = 8,
     .head_dim = 128,
     .context = 40960,
     .rope_base = 1e6f,
     .norm_eps = 1e-6f,
     .tied = true,
     .vocabulary = VocabularyKind::kQwen},
    {.name = "llama3-70b",
     .title = "Synthetic Llama 3 70B",
     .family = ShapeFamily::kLlama,
     .layers = 80,
     .width = 8192,
     .ffn_width = 28672,
     .dense_ffn_width = 28672,
     .heads = 64,
     .kv_heads = 8,
     .head_dim = 128,
     .context = 8192,
     .rope_base = 5e5f,
     .norm_eps = 1e-5f,
     .vocabulary = VocabularyKind::kLlama3},
    {.name = "mixtral-8x7b",
     .title = "Synthetic Mixtral 8x7B",
     .family = ShapeFamily::kMixtral,
     .layers = 32,
     .width = 4096,
     .ffn_width = 14336,
     .dense_ffn_width = 14336,
     .heads = 32,
     .kv_heads = 8,
     .head_dim = 128,
     .experts = 8,
     .experts_used = 2,
     .context = 32768,
     .rope_base = 1e6f,
     .norm_eps = 1e-5f,
     .vocabulary = VocabularyKind::kSmall},
};

}  // namespace

const std::vector<ModelShape>& known_shapes() { return kShapes; }

Result<ModelShape> find_shape(std::string_view name) {
  std::string names;
  for (const ModelShape& shape : known_shapes()) {
    if (shape.name == name) return shape;
    if (!names.empty()) names += ", ";
    names += shape.name;
  }
  return fail(ErrorCode::kInvalidArgument, "unknown shape '" + std::string(name) + "'; there are " + names);
}

}  // namespace mlxf::convert
