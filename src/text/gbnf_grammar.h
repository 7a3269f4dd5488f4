// GbnfGrammar: a GBNF grammar as read: rules of character sets, sequences, choices and repetitions.
//
// Plain data of the text alone; any thread. The syntax is that of llama.cpp's grammars/README.md. Invariants: (1) the
// parts of a node come before it in `nodes`; (2) every rule that is named is defined, `root` among them; (3) no rule
// begins with itself; (4) sets and choices are not empty, ranges ascend and do not touch. Internal to text/.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace mlxf::text {

struct CharRange {
  uint32_t first = 0, last = 0;  // Unicode scalar values, both of the range.
};

struct GbnfNode {
  enum class Kind : uint8_t { kChars, kRule, kSequence, kChoice, kRepeat };
  static constexpr uint32_t kUnbounded = UINT32_MAX;
  Kind kind = Kind::kSequence;
  uint32_t rule = 0;              // kRule
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
  uint32_t root = 0;  // A rule.
};

// kInvalidArgument naming line and column, which count from 1. At most 256 KiB, 1,000 rules, 20,000 nodes, groups in
// 64 levels and repetitions of 2,000.
[[nodiscard]] Result<GbnfGrammar> parse_gbnf(std::string_view text);

// Which nodes match the empty text.
[[nodiscard]] std::vector<bool> nullable_nodes(const GbnfGrammar& grammar);

}  // namespace mlxf::text
