// How GGUF names pre-tokenizers: tokenizer.ggml.pre stands for the regular expressions at which a byte-level BPE
// splits a text before merging, and for some habits of the tokenizers that use them.
//
// The expressions are facts about the models' own tokenizer.json files. Each entry of `splits` is applied to the
// pieces that the one before left; matches become pieces of their own.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace mlxf::text {

struct PreTokenizer {
  std::span<const std::string_view> splits;
  bool composes_characters = false;  // Unicode form NFC before anything else.
  bool whole_words_first = false;    // A piece that is a token is taken as one, whatever the merges say.
  bool adds_bos = false;             // Unless tokenizer.ggml.add_bos_token says otherwise.
};

// The pre-tokenizer of that name, or null.
[[nodiscard]] const PreTokenizer* find_pre_tokenizer(std::string_view name);
// The name of a byte-level BPE with these splits and habits (adds_bos apart), or nothing. Where several names
// mean the same, the one that most readers know.
[[nodiscard]] std::optional<std::string_view> name_pre_tokenizer(const PreTokenizer& habits);
// All names, for error messages: "bailingmoe, bloom, ...".
[[nodiscard]] std::string pre_tokenizer_names();

}  // namespace mlxf::text
