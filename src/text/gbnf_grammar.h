// GbnfGrammar: a GBNF grammar as read: rules of character sets, sequences, choices and repetitions.
//
// Plain data of the text alone; any thread. The syntax is that of llama.cpp's grammars/README.md. Invariants: (1) the
// parts of a node come before it in `nodes`; (2) every rule that is named is defined, `root` among them; (3) no rule
// begins with itself; (4) sets and choices are not empty, ranges ascend and do not touch. Internal to text/.
//
// Tokens (<think>, <[1000]>, and !<think> for any other one) are names until who knows the vocabulary gives them ids.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/token_id.h"

namespace mlxf::text {

struct CharRange {
  uint32_t first = 0, last = 0;  // Unicode scalar values, both of the range.
};

// Each is named once in GbnfGrammar::tokens, however often it stands in the grammar.
struct GbnfToken {
  std::string text;           // As it is written, brackets and all.
  std::optional<TokenId> id;  // Where it is written as a number, and once it is known.
  size_t at = 0;              // Where it first stands.
  // Known with the id. The text of ordinary tokens can also be matched as characters; ends stand in no answer.
  bool is_text = false, is_end = false;
};

struct GbnfNode {
  enum class Kind : uint8_t { kChars, kRule, kSequence, kChoice, kRepeat, kToken };
  static constexpr uint32_t kUnbounded = UINT32_MAX;
  Kind kind = Kind::kSequence;
  uint32_t rule = 0;              // kRule
  uint32_t token = 0;             // kToken: which of `tokens`;
  bool negated = false;           // or any but that.
  uint32_t least = 0, most = 0;   // kRepeat
  std::vector<CharRange> chars;   // kChars: any one of them.
  std::vector<uint32_t> parts{};  // kSequence (may be empty), kChoice; kRepeat: one.
};

struct GbnfRule {
  std::string name;
  uint32_t body = 0;
};

struct GbnfGrammar {
  std::vector<GbnfNode> nodes;
  std::vector<GbnfRule> rules;
  std::vector<GbnfToken> tokens;
  uint32_t root = 0;  // A rule.
};

// kInvalidArgument naming line and column, which count from 1. At most 256 KiB, 1,000 rules, 20,000 nodes, groups in
// 64 levels, repetitions of 2,000 and 64 different tokens.
[[nodiscard]] Result<GbnfGrammar> parse_gbnf(std::string_view text);

// That error: `what` is wrong `at` bytes into the text.
[[nodiscard]] Error gbnf_error(std::string_view text, size_t at, const std::string& what);

// Which nodes match the empty text.
[[nodiscard]] std::vector<bool> nullable_nodes(const GbnfGrammar& grammar);

}  // namespace mlxf::text
