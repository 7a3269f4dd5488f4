// vocabulary_pairs(): a checkpoint's tokenizer.json as the tokenizer.ggml.* metadata of a GGUF file.
//
// Byte-level BPE becomes kind "gpt2" with the name of its pre-tokenizer; BPE over text with ▁ for space and byte tokens
// (SentencePiece's) becomes kind "llama", its merge order turned into scores. Other kinds are refused. A folder without
// tokenizer.json gives kind "none", with which programs work on ids alone. Reads files; any thread.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"
#include "formats/gguf_writer.h"
#include "formats/manifest.h"

namespace mlxf::convert {

// `rows`: of the embedding; ids that the tokenizer lacks become unused tokens. Errors name the file and member.
[[nodiscard]] Result<formats::GgufPairs> vocabulary_pairs(const formats::ModelManifest& manifest,
                                                          const std::string& folder, uint32_t rows);

// Whether the vocabulary that was written splits texts as the original does; kInternal with the text where not.
// Nothing to compare: success.
[[nodiscard]] Status check_vocabulary(const formats::ModelManifest& original,
                                      const formats::ModelManifest& written);

}  // namespace mlxf::convert
