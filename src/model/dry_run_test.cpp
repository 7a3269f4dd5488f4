// Dry runs of every family and of formats with scales beside them: every matrix has a place, and passes run through.
#include "model/dry_run.h"

#include <gtest/gtest.h>

#include "kernels/kernel_table.h"
#include "model/families/families.h"

namespace mlxf::model {
namespace {

class DryRunTest : public testing::TestWithParam<const char*> {};

TEST_P(DryRunTest, PassesRunWithoutTheWeights) {
  const auto manifest = formats::open_model(std::string(MLXF_SOURCE_DIR) + "/" + GetParam());
  ASSERT_TRUE(manifest) << manifest.error().message;
  const auto spec = make_spec(*manifest);
  ASSERT_TRUE(spec) << spec.error().message;
  compute::ThreadPool pool(2);
  for (const auto arithmetic : {compute::Arithmetic::kInt8, compute::Arithmetic::kF32}) {
    compute::Cpu cpu(kernels::select_kernels(), pool, {.arithmetic = arithmetic});
    for (const uint32_t layers : {UINT32_MAX, 1u}) {
      const auto run = DryRun::make(*manifest, *spec, cpu, {.arena_bytes = 0, .layers_max = layers});
      ASSERT_TRUE(run) << run.error().message;
      // A prompt longer than a window can go back, and a token far into the context.
      for (const auto& [tokens, depth] : {std::pair{100u, 0u}, {1u, 200u}}) {
        const auto seconds = (*run)->measure(tokens, depth, 0);
        ASSERT_TRUE(seconds) << seconds.error().message;
        EXPECT_GT(*seconds, 0);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, DryRunTest,
                         testing::Values("tests/data/oracles/llama", "tests/data/oracles/gemma3",
                                         "tests/data/oracles/qwen2_moe", "tests/data/oracles/mixtral",
                                         "tests/data/oracles/phi3", "tests/data/oracles/qwen3_next",
                                         "tests/data/oracles/deepseek_v2", "tests/data/oracles/deepseek_v3",
                                         "tests/data/oracles/gemma3n", "tests/data/oracles/gemma4",
                                         "tests/data/oracles/gemma4-ple", "tests/data/oracles/gemma4-moe",
                                         "tests/data/oracles/gpt_oss", "tests/data/oracles/glm4_moe",
                                         "tests/data/oracles/minimax_m2", "tests/data/oracles/llama4",
                                         "models/classics-moe-4bit"),
                         [](const auto& parameter) {
                           std::string name = parameter.param;
                           name = name.substr(name.rfind('/') + 1);
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

TEST(DryRunTest, AMissingTensorIsNamed) {
  const auto manifest = formats::open_model(std::string(MLXF_SOURCE_DIR) + "/tests/data/oracles/llama");
  auto spec = make_spec(*manifest);
  ASSERT_TRUE(spec);
  spec->layers[0].attention().q.name = "nowhere";
  compute::ThreadPool pool(1);
  compute::Cpu cpu(kernels::select_kernels(), pool, {});
  const auto run = DryRun::make(*manifest, *spec, cpu, {});
  ASSERT_FALSE(run);
  EXPECT_NE(run.error().message.find("nowhere"), std::string::npos);
}

}  // namespace
}  // namespace mlxf::model
