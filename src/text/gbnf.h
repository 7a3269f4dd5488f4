// Gbnf: grammars as llama.cpp's programs take them (GBNF), for an engine that takes Lark.
//
// Pure functions of the text and the vocabulary; any thread. Exactly the texts that the grammar describes fit: see
// gbnf_lexemes.h. Refused, with line and column: what llama.cpp refuses too, rules that are defined twice, tokens that
// end an answer, and tokens of text (!<think> can be one) where characters can stand as well.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/token_id.h"

namespace mlxf::text {

// Its first rule is written `name ::= ...`, as Lark never has it.
[[nodiscard]] bool is_gbnf(std::string_view text);

// What a vocabulary says of one of its tokens.
struct GbnfTokenFact {
  TokenId id = 0;
  bool is_text = false;  // Part of texts, as most are.
  bool is_end = false;   // Ends an answer.
};
// The token that is written so, brackets and all, or has this number; an error without a place where there is none.
struct GbnfVocabulary {
  std::function<Result<GbnfTokenFact>(std::string_view)> by_text;
  std::function<Result<GbnfTokenFact>(TokenId)> by_id;
};

struct GbnfLark {
  std::string lark;
  std::vector<TokenId> tokens;  // That are named in it, by numbers.
  bool other_tokens = false;    // Any others may stand in it too.
};

[[nodiscard]] Result<GbnfLark> gbnf_to_lark(std::string_view text, const GbnfVocabulary& vocabulary);

}  // namespace mlxf::text
