#include <string_view>

#include "model/families/families.h"

namespace mlxf::model {
namespace {

struct Family {
  std::string_view type;
  Result<ModelSpec> (*compose)(const Source&);
};

constexpr Family kFamilies[] = {
    {"llama", llama},
    {"mistral", mistral},
    {"phi3", phi3},
    {"qwen2", qwen2},
    {"qwen3", qwen3},
    {"gemma2", gemma2},
    {"gemma3", gemma3},
    {"gemma3_text", gemma3},
    {"gemma3n", gemma3n},
    {"gemma3n_text", gemma3n},
    {"gemma4", gemma4},
    {"gemma4_text", gemma4},
    {"mixtral", mixtral},
    {"qwen2_moe", qwen2_moe},
    {"qwen3_moe", qwen3_moe},
    {"olmoe", olmoe},
    {"deepseek_v2", deepseek_v2},
    {"deepseek_v3", deepseek_v3},
    {"kimi_k2", deepseek_v3},
    {"qwen3_next", qwen3_next},
    {"qwen3_5", qwen3_5},
    {"qwen3_5_text", qwen3_5},
    {"qwen3_5_moe", qwen3_5_moe},
    {"qwen3_5_moe_text", qwen3_5_moe},
    {"gpt_oss", gpt_oss},
    {"glm4_moe", glm4_moe},
    {"minimax_m2", minimax_m2},
    {"llama4", llama4},
    {"llama4_text", llama4},
};

}  // namespace

Result<ModelSpec> make_spec(const formats::ModelManifest& manifest) {
  ASSIGN_OR_RETURN(const Source source, make_source(manifest));
  std::string known;
  for (const Family& family : kFamilies) {
    if (family.type == source.type) return family.compose(source);
    known += (known.empty() ? "" : ", ") + std::string(family.type);
  }
  return fail(ErrorCode::kUnsupported, manifest.path + ": architecture \"" + source.type +
                                           "\" is not supported; supported are " + known);
}

}  // namespace mlxf::model
