// The limit's formula against cases computed by hand, and what is counted from a model's specification.
#include "plan/limit.h"

#include <gtest/gtest.h>

#include <limits>

#include "plan/model_work.h"

namespace mlxf::plan {
namespace {

Limit limit_of(const PassWork& work, const MachineRates& rates) {
  const auto limit = limit_tok_s(work, rates);
  EXPECT_TRUE(limit) << limit.error().message;
  return limit.value_or(Limit{});
}

TEST(LimitTest, ResidentModelsAreBoundByMemory) {
  const Limit limit =
      limit_of({.dense_bytes = 10e9, .active_parameters = 20e9}, {.ram_bytes_s = 20e9, .ops_s = 1e12});
  EXPECT_DOUBLE_EQ(limit.ram_seconds, 0.5);
  EXPECT_DOUBLE_EQ(limit.cpu_seconds, 0.04);
  EXPECT_EQ(limit.ssd_seconds, 0);
  EXPECT_DOUBLE_EQ(limit.tok_s, 2);
  EXPECT_STREQ(limit.bound, "ram");
}

TEST(LimitTest, MissedExpertsComeFromTheDiskAndPassThroughMemory) {
  PassWork work{.dense_bytes = 2e9, .expert_bytes = 1e9, .kv_bytes = 0.5e9, .hit_rate = 0.75};
  const MachineRates rates{.ram_bytes_s = 30e9, .ssd_bytes_s = 1e9};
  const Limit direct = limit_of(work, rates);
  EXPECT_DOUBLE_EQ(direct.ram_seconds, 3.75 / 30);
  EXPECT_DOUBLE_EQ(direct.ssd_seconds, 0.25);
  EXPECT_DOUBLE_EQ(direct.tok_s, 4);
  EXPECT_STREQ(direct.bound, "ssd");
  work.ram_bytes_per_ssd_byte = 3;
  EXPECT_DOUBLE_EQ(limit_of(work, rates).ram_seconds, 4.25 / 30);
}

TEST(LimitTest, DenseWeightsThatDoNotFitAreReadEachPass) {
  const Limit limit =
      limit_of({.dense_bytes = 4e9, .streamed_dense_bytes = 1e9}, {.ram_bytes_s = 20e9, .ssd_bytes_s = 2e9});
  EXPECT_DOUBLE_EQ(limit.ram_seconds, 0.25);
  EXPECT_DOUBLE_EQ(limit.ssd_seconds, 0.5);
  EXPECT_DOUBLE_EQ(limit.tok_s, 2);
}

TEST(LimitTest, BatchesShareTheDenseWeightsAndSomeExperts) {
  const Limit limit = limit_of({.dense_bytes = 2e9,
                                .expert_bytes = 1e9,
                                .kv_bytes = 0.1e9,
                                .positions = 4,
                                .distinct_experts = 2.5,
                                .gained_tokens = 4},
                               {.ram_bytes_s = 9.8e9});
  EXPECT_DOUBLE_EQ(limit.ram_seconds, 0.5);  // 2 + 2.5 + 0.4 GB.
  EXPECT_DOUBLE_EQ(limit.tok_s, 8);
}

TEST(LimitTest, PromptsAreBoundByArithmetic) {
  const Limit limit =
      limit_of({.dense_bytes = 8e9, .active_parameters = 8e9, .positions = 512, .gained_tokens = 512},
               {.ram_bytes_s = 100e9, .ops_s = 4e12});
  EXPECT_DOUBLE_EQ(limit.cpu_seconds, 2.048);
  EXPECT_DOUBLE_EQ(limit.tok_s, 250);
  EXPECT_STREQ(limit.bound, "cpu");
}

TEST(LimitTest, RefusesWhatMakesNoSense) {
  const MachineRates rates{.ram_bytes_s = 1e9, .ops_s = 1e9, .ssd_bytes_s = 1e9};
  EXPECT_FALSE(limit_tok_s({}, rates));  // No work.
  EXPECT_FALSE(limit_tok_s({.dense_bytes = -1}, rates));
  EXPECT_FALSE(limit_tok_s({.dense_bytes = std::numeric_limits<double>::quiet_NaN()}, rates));
  EXPECT_FALSE(limit_tok_s({.dense_bytes = 1, .hit_rate = 1.01}, rates));
  EXPECT_FALSE(limit_tok_s({.dense_bytes = 1}, {.ops_s = 1e9}));
  EXPECT_FALSE(limit_tok_s({.dense_bytes = 1, .active_parameters = 1}, {.ram_bytes_s = 1e9}));
  EXPECT_FALSE(limit_tok_s({.expert_bytes = 1, .hit_rate = 0.5}, {.ram_bytes_s = 1e9}));
  EXPECT_TRUE(limit_tok_s({.expert_bytes = 1, .hit_rate = 1}, {.ram_bytes_s = 1e9}));
}

model::MatrixSource matrix(uint32_t rows, uint32_t cols) { return {"some", rows, cols, 0, rows}; }

model::AttentionSpec attention(uint32_t head_dim, uint32_t window) {
  model::AttentionSpec spec;
  spec.heads = 4;
  spec.kv_heads = 2;
  spec.head_dim = head_dim;
  spec.window = window;
  spec.q = matrix(80, 10);
  spec.k = matrix(40, 10);
  spec.v = matrix(40, 10);
  spec.o = matrix(10, 80);
  return spec;
}

model::ModelSpec two_layers() {
  model::ModelSpec spec;
  spec.embedding = spec.head = matrix(1000, 10);
  spec.layers.resize(2);
  spec.layers[0].mixer = attention(20, 0);
  model::MlpSpec mlp;
  mlp.gate = mlp.up = matrix(30, 10);
  mlp.down = matrix(10, 30);
  spec.layers[0].ffn = mlp;
  spec.layers[1].mixer = attention(16, 8);
  model::MoeSpec moe;
  moe.top_k = 2;
  moe.router = matrix(5, 10);
  moe.experts.assign(5, {matrix(7, 10), matrix(7, 10), matrix(10, 7)});
  moe.shared = mlp;
  moe.shared_gate = matrix(1, 10);
  spec.layers[1].ffn = moe;
  return spec;
}

TEST(ModelWorkTest, CountsWhatOneTokenIsMultipliedWith) {
  const ActiveParameters active = active_parameters(two_layers());
  // Attention 2400 a layer; 900 for the first MLP; router 50, two of five experts 420, shared 900 and its gate 10.
  EXPECT_EQ(active.layers, 2u * 2400 + 900 + 50 + 420 + 900 + 10);
  EXPECT_EQ(active.head, 10000u);
}

TEST(ModelWorkTest, CountsCachedBytesByLayerAndWindow) {
  // A position of two heads, keys and values: 20 dims are stored as 32, so 256 bytes of f16; 16 dims 128 bytes.
  EXPECT_DOUBLE_EQ(kv_bytes_read(two_layers(), kv::Element::kF16, 0), 256 + 128);
  EXPECT_DOUBLE_EQ(kv_bytes_read(two_layers(), kv::Element::kF16, 99), 100 * 256 + 8 * 128);
  EXPECT_DOUBLE_EQ(kv_bytes_read(two_layers(), kv::Element::kF32, 99), 2 * (100 * 256 + 8 * 128));
}

TEST(ModelWorkTest, LatentsAreReadOnceForAllHeads) {
  model::ModelSpec spec = two_layers();
  model::LatentAttentionSpec latent;
  latent.heads = 128;
  latent.rank = 512;
  latent.rope_dim = 64;
  spec.layers[0].mixer = latent;
  EXPECT_DOUBLE_EQ(kv_bytes_read(spec, kv::Element::kF16, 99), 100 * 1152 + 8 * 128);
}

}  // namespace
}  // namespace mlxf::plan
