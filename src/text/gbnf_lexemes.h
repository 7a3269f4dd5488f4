// GbnfLexemes: which parts of a GBNF grammar can be matched as one lexeme without changing the texts that fit.
//
// GBNF is about characters. The engine's lexer reads lexemes, each as long as any that may stand there can go on, and
// the parser sees whole ones only: [a-z]+ "x" as two lexemes would match nothing, for the first takes the x. A part may
// be one lexeme where that cannot happen: after each of its texts, no character that may follow it leads on in any
// lexeme that could stand in its place. This finds large parts for which that holds; single characters always do.
//
// It goes through what may stand at a place (a set of parts, more than the parser would find there), through the texts
// of all of it at once, and opens parts into smaller ones until nothing is in the way: sound, and never wrong by being
// too careful but slower. Pure functions; any thread. Internal to text/.
//
// Tokens are lexemes of their own, which the engine takes whenever one may stand there: where a token that is text, as
// !<think> can be, and characters may stand at one place, the characters would never be tried. That is found too.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "text/gbnf_grammar.h"

namespace mlxf::text {

struct GbnfLexemes {
  bool whole = false;  // The grammar is one regular expression.
  std::vector<bool>
      opened;  // By node: it is written as rules of the grammar. Others are lexemes or parts of some.
  // A node of a token in whose place characters may stand that are the same text.
  std::optional<uint32_t> unclear;
};

// A rule's name is opened as its body is. Characters and tokens never are. REQUIRES: the tokens are known.
[[nodiscard]] GbnfLexemes choose_lexemes(const GbnfGrammar& grammar);

// `node`, or the body of the rule that it names, and of that in turn.
[[nodiscard]] uint32_t resolved(const GbnfGrammar& grammar, uint32_t node);

}  // namespace mlxf::text
