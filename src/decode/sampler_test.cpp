#include "decode/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "kernels/philox.h"

namespace mlxf::decode {
namespace {

using testing::HasSubstr;

TokenId sample_one(const SamplingParams& params, const std::vector<float>& logits, uint32_t position = 0) {
  Sampler sampler(params, static_cast<uint32_t>(logits.size()));
  return sampler.sample(logits, position).value();
}

// How often each token was drawn at the positions 0 .. draws - 1.
std::map<TokenId, int> histogram(const SamplingParams& params, const std::vector<float>& logits,
                                 uint32_t draws) {
  Sampler sampler(params, static_cast<uint32_t>(logits.size()));
  std::map<TokenId, int> counts;
  for (uint32_t i = 0; i < draws; ++i) ++counts[sampler.sample(logits, i).value()];
  return counts;
}

std::set<TokenId> support(const SamplingParams& params, const std::vector<float>& logits) {
  std::set<TokenId> tokens;
  for (const auto& [token, count] : histogram(params, logits, 4000)) tokens.insert(token);
  return tokens;
}

// Logits of these probabilities.
std::vector<float> logits_of(const std::vector<float>& probabilities) {
  std::vector<float> logits;
  logits.reserve(probabilities.size());
  for (const float p : probabilities) logits.push_back(std::log(p) + 3.0f);
  return logits;
}

SamplingParams plain(uint64_t seed = 1) {
  SamplingParams params;
  params.temperature = 1.0f;
  params.seed = seed;
  return params;
}

TEST(Sampler, GreedyTakesTheLargestAndTheLowestIdAmongEquals) {
  SamplingParams params;
  params.temperature = 0.0f;
  EXPECT_EQ(sample_one(params, {1.0f, 5.0f, 2.0f}), 1);
  EXPECT_EQ(sample_one(params, {1.0f, 5.0f, 5.0f}), 1);
  EXPECT_EQ(sample_one(params, {NAN, -3.0f, 2.0f}), 2);
}

TEST(Sampler, ALineWithoutFiniteLogitsIsAnError) {
  Sampler sampler(plain(), 2);
  const float inf = std::numeric_limits<float>::infinity();
  EXPECT_FALSE(sampler.sample(std::vector<float>{NAN, NAN}, 3));
  EXPECT_FALSE(sampler.sample(std::vector<float>{-inf, -inf}, 3));
}

TEST(Sampler, DrawsWithTheModelsProbabilities) {
  const std::vector<float> probabilities = {0.5f, 0.25f, 0.15f, 0.1f};
  const int draws = 40000;
  const auto counts = histogram(plain(), logits_of(probabilities), draws);
  for (size_t i = 0; i < probabilities.size(); ++i) {
    const double p = probabilities[i], sigma = std::sqrt(p * (1 - p) * draws);
    EXPECT_NEAR(counts.at(static_cast<TokenId>(i)), p * draws, 4 * sigma) << i;
  }
}

TEST(Sampler, TemperatureSharpensAndFlattens) {
  SamplingParams params = plain();
  params.temperature = 0.5f;  // Probabilities squared: 0.64 and 0.04 become 16 : 1.
  const auto counts = histogram(params, logits_of({0.8f, 0.2f}), 20000);
  EXPECT_NEAR(counts.at(0), 20000 * 16.0 / 17.0, 4 * std::sqrt(20000 * 16.0 / 289.0));
}

TEST(Sampler, ATokenDependsOnSeedAndPositionAlone) {
  const std::vector<float> logits = logits_of({0.3f, 0.3f, 0.2f, 0.2f});
  Sampler forward(plain(7), 4);
  std::vector<TokenId> tokens;
  for (uint32_t i = 0; i < 200; ++i) tokens.push_back(forward.sample(logits, i).value());
  for (uint32_t i = 200; i-- > 0;) EXPECT_EQ(sample_one(plain(7), logits, i), tokens[i]);
  std::vector<TokenId> others;
  for (uint32_t i = 0; i < 200; ++i) others.push_back(sample_one(plain(8), logits, i));
  EXPECT_NE(tokens, others);
}

// What the header defines, without any shortcut: the largest logit + noise among `kept`.
TokenId largest_score(uint64_t seed, uint32_t position, const std::vector<float>& logits,
                      const std::vector<TokenId>& kept) {
  TokenId best = -1;
  float largest = 0;
  for (const TokenId token : kept) {
    const auto id = static_cast<uint32_t>(token);
    const uint32_t bits = kernels::philox4x32(seed, {position, id / 4, 0, 0})[id % 4];
    const double uniform = (static_cast<double>(bits) + 0.5) * 0x1p-32;
    const float score = logits[id] + static_cast<float>(-std::log(-std::log(uniform)));
    if (best < 0 || score > largest || (score == largest && token < best)) {
      largest = score;
      best = token;
    }
  }
  return best;
}

TEST(Sampler, ShortcutsChangeNoDraw) {
  // Flat, then ever more peaked.
  for (const float spread : {0.01f, 1.0f, 8.0f, 40.0f}) {
    std::vector<float> logits(6001);
    uint32_t state = 1;
    for (float& logit : logits) {
      state = state * 1664525u + 1013904223u;
      logit = spread * static_cast<float>(state >> 8) / 16777216.0f;
    }
    std::vector<TokenId> order(logits.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<TokenId>(i);
    std::stable_sort(order.begin(), order.end(), [&](TokenId a, TokenId b) {
      return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
    });
    Sampler all(plain(5), 6001);
    SamplingParams few = plain(5);
    few.top_k = 37;
    Sampler likeliest(few, 6001);
    const std::vector<TokenId> first(order.begin(), order.begin() + 37);
    for (uint32_t position = 0; position < 60; ++position) {
      EXPECT_EQ(all.sample(logits, position).value(), largest_score(5, position, logits, order)) << spread;
      EXPECT_EQ(likeliest.sample(logits, position).value(), largest_score(5, position, logits, first))
          << spread;
    }
  }
}

TEST(Sampler, TopKKeepsTheLikeliest) {
  SamplingParams params = plain();
  params.top_k = 2;
  EXPECT_THAT(support(params, logits_of({0.1f, 0.3f, 0.2f, 0.4f})), testing::ElementsAre(1, 3));
  params.top_k = 1;
  EXPECT_THAT(support(params, logits_of({0.25f, 0.25f, 0.25f, 0.25f})), testing::ElementsAre(0));
}

TEST(Sampler, TopPKeepsTheShortestSetThatReachesP) {
  SamplingParams params = plain();
  params.top_p = 0.65f;
  EXPECT_THAT(support(params, logits_of({0.1f, 0.3f, 0.2f, 0.4f})), testing::ElementsAre(1, 3));
  params.top_p = 0.0f;
  EXPECT_THAT(support(params, logits_of({0.1f, 0.3f, 0.2f, 0.4f})), testing::ElementsAre(3));
}

TEST(Sampler, TopPOfALargeVocabularyEqualsAFullSort) {
  std::vector<float> logits(5000);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>((i * 7919) % 5000) / 5000.0f;
  SamplingParams params = plain();
  params.top_p = 0.5f;
  // By symmetry of x -> exp(x) over a uniform grid: the kept ones are those above log((1 + e) / 2).
  const float border = std::log((1.0f + std::exp(1.0f)) / 2.0f);
  Sampler sampler(params, 5000);
  for (uint32_t i = 0; i < 300; ++i)
    EXPECT_GT(logits[static_cast<size_t>(sampler.sample(logits, i).value())], border - 2e-3f);
  float least = 1.0f;
  for (uint32_t i = 0; i < 6000; ++i)
    least = std::min(least, logits[static_cast<size_t>(sampler.sample(logits, i).value())]);
  EXPECT_LT(least, border + 5e-3f);
}

TEST(Sampler, MinPIsRelativeToTheLikeliest) {
  SamplingParams params = plain();
  params.min_p = 0.5f;
  EXPECT_THAT(support(params, logits_of({0.1f, 0.3f, 0.19f, 0.41f})), testing::ElementsAre(1, 3));
}

TEST(Sampler, TypicalKeepsWhatIsNearestToTheEntropy) {
  SamplingParams params = plain();
  params.typical_p = 0.3f;
  // Entropy 1.168 nats; surprises 0.511, 1.609, 2.303, 2.303: token 1 is nearest, then 0. 0.2 < 0.3 <= 0.8.
  const std::vector<float> logits = logits_of({0.6f, 0.2f, 0.1f, 0.1f});
  EXPECT_THAT(support(params, logits), testing::ElementsAre(0, 1));
  params.typical_p = 0.1f;
  EXPECT_THAT(support(params, logits), testing::ElementsAre(1));
}

TEST(Sampler, RepetitionPenaltyReachesPromptAndAnswer) {
  SamplingParams params;
  params.temperature = 0.0f;
  params.repetition_penalty = 2.0f;
  Sampler sampler(params, 3);
  sampler.observe_prompt(std::vector<TokenId>{0});
  const std::vector<float> logits = {4.0f, 3.0f, 2.5f};
  EXPECT_EQ(sampler.sample(logits, 1).value(), 1);  // 2, 3, 2.5
  sampler.accept(1);
  EXPECT_EQ(sampler.sample(logits, 2).value(), 2);                                   // 2, 1.5, 2.5
  EXPECT_EQ(sampler.sample(std::vector<float>{-1.0f, -1.0f, -1.5f}, 3).value(), 2);  // -2, -2, -1.5
}

TEST(Sampler, PresenceAndFrequencyCountTheAnswerOnly) {
  SamplingParams params;
  params.temperature = 0.0f;
  params.frequency_penalty = 0.6f;
  Sampler sampler(params, 2);
  sampler.observe_prompt(std::vector<TokenId>{0, 0, 0});
  const std::vector<float> logits = {2.0f, 1.0f};
  EXPECT_EQ(sampler.sample(logits, 3).value(), 0);
  sampler.accept(0);
  EXPECT_EQ(sampler.sample(logits, 4).value(), 0);  // 1.4 against 1
  sampler.accept(0);
  EXPECT_EQ(sampler.sample(logits, 5).value(), 1);  // 0.8 against 1
  params.frequency_penalty = 0.0f;
  params.presence_penalty = 1.5f;
  params.repeat_last_n = 1;
  Sampler present(params, 2);
  present.accept(0);
  EXPECT_EQ(present.sample(logits, 1).value(), 1);
  present.accept(1);
  EXPECT_EQ(present.sample(logits, 2).value(), 0) << "the window has left token 0 behind";
}

TEST(Sampler, BiasForcesAndForbids) {
  SamplingParams params = plain();
  params.logit_bias = {{0, -std::numeric_limits<float>::infinity()}, {2, 100.0f}};
  EXPECT_THAT(support(params, {50.0f, 1.0f, 1.0f}), testing::ElementsAre(2));
}

TEST(SamplingParams, RefusesWhatIsOutOfRange) {
  const auto message = [](auto change) {
    SamplingParams params;
    change(params);
    const Status status = params.validate(10);
    return status ? std::string("accepted") : status.error().message;
  };
  EXPECT_THAT(message([](auto& p) { p.temperature = -1.0f; }), HasSubstr("temperature"));
  EXPECT_THAT(message([](auto& p) { p.temperature = NAN; }), HasSubstr("temperature"));
  EXPECT_THAT(message([](auto& p) { p.top_p = 1.5f; }), HasSubstr("top_p"));
  EXPECT_THAT(message([](auto& p) { p.min_p = -0.5f; }), HasSubstr("min_p"));
  EXPECT_THAT(message([](auto& p) { p.typical_p = 2.0f; }), HasSubstr("typical_p"));
  EXPECT_THAT(message([](auto& p) { p.repetition_penalty = 0.0f; }), HasSubstr("repetition_penalty"));
  EXPECT_THAT(message([](auto& p) { p.logit_bias = {{10, 1.0f}}; }), HasSubstr("token 10"));
  EXPECT_EQ(message([](auto&) {}), "accepted");
}

TEST(Logprobs, AreTheModelsOwn) {
  const std::vector<float> logits = logits_of({0.1f, 0.6f, 0.3f});
  EXPECT_NEAR(token_logprob(logits, 2), std::log(0.3f), 1e-6);
  const auto top = top_logprobs(logits, 2);
  ASSERT_EQ(top.size(), 2u);
  EXPECT_EQ(top[0].id, 1);
  EXPECT_NEAR(top[0].logprob, std::log(0.6f), 1e-6);
  EXPECT_EQ(top[1].id, 2);
  EXPECT_EQ(top_logprobs(logits, 9).size(), 3u);
}

// Whatever the rules, only tokens whose bit is set are drawn, and they are drawn as if the others were not there.
TEST(Sampler, DrawsAmongAllowedTokensAlone) {
  std::vector<float> logits(70), without(70, -std::numeric_limits<float>::infinity());
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(i % 7);
  std::vector<uint32_t> allowed(3, 0);
  for (const size_t token : {0u, 31u, 32u, 64u, 69u}) {
    allowed[token / 32] |= uint32_t{1} << (token % 32);
    without[token] = logits[token];
  }
  for (const float temperature : {0.0f, 1.5f})
    for (const uint32_t top_k : {0u, 2u}) {
      SamplingParams params;
      params.temperature = temperature;
      params.top_k = top_k;
      params.top_p = 0.9f;
      Sampler sampler(params, 70);
      for (uint32_t position = 0; position < 50; ++position)
        EXPECT_EQ(sampler.sample(logits, position, allowed).value(),
                  sampler.sample(without, position).value());
    }
  SamplingParams greedy;
  greedy.temperature = 0.0f;
  Sampler sampler(greedy, 70);
  EXPECT_EQ(sampler.sample(logits, 0, std::vector<uint32_t>{1}).value(),
            0);  // Bits that are missing are unset.
  const auto nothing = sampler.sample(logits, 0, std::vector<uint32_t>(3, 0));
  ASSERT_FALSE(nothing);
  EXPECT_EQ(nothing.error().code, ErrorCode::kInternal);
}

}  // namespace
}  // namespace mlxf::decode
