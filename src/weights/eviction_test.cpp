// Which of two records leaves, by policy.
#include "weights/eviction.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <vector>

namespace mlxf::weights {
namespace {

// All records in one layer.
Eviction one_layer(Policy policy, uint32_t records) {
  return Eviction(policy, std::vector<uint32_t>(records, 0));
}
void use(Eviction& eviction, std::initializer_list<uint32_t> records) {
  for (const uint32_t record : records) eviction.begin_pass({&record, 1});
}

TEST(Eviction, EveryPolicyHasAName) {
  for (const Policy policy : kPolicies) EXPECT_EQ(find_policy(policy_name(policy)), policy);
  EXPECT_EQ(find_policy("fifo"), std::nullopt);
}

TEST(Eviction, LruLetsGoOfTheLongestUnused) {
  Eviction eviction = one_layer(Policy::kLru, 3);
  use(eviction, {0, 1, 2, 0});
  EXPECT_LT(eviction.key(1), eviction.key(2));
  EXPECT_LT(eviction.key(2), eviction.key(0));
}

TEST(Eviction, LfuLetsGoOfTheLeastUsedAndNeverUsedFirst) {
  Eviction eviction = one_layer(Policy::kLfu, 3);
  use(eviction, {0, 0, 0, 1});
  EXPECT_LT(eviction.key(1), eviction.key(0));
  EXPECT_LT(eviction.key(2), eviction.key(1));
}

// A count halves in ln 2 / kDecay accesses: a favourite of the past gives way to one of today.
TEST(Eviction, LfuForgets) {
  Eviction eviction = one_layer(Policy::kLfu, 3);
  for (int i = 0; i < 100; ++i) use(eviction, {0});
  for (int i = 0; i < 40; ++i) use(eviction, {1});
  EXPECT_LT(eviction.key(1), eviction.key(0));
  for (int i = 0; i < static_cast<int>(1.5 / Eviction::kDecay); ++i) use(eviction, {2});  // Time passes.
  for (int i = 0; i < 40; ++i) use(eviction, {1});
  EXPECT_LT(eviction.key(0), eviction.key(1));
}

// Several answers side by side need more of a layer's experts at once; their favourites are as old as those of one.
TEST(Eviction, LfuAgesByPassesAndNotByWhatTheyNeed) {
  Eviction eviction = one_layer(Policy::kLfu, 42);
  std::vector<uint32_t> many(40);
  std::iota(many.begin(), many.end(), 2);
  for (int i = 0; i < 100; ++i) use(eviction, {0});
  for (int i = 0; i < 30; ++i) use(eviction, {1});
  for (int i = 0; i < 1000; ++i) eviction.begin_pass(many);
  for (int i = 0; i < 30; ++i) use(eviction, {1});
  EXPECT_LT(eviction.key(1), eviction.key(0));
}

// The keys are those of counts that are decayed at every access, after millions of them too.
TEST(Eviction, KeysAreDecayedCounts) {
  constexpr uint32_t kRecords = 5;
  Eviction eviction = one_layer(Policy::kLfu, kRecords);
  double counts[kRecords] = {};
  uint64_t state = 1;
  for (int step = 0; step < 300000; ++step) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    const auto record = static_cast<uint32_t>((state >> 33) % 100);
    const uint32_t chosen = record < 50 ? 0 : record < 80 ? 1 : record < 95 ? 2 : record < 99 ? 3 : 4;
    for (double& count : counts) count *= std::exp(-Eviction::kDecay);
    counts[chosen] += 1.0;
    use(eviction, {chosen});
    ASSERT_TRUE(std::isfinite(eviction.key(chosen)));
  }
  for (uint32_t a = 0; a + 1 < kRecords; ++a) {
    EXPECT_GT(eviction.key(a), eviction.key(a + 1));
    EXPECT_NEAR(eviction.key(a) - eviction.key(a + 1), std::log(counts[a] / counts[a + 1]), 1e-6);
  }
}

TEST(Eviction, SlruProtectsWhatWasNeededAgain) {
  Eviction eviction = one_layer(Policy::kSlru, 8);
  eviction.set_slots(5);  // Four of them for the protected.
  for (const uint32_t record : {0, 1, 2, 3, 4}) {
    use(eviction, {record});
    eviction.enter(record);
  }
  use(eviction, {0, 1, 2, 3});
  EXPECT_LT(eviction.key(4), eviction.key(0))
      << "needed once, though later than the first need of all others";
  use(eviction,
      {4});  // A fifth that is protected: the oldest of them gives way, as the newest of the others.
  EXPECT_LT(eviction.key(0), eviction.key(1));
  eviction.leave(1);
  use(eviction, {1});
  eviction.enter(1);
  EXPECT_LT(eviction.key(1), eviction.key(2)) << "came back, and is protected no longer";
  eviction.set_slots(0);
  for (const uint32_t record : {2, 3, 4}) EXPECT_LT(eviction.key(record), 1e6) << "protected without slots";
}

TEST(Eviction, LcpWeighsUsesAgainstTheTokensSince) {
  Eviction eviction = one_layer(Policy::kLcp, 2);
  use(eviction, {0, 0, 0, 0, 1});
  EXPECT_GT(eviction.key(0), eviction.key(1));
  for (int i = 0; i < 127; ++i) use(eviction, {0});
  // Far more uses of 0, but 0.25 ^ (1000 / 128) is less than a hundredth part of them.
  for (int i = 0; i < 1000; ++i) eviction.begin_pass(std::vector<uint32_t>{1});
  EXPECT_GT(eviction.key(1), eviction.key(0));
}

// The first layer with experts need not be the model's first.
TEST(Eviction, LeastStaleKeepsTheFirstTokensToo) {
  Eviction eviction(Policy::kLeastStale, {1, 1, 2, 2});
  use(eviction, {0, 2});
  EXPECT_LT(eviction.key(1), eviction.key(2)) << "this token's are kept";
}

TEST(Eviction, LeastStaleKeepsThisTokensAndTheLayersAhead) {
  Eviction eviction(Policy::kLeastStale, {0, 0, 1, 1, 2, 2});
  use(eviction, {0, 2, 4});  // A token,
  use(eviction, {1, 3});     // and the next one, in layer 1.
  EXPECT_LT(eviction.key(0), eviction.key(4)) << "layer 0 has had its turn, layer 2 is next";
  EXPECT_LT(eviction.key(2), eviction.key(0)) << "the layer that runs comes again last";
  EXPECT_LT(eviction.key(4), eviction.key(1)) << "this token's are kept";
}

}  // namespace
}  // namespace mlxf::weights
