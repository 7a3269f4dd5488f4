// The tokenizer's endpoints, in llama.cpp's form: POST /tokenize and /detokenize.
//
// Pure translation; any thread.
#pragma once

#include <string>

#include "api/errors.h"
#include "base/json.h"
#include "text/tokenizer.h"

namespace mlxf::api {

// {"content", "add_special": false, "parse_special": true, "with_pieces": false} to {"tokens": [ids]}, or with pieces
// {"tokens": [{"id", "piece"}]}.
[[nodiscard]] tl::expected<std::string, ApiError> tokenize(const Json& body,
                                                           const text::Tokenizer& tokenizer);
// {"tokens": [ids]} to {"content"}.
[[nodiscard]] tl::expected<std::string, ApiError> detokenize(const Json& body,
                                                             const text::Tokenizer& tokenizer);

}  // namespace mlxf::api
