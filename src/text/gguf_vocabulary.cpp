#include "text/gguf_vocabulary.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <deque>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "text/pre_tokenizers.h"
#include "text/utf8.h"

namespace mlxf::text {

namespace {

using formats::GgufMetadata;

constexpr size_t kTokenBytesMax = size_t{1} << 16;
constexpr size_t kTokensMax = size_t{1} << 24;
constexpr size_t kMergesMax = size_t{1} << 24;
constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581, SentencePiece's space.
constexpr std::string_view kHead = "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,";

// tokenizer.ggml.token_type; unused tokens (5) are treated as normal ones.
enum class TokenType : int { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kByte = 6 };

struct Vocabulary {
  std::vector<std::string_view> tokens;
  std::vector<double> types;   // As in the file; all kNormal when the file has none.
  std::vector<double> scores;  // Empty unless the kind needs them.
  std::unordered_map<std::string_view, uint32_t> ids;
  std::optional<uint32_t> bos;
  std::optional<uint32_t> eos;
  std::optional<uint32_t> unknown;
  std::deque<std::string> respelled;  // What some of `tokens` view. A deque: its strings stay where they are.

  [[nodiscard]] bool is(size_t id, TokenType type) const { return types[id] == static_cast<double>(type); }
};

uint32_t count_characters(std::string_view text) {
  return static_cast<uint32_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; }));
}

void append_json_string(std::string_view text, std::string& out) {
  out += '"';
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(c));
      out += escape;
    } else {
      out += c;
    }
  }
  out += '"';
}

Result<std::optional<uint32_t>> read_id(const GgufMetadata& metadata, const std::string& key, size_t tokens) {
  if (!metadata.contains(key)) return std::optional<uint32_t>();
  const auto id = metadata.find_int(key);
  if (!id) return fail(ErrorCode::kCorrupt, key + " is not an integer");
  if (*id < 0 || *id >= static_cast<int64_t>(tokens)) {
    return fail(ErrorCode::kCorrupt, key + " is " + std::to_string(*id) + ", but the vocabulary has " +
                                         std::to_string(tokens) + " tokens");
  }
  return std::optional<uint32_t>(static_cast<uint32_t>(*id));
}

Status check_length(const char* key, size_t count, size_t tokens) {
  if (count == tokens) return {};
  return fail(ErrorCode::kCorrupt, std::string(key) + " has " + std::to_string(count) +
                                       " elements, but tokenizer.ggml.tokens has " + std::to_string(tokens));
}

// Fills `ids`. Empty tokens are padding that no text can reach; they stay out.
Status index_tokens(Vocabulary& vocabulary) {
  vocabulary.ids.reserve(vocabulary.tokens.size());
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    const std::string_view token = vocabulary.tokens[i];
    const auto refuse = [&](const std::string& why) {
      return fail(ErrorCode::kCorrupt, "tokenizer.ggml.tokens[" + std::to_string(i) + "] " + why);
    };
    if (token.size() > kTokenBytesMax) {
      return refuse("is " + std::to_string(token.size()) + " bytes long; at most " +
                    std::to_string(kTokenBytesMax) + " are believed");
    }
    if (!is_utf8(token)) return refuse("is not UTF-8");
    if (token.find('\0') != std::string_view::npos) return refuse("holds a NUL");
    if (token.empty()) continue;
    const auto [other, is_new] = vocabulary.ids.emplace(token, static_cast<uint32_t>(i));
    if (!is_new) return refuse("repeats token " + std::to_string(other->second));
  }
  return {};
}

// Converters write a model's runs of ▁ with real spaces when they are user-defined tokens; merging needs the ▁.
void respell_space_runs(Vocabulary& vocabulary) {
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    std::string_view& token = vocabulary.tokens[i];
    if (!vocabulary.is(i, TokenType::kUserDefined) ||
        token.find_first_not_of(' ') != std::string_view::npos) {
      continue;
    }
    std::string text;
    for (size_t spaces = 0; spaces < token.size(); ++spaces) text += kSpaceMark;
    token = vocabulary.respelled.emplace_back(std::move(text));
  }
}

enum class Scores : uint8_t { kIgnored, kNeeded };

Result<Vocabulary> read_vocabulary(const GgufMetadata& metadata, Scores scores) {
  Vocabulary vocabulary;
  auto tokens = metadata.find_strings("tokenizer.ggml.tokens");
  if (!tokens || tokens->empty()) {
    return fail(ErrorCode::kCorrupt, "tokenizer.ggml.tokens is missing, empty or not an array of strings");
  }
  if (tokens->size() > kTokensMax) {
    return fail(ErrorCode::kCorrupt,
                "tokenizer.ggml.tokens has " + std::to_string(tokens->size()) + " elements");
  }
  vocabulary.tokens = std::move(*tokens);
  const size_t count = vocabulary.tokens.size();
  if (metadata.contains("tokenizer.ggml.token_type")) {
    auto types = metadata.find_numbers("tokenizer.ggml.token_type");
    if (!types) return fail(ErrorCode::kCorrupt, "tokenizer.ggml.token_type is not an array of numbers");
    vocabulary.types = std::move(*types);
    RETURN_IF_ERROR(check_length("tokenizer.ggml.token_type", vocabulary.types.size(), count));
  } else {
    vocabulary.types.assign(count, static_cast<double>(TokenType::kNormal));
  }
  if (scores == Scores::kNeeded) {
    auto found = metadata.find_numbers("tokenizer.ggml.scores");
    if (!found) {
      return fail(ErrorCode::kCorrupt, "tokenizer.ggml.scores is missing or not an array of numbers");
    }
    vocabulary.scores = std::move(*found);
    RETURN_IF_ERROR(check_length("tokenizer.ggml.scores", vocabulary.scores.size(), count));
    if (!std::all_of(vocabulary.scores.begin(), vocabulary.scores.end(),
                     [](double s) { return std::isfinite(s); }))
      return fail(ErrorCode::kCorrupt, "tokenizer.ggml.scores has a value that is not finite");
    respell_space_runs(vocabulary);
  }
  RETURN_IF_ERROR(index_tokens(vocabulary));
  ASSIGN_OR_RETURN(vocabulary.bos, read_id(metadata, "tokenizer.ggml.bos_token_id", count));
  ASSIGN_OR_RETURN(vocabulary.eos, read_id(metadata, "tokenizer.ggml.eos_token_id", count));
  ASSIGN_OR_RETURN(vocabulary.unknown, read_id(metadata, "tokenizer.ggml.unknown_token_id", count));
  for (uint32_t i = 0; !vocabulary.unknown && i < count; ++i) {
    if (vocabulary.is(i, TokenType::kUnknown) && !vocabulary.tokens[i].empty()) vocabulary.unknown = i;
  }
  return vocabulary;
}

void append_added_tokens(const Vocabulary& vocabulary, std::string& out) {
  out += "\"added_tokens\":[";
  bool first = true;
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    const bool special = vocabulary.is(i, TokenType::kControl) || vocabulary.is(i, TokenType::kUnknown);
    if (vocabulary.tokens[i].empty() || !(special || vocabulary.is(i, TokenType::kUserDefined))) continue;
    if (!first) out += ',';
    first = false;
    out += "{\"id\":" + std::to_string(i) + ",\"content\":";
    append_json_string(vocabulary.tokens[i], out);
    out += ",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":";
    out += special ? "true}" : "false}";
  }
  out += "],";
}

// A post-processor that puts bos before and eos behind a text, as far as the file says so and names the tokens.
void append_post_processor(const GgufMetadata& metadata, const Vocabulary& vocabulary, bool bos_default,
                           bool eos_default, std::string& out) {
  const bool add_bos =
      vocabulary.bos && metadata.find_bool("tokenizer.ggml.add_bos_token").value_or(bos_default);
  const bool add_eos =
      vocabulary.eos && metadata.find_bool("tokenizer.ggml.add_eos_token").value_or(eos_default);
  if (!add_bos && !add_eos) {
    out += "\"post_processor\":null,";
    return;
  }
  std::string specials;
  const auto item = [&](const std::string& name, uint32_t id) {
    if (!specials.empty()) specials += ',';
    specials += "\"" + name + "\":{\"id\":\"" + name + "\",\"ids\":[" + std::to_string(id) + "],\"tokens\":[";
    append_json_string(vocabulary.tokens[id], specials);
    specials += "]}";
    return "{\"SpecialToken\":{\"id\":\"" + name + "\",\"type_id\":0}}";
  };
  const std::string text = "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}";
  out += "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[";
  if (add_bos) out += item("bos", *vocabulary.bos) + ",";
  out += text;
  if (add_eos) out += "," + item("eos", *vocabulary.eos);
  out += "],\"pair\":[" + text + ",{\"Sequence\":{\"id\":\"B\",\"type_id\":0}}],\"special_tokens\":{" +
         specials + "}},";
}

void append_vocab_object(const Vocabulary& vocabulary, std::string& out) {
  out += "\"vocab\":{";
  bool first = true;
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    if (vocabulary.tokens[i].empty()) continue;
    if (!first) out += ',';
    first = false;
    append_json_string(vocabulary.tokens[i], out);
    out += ':' + std::to_string(i);
  }
  out += "},";
}

void append_merge(std::string_view left, std::string_view right, std::string& out) {
  if (out.back() != '[') out += ',';
  out += '[';
  append_json_string(left, out);
  out += ',';
  append_json_string(right, out);
  out += ']';
}

// tokenizer.ggml.merges: "left right", where neither part holds a space except as its first byte.
Status append_listed_merges(const GgufMetadata& metadata, const Vocabulary& vocabulary, std::string& out) {
  const auto merges = metadata.find_strings("tokenizer.ggml.merges");
  if (!merges || merges->size() > kMergesMax) {
    return fail(ErrorCode::kCorrupt,
                "tokenizer.ggml.merges is missing, not an array of strings, or too long");
  }
  out += "\"merges\":[";
  for (size_t i = 0; i < merges->size(); ++i) {
    const std::string_view merge = (*merges)[i];
    const std::string where = "tokenizer.ggml.merges[" + std::to_string(i) + "]";
    const size_t space = merge.find(' ', 1);
    if (merge.size() > 2 * kTokenBytesMax || space == std::string_view::npos) {
      return fail(ErrorCode::kCorrupt, where + " is not two tokens with a space between them");
    }
    const std::string_view left = merge.substr(0, space);
    const std::string_view right = merge.substr(space + 1);
    const std::string whole = std::string(left) + std::string(right);
    for (const std::string_view part : {left, right, std::string_view(whole)}) {
      if (!vocabulary.ids.contains(part)) {
        return fail(ErrorCode::kCorrupt, where + " needs \"" + std::string(part) + "\", which is no token");
      }
    }
    append_merge(left, right, out);
  }
  out += ']';
  return {};
}

// One way to split a token into two others, both given by the token's id and the length of the spelling.
struct Split {
  uint32_t whole = 0;
  uint32_t left = 0;
  uint32_t right = 0;
  uint32_t left_characters = 0;
  uint32_t right_characters = 0;
};

void append_splits(const Vocabulary& vocabulary, uint32_t id, std::vector<Split>& splits) {
  const std::string_view token = vocabulary.tokens[id];
  const size_t first = splits.size();
  const uint32_t characters = count_characters(token);
  uint32_t left_characters = 0;
  for (size_t cut = 1; cut < token.size(); ++cut) {
    if ((static_cast<uint8_t>(token[cut]) & 0xC0) == 0x80) continue;  // Inside a character.
    ++left_characters;
    const auto left = vocabulary.ids.find(token.substr(0, cut));
    const auto right = vocabulary.ids.find(token.substr(cut));
    if (left == vocabulary.ids.end() || right == vocabulary.ids.end()) continue;
    splits.push_back({id, left->second, right->second, left_characters, characters - left_characters});
  }
  std::sort(splits.begin() + static_cast<ptrdiff_t>(first), splits.end(), [](const Split& a, const Split& b) {
    return std::pair(a.left, a.right) < std::pair(b.left, b.right);
  });
}

// SentencePiece merges the pair whose union has the best score. As a list of merges: every way to split every
// token into two others, best score first. Equal scores stand in the order in which the ecosystem's converters
// put them, long left parts first: runs of spaces, which all score 0, depend on it.
void append_scored_merges(const Vocabulary& vocabulary, std::string& out) {
  std::vector<Split> splits;
  for (uint32_t i = 0; i < vocabulary.tokens.size(); ++i) {
    if (vocabulary.is(i, TokenType::kNormal) || vocabulary.is(i, TokenType::kUserDefined)) {
      append_splits(vocabulary, i, splits);
    }
  }
  std::stable_sort(splits.begin(), splits.end(), [&](const Split& a, const Split& b) {
    const double score_a = vocabulary.scores[a.whole];
    const double score_b = vocabulary.scores[b.whole];
    if (score_a != score_b) return score_a > score_b;
    if (a.left_characters != b.left_characters) return a.left_characters > b.left_characters;
    return a.right_characters > b.right_characters;
  });
  out += "\"merges\":[";
  for (const Split& split : splits) {
    append_merge(vocabulary.tokens[split.left], vocabulary.tokens[split.right], out);
  }
  out += ']';
}

bool has_byte_tokens(const Vocabulary& vocabulary) {
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    if (vocabulary.is(i, TokenType::kByte)) return true;
  }
  return vocabulary.ids.contains("<0x0A>");
}

std::string space_mark_decoder(bool strips_leading_space) {
  std::string out = "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[";
  out += "{\"type\":\"Replace\",\"pattern\":{\"String\":\"" + std::string(kSpaceMark) +
         "\"},\"content\":\" \"},";
  out += "{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}";
  if (strips_leading_space) out += ",{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}";
  return out + "]},";
}

std::string space_mark_normalizer(bool adds_space_prefix) {
  const std::string mark(kSpaceMark);
  std::string out = "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[";
  if (adds_space_prefix) out += "{\"type\":\"Prepend\",\"prepend\":\"" + mark + "\"},";
  return out + "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"" + mark + "\"}]},";
}

struct BpeHabits {
  std::optional<std::string_view> unknown;
  bool byte_fallback = false;
  bool ignore_merges = false;
};

std::string bpe_model_head(const BpeHabits& habits) {
  std::string out = "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":";
  if (habits.unknown) {
    append_json_string(*habits.unknown, out);
  } else {
    out += "null";
  }
  out += ",\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,\"fuse_unk\":";
  out += habits.unknown ? "true" : "false";
  out += ",\"byte_fallback\":";
  out += habits.byte_fallback ? "true" : "false";
  out += ",\"ignore_merges\":";
  out += habits.ignore_merges ? "true," : "false,";
  return out;
}

Result<std::string> byte_level_json(const GgufMetadata& metadata) {
  const std::string name = metadata.find_string("tokenizer.ggml.pre").value_or("");
  const PreTokenizer* pre = find_pre_tokenizer(name);
  if (pre == nullptr) {
    return fail(ErrorCode::kUnsupported,
                (name.empty() ? "tokenizer.ggml.pre is missing" : "unknown pre-tokenizer \"" + name + "\"") +
                    "; known: gemma4, " + pre_tokenizer_names());
  }
  ASSIGN_OR_RETURN(const Vocabulary vocabulary, read_vocabulary(metadata, Scores::kIgnored));
  std::string out(kHead);
  append_added_tokens(vocabulary, out);
  out += pre->composes_characters ? "\"normalizer\":{\"type\":\"NFC\"}," : "\"normalizer\":null,";
  out += "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[";
  for (const std::string_view split : pre->splits) {
    out += "{\"type\":\"Split\",\"pattern\":{\"Regex\":";
    append_json_string(split, out);
    out += "},\"behavior\":\"Isolated\",\"invert\":false},";
  }
  out += "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false}]},";
  append_post_processor(metadata, vocabulary, pre->adds_bos, false, out);
  out +=
      "\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":"
      "true},";
  out += bpe_model_head(
      {.unknown = std::nullopt, .byte_fallback = false, .ignore_merges = pre->whole_words_first});
  append_vocab_object(vocabulary, out);
  RETURN_IF_ERROR(append_listed_merges(metadata, vocabulary, out));
  return out + "}}";
}

enum class Merges : uint8_t { kListed, kFromScores };

// BPE over characters with ▁ for space: merges either listed (gemma4) or implied by scores (llama).
Result<std::string> space_mark_bpe_json(const GgufMetadata& metadata, Merges merges) {
  const bool listed = merges == Merges::kListed;
  ASSIGN_OR_RETURN(const Vocabulary vocabulary,
                   read_vocabulary(metadata, listed ? Scores::kIgnored : Scores::kNeeded));
  const bool prefix = metadata.find_bool("tokenizer.ggml.add_space_prefix").value_or(!listed);
  std::string out(kHead);
  append_added_tokens(vocabulary, out);
  out += space_mark_normalizer(prefix) + "\"pre_tokenizer\":null,";
  append_post_processor(metadata, vocabulary, true, false, out);
  out += space_mark_decoder(prefix);
  BpeHabits habits{
      .unknown = std::nullopt, .byte_fallback = has_byte_tokens(vocabulary), .ignore_merges = false};
  if (vocabulary.unknown) habits.unknown = vocabulary.tokens[*vocabulary.unknown];
  out += bpe_model_head(habits);
  append_vocab_object(vocabulary, out);
  if (listed) {
    RETURN_IF_ERROR(append_listed_merges(metadata, vocabulary, out));
  } else {
    append_scored_merges(vocabulary, out);
  }
  return out + "}}";
}

// SentencePiece's unigram: the best-scoring segmentation.
Result<std::string> unigram_json(const GgufMetadata& metadata) {
  if (metadata.contains("tokenizer.ggml.precompiled_charsmap")) {
    return fail(ErrorCode::kUnsupported, "a t5 vocabulary with tokenizer.ggml.precompiled_charsmap");
  }
  ASSIGN_OR_RETURN(const Vocabulary vocabulary, read_vocabulary(metadata, Scores::kNeeded));
  const bool prefix = metadata.find_bool("tokenizer.ggml.add_space_prefix").value_or(true);
  std::string out(kHead);
  append_added_tokens(vocabulary, out);
  out += "\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"";
  out += kSpaceMark;
  out += "\",\"prepend_scheme\":\"";
  out += prefix ? "always" : "never";
  out += "\",\"split\":true},";
  append_post_processor(metadata, vocabulary, false, true, out);
  out += space_mark_decoder(prefix) + "\"model\":{\"type\":\"Unigram\",\"unk_id\":";
  out += vocabulary.unknown ? std::to_string(*vocabulary.unknown) : "null";
  out += ",\"byte_fallback\":";
  out += has_byte_tokens(vocabulary) ? "true" : "false";
  out += ",\"vocab\":[";
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    char score[40];
    // 17 digits: the float's exact value, since near ties between segmentations hang on the last bit.
    std::snprintf(score, sizeof score, ",%.17g]", vocabulary.scores[i]);
    out += i == 0 ? "[" : ",[";
    append_json_string(vocabulary.tokens[i], out);
    out += score;
  }
  return out + "]}}";
}

}  // namespace

Result<std::string> tokenizer_json_from_gguf(const GgufMetadata& metadata) {
  const auto kind = metadata.find_string("tokenizer.ggml.model");
  if (!kind) return fail(ErrorCode::kNotFound, "the file has no tokenizer: tokenizer.ggml.model is missing");
  if (*kind == "gpt2") {
    // Some files name gemma4 as the pre-tokenizer of a BPE instead of as the kind.
    if (metadata.find_string("tokenizer.ggml.pre") == "gemma4") {
      return space_mark_bpe_json(metadata, Merges::kListed);
    }
    return byte_level_json(metadata);
  }
  if (*kind == "gemma4") return space_mark_bpe_json(metadata, Merges::kListed);
  if (*kind == "llama") return space_mark_bpe_json(metadata, Merges::kFromScores);
  if (*kind == "t5") return unigram_json(metadata);
  return fail(ErrorCode::kUnsupported,
              "unknown vocabulary kind \"" + *kind + "\"; known: gpt2, llama, gemma4, t5");
}

}  // namespace mlxf::text
