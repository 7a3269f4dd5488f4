#include "text/detokenizer.h"

#include <algorithm>
#include <utility>

namespace mlxf::text {

IncrementalDetokenizer::IncrementalDetokenizer(Tokenizer tokenizer, const Options& options)
    : tokenizer_(std::move(tokenizer)),
      options_(options),
      strip_next_space_(options.start == Options::Start::kText && tokenizer_.strips_leading_space()) {}

std::string IncrementalDetokenizer::push(TokenId token) {
  std::string out;
  if (options_.special == SpecialTokens::kSkip && tokenizer_.traits(token).special &&
      std::find(options_.shown.begin(), options_.shown.end(), token) == options_.shown.end())
    return out;
  std::string_view bytes = tokenizer_.token_bytes(token);
  if (strip_next_space_ && !bytes.empty()) {
    if (bytes.front() == ' ') bytes.remove_prefix(1);
    strip_next_space_ = false;
  }
  repair_.append(bytes, out);
  return out;
}

std::string IncrementalDetokenizer::finish() {
  std::string out;
  repair_.finish(out);
  strip_next_space_ = options_.start == Options::Start::kText && tokenizer_.strips_leading_space();
  return out;
}

}  // namespace mlxf::text
