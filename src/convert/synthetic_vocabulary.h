// SyntheticVocabulary: a valid byte-level BPE of a given size, for models with random weights.
//
// Bytes first, then merges of two bytes, then merges of two such pairs, letters before everything else, so
// that text becomes tokens of two to four letters; then the special tokens. Every text can be encoded, and
// the token strings are distinct, in GPT-2's byte alphabet.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace mlxf::convert {

enum class VocabularyKind : uint8_t {
  kQwen,    // 151936: 151643 and Qwen's special tokens, padded.
  kLlama3,  // 128256: 128000 and Llama 3's special tokens.
  kSmall,   // 32000: <unk>, <s> and </s> last.
  // Of models that are written as GGUF only: the size, the pre-tokenizer and the tokens that begin and end.
  kDeepseekV3,  // 129280
  kQwen35,      // 248320
  kGptOss,      // 201088
  kGemma,       // 262144; byte-level like the others, which Gemma's own is not.
  kGlm4,        // 151552
  kLlama4,      // 202048
};

struct SyntheticVocabulary {
  std::vector<std::string> tokens;  // By id.
  std::vector<std::string> merges;  // "left right", by rank.
  std::vector<int32_t> types;       // GGUF: 1 normal, 3 control, 5 unused.
  std::string pre_tokenizer;        // GGUF's name for the split before BPE.
  std::string split_pattern;        // The same as a regular expression, for tokenizer.json; empty: GGUF only.
  uint32_t special_begin = 0;       // The first id that is not a byte or a merge.
  uint32_t bos = 0;
  uint32_t eos = 0;
  uint32_t pad = 0;
  bool add_bos = false;
  std::string chat_template;  // Empty: none.
};

[[nodiscard]] SyntheticVocabulary make_vocabulary(VocabularyKind kind);

// The tokenizer.json and tokenizer_config.json of the same vocabulary.
[[nodiscard]] std::string tokenizer_json(const SyntheticVocabulary& vocabulary);
[[nodiscard]] std::string tokenizer_config_json(const SyntheticVocabulary& vocabulary);

}  // namespace mlxf::convert
