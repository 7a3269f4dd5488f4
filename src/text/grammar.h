// Grammar: what an answer may be: a JSON schema, a regular expression, or a grammar in Lark or GBNF, matched token by
// token.
//
// A GrammarCompiler holds what all grammars of one tokenizer share, a trie of its tokens, and compiles. A Grammar is
// immutable and thread-safe, as the compiler is, which keeps those used last, within a number of bytes; each answer
// gets its own GrammarMatcher, which one thread uses. The work is done by the llguidance crate behind bridge/. Limits
// (in bridge/src/grammar.rs and that crate): 256 KiB of text, and steps of compiling and of matching a token; a grammar
// beyond them is refused, or ends the answer with an error.
//
// JSON never repeats a key of an object, whatever its schema leaves open: in schemas, and in calls that are JSON
// objects.
//
// Special tokens are part of no grammar but those composed here, and GBNF that names them. Tokens that end a generation
// are allowed exactly where the grammar may end.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/token_id.h"
#include "text/tokenizer.h"

namespace mlxf::text {

struct GrammarText {
  enum class Kind : uint8_t {
    kJsonSchema,
    kRegex,  // Of the whole answer, in the syntax of Rust's regex crate.
    kLark,   // https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
    kGbnf,   // text/gbnf.h
    kComposed,  // Of this program's own making: Lark with schemas and special tokens, see bridge/include/mlxf_bridge.h.
  };
  Kind kind = Kind::kJsonSchema;
  std::string text;
};

// A grammar of either language: GBNF where it is written as that, else Lark.
[[nodiscard]] GrammarText gbnf_or_lark(std::string text);
// Any JSON object.
[[nodiscard]] GrammarText any_json_object();
// One of the texts.
[[nodiscard]] GrammarText one_of(std::span<const std::string> choices);

class GrammarMatcher {
 public:
  struct State;  // Internal.
  explicit GrammarMatcher(std::unique_ptr<State> state);
  GrammarMatcher(GrammarMatcher&&) noexcept;
  GrammarMatcher& operator=(GrammarMatcher&&) noexcept;
  ~GrammarMatcher();

  // The tokens that may come next, 32 to a word; may_end() then tells whether the text may end here. Valid until the
  // next call. kInternal or kInvalidArgument where an incomplete text cannot go on.
  [[nodiscard]] Result<std::span<const uint32_t>> allowed();
  [[nodiscard]] bool may_end() const;
  // REQUIRES: `token` was among the last allowed() and does not end a generation.
  [[nodiscard]] Status accept(TokenId token);
  // The text is complete and nothing can follow it.
  [[nodiscard]] bool must_end() const;

 private:
  std::unique_ptr<State> state_;
};

class Grammar {
 public:
  // At the beginning.
  [[nodiscard]] Result<GrammarMatcher> start() const;
  // For whoever asked for it: what it does not keep of its schemas, each a line. That is `oneOf` alone, where values
  // fit several parts and nothing that a grammar can say tells these apart: it is held to as anyOf is.
  [[nodiscard]] std::vector<std::string> notes() const;
  // It is GBNF, and this token stands in it by name (<think>, !<think>).
  [[nodiscard]] bool names(TokenId token) const;

  struct Compiled;  // Internal.
  explicit Grammar(std::shared_ptr<const Compiled> compiled) : compiled_(std::move(compiled)) {}

 private:
  std::shared_ptr<const Compiled> compiled_;  // Shared because it is immutable.
};

class GrammarCompiler {
 public:
  // Takes a fraction of a second and some tens of megabytes for a large vocabulary.
  [[nodiscard]] static Result<GrammarCompiler> create(const Tokenizer& tokenizer);
  // kInvalidArgument naming what is wrong, and for schemas and GBNF where.
  [[nodiscard]] Result<Grammar> compile(const GrammarText& grammar) const;

  // Compiled grammars that are kept for requests to come: they never take more than this, which whoever has a budget
  // plans for, and forget() gives it back.
  static constexpr uint64_t kKeptBytesMax = uint64_t{8} << 20;
  [[nodiscard]] uint64_t kept_bytes() const;
  void forget() const;

  struct Shared;  // Internal.

 private:
  explicit GrammarCompiler(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}
  std::shared_ptr<Shared> shared_;  // Shared because it is large; internally synchronised.
};

}  // namespace mlxf::text
