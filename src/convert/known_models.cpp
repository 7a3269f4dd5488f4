#include "convert/known_models.h"

namespace mlxf::convert {
namespace {

// Files of other publishers in the same format are as large to within a few percent: mixes of types differ a little,
// and some files hold a layer that predicts a further token as well, which the shapes leave out.
const std::vector<KnownModel> kModels = {
    {"Qwen3 0.6B", "unsloth/Qwen3-0.6B-GGUF", "Q4_K_M", "qwen3-0.6b"},
    {"Qwen3 8B", "Qwen/Qwen3-8B-GGUF", "Q4_K_M", "qwen3-8b"},
    {"Gemma 4 E4B", "ggml-org/gemma-4-E4B-it-GGUF", "Q4_K_M", "gemma4-e4b"},
    {"gpt-oss 20B", "ggml-org/gpt-oss-20b-GGUF", "", "gpt-oss-20b", SynthFormat::kMxfp4},
    {"Gemma 4 26B A4B", "ggml-org/gemma-4-26B-A4B-it-GGUF", "Q4_K_M", "gemma4-26b-a4b"},
    {"Qwen3 30B A3B", "Qwen/Qwen3-30B-A3B-GGUF", "Q4_K_M", "qwen3-30b-a3b"},
    {"Qwen3.5 35B A3B", "unsloth/Qwen3.5-35B-A3B-GGUF", "Q4_K_M", "qwen3.5-35b-a3b"},
    {"Llama 3 70B", "bartowski/Meta-Llama-3-70B-Instruct-GGUF", "Q4_K_M", "llama3-70b"},
    {"Qwen3 Next 80B A3B", "unsloth/Qwen3-Next-80B-A3B-Instruct-GGUF", "Q4_K_M", "qwen3-next-80b-a3b"},
    {"gpt-oss 120B", "ggml-org/gpt-oss-120b-GGUF", "", "gpt-oss-120b", SynthFormat::kMxfp4},
    {"Llama 4 Scout", "unsloth/Llama-4-Scout-17B-16E-Instruct-GGUF", "Q4_K_M", "llama4-scout"},
    {"GLM 4.5 Air", "unsloth/GLM-4.5-Air-GGUF", "Q4_K_M", "glm-4.5-air"},
    {"DeepSeek V3.1", "unsloth/DeepSeek-V3.1-GGUF", "Q4_K_M", "deepseek-v3"},
};

}  // namespace

std::string KnownModel::name() const {
  std::string name(repository);
  if (!variant.empty()) name.append(":").append(variant);
  return name;
}

const std::vector<KnownModel>& known_models() { return kModels; }

}  // namespace mlxf::convert
