#include "engine/generation.h"

#include <algorithm>

#include "base/check.h"

namespace mlxf::engine {
namespace {

uint32_t most_tokens(const GenerateRequest& request, uint32_t context_max) {
  const uint32_t room = context_max - static_cast<uint32_t>(request.prompt.size());
  return request.max_tokens == 0 ? room : std::min(request.max_tokens, room);
}

}  // namespace

const char* name_of(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
  }
  return "";
}

Status check_request(const GenerateRequest& request, uint32_t vocab, uint32_t context_max) {
  RETURN_IF_ERROR(request.sampling.validate(vocab));
  if (request.prompt.empty())
    return fail(ErrorCode::kInvalidArgument, "the prompt is empty: give at least one token of text");
  if (request.prompt.size() >= context_max)
    return fail(ErrorCode::kInvalidArgument,
                "the prompt has " + std::to_string(request.prompt.size()) +
                    " tokens, but the context holds " + std::to_string(context_max) +
                    " and needs one for the answer: shorten it or raise the context");
  for (const TokenId token : request.prompt)
    if (token < 0 || static_cast<uint32_t>(token) >= vocab)
      return fail(ErrorCode::kInvalidArgument, "token id " + std::to_string(token) +
                                                   " is not in the vocabulary of " + std::to_string(vocab));
  return {};
}

Generation::Generation(const GenerateRequest& request, const text::Tokenizer* tokenizer, uint32_t vocab,
                       uint32_t context_max)
    : request_(request),
      tokenizer_(tokenizer),
      most_(most_tokens(request, context_max)),
      sampler_(request.sampling, vocab),
      stops_(request.stop) {
  text::IncrementalDetokenizer::Options options;
  options.start = text::IncrementalDetokenizer::Options::Start::kContinues;
  options.shown = request.shown_special;
  if (tokenizer != nullptr) detokenizer_.emplace(*tokenizer, options);
  if (request.constraint != nullptr) {
    CHECK(tokenizer != nullptr);
    constraint_.emplace(*request.constraint, *tokenizer);
  }
  sampler_.observe_prompt(request.prompt, most_);
  tokens_.reserve(most_);
}

const std::string& Generation::stop_string() const { return stops_.matched(); }

std::string Generation::rest() {
  if (!detokenizer_ || stops_.stopped()) return {};
  return stops_.push(detokenizer_->finish()) + stops_.finish();
}

GeneratedToken Generation::ended() {
  finish_ = FinishReason::kStop;
  return GeneratedToken{-1, rest(), 0.0f, {}};
}

Result<GeneratedToken> Generation::next(std::span<const float> logits) {
  CHECK(!done());
  const auto position = static_cast<uint32_t>(request_.prompt.size() + tokens_.size());
  std::span<const uint32_t> allowed;
  if (constraint_ && !constraint_->free()) {
    ASSIGN_OR_RETURN(allowed, constraint_->allowed(!request_.ignore_end));
    // Complete: its own end tokens are the only ones that could follow, and they are not wanted or there are none.
    if (std::all_of(allowed.begin(), allowed.end(), [](uint32_t word) { return word == 0; })) return ended();
  }
  ASSIGN_OR_RETURN(const TokenId token, sampler_.sample(logits, position, allowed));
  if (!request_.ignore_end && tokenizer_ != nullptr && tokenizer_->is_end_of_generation(token))
    return ended();
  if (constraint_) RETURN_IF_ERROR(constraint_->accept(token));
  sampler_.accept(token);
  tokens_.push_back(token);
  GeneratedToken generated{token, {}, 0.0f, {}};
  if (detokenizer_) generated.text = stops_.push(detokenizer_->push(token));
  if (request_.logprobs) {
    generated.logprob = decode::token_logprob(logits, token);
    generated.top = decode::top_logprobs(logits, request_.top_logprobs);
  }
  const bool complete = constraint_ && constraint_->must_end();
  if (!stops_.stopped() && (complete || tokens_.size() >= most_)) {
    finish_ = complete ? FinishReason::kStop : FinishReason::kLength;
    generated.text += rest();
  }
  if (stops_.stopped()) finish_ = FinishReason::kStop;
  return generated;
}

}  // namespace mlxf::engine
