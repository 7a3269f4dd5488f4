// What a plan sets aside for keys and values is what a sequence takes: whole pages, and of layers with a window no more
// than they keep.
#include "model/memory_plan.h"

#include <gtest/gtest.h>

#include <numeric>
#include <string>
#include <vector>

#include "kernels/kernel_table.h"
#include "model/families/families.h"
#include "model/model.h"

namespace mlxf::model {
namespace {

// As Model::sequence_bytes counts it of the same model loaded.
class MemoryPlanTest : public testing::TestWithParam<const char*> {};

TEST_P(MemoryPlanTest, SetsAsideWhatASequenceTakes) {
  const auto manifest =
      formats::open_model(std::string(MLXF_SOURCE_DIR) + "/tests/data/oracles/" + GetParam());
  ASSERT_TRUE(manifest) << manifest.error().message;
  const auto spec = make_spec(*manifest);
  ASSERT_TRUE(spec) << spec.error().message;
  const auto sizes = measure_weights(*manifest, *spec, storage::Storage::kAlign);
  ASSERT_TRUE(sizes) << sizes.error().message;
  compute::ThreadPool pool(1);
  compute::Cpu cpu(kernels::select_kernels(), pool, {});
  const auto model = Model::load(*manifest, cpu, {});
  ASSERT_TRUE(model) << model.error().message;
  for (const uint32_t tokens : {1u, 8u, 64u, 65u, 4000u, 100'000u}) {
    MemoryRequest request;
    request.budget_bytes = uint64_t{1} << 40;
    request.context_tokens = tokens;
    const auto plan = plan_memory(*spec, *sizes, request);
    ASSERT_TRUE(plan) << plan.error().message;
    ASSERT_EQ(plan->chunk_tokens, (*model)->chunk_tokens());
    EXPECT_EQ(plan->kv_bytes, (*model)->sequence_bytes(tokens)) << tokens;
    // A short sequence really takes that much.
    if (tokens > 65) continue;
    const auto sequence = (*model)->make_sequence(tokens);
    std::vector<TokenId> ids(tokens);
    std::iota(ids.begin(), ids.end(), 3);
    std::vector<float> logits((*model)->spec().vocab);
    const Chunk chunk{sequence.get(), ids, false};
    ASSERT_TRUE((*model)->forward({&chunk, 1}, logits.data()));
    EXPECT_LE(sequence->bytes(), plan->kv_bytes) << tokens;
    EXPECT_GT(2 * sequence->bytes(), plan->kv_bytes) << tokens;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, MemoryPlanTest,
                         testing::Values("llama", "gemma3", "deepseek_v3", "qwen3_next"));

}  // namespace
}  // namespace mlxf::model
