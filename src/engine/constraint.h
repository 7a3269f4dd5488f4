// Constraint: the grammar that an answer must fit, and where in the answer it begins to hold.
//
// A Constraint is part of a request, immutable and shared. An AnswerConstraint follows one answer; it belongs to its
// Generation. Of a model that thinks aloud, the grammar begins behind the mark that closes the thinking; until then
// the answer is free but cannot end, unless with a call, and the mark cannot come in one token with text of the answer.
// A grammar in which one of the marks stands by name says itself what the thinking is, and holds from the first token.
// What must follow the mark (the end of a channel's header) comes next and nothing else. With an opening
// mark the answer is free but for what stands behind each such mark (not those in the thinking): that must fit the
// grammar, until the grammar is complete.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/token_id.h"
#include "text/grammar.h"
#include "text/thinking.h"
#include "text/tokenizer.h"

namespace mlxf::engine {

struct Constraint {
  text::Grammar grammar;
  text::Thinking thinking = {};
  std::string opening = {};  // Empty: the grammar is that of the whole answer.
};

class AnswerConstraint {
 public:
  // Both outlive this; the grammar was compiled for `tokenizer`.
  AnswerConstraint(const Constraint& constraint, const text::Tokenizer& tokenizer);

  // The tokens that may come next, 32 to a word, among them those that end a generation if `ends` and the grammar may
  // end. No bit is set where it is complete; an error where it is not and nothing can follow. Valid until the next
  // call.
  // REQUIRES: !free().
  [[nodiscard]] Result<std::span<const uint32_t>> allowed(bool ends);
  // Any token may come next.
  [[nodiscard]] bool free() const;
  // REQUIRES: `token` was allowed and does not end the generation.
  [[nodiscard]] Status accept(TokenId token);
  // The grammar is complete and nothing can follow.
  [[nodiscard]] bool must_end() const { return !opens() && matcher_ && matcher_->must_end(); }

 private:
  enum class Phase : uint8_t { kFirst, kThinking, kHeader, kFree, kText };
  [[nodiscard]] bool opens() const { return !constraint_.opening.empty(); }
  void enter(Phase phase);
  [[nodiscard]] Phase behind_thinking() const { return opens() ? Phase::kFree : Phase::kText; }
  [[nodiscard]] std::span<const uint32_t> allowed_thinking(bool ends);
  [[nodiscard]] Result<std::span<const uint32_t>> allowed_text(bool ends);
  // Before a mark that ends this phase.
  [[nodiscard]] std::span<const uint32_t> allowed_before(const std::string& mark, bool ends);
  [[nodiscard]] bool passes_mark(std::string_view token, const std::string& mark) const;
  // The token is part of the text before `mark`; true when the mark is whole.
  [[nodiscard]] bool reaches_mark(TokenId token, const std::string& mark);

  const Constraint& constraint_;
  const text::Tokenizer& tokenizer_;
  Phase phase_;
  std::optional<TokenId> open_token_;     // kFirst: begins the thinking.
  std::optional<TokenId> opening_token_;  // The opening mark, where it is one token.
  std::optional<TokenId> then_token_;     // kHeader: what must come.
  std::optional<TokenId> call_end_;       // kThinking: may end the generation.
  std::string close_;                     // kThinking: the mark that ends it.
  // kThinking, kFree: the longest end of the answer that begins the mark; and that for which words_ was made.
  std::string tail_;
  std::optional<std::string> words_tail_;
  std::optional<text::GrammarMatcher> matcher_;  // From the first token that must fit on.
  std::vector<uint32_t> words_;
};

}  // namespace mlxf::engine
