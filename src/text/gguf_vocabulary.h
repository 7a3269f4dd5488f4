// Turns the vocabulary in a GGUF file's metadata into the tokenizer.json that the model was published with, as
// far as it decides which ids a text gets. Internal to text/.
//
// Kinds: "gpt2" (byte-level BPE; tokenizer.ggml.pre names the splits), "gemma4" (BPE over text with ▁ for space),
// "llama" (SentencePiece BPE: merges follow from the scores), "t5" (SentencePiece unigram). Everything is checked
// before it is written: sizes against each other, ids, merges, UTF-8.
#pragma once

#include <string>

#include "base/result.h"
#include "formats/gguf_metadata.h"

namespace mlxf::text {

[[nodiscard]] Result<std::string> tokenizer_json_from_gguf(const formats::GgufMetadata& metadata);

}  // namespace mlxf::text
