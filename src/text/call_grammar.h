// CallGrammar: what answers that are tool calls look like, as a grammar: a family's own form, with the arguments that
// the tools' schemas describe.
//
// Markers that are one token of the vocabulary must be that token. Arguments are held to their schema where the tool
// is strict; else keywords that cannot be kept are left out. Arguments that a schema lists no others beside are the
// only ones. Pure functions; any thread. What cannot be expressed in a family's form is kUnsupported or
// kInvalidArgument, naming the tool and the family; whether a schema can be used shows when the grammar is compiled.
#pragma once

#include <span>
#include <string>

#include "base/json.h"
#include "base/result.h"
#include "text/answer_format.h"
#include "text/grammar.h"
#include "text/tokenizer.h"

namespace mlxf::text {

// NOLINTNEXTLINE(bugprone-exception-escape): what moving a Json could throw is its own assertions.
struct CallableTool {
  std::string name;
  OrderedJson parameters;  // A JSON schema, in the order in which arguments are written; null: it takes none.
  bool strict = false;
};

// Of an answer that calls one of the tools and says nothing else; with `several`, calls may follow one another where
// the family knows that. REQUIRES: at least one tool.
[[nodiscard]] Result<GrammarText> forced_calls(const AnswerFormat& format,
                                               std::span<const CallableTool> tools, bool several,
                                               const Tokenizer& tokenizer);

// The same from behind the marker that opens calls, to the end of what it opened, for answers that may call. Arguments
// of tools that are not strict are free where the form lets them. kUnsupported where no marker tells calls from text.
[[nodiscard]] bool has_call_marker(const AnswerFormat& format);
struct OpenedCalls {
  std::string marker;
  GrammarText grammar;
};
[[nodiscard]] Result<OpenedCalls> opened_calls(const AnswerFormat& format,
                                               std::span<const CallableTool> tools,
                                               const Tokenizer& tokenizer);

}  // namespace mlxf::text
