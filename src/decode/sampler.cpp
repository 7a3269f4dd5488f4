#include "decode/sampler.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <string>

#include "kernels/kernel_table.h"
#include "kernels/philox.h"

namespace mlxf::decode {
namespace {

// Gumbel noise of random bits: -log(-log(u)) with u = (bits + 1/2) / 2^32.
float gumbel(uint32_t bits) {
  const double uniform = (static_cast<double>(bits) + 0.5) * 0x1p-32;
  return static_cast<float>(-std::log(-std::log(uniform)));
}

// At least that, at the price of a shift: since -log(u) >= 1 - u, it is at most -log(1 - u).
float gumbel_bound(uint32_t bits) { return 0.69316f * static_cast<float>(1 + std::countl_zero(~bits)); }
constexpr float kLargestNoise = 23.0f;  // Of all bits.

// The random bits of tokens at one position. Four neighbours share a call of the generator.
class TokenBits {
 public:
  TokenBits(uint64_t seed, uint32_t position) : seed_(seed), position_(position) {}
  uint32_t of(TokenId token) {
    const auto id = static_cast<uint32_t>(token);
    if (id / 4 != four_) {
      four_ = id / 4;
      words_ = kernels::philox4x32(seed_, {position_, four_, 0, 0});
    }
    return words_[id % 4];
  }

 private:
  uint64_t seed_;
  uint32_t position_;
  uint32_t four_ = UINT32_MAX;  // More than the largest token / 4.
  std::array<uint32_t, 4> words_{};
};

constexpr uint32_t kRun =
    16;  // Tokens whose chances are looked at together, in operations that every processor has.

// Whether one of kRun tokens of these logits and random bits may score `best` or more; by the bound of gumbel_bound().
bool may_win(const float* logits, float scale, const uint32_t* bits, float best) {
  uint32_t any = 0;
  for (uint32_t i = 0; i < kRun; ++i) {
    // The place of the highest one of ~bits, from the exponent of a number that keeps it through the conversion.
    const auto rest = static_cast<float>(static_cast<int32_t>((~bits[i] >> 1) & 0x7fffff80u));
    const auto exponent = static_cast<int32_t>(std::bit_cast<uint32_t>(rest) >> 23);
    const float bound = 0.69316f * static_cast<float>(158 - exponent);
    any |= static_cast<uint32_t>(logits[i] * scale + bound >= best);
  }
  return any != 0;
}

// Whether one of kRun logits over the temperature is `least` or more.
bool any_reaches(const float* logits, float scale, float least) {
  uint32_t any = 0;
  for (uint32_t i = 0; i < kRun; ++i) any |= static_cast<uint32_t>(logits[i] * scale >= least);
  return any != 0;
}

// The largest of `values`; not a number is not larger. -inf: there is none.
float largest_of(std::span<const float> values) {
  std::array<float, kRun> largest;
  largest.fill(-std::numeric_limits<float>::infinity());
  size_t i = 0;
  for (; i + kRun <= values.size(); i += kRun)
    for (uint32_t j = 0; j < kRun; ++j) largest[j] = values[i + j] > largest[j] ? values[i + j] : largest[j];
  for (; i < values.size(); ++i) largest[0] = values[i] > largest[0] ? values[i] : largest[0];
  return *std::max_element(largest.begin(), largest.end());
}

Status require(bool ok, const char* field, const char* range) {
  if (ok) return {};
  return fail(ErrorCode::kInvalidArgument, std::string(field) + " must be " + range);
}

// Visits the tokens that may come, in ascending order: those of `allowed`, or all where it is empty. A grammar mostly
// leaves a few of many thousands or nearly all, so runs of tokens are looked for.
template <typename Visit>
void each_allowed(size_t count, std::span<const uint32_t> allowed, const Visit& visit) {
  if (allowed.empty()) {
    for (size_t i = 0; i < count; ++i) visit(i);
    return;
  }
  const size_t words = std::min(allowed.size(), (count + 31) / 32);
  for (size_t word = 0; word < words; ++word) {
    uint32_t bits = allowed[word];
    while (bits != 0) {
      const int begin = std::countr_zero(bits);
      const int end = begin + std::countr_one(bits >> begin);
      const size_t last = std::min(word * 32 + static_cast<size_t>(end), count);
      for (size_t i = word * 32 + static_cast<size_t>(begin); i < last; ++i) visit(i);
      bits = end == 32 ? 0 : bits & ~uint32_t{0} << end;
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

// Of a few of many: nearly all are less likely than the least likely of those kept so far.
void Sampler::offer_top_k(const Candidate& candidate) {
  if (candidates_.size() == params_.top_k) {
    if (!likelier(candidate, candidates_.front())) return;
    std::pop_heap(candidates_.begin(), candidates_.end(), likelier);
    candidates_.pop_back();
  }
  candidates_.push_back(candidate);
  std::push_heap(candidates_.begin(), candidates_.end(), likelier);
}

// Offers all of `scores` but runs of which none is as likely as the least likely of those kept.
template <typename Offer>
void Sampler::offer_runs(std::span<const float> scores, float scale, const Offer& offer) {
  for (size_t begin = 0; begin < scores.size(); begin += kRun) {
    const size_t end = std::min(begin + kRun, scores.size());
    if (end - begin == kRun && candidates_.size() == params_.top_k &&
        !any_reaches(&scores[begin], scale, candidates_.front().logit))
      continue;
    for (size_t i = begin; i < end; ++i) offer(i);
  }
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

// `first` is one of the candidates. The likeliest, if it is still there: then most others of a real model cannot win
// whatever their noise.
TokenId Sampler::draw(uint32_t position, const Candidate& first) const {
  TokenBits bits(params_.seed, position);
  TokenId token = first.id;
  float best = first.logit + gumbel(bits.of(first.id));
  for (const Candidate& c : candidates_) {
    if (c.logit + kLargestNoise < best) continue;
    const uint32_t random = bits.of(c.id);
    if (c.logit + gumbel_bound(random) < best) continue;
    const float score = c.logit + gumbel(random);
    if (score > best || (score == best && c.id < token)) {
      best = score;
      token = c.id;
    }
  }
  return token;
}

// The same where all tokens of `scores` are candidates.
TokenId Sampler::draw_of_all(uint32_t position, std::span<const float> scores, float scale,
                             size_t top) const {
  constexpr uint32_t kBlock = 16 * kRun;
  std::array<uint32_t, kBlock> bits;
  const auto random_words = kernels::select_kernels().random_words;
  TokenId token = static_cast<TokenId>(top);
  float best = scores[top] * scale + gumbel(TokenBits(params_.seed, position).of(token));
  const auto look_at = [&](size_t i, uint32_t random) {
    const float score = scores[i] * scale + gumbel(random);
    if (score > best || (score == best && static_cast<TokenId>(i) < token)) {
      best = score;
      token = static_cast<TokenId>(i);
    }
  };
  for (size_t begin = 0; begin < scores.size(); begin += kBlock) {
    const size_t count = std::min<size_t>(kBlock, scores.size() - begin);
    random_words(params_.seed, position, static_cast<uint32_t>(begin / 4),
                 static_cast<uint32_t>((count + 3) / 4), bits.data());
    for (size_t i = 0; i < count; i += kRun) {
      const size_t end = std::min<size_t>(i + kRun, count);
      if (end - i == kRun && !may_win(&scores[begin + i], scale, &bits[i], best)) continue;
      for (size_t j = i; j < end; ++j) look_at(begin + j, bits[j]);
    }
  }
  return token;
}

Result<TokenId> Sampler::sample(std::span<const float> logits, uint32_t position,
                                std::span<const uint32_t> allowed) {
  const std::span<const float> scores = biased_and_penalised(logits);
  float largest = -std::numeric_limits<float>::infinity();
  size_t top = 0;
  if (allowed.empty()) {
    largest = largest_of(scores);
    top = static_cast<size_t>(std::find(scores.begin(), scores.end(), largest) - scores.begin());
  } else {
    each_allowed(scores.size(), allowed, [&](size_t i) {
      if (!(scores[i] > largest)) return;  // Not a number is not larger either.
      largest = scores[i];
      top = i;
    });
  }
  if (!std::isfinite(largest))
    return fail(ErrorCode::kInternal, std::string("the model gave no usable logits ") +
                                          (allowed.empty() ? "" : "for the tokens that the grammar allows ") +
                                          "at position " + std::to_string(position));
  if (params_.temperature == 0.0f) return static_cast<TokenId>(top);
  const float scale = 1.0f / params_.temperature;
  const bool few = params_.top_k != 0 && params_.top_k < scores.size();
  if (allowed.empty() && !few && params_.typical_p >= 1.0f && params_.top_p >= 1.0f && params_.min_p <= 0.0f)
    return draw_of_all(position, scores, scale, top);
  largest_ = largest * scale;
  candidates_.clear();
  const auto offer = [&](size_t i) {
    if (!(scores[i] > -std::numeric_limits<float>::infinity())) return;
    const Candidate candidate{scores[i] * scale, static_cast<TokenId>(i)};
    if (few) {
      offer_top_k(candidate);
    } else {
      candidates_.push_back(candidate);
    }
  };
  if (few && allowed.empty()) {
    offer_runs(scores, scale, offer);
  } else {
    each_allowed(scores.size(), allowed, offer);
  }
  if (params_.typical_p < 1.0f) keep_typical();
  if (params_.top_p < 1.0f) keep_top_p();
  if (params_.min_p > 0.0f) keep_min_p();
  const bool likeliest_stays = params_.typical_p >= 1.0f;
  return draw(position,
              likeliest_stays ? Candidate{largest_, static_cast<TokenId>(top)} : candidates_.front());
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
