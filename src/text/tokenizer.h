// Tokenizer: text to token ids and back, exactly as the model's own tokenizer does it.
//
// load_tokenizer() reads tokenizer.json beside a safetensors model, or turns the vocabulary in a GGUF file's
// metadata into the same kind of tokenizer; the work itself is done by the Rust crate behind bridge/. Immutable
// after loading and thread-safe: any thread may encode and decode. Copies share the tables.
//
// decode() defines a token's text as bytes: the bytes of all tokens are joined and every maximal invalid part
// of the result becomes U+FFFD. IncrementalDetokenizer (text/detokenizer.h) yields the same text in pieces.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/token_id.h"

namespace mlxf::formats {
struct ModelManifest;
}
struct mlxf_tokenizer;  // The bridge's.

namespace mlxf::text {

// Longest text that encode() accepts.
inline constexpr uint64_t kEncodeBytesMax = uint64_t{64} << 20;

struct EncodeOptions {
  // Adds what the model's own files add to a plain text, e.g. a leading BOS: the post-processor of tokenizer.json,
  // overruled by add_bos_token and add_eos_token (tokenizer_config.json, GGUF). Chat templates write
  // their special tokens themselves, so rendered prompts are encoded without.
  bool add_special_tokens = true;
  // Off: control tokens spelled out in the text ("<|im_end|>") are encoded as the plain text they are. Must be
  // off for everything a user typed. A control token is one marked special or, since several models leave role
  // markers unmarked, an added token of the form <|…|> or a bracketed one that the chat template mentions.
  bool parse_special = true;
};

enum class SpecialTokens : uint8_t { kKeep, kSkip };

// Properties of one token.
struct TokenTraits {
  bool special = false;  // Left out of text by SpecialTokens::kSkip.
  bool control = false;  // Never produced from text when parse_special is off.
};

class Tokenizer {
 public:
  // Fails for text that is longer than kEncodeBytesMax or not UTF-8.
  [[nodiscard]] Result<std::vector<TokenId>> encode(std::string_view text,
                                                    const EncodeOptions& options = {}) const;
  // Fails for ids outside the vocabulary. Ids that lie in a gap of the vocabulary decode to nothing.
  [[nodiscard]] Result<std::string> decode(std::span<const TokenId> ids,
                                           SpecialTokens special = SpecialTokens::kKeep) const;

  // One more than the largest id. A model may have more embedding rows than that.
  [[nodiscard]] uint32_t vocab_size() const;
  // The bytes that `id` contributes to decoded text, which need not be valid UTF-8 by themselves. Empty for ids
  // outside the vocabulary. Valid while any copy of this tokenizer lives.
  [[nodiscard]] std::string_view token_bytes(TokenId id) const;
  // The token as the vocabulary spells it ("Ġthe"), empty for ids outside.
  [[nodiscard]] std::string token_text(TokenId id) const;
  // The token spelled `text` in the vocabulary.
  [[nodiscard]] std::optional<TokenId> find_token(std::string_view text) const;
  [[nodiscard]] TokenTraits traits(TokenId id) const;
  // Length of the longest control token that `text` begins with, 0 if none.
  [[nodiscard]] size_t control_prefix(std::string_view text) const;

  [[nodiscard]] std::optional<TokenId> bos() const;
  [[nodiscard]] std::optional<TokenId> eos() const;
  // Every token that ends a generation, ascending: eos, the end of a turn, and whatever generation_config.json
  // and the GGUF metadata add to them. May be empty.
  [[nodiscard]] std::span<const TokenId> end_of_generation() const;
  [[nodiscard]] bool is_end_of_generation(TokenId id) const;
  // True when the first space of a decoded text is an artefact of the vocabulary and is left out.
  [[nodiscard]] bool strips_leading_space() const;

  // The immutable tables behind a tokenizer; defined in tokenizer.cpp.
  struct Tables;
  explicit Tokenizer(std::shared_ptr<const Tables> tables) : tables_(std::move(tables)) {}

 private:
  friend class GrammarCompiler;
  [[nodiscard]] const mlxf_tokenizer* handle() const;
  std::shared_ptr<const Tables> tables_;  // Shared because it is immutable and large.
};

// kNotFound when the model carries no tokenizer, kUnsupported with the list of known names for an unknown
// pre-tokenizer or vocabulary kind, kCorrupt for tables that contradict themselves.
[[nodiscard]] Result<Tokenizer> load_tokenizer(const formats::ModelManifest& manifest);
// From the text of a tokenizer.json alone; bos, eos and the end-of-generation set stay empty.
[[nodiscard]] Result<Tokenizer> parse_tokenizer(std::string_view tokenizer_json);

}  // namespace mlxf::text
