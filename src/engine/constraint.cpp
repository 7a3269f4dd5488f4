#include "engine/constraint.h"

#include <algorithm>

namespace mlxf::engine {
namespace {

using State = text::Thinking::State;

void set(std::vector<uint32_t>& words, TokenId token) {
  words[static_cast<size_t>(token) / 32] |= uint32_t{1} << (token % 32);
}

void clear(std::vector<uint32_t>& words, TokenId token) {
  words[static_cast<size_t>(token) / 32] &= ~(uint32_t{1} << (token % 32));
}

}  // namespace

AnswerConstraint::AnswerConstraint(const Constraint& constraint, const text::Tokenizer& tokenizer)
    : constraint_(constraint),
      tokenizer_(tokenizer),
      phase_(constraint.thinking.state == State::kOpen ? Phase::kThinking : Phase::kFirst),
      words_((tokenizer.vocab_size() + 31) / 32) {
  const text::Thinking& thinking = constraint.thinking;
  const auto names = [&](const std::string& mark) {
    const auto token = tokenizer.find_token(mark);
    return token && constraint.grammar.names(*token);
  };
  if (thinking.state != State::kNone && !opens() && (names(thinking.open) || names(thinking.close))) {
    phase_ = Phase::kText;
    return;
  }
  if (opens()) opening_token_ = tokenizer.find_token(constraint.opening);
  if (constraint.thinking.state == State::kMayOpen)
    open_token_ = tokenizer.find_token(constraint.thinking.open);
  if (!open_token_ && phase_ == Phase::kFirst) phase_ = behind_thinking();
  close_ = constraint.thinking.close;
  if (!constraint.thinking.then.empty()) then_token_ = tokenizer.find_token(constraint.thinking.then);
  if (!then_token_) close_ += constraint.thinking.then;
  if (!constraint.thinking.call_end.empty()) call_end_ = tokenizer.find_token(constraint.thinking.call_end);
}

bool AnswerConstraint::free() const {
  if (!opens() || phase_ == Phase::kHeader) return false;
  // With a part of a mark written, a token could end it and go on behind it.
  return tail_.empty() && (phase_ == Phase::kThinking || (phase_ != Phase::kText && opening_token_));
}

void AnswerConstraint::enter(Phase phase) {
  phase_ = phase;
  matcher_.reset();
  tail_.clear();
  words_tail_.reset();
}

Result<std::span<const uint32_t>> AnswerConstraint::allowed(bool ends) {
  if (phase_ == Phase::kThinking) return allowed_thinking(ends);
  if (phase_ == Phase::kHeader) {
    std::fill(words_.begin(), words_.end(), 0);
    set(words_, *then_token_);
    return std::span<const uint32_t>(words_);
  }
  if (opens() && phase_ != Phase::kText) return allowed_before(constraint_.opening, ends);
  return allowed_text(ends);
}

std::span<const uint32_t> AnswerConstraint::allowed_thinking(bool ends) {
  const std::span<const uint32_t> allowed = allowed_before(close_, false);
  if (ends && call_end_) set(words_, *call_end_);
  return allowed;
}

Result<std::span<const uint32_t>> AnswerConstraint::allowed_text(bool ends) {
  if (!matcher_) {
    ASSIGN_OR_RETURN(matcher_, constraint_.grammar.start());
  }
  ASSIGN_OR_RETURN(const std::span<const uint32_t> allowed, matcher_->allowed());
  if (ends && phase_ == Phase::kText) return allowed;
  std::copy(allowed.begin(), allowed.end(), words_.begin());
  if (!ends)
    for (const TokenId end : tokenizer_.end_of_generation()) clear(words_, end);
  if (phase_ == Phase::kFirst) set(words_, *open_token_);
  return std::span<const uint32_t>(words_);
}

std::span<const uint32_t> AnswerConstraint::allowed_before(const std::string& mark, bool ends) {
  if (words_tail_ == tail_) return words_;
  words_tail_ = tail_;
  std::fill(words_.begin(), words_.end(), ~uint32_t{0});
  if (!ends)
    for (const TokenId end : tokenizer_.end_of_generation()) clear(words_, end);
  for (uint32_t id = 0; id < tokenizer_.vocab_size(); ++id)
    if (passes_mark(tokenizer_.token_bytes(static_cast<TokenId>(id)), mark))
      clear(words_, static_cast<TokenId>(id));
  return words_;
}

// Whether the mark ends within the token and is followed there by what the grammar should see: anything, but for
// blanks behind the thinking.
bool AnswerConstraint::passes_mark(std::string_view token, const std::string& mark) const {
  if (tail_.size() + token.size() <= mark.size()) return false;
  // A look at the mark's last character, with something behind it, is enough for nearly every token.
  const size_t last = token.find(mark.back());
  if (last == std::string_view::npos || last + 1 == token.size()) return false;
  const std::string both = tail_ + std::string(token);
  const size_t at = both.find(mark);
  if (at == std::string::npos) return false;
  const size_t behind = at + mark.size();
  return phase_ == Phase::kThinking ? both.find_first_not_of(" \t\r\n", behind) != std::string::npos
                                    : behind < both.size();
}

bool AnswerConstraint::reaches_mark(TokenId token, const std::string& mark) {
  tail_ += tokenizer_.token_bytes(token);
  if (tail_.find(mark) != std::string::npos) return true;
  size_t begun = std::min(tail_.size(), mark.size() - 1);
  while (!tail_.ends_with(mark.substr(0, begun))) --begun;
  tail_.erase(0, tail_.size() - begun);
  return false;
}

Status AnswerConstraint::accept(TokenId token) {
  if (phase_ == Phase::kFirst && token == *open_token_) {
    enter(Phase::kThinking);
    return {};
  }
  if (phase_ == Phase::kThinking) {
    if (reaches_mark(token, close_)) enter(then_token_ ? Phase::kHeader : behind_thinking());
    return {};
  }
  if (phase_ == Phase::kHeader) {
    enter(behind_thinking());
    return {};
  }
  if (opens() && phase_ != Phase::kText) {
    phase_ = Phase::kFree;
    // Readers take the mark's text for the mark, whatever tokens it is made of.
    if (token == opening_token_ || reaches_mark(token, constraint_.opening)) enter(Phase::kText);
    return {};
  }
  phase_ = Phase::kText;
  RETURN_IF_ERROR(matcher_->accept(token));
  if (opens() && matcher_->must_end()) enter(Phase::kFree);
  return {};
}

}  // namespace mlxf::engine
