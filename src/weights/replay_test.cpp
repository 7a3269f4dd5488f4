// Replays with known answers, the policies' order on a piece of a real trace, and that nothing beats foresight.
#include "weights/replay.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace mlxf::weights {
namespace {

RoutingTrace one_layer(uint32_t experts, std::vector<int32_t> ids) {
  RoutingTrace trace;
  trace.shape = {1, {experts}, {}};
  trace.tokens = ids.size();
  trace.ids = std::move(ids);
  return trace;
}

RoutingTrace random_trace(uint32_t seed, uint32_t layers, uint32_t experts, uint32_t top_k, uint64_t tokens) {
  std::mt19937 random(seed);
  RoutingTrace trace;
  trace.shape = {top_k, std::vector<uint32_t>(layers, experts), {}};
  trace.tokens = tokens;
  for (uint64_t pass = 0; pass < tokens * layers; ++pass) {
    std::vector<int32_t> chosen;
    while (chosen.size() < top_k) {
      const auto expert = static_cast<int32_t>(std::min(random() % experts, random() % experts));
      if (std::find(chosen.begin(), chosen.end(), expert) == chosen.end()) chosen.push_back(expert);
    }
    std::sort(chosen.begin(), chosen.end());
    trace.ids.insert(trace.ids.end(), chosen.begin(), chosen.end());
  }
  return trace;
}

RoutingTrace classics() {
  auto trace = load_trace(std::string(MLXF_SOURCE_DIR) + "/tests/data/classics/routing.safetensors");
  EXPECT_TRUE(trace) << trace.error().message;
  return std::move(*trace);
}

TEST(Replay, CountsWhatIsKnown) {
  const RoutingTrace trace = one_layer(4, {0, 1, 2, 0, 1, 2, 0, 1, 2});
  EXPECT_EQ(replay(trace, Policy::kLru, {2}).hits, 0u);
  EXPECT_EQ(replay(trace, Policy::kLru, {3}).hits, 6u);
  // Keeps 0 and passes 1 and 2 through the other slot until 0 is needed for the last time: 0 1 2 [0] 1 2 ...
  EXPECT_EQ(replay_optimum(trace, {2}).hits, 3u);
  EXPECT_EQ(replay(trace, Policy::kLru, {3}, 3).hit_rate(), 1.0);
  EXPECT_EQ(replay(one_layer(4, {0, 0, 0, 1, 2, 0}), Policy::kLfu, {2}).hits, 3u);
  EXPECT_EQ(replay(one_layer(4, {0, 0, 0, 1, 2, 0}), Policy::kLru, {2}).hits, 2u);
}

TEST(Replay, PinsThePassAndComputesLargerOnesInWaves) {
  RoutingTrace trace;
  trace.shape = {2, {4}, {100}};
  trace.tokens = 3;
  trace.ids = {0, 1, 2, 3, 2, 3};
  const ReplayResult two = replay(trace, Policy::kLru, {2});
  EXPECT_EQ(two.hits, 2u);
  EXPECT_EQ(two.needed, 6u);
  EXPECT_EQ(two.hit_bytes, 200u);
  EXPECT_EQ(replay(trace, Policy::kLru, {1}).hits, 1u);  // 3, the last wave of its pass, is still there.
}

TEST(Replay, ExpertsOfEachSizeHaveTheirOwnSlots) {
  RoutingTrace trace;
  trace.shape = {1, {2, 2, 2}, {30, 10, 30}};
  trace.tokens = 2;
  trace.ids = {0, 0, 0, 0, 1, 0};
  const TracePools pools = pools_of(trace.shape);
  EXPECT_EQ(pools.pool_of_layer, (std::vector<uint32_t>{1, 0, 1}));
  EXPECT_EQ(pools.records, (std::vector<uint64_t>{2, 4}));
  EXPECT_EQ(pools.record_bytes, (std::vector<uint64_t>{10, 30}));
  const ReplayResult result = replay(trace, Policy::kLfu, {1, 2});
  EXPECT_EQ(result.hits, 2u);
  EXPECT_EQ(result.hit_bytes, 60u);
  EXPECT_EQ(result.needed_bytes, 140u);
}

TEST(Replay, NothingBeatsForesightAndEveryPolicyHitsAllWithAllSlots) {
  for (uint32_t seed = 1; seed <= 20; ++seed) {
    const RoutingTrace trace = random_trace(seed, 1 + seed % 4, 12, 1 + seed % 3, 200);
    const uint64_t all = uint64_t{12} * trace.shape.layers();
    for (const uint64_t slots : {uint64_t{4}, all / 2, all}) {
      const ReplayResult optimum = replay_optimum(trace, {slots});
      for (const Policy policy : kPolicies) {
        const ReplayResult result = replay(trace, policy, {slots});
        EXPECT_LE(result.hits, optimum.hits) << policy_name(policy) << ", seed " << seed << ", " << slots;
        if (slots == all) {
          EXPECT_EQ(result.hits, optimum.hits);
        }
      }
    }
  }
}

TEST(Replay, TheSteadyRateLeavesOutWhatFillsTheCache) {
  RoutingTrace trace = one_layer(4, {0, 1, 0, 1, 0, 1, 0, 1, 0, 1});
  EXPECT_DOUBLE_EQ(steady_hit_rate(trace, Policy::kLru, 0.5), 1);
  EXPECT_DOUBLE_EQ(steady_hit_rate(trace, Policy::kLru, 0.25), 0);
  EXPECT_DOUBLE_EQ(steady_hit_rate(trace, Policy::kLru, 0.01), 0) << "a slot at least";
}

// The default of --cache-policy against every policy that knows no future, on the text and model that it was chosen on.
TEST(Replay, TheDefaultPolicyIsNearTheBestOnARealTrace) {
  const RoutingTrace trace = classics();
  for (const double share : {0.08, 0.12, 0.25, 0.5, 0.75}) {
    const std::vector<uint64_t> slots = {static_cast<uint64_t>(share * 384)};
    double best = 0;
    for (const Policy policy : kPolicies) best = std::max(best, replay(trace, policy, slots).hit_rate());
    EXPECT_GE(replay(trace, Policy::kLfu, slots).hit_rate(), best - 0.03) << share;
    EXPECT_GT(replay(trace, Policy::kLfu, slots).hit_rate(), replay(trace, Policy::kLru, slots).hit_rate())
        << share;
    EXPECT_GT(replay_optimum(trace, slots).hit_rate(), best) << share;
  }
}

}  // namespace
}  // namespace mlxf::weights
