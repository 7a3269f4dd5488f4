// Gbnf: grammars as llama.cpp's programs take them (GBNF), for an engine that takes Lark.
//
// Pure functions of the text; any thread. Exactly the texts that the grammar describes fit: see gbnf_lexemes.h.
// Refused, with line and column: what llama.cpp refuses too, rules that are defined twice, and tokens in grammars
// (<think>, <[1000]>).
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace mlxf::text {

// Its first rule is written `name ::= ...`, as Lark never has it.
[[nodiscard]] bool is_gbnf(std::string_view text);

[[nodiscard]] Result<std::string> gbnf_to_lark(std::string_view text);

}  // namespace mlxf::text
