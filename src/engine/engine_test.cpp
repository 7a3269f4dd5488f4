#include "engine/engine.h"

#include <gtest/gtest.h>

namespace mlxf::engine {
namespace {

TEST(Engine, OpensAModelWithEveryArithmetic) {
  for (const Activations activations : {Activations::kAuto, Activations::kF32, Activations::kInt8}) {
    EngineOptions options;
    options.threads = 2;
    options.activations = activations;
    const auto engine = Engine::open(MLXF_SOURCE_DIR "/tests/data/oracles/qwen3_moe", options);
    ASSERT_TRUE(engine) << engine.error().message;
    const auto sequence = (*engine)->model().make_sequence(8);
    const TokenId ids[] = {1, 2, 3};
    std::vector<float> logits((*engine)->model().spec().vocab);
    const model::Chunk chunk{sequence.get(), ids, false};
    EXPECT_TRUE((*engine)->model().forward({&chunk, 1}, logits.data()));
    EXPECT_GT((*engine)->model().active_bytes(), (*engine)->model().active_expert_bytes());
  }
}

TEST(Engine, SaysWhatItCouldNotOpen) {
  const auto engine = Engine::open("/nowhere/model", {});
  ASSERT_FALSE(engine);
  EXPECT_NE(engine.error().message.find("/nowhere/model"), std::string::npos);
}

}  // namespace
}  // namespace mlxf::engine
