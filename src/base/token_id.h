// TokenId: the number of a token in a model's vocabulary. Never negative in a valid sequence.
//
// It lives in base/ because model/, kv/ and decode/ speak of tokens without knowing any tokenizer. Whether an id
// lies inside a given vocabulary is checked where the vocabulary is known.
#pragma once

#include <cstdint>

namespace mlxf {
using TokenId = int32_t;
}  // namespace mlxf
