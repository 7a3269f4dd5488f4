// Sampler: chooses the next token from a row of logits.
//
// The order is that of the Hugging Face library: logit bias, penalties, allowed tokens, temperature, top-k, typical,
// top-p, min-p; then one token of what is left is drawn by Gumbel-max, argmax(logit / T + g), with noise g keyed by
// (seed, position, token): whoever draws position p of a text with this seed gets the same token, alone or in a batch.
// Equal scores go to the lower id. Temperature 0 is greedy: argmax after bias, penalties and what is allowed.
// One sampler belongs to one text and one thread; it keeps that text's tokens for the penalties.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/token_id.h"

namespace mlxf::decode {

struct SamplingParams {
  float temperature = 0.8f;  // 0: greedy.
  uint32_t top_k = 0;        // Keeps the k likeliest; 0: all.
  float top_p = 1.0f;        // Keeps the likeliest tokens whose probabilities reach p; 1: all.
  float min_p = 0.0f;        // Keeps tokens at least min_p times as likely as the likeliest; 0: all.
  float typical_p = 1.0f;    // Locally typical sampling (Meister et al., arXiv 2202.00666); 1: off.
  // Repetition (Keskar et al., arXiv 1909.05858): logits of tokens seen in prompt or answer are divided by it, or
  // multiplied where negative; 1: off. Presence and frequency, as OpenAI defines them, count the answer alone.
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  uint32_t repeat_last_n = 0;  // The penalties look at the last n tokens only; 0: at all.
  std::vector<std::pair<TokenId, float>> logit_bias;
  uint64_t seed = 0;

  // kInvalidArgument naming the field and its range.
  [[nodiscard]] Status validate(uint32_t vocab) const;
};

// Log-probabilities of the model itself: natural logarithm, before bias, penalties and temperature.
struct TokenLogprob {
  TokenId id = 0;
  float logprob = 0.0f;
};

class Sampler {
 public:
  // REQUIRES: params.validate(vocab) succeeded.
  Sampler(SamplingParams params, uint32_t vocab);

  // Tokens that stand before the answer, for the repetition penalty. Room is made for `answer_max` more, so that
  // sampling them takes no memory.
  void observe_prompt(std::span<const TokenId> tokens, uint32_t answer_max = 0);
  // The token at `position` of the text (the prompt's first is 0), from logits [vocab], which are left as they are.
  // `allowed`, unless empty, names the tokens to choose from, token i by bit i % 32 of word i / 32; the others are out
  // before temperature and what follows it. kInternal without one finite logit to choose from: the weights or the
  // arithmetic are broken, or none was allowed.
  [[nodiscard]] Result<TokenId> sample(std::span<const float> logits, uint32_t position,
                                       std::span<const uint32_t> allowed = {});
  // Makes `token` part of the answer.
  void accept(TokenId token) { history_.push_back(token); }

 private:
  struct Candidate {
    float logit;
    TokenId id;
  };
  [[nodiscard]] static bool likelier(const Candidate& a, const Candidate& b);
  // The logits themselves where nothing changes them.
  [[nodiscard]] std::span<const float> biased_and_penalised(std::span<const float> logits);
  void offer_top_k(const Candidate& candidate);
  template <typename Offer>
  void offer_runs(std::span<const float> scores, float scale, const Offer& offer);
  void keep_typical();
  void keep_top_p();
  void keep_min_p();
  bool cut(double mass, size_t count);
  [[nodiscard]] TokenId draw(uint32_t position, const Candidate& first) const;
  [[nodiscard]] TokenId draw_of_all(uint32_t position, std::span<const float> scores, float scale,
                                    size_t top) const;

  SamplingParams params_;
  std::vector<TokenId> history_;  // Prompt, then answer.
  size_t prompt_tokens_ = 0;
  std::vector<TokenId> seen_;  // Scratch of the penalties.
  std::vector<float> logits_;  // [vocab], scratch
  float largest_ = 0.0f;       // Logit over temperature of the likeliest token.
  std::vector<Candidate> candidates_;
};

// log softmax of `logits` at `token`, and at the `count` likeliest tokens, likeliest first.
[[nodiscard]] float token_logprob(std::span<const float> logits, TokenId token);
[[nodiscard]] std::vector<TokenLogprob> top_logprobs(std::span<const float> logits, uint32_t count);

}  // namespace mlxf::decode
