// IncrementalDetokenizer: the text of a growing sequence of tokens, piece by piece.
//
// push() returns what the new token settles; bytes of an unfinished UTF-8 sequence are held back until the next
// token completes them or finish() replaces them by U+FFFD. The pieces are valid UTF-8 and, joined, equal
// Tokenizer::decode() of all tokens. Each push costs the token's own bytes. One thread; holds the tokenizer.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/token_id.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

namespace mlxf::text {

class IncrementalDetokenizer {
 public:
  struct Options {
    SpecialTokens special = SpecialTokens::kSkip;
    // kContinues: the tokens go on after earlier text, so a vocabulary's artificial first space is real here.
    enum class Start : uint8_t { kText, kContinues } start = Start::kText;
    std::vector<TokenId> shown = {};  // Special tokens that kSkip keeps.
  };

  explicit IncrementalDetokenizer(Tokenizer tokenizer)
      : IncrementalDetokenizer(std::move(tokenizer), Options{}) {}
  IncrementalDetokenizer(Tokenizer tokenizer, const Options& options);

  // Text that `token` settles, often empty. Ids outside the vocabulary add nothing.
  [[nodiscard]] std::string push(TokenId token);
  // The held-back rest. The next push starts a new text.
  [[nodiscard]] std::string finish();

 private:
  Tokenizer tokenizer_;
  Options options_;
  Utf8Repair repair_;
  bool strip_next_space_ = false;
};

}  // namespace mlxf::text
