#include "decode/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <string>

#include "decode/philox.h"

namespace mlxf::decode {
namespace {

// No noise is larger: the largest uniform below is 1 - 2^-33.
constexpr float kLargestNoise = 23.0f;

// Gumbel noise of one token at one position.
float gumbel(uint64_t seed, uint32_t position, TokenId token) {
  const auto bits = philox4x32(seed, {position, static_cast<uint32_t>(token), 0, 0})[0];
  const double uniform = (static_cast<double>(bits) + 0.5) * 0x1p-32;
  return static_cast<float>(-std::log(-std::log(uniform)));
}

Status require(bool ok, const char* field, const char* range) {
  if (ok) return {};
  return fail(ErrorCode::kInvalidArgument, std::string(field) + " must be " + range);
}

// Visits the tokens that may come, in ascending order: those of `allowed`, or all where it is empty. A grammar mostly
// leaves a few of many thousands or nearly all.
template <typename Visit>
void each_allowed(size_t count, std::span<const uint32_t> allowed, const Visit& visit) {
  if (allowed.empty()) {
    for (size_t i = 0; i < count; ++i) visit(i);
    return;
  }
  const size_t words = std::min(allowed.size(), (count + 31) / 32);
  for (size_t word = 0; word < words; ++word) {
    const size_t first = word * 32;
    uint32_t bits = allowed[word];
    if (bits == ~uint32_t{0} && first + 32 <= count) {
      for (size_t i = first; i < first + 32; ++i) visit(i);
      continue;
    }
    for (; bits != 0; bits &= bits - 1) {
      const size_t i = first + static_cast<size_t>(std::countr_zero(bits));
      if (i >= count) return;
      visit(i);
    }
  }
}

double log_sum_exp(std::span<const float> logits) {
  const float largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - largest);
  return largest + std::log(sum);
}

}  // namespace

bool Sampler::likelier(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

Status SamplingParams::validate(uint32_t vocab) const {
  const auto within = [](float value, float low, float high) { return value >= low && value <= high; };
  RETURN_IF_ERROR(require(within(temperature, 0.0f, 100.0f), "temperature", "between 0 and 100"));
  RETURN_IF_ERROR(require(within(top_p, 0.0f, 1.0f), "top_p", "between 0 and 1"));
  RETURN_IF_ERROR(require(within(min_p, 0.0f, 1.0f), "min_p", "between 0 and 1"));
  RETURN_IF_ERROR(require(within(typical_p, 0.0f, 1.0f), "typical_p", "between 0 and 1"));
  RETURN_IF_ERROR(
      require(within(repetition_penalty, 0.01f, 100.0f), "repetition_penalty", "between 0.01 and 100"));
  RETURN_IF_ERROR(require(within(presence_penalty, -10.0f, 10.0f), "presence_penalty", "between -10 and 10"));
  RETURN_IF_ERROR(
      require(within(frequency_penalty, -10.0f, 10.0f), "frequency_penalty", "between -10 and 10"));
  for (const auto& [token, bias] : logit_bias) {
    if (token < 0 || static_cast<uint32_t>(token) >= vocab)
      return fail(ErrorCode::kInvalidArgument, "logit_bias names token " + std::to_string(token) +
                                                   ", which is not in the vocabulary of " +
                                                   std::to_string(vocab));
    RETURN_IF_ERROR(require(!std::isnan(bias), "logit_bias", "a number"));
  }
  return {};
}

Sampler::Sampler(SamplingParams params, uint32_t vocab) : params_(std::move(params)), logits_(vocab) {
  candidates_.reserve(vocab);
}

void Sampler::observe_prompt(std::span<const TokenId> tokens, uint32_t answer_max) {
  history_.reserve(tokens.size() + answer_max);
  seen_.reserve(tokens.size() + answer_max);
  history_.assign(tokens.begin(), tokens.end());
  prompt_tokens_ = history_.size();
}

std::span<const float> Sampler::biased_and_penalised(std::span<const float> logits) {
  const bool repeats = params_.repetition_penalty != 1.0f;
  const bool counts = params_.presence_penalty != 0.0f || params_.frequency_penalty != 0.0f;
  if (params_.logit_bias.empty() && !repeats && !counts) return logits;
  std::copy(logits.begin(), logits.end(), logits_.begin());
  for (const auto& [token, bias] : params_.logit_bias) logits_[static_cast<size_t>(token)] += bias;
  if (!repeats && !counts) return logits_;
  const size_t window =
      params_.repeat_last_n == 0 ? history_.size() : std::min<size_t>(params_.repeat_last_n, history_.size());
  const size_t first = history_.size() - window;
  seen_.assign(history_.begin() + static_cast<ptrdiff_t>(first), history_.end());
  if (repeats) {
    std::sort(seen_.begin(), seen_.end());
    seen_.erase(std::unique(seen_.begin(), seen_.end()), seen_.end());
    for (const TokenId token : seen_) {
      if (static_cast<size_t>(token) >= logits_.size()) continue;
      float& logit = logits_[static_cast<size_t>(token)];
      logit = logit > 0.0f ? logit / params_.repetition_penalty : logit * params_.repetition_penalty;
    }
  }
  if (!counts) return logits_;
  seen_.assign(history_.begin() + static_cast<ptrdiff_t>(std::max(first, prompt_tokens_)), history_.end());
  std::sort(seen_.begin(), seen_.end());
  for (size_t i = 0, end = 0; i < seen_.size(); i = end) {
    while (end < seen_.size() && seen_[end] == seen_[i]) ++end;
    logits_[static_cast<size_t>(seen_[i])] -=
        params_.presence_penalty + params_.frequency_penalty * static_cast<float>(end - i);
  }
  return logits_;
}

void Sampler::keep_top_k() {
  if (params_.top_k >= candidates_.size()) return;
  const auto end = candidates_.begin() + static_cast<ptrdiff_t>(params_.top_k);
  std::nth_element(candidates_.begin(), end, candidates_.end(), likelier);
  candidates_.erase(end, candidates_.end());
}

void Sampler::keep_typical() {
  double sum = 0.0, weighted = 0.0;
  for (const Candidate& c : candidates_) {
    const double shifted = static_cast<double>(c.logit) - largest_;
    sum += std::exp(shifted);
    weighted += std::exp(shifted) * shifted;
  }
  // |surprise - entropy|, where surprise is log(sum) - shifted and entropy log(sum) - weighted / sum.
  const double mean = weighted / sum;
  const auto distance = [&](const Candidate& c) {
    return std::abs(mean - (static_cast<double>(c.logit) - largest_));
  };
  std::sort(candidates_.begin(), candidates_.end(), [&](const Candidate& a, const Candidate& b) {
    const double x = distance(a), y = distance(b);
    return x != y ? x < y : likelier(a, b);
  });
  cut(params_.typical_p * sum, candidates_.size());
}

// Only as many candidates are sorted as are needed: nearly always few of a large vocabulary.
void Sampler::keep_top_p() {
  double sum = 0.0;
  for (const Candidate& c : candidates_) sum += std::exp(c.logit - largest_);
  size_t sorted = 0;
  for (size_t wanted = 256; sorted < candidates_.size(); wanted *= 8) {
    const auto from = candidates_.begin() + static_cast<ptrdiff_t>(sorted);
    const auto end = candidates_.begin() + static_cast<ptrdiff_t>(std::min(wanted, candidates_.size()));
    if (end != candidates_.end()) std::nth_element(from, end, candidates_.end(), likelier);
    std::sort(from, end, likelier);
    sorted = static_cast<size_t>(end - candidates_.begin());
    if (cut(params_.top_p * sum, sorted)) return;
  }
}

// Keeps the shortest beginning of the first `count` candidates that weighs `mass`; false: they weigh less.
bool Sampler::cut(double mass, size_t count) {
  double kept = 0.0;
  for (size_t i = 0; i < count; ++i) {
    kept += std::exp(candidates_[i].logit - largest_);
    if (kept < mass) continue;
    candidates_.resize(i + 1);
    return true;
  }
  return false;
}

void Sampler::keep_min_p() {
  const float least = largest_ + std::log(params_.min_p);
  candidates_.erase(std::remove_if(candidates_.begin(), candidates_.end(),
                                   [least](const Candidate& c) { return c.logit < least; }),
                    candidates_.end());
}

TokenId Sampler::draw(uint32_t position) const {
  float best = -std::numeric_limits<float>::infinity();
  TokenId token = candidates_.front().id;
  for (const Candidate& c : candidates_) {
    if (c.logit + kLargestNoise < best) continue;
    const float score = c.logit + gumbel(params_.seed, position, c.id);
    if (score > best || (score == best && c.id < token)) {
      best = score;
      token = c.id;
    }
  }
  return token;
}

Result<TokenId> Sampler::sample(std::span<const float> logits, uint32_t position,
                                std::span<const uint32_t> allowed) {
  const std::span<const float> scores = biased_and_penalised(logits);
  size_t top = scores.size();
  float largest = -std::numeric_limits<float>::infinity();
  each_allowed(scores.size(), allowed, [&](size_t i) {
    if (!(scores[i] > largest)) return;  // Not a number is not larger either.
    largest = scores[i];
    top = i;
  });
  if (!std::isfinite(largest))
    return fail(ErrorCode::kInternal, std::string("the model gave no usable logits ") +
                                          (allowed.empty() ? "" : "for the tokens that the grammar allows ") +
                                          "at position " + std::to_string(position));
  if (params_.temperature == 0.0f) return static_cast<TokenId>(top);
  const float scale = 1.0f / params_.temperature;
  largest_ = largest * scale;
  candidates_.clear();
  each_allowed(scores.size(), allowed, [&](size_t i) {
    if (scores[i] > -std::numeric_limits<float>::infinity())
      candidates_.push_back({scores[i] * scale, static_cast<TokenId>(i)});
  });
  if (params_.top_k != 0) keep_top_k();
  if (params_.typical_p < 1.0f) keep_typical();
  if (params_.top_p < 1.0f) keep_top_p();
  if (params_.min_p > 0.0f) keep_min_p();
  return draw(position);
}

float token_logprob(std::span<const float> logits, TokenId token) {
  return static_cast<float>(static_cast<double>(logits[static_cast<size_t>(token)]) - log_sum_exp(logits));
}

std::vector<TokenLogprob> top_logprobs(std::span<const float> logits, uint32_t count) {
  const double total = log_sum_exp(logits);
  std::vector<TokenId> ids(logits.size());
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<TokenId>(i);
  const size_t kept = std::min<size_t>(count, ids.size());
  std::partial_sort(ids.begin(), ids.begin() + static_cast<ptrdiff_t>(kept), ids.end(),
                    [&](TokenId a, TokenId b) {
                      const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
                      return x != y ? x > y : a < b;
                    });
  std::vector<TokenLogprob> top(kept);
  for (size_t i = 0; i < kept; ++i)
    top[i] = {ids[i], static_cast<float>(static_cast<double>(logits[static_cast<size_t>(ids[i])]) - total)};
  return top;
}

}  // namespace mlxf::decode
