// The forecast's formula against cases computed by hand.
#include "plan/forecast.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace mlxf::plan {
namespace {

constexpr uint64_t kMB = 1'000'000;

// A shape whose own memory is small beside the weights that the tests give it.
model::ModelSpec tiny_spec(uint32_t layers, bool mixture) {
  model::ModelSpec spec;
  spec.hidden = 64;
  spec.vocab = 100;
  spec.embedding = spec.head = {"embed", 100, 64, 0, 0};
  model::LayerSpec layer;
  model::AttentionSpec& attention = layer.attention();
  attention.heads = attention.kv_heads = 1;
  attention.head_dim = 64;
  attention.q = {"q", 64, 64, 0, 0};
  if (mixture) {
    model::MoeSpec moe;
    moe.top_k = 2;
    moe.width = 64;
    moe.experts.resize(8);
    layer.ffn = moe;
  }
  spec.layers.assign(layers, layer);
  return spec;
}

ForecastInputs dense_inputs(const model::ModelSpec& spec) {
  ForecastInputs inputs(spec);
  inputs.sizes.trunk = 100 * kMB;
  inputs.sizes.layers.assign(spec.layers.size(), 100 * kMB);
  inputs.sizes.ring_slot = 100 * kMB;
  inputs.rates = {.ram_bytes_s = 10e9, .ops_s = 1e12};
  inputs.decode_seconds = 0.1;
  inputs.prompt_seconds = 0.001;
  return inputs;
}

// 10 layers of 8 experts of 10 MB, 2 at a time: 200 MB of 800 a token.
ForecastInputs mixture_inputs(const model::ModelSpec& spec) {
  ForecastInputs inputs(spec);
  inputs.sizes.trunk = 200 * kMB;
  inputs.sizes.experts = inputs.sizes.expert_whole = 800 * kMB;
  inputs.sizes.expert_floor = 20 * kMB;
  inputs.sizes.active_experts = 200 * kMB;
  inputs.experts = {2, std::vector<uint32_t>(10, 8), std::vector<uint64_t>(10, 10 * kMB)};
  inputs.rates = {.ram_bytes_s = 10e9, .ops_s = 1e12};
  inputs.decode_seconds = 0.1;
  inputs.prompt_seconds = 0.001;
  return inputs;
}

const SsdRate kDisk[] = {{1 << 20, 1, 1e9}, {1 << 20, 16, 1e9}};

TEST(ForecastTest, WhatFitsIsAsFastAsItComputes) {
  const model::ModelSpec spec = tiny_spec(10, false);
  const ForecastInputs inputs = dense_inputs(spec);
  for (const uint64_t budget : {uint64_t{0}, 2000 * kMB}) {
    const auto result = forecast(inputs, budget);
    ASSERT_TRUE(result) << result.error().message;
    EXPECT_FALSE(result->memory.residency.streams());
    EXPECT_DOUBLE_EQ(result->decode_tok_s, 10);
    EXPECT_DOUBLE_EQ(result->prompt_tok_s, 1000);
    EXPECT_EQ(result->read_bytes_per_token, 0);
    EXPECT_STREQ(result->decode_bound, "ram");
  }
}

TEST(ForecastTest, LayersThatDoNotFitAreReadUnderTheOthers) {
  const model::ModelSpec spec = tiny_spec(10, false);
  ForecastInputs inputs = dense_inputs(spec);
  EXPECT_FALSE(forecast(inputs, 700 * kMB)) << "no disk was measured";
  inputs.ssd = kDisk;
  const auto result = forecast(inputs, 700 * kMB);
  ASSERT_TRUE(result) << result.error().message;
  // The trunk and 2 slots leave room for 3 layers, for the rest of what a process needs takes less than one.
  EXPECT_EQ(result->memory.residency.streamed_layers.size(), 7u);
  EXPECT_DOUBLE_EQ(result->read_bytes_per_token, 700e6);
  EXPECT_NEAR(result->decode_tok_s, 1 / 0.7, 1e-9);
  EXPECT_STREQ(result->decode_bound, "ssd");
  EXPECT_NEAR(result->prompt_tok_s, 512 / 0.7, 1e-6);
  EXPECT_STREQ(result->prompt_bound, "ssd");
}

TEST(ForecastTest, LayersThatTheRingHoldsAreNotReadForEachToken) {
  const model::ModelSpec spec = tiny_spec(10, false);
  ForecastInputs inputs = dense_inputs(spec);
  inputs.ssd = kDisk;
  for (uint64_t budget = 1400 * kMB; budget > 900 * kMB; budget -= 25 * kMB) {
    const auto result = forecast(inputs, budget);
    ASSERT_TRUE(result) << result.error().message;
    const size_t streamed = result->memory.residency.streamed_layers.size();
    EXPECT_DOUBLE_EQ(result->read_bytes_per_token,
                     streamed <= 2 ? 0.0 : static_cast<double>(streamed) * 100e6);
    EXPECT_STREQ(result->decode_bound, streamed <= 2 ? "ram" : "ssd");
  }
}

TEST(ForecastTest, ExpertsAreReadAfterTheirRouter) {
  const model::ModelSpec spec = tiny_spec(10, true);
  ForecastInputs inputs = mixture_inputs(spec);
  inputs.ssd = kDisk;
  const auto result = forecast(inputs, 600 * kMB);
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_TRUE(result->memory.residency.stream_experts);
  const double held = static_cast<double>(result->memory.residency.cache_bytes) / 800e6;
  EXPECT_GT(held, 0.4);
  EXPECT_LT(held, 0.5);
  EXPECT_DOUBLE_EQ(result->hit_rate, held);
  const double read = 0.2 * (1 - held);
  EXPECT_NEAR(result->decode_tok_s, 1 / (0.1 + read), 1e-9);
  EXPECT_STREQ(result->decode_bound, read > 0.1 ? "ssd" : "ram");
  // 512 tokens choose every expert. Through the slots of two layers of ten, the others hit.
  const double sweep = 0.8 * (1 - (held - 0.2) / 0.8);
  EXPECT_NEAR(result->prompt_tok_s, 512 / (sweep + 0.25 * 0.512), 1e-6);
  EXPECT_STREQ(result->prompt_bound, "ssd");
}

TEST(ForecastTest, PromptsTakeTheTimeOfTheirChunks) {
  const model::ModelSpec spec = tiny_spec(10, true);
  ForecastInputs inputs = mixture_inputs(spec);
  inputs.ssd = kDisk;
  const uint64_t budget = 600 * kMB;
  const auto seconds = [&](uint32_t tokens) {
    inputs.prompt_tokens = tokens;
    return tokens / forecast(inputs, budget)->prompt_tok_s;
  };
  const uint32_t chunk = forecast(inputs, budget)->memory.chunk_tokens;
  EXPECT_NEAR(seconds(2 * chunk + 100), 2 * seconds(chunk) + seconds(100), 1e-9);
  // Few tokens choose few experts, of which the cache holds its share.
  const double held = static_cast<double>(forecast(inputs, budget)->memory.residency.cache_bytes) / 800e6;
  EXPECT_NEAR(seconds(2), 0.002 + 0.8 * (1 - 0.75 * 0.75) * (1 - held), 1e-9);
  // One that has room for no more than two layers keeps nothing for the next chunk, and reads as it computes.
  const uint64_t floor = model::floor_budget(spec, inputs.sizes, inputs.memory);
  inputs.prompt_tokens = 64;
  const auto least = forecast(inputs, floor);
  const double few = static_cast<double>(least->memory.residency.cache_bytes) / 800e6;
  ASSERT_LT(few, 0.2);
  EXPECT_NEAR(64 / least->prompt_tok_s,
              64 / least->memory.chunk_tokens *
                  (0.001 * least->memory.chunk_tokens +
                   0.8 * (1 - few) * (1 - std::pow(0.75, least->memory.chunk_tokens))),
              1e-6);
}

// A disk that saves up while nothing is read: never faster than its steady rate on average.
TEST(ForecastTest, BurstsHelpWhereComputingLeavesPauses) {
  const model::ModelSpec spec = tiny_spec(10, true);
  ForecastInputs inputs = mixture_inputs(spec);
  inputs.ssd = kDisk;
  inputs.ssd_burst_bytes_s = 4e9;
  inputs.decode_seconds = 0.01;
  const auto bound = forecast(inputs, 600 * kMB);
  ASSERT_TRUE(bound);
  const double read = 0.2 * (1 - bound->hit_rate);
  EXPECT_NEAR(bound->decode_tok_s, 1 / read, 1e-9);
  EXPECT_STREQ(bound->decode_bound, "ssd");
  inputs.decode_seconds = 0.1;
  EXPECT_NEAR(forecast(inputs, 600 * kMB)->decode_tok_s, 1 / (0.1 + read / 4), 1e-9);
}

TEST(ForecastTest, SmallReadsAreOfWholeBlocksAndGainNothingFromPauses) {
  const model::ModelSpec spec = tiny_spec(10, true);
  ForecastInputs inputs = mixture_inputs(spec);
  const SsdRate disk[] = {{1 << 10, 1, 1e8}, {1 << 20, 1, 1e9}};
  inputs.ssd = disk;
  inputs.ssd_burst_bytes_s = 4e9;
  inputs.sizes.expert_reads = 15'000;
  inputs.sizes.expert_read_bytes = 1024 * 15'000;  // Two thirds of it are wanted.
  const auto result = forecast(inputs, 600 * kMB);
  ASSERT_TRUE(result) << result.error().message;
  const double read = 0.2 * (1 - result->hit_rate) * 1.536 * 10;
  EXPECT_NEAR(result->read_bytes_per_token, read * 1e8, 1);
  EXPECT_NEAR(result->decode_tok_s, 1 / (0.1 + read), 1e-9);
}

TEST(ForecastTest, ATraceTellsTheHitRate) {
  const model::ModelSpec spec = tiny_spec(10, true);
  ForecastInputs inputs = mixture_inputs(spec);
  inputs.ssd = kDisk;
  // Always the same two of each layer: all hits once they are there.
  weights::RoutingTrace trace;
  trace.shape = inputs.experts;
  trace.tokens = 50;
  for (int i = 0; i < 50 * 10; ++i) trace.ids.insert(trace.ids.end(), {3, 5});
  inputs.trace = &trace;
  const auto result = forecast(inputs, 600 * kMB);
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_DOUBLE_EQ(result->hit_rate, 1);
  EXPECT_DOUBLE_EQ(result->decode_tok_s, 10);
}

TEST(ForecastTest, BudgetsFromTheFloorUpwards) {
  const model::ModelSpec spec = tiny_spec(10, true);
  ForecastInputs inputs = mixture_inputs(spec);
  inputs.ssd = kDisk;
  const uint64_t floor = model::floor_budget(spec, inputs.sizes, inputs.memory);
  const uint64_t resident = model::resident_budget(spec, inputs.sizes, inputs.memory);
  EXPECT_TRUE(forecast(inputs, floor));
  const auto below = forecast(inputs, floor - 1);
  ASSERT_FALSE(below);
  EXPECT_EQ(below.error().code, ErrorCode::kOutOfBudget);
  EXPECT_FALSE(forecast(inputs, resident)->memory.residency.streams());
  EXPECT_TRUE(forecast(inputs, resident - 1)->memory.residency.streams());
  double last = 0;
  for (uint64_t budget = floor; budget <= resident + 100 * kMB; budget += 50 * kMB) {
    const auto result = forecast(inputs, budget);
    ASSERT_TRUE(result);
    EXPECT_GE(result->decode_tok_s, last) << budget;
    last = result->decode_tok_s;
  }
}

// As DiskTimeTest's disk with blocks of 1 MiB: one expert of a layer takes 5 ms, two together take 8.
TEST(ForecastTest, EachLayerWaitsForTheLastOfItsReads) {
  const model::ModelSpec spec = tiny_spec(10, true);
  ForecastInputs inputs = mixture_inputs(spec);
  inputs.experts.expert_bytes.assign(10, 10 * kMB);
  constexpr double kBlock = 1e6;
  const SsdRate disk[] = {
      {1'000'000, 1, kBlock / 5e-3}, {1'000'000, 2, kBlock / 3e-3}, {1'000'000, 16, kBlock / 1e-3}};
  inputs.ssd = disk;
  inputs.decode_seconds = 0.001;
  inputs.sizes.expert_reads = 10;  // Of 1 MB.
  const auto result = forecast(inputs, 600 * kMB);
  ASSERT_TRUE(result) << result.error().message;
  const double miss = 1 - result->hit_rate;
  const BatchTime batch(disk, kBlock);
  const double one = batch.of(10), two = batch.of(20);
  EXPECT_GT(one, 1.5 * 10 * 1e-3);
  EXPECT_NEAR(result->decode_tok_s,
              1 / (0.001 + 10 * (2 * miss * result->hit_rate * one + miss * miss * two)), 1e-6);
  EXPECT_STREQ(result->decode_bound, "ssd");
  // The same as one read of 10 MB each: the storage cuts it into as many pieces.
  inputs.sizes.expert_reads = 1;
  EXPECT_NEAR(forecast(inputs, 600 * kMB)->decode_tok_s, result->decode_tok_s, 1e-6);
}

}  // namespace
}  // namespace mlxf::plan
