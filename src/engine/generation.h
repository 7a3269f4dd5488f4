// Generation: one answer in the making: from the logits after each token to the next token, its text and the end.
//
// The one implementation of sampling, stop strings, end tokens and limits that Session (one conversation) and
// Scheduler (many) share; it knows nothing of caches and batches. A token depends on the request, the logits and the
// position alone. Owned by whoever runs the model; one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/token_id.h"
#include "decode/sampler.h"
#include "decode/stop_strings.h"
#include "engine/constraint.h"
#include "text/detokenizer.h"
#include "text/tokenizer.h"

namespace mlxf::engine {

struct GenerateRequest {
  std::vector<TokenId> prompt;  // Not empty.
  uint32_t max_tokens = 0;      // 0: until the model ends the text or the context is full.
  decode::SamplingParams sampling;
  std::vector<std::string> stop;
  std::vector<TokenId> shown_special;  // Special tokens that are a part of the text; others are not.
  bool ignore_end = false;             // Goes on past tokens that end a generation.
  bool logprobs = false;               // Log-probability of each token,
  uint32_t top_logprobs = 0;           // and of the n likeliest beside it.
  // What the answer must fit; null: anything. Shared because it is immutable. Needs a tokenizer.
  std::shared_ptr<const Constraint> constraint = nullptr;
};

// A generated token with the text that became final with it; a stop string's text never appears. Id -1: no token, the
// rest of the text.
struct GeneratedToken {
  TokenId id = 0;
  std::string text;
  float logprob = 0.0f;
  std::vector<decode::TokenLogprob> top;
};

// kStop: an end token, a stop string, or a constraint that nothing can follow. kLength: max_tokens or a full context.
enum class FinishReason : uint8_t { kStop, kLength, kCancelled };
[[nodiscard]] const char* name_of(FinishReason reason);

// kInvalidArgument for an empty prompt, ids outside the vocabulary, a prompt that does not fit the context, or
// sampling parameters out of range.
[[nodiscard]] Status check_request(const GenerateRequest& request, uint32_t vocab, uint32_t context_max);

class Generation {
 public:
  // `tokenizer` null: no text, no stop strings, no end tokens, no constraint. REQUIRES: check_request() succeeded.
  // `request` outlives this.
  Generation(const GenerateRequest& request, const text::Tokenizer* tokenizer, uint32_t vocab,
             uint32_t context_max);

  // The next token, from the logits [vocab] after the text's last token. The last one carries the rest of the text.
  // kInternal when the logits are unusable; kInternal or kOutOfBudget when a constraint leaves no token.
  // REQUIRES: !done().
  [[nodiscard]] Result<GeneratedToken> next(std::span<const float> logits);

  [[nodiscard]] bool done() const { return finish_.has_value(); }
  [[nodiscard]] FinishReason finish() const { return *finish_; }             // REQUIRES: done().
  [[nodiscard]] const std::string& stop_string() const;                      // The one that matched.
  [[nodiscard]] std::span<const TokenId> tokens() const { return tokens_; }  // Without the end token.
  // Tokens that the answer can have at most.
  [[nodiscard]] uint32_t most() const { return most_; }

 private:
  [[nodiscard]] std::string rest();
  [[nodiscard]] GeneratedToken ended();

  const GenerateRequest& request_;
  const text::Tokenizer* tokenizer_;
  const uint32_t most_;
  decode::Sampler sampler_;
  std::optional<AnswerConstraint> constraint_;
  std::optional<text::IncrementalDetokenizer> detokenizer_;
  decode::StopStrings stops_;
  std::vector<TokenId> tokens_;
  std::optional<FinishReason> finish_;
};

}  // namespace mlxf::engine
