#include "convert/vocabulary_pairs.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "base/json.h"
#include "platform/file.h"
#include "text/pre_tokenizers.h"
#include "text/tokenizer.h"

namespace mlxf::convert {
namespace {

constexpr uint64_t kTextFileBytesMax = uint64_t{256} << 20;

// tokenizer.ggml.token_type
enum TokenKind : int32_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6
};

tl::unexpected<Error> refuse(ErrorCode code, const std::string& why) {
  return fail(code, "tokenizer.json: " + why);
}

Result<std::optional<std::string>> read_text(const std::string& path) {
  auto text = platform::read_whole_file(path, kTextFileBytesMax);
  if (!text && text.error().code == ErrorCode::kNotFound) return std::optional<std::string>();
  if (!text) return tl::unexpected<Error>(text.error());
  return std::optional<std::string>(std::move(*text));
}

Result<Json> read_json(const std::string& path) {
  ASSIGN_OR_RETURN(const std::optional<std::string> text, read_text(path));
  if (!text) return Json::object();
  auto json = parse_json(*text);
  if (!json) return tl::unexpected<Error>(std::move(json).error().within(path));
  return json;
}

// A component and the members of a Sequence of them, in order.
std::vector<const Json*> steps_of(const Json& tokenizer, const char* field, const char* members) {
  const Json* step = find_member(tokenizer, field);
  if (step == nullptr || !step->is_object()) return {};
  const Json* list = find_string(*step, "type") == "Sequence" ? find_member(*step, members) : nullptr;
  if (list == nullptr || !list->is_array()) return {step};
  std::vector<const Json*> steps;
  for (const Json& item : *list) steps.push_back(&item);
  return steps;
}

struct Tokens {
  std::vector<std::string> texts;
  std::vector<int32_t> types;
  std::map<std::string, uint32_t> ids;
};

Status put_token(Tokens& tokens, const std::string& text, std::optional<int64_t> id, int32_t type) {
  if (!id || *id < 0 || *id >= static_cast<int64_t>(tokens.texts.size()))
    return refuse(ErrorCode::kCorrupt, "token \"" + text + "\" has an id outside the " +
                                           std::to_string(tokens.texts.size()) + " rows of the embedding");
  tokens.texts[static_cast<size_t>(*id)] = text;
  tokens.types[static_cast<size_t>(*id)] = type;
  tokens.ids[text] = static_cast<uint32_t>(*id);
  return {};
}

bool is_byte_token(const std::string& text) {
  return text.size() == 6 && text.starts_with("<0x") && text.back() == '>';
}

Result<Tokens> collect_tokens(const Json& tokenizer, const Json& model, uint32_t rows) {
  const Json* vocab = find_member(model, "vocab");
  if (vocab == nullptr || !vocab->is_object())
    return refuse(ErrorCode::kCorrupt, "model.vocab is not an object");
  Tokens tokens;
  tokens.texts.resize(rows);
  tokens.types.assign(rows, kUnused);
  const bool bytes = find_bool(model, "byte_fallback").value_or(false);
  const std::string unknown = find_string(model, "unk_token").value_or("");
  for (const auto& [text, id] : vocab->items()) {
    const int32_t type = text == unknown ? kUnknown : bytes && is_byte_token(text) ? kByte : kNormal;
    const auto number = id.is_number_integer() ? std::optional(id.get<int64_t>()) : std::nullopt;
    RETURN_IF_ERROR(put_token(tokens, text, number, type));
  }
  const Json* added = find_member(tokenizer, "added_tokens");
  for (size_t i = 0; added != nullptr && added->is_array() && i < added->size(); ++i) {
    const Json& token = (*added)[i];
    const auto text = find_string(token, "content");
    if (!text) return refuse(ErrorCode::kCorrupt, "an added token has no content");
    const bool special = find_bool(token, "special").value_or(false);
    const int32_t type = *text == unknown ? kUnknown : special ? kControl : kUserDefined;
    RETURN_IF_ERROR(put_token(tokens, *text, find_int(token, "id"), type));
  }
  for (uint32_t id = 0; id < rows; ++id) {
    if (tokens.types[id] == kUnused) tokens.texts[id] = "[PAD" + std::to_string(id) + "]";
  }
  return tokens;
}

// "left right" for each merge; both spellings of tokenizer.json are known.
Result<std::vector<std::string>> collect_merges(const Json& model) {
  const Json* merges = find_member(model, "merges");
  if (merges == nullptr || !merges->is_array())
    return refuse(ErrorCode::kCorrupt, "model.merges is not a list");
  std::vector<std::string> texts;
  for (const Json& merge : *merges) {
    const bool pair = merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string();
    if (!pair && !merge.is_string())
      return refuse(ErrorCode::kCorrupt, "model.merges[" + std::to_string(texts.size()) + "] is no pair");
    texts.push_back(pair ? merge[0].get<std::string>() + " " + merge[1].get<std::string>()
                         : merge.get<std::string>());
  }
  return texts;
}

// The name of the splits that tokenizer.json lists.
Result<std::string> pre_tokenizer_name(const Json& tokenizer, const Json& model) {
  std::vector<std::string> splits;
  for (const Json* step : steps_of(tokenizer, "pre_tokenizer", "pretokenizers")) {
    const std::string type = find_string(*step, "type").value_or("");
    const Json* pattern = find_member(*step, "pattern");
    if (type == "Split" && pattern != nullptr) {
      splits.push_back(find_string(*pattern, "Regex").value_or(find_string(*pattern, "String").value_or("")));
    } else if (type == "Digits" && find_bool(*step, "individual_digits").value_or(false)) {
      splits.push_back("\\p{N}");
    } else if (type == "ByteLevel") {
      if (find_bool(*step, "use_regex").value_or(true))
        splits.emplace_back(text::find_pre_tokenizer("gpt-2")->splits[0]);
    } else {
      return refuse(ErrorCode::kUnsupported, "GGUF has no name for pre-tokenizers of type \"" + type + "\"");
    }
  }
  bool composes = false;
  for (const Json* step : steps_of(tokenizer, "normalizer", "normalizers"))
    composes = composes || find_string(*step, "type") == "NFC";
  const std::vector<std::string_view> views(splits.begin(), splits.end());
  const auto name =
      text::name_pre_tokenizer({.splits = views,
                                .composes_characters = composes,
                                .whole_words_first = find_bool(model, "ignore_merges").value_or(false)});
  if (!name)
    return refuse(ErrorCode::kUnsupported,
                  "GGUF has no name for its pre-tokenizer, whose first expression is \"" +
                      (splits.empty() ? std::string() : splits[0]) +
                      "\"; known names: " + text::pre_tokenizer_names());
  return std::string(*name);
}

bool is_byte_level(const Json& tokenizer) {
  for (const Json* step : steps_of(tokenizer, "pre_tokenizer", "pretokenizers"))
    if (find_string(*step, "type") == "ByteLevel") return true;
  return false;
}

// Whether the first word of a text gets a space before it.
bool adds_space_prefix(const Json& tokenizer) {
  for (const Json* step : steps_of(tokenizer, "normalizer", "normalizers"))
    if (find_string(*step, "type") == "Prepend") return true;
  for (const Json* step : steps_of(tokenizer, "pre_tokenizer", "pretokenizers"))
    if (find_string(*step, "type") == "Metaspace")
      return find_string(*step, "prepend_scheme").value_or("always") != "never";
  return false;
}

// SentencePiece merges the pair of the best score, so the earliest merge gets the highest.
std::vector<float> scores_of(const Tokens& tokens, const std::vector<std::string>& merges) {
  std::vector<float> scores(tokens.texts.size(), 0.0f);
  for (size_t rank = merges.size(); rank-- > 0;) {
    std::string whole = merges[rank];
    const size_t space = whole.find(' ', 1);
    if (space == std::string::npos) continue;
    whole.erase(space, 1);
    const auto id = tokens.ids.find(whole);
    if (id != tokens.ids.end()) scores[id->second] = -static_cast<float>(rank + 1);
  }
  return scores;
}

// The id that the tokenizer itself puts before a text, as its post-processor says.
Result<std::optional<uint32_t>> leading_token(const std::string& tokenizer_json) {
  const auto parsed = text::parse_tokenizer(tokenizer_json);
  if (!parsed) return refuse(parsed.error().code, parsed.error().message);
  const text::Tokenizer& tokenizer = *parsed;
  ASSIGN_OR_RETURN(const auto with, tokenizer.encode("a", {.add_special_tokens = true}));
  ASSIGN_OR_RETURN(const auto without, tokenizer.encode("a", {.add_special_tokens = false}));
  if (with.size() <= without.size() || with.front() == without.front()) return std::optional<uint32_t>();
  return std::optional(static_cast<uint32_t>(with.front()));
}

// "bos_token" and its like: a string, or an object with the string as "content".
std::optional<std::string> token_text(const Json& config, const char* key) {
  const Json* member = find_member(config, key);
  if (member != nullptr && member->is_object()) return find_string(*member, "content");
  return find_string(config, key);
}

// An id in config.json: a number, or the first of a list.
std::optional<int64_t> first_id(const Json& config, const char* key) {
  const Json* member = find_member(config, key);
  if (member != nullptr && member->is_array() && !member->empty() && (*member)[0].is_number_integer())
    return (*member)[0].get<int64_t>();
  return find_int(config, key);
}

void add_special_ids(const Json& settings, const Json& config, const Tokens& tokens,
                     formats::GgufPairs& pairs) {
  struct Special {
    const char* text;
    const char* id;
    const char* gguf;
  };
  for (const Special& special : {Special{"bos_token", "bos_token_id", "tokenizer.ggml.bos_token_id"},
                                 Special{"eos_token", "eos_token_id", "tokenizer.ggml.eos_token_id"},
                                 Special{"unk_token", "", "tokenizer.ggml.unknown_token_id"},
                                 Special{"pad_token", "pad_token_id", "tokenizer.ggml.padding_token_id"}}) {
    std::optional<int64_t> id = first_id(config, special.id);
    if (const auto text = token_text(settings, special.text)) {
      if (const auto found = tokens.ids.find(*text); found != tokens.ids.end()) id = found->second;
    }
    if (id && *id >= 0 && *id < static_cast<int64_t>(tokens.texts.size()))
      pairs.emplace_back(special.gguf, static_cast<uint32_t>(*id));
  }
}

void set(formats::GgufPairs& pairs, const std::string& key, formats::GgufValue value) {
  const auto found =
      std::find_if(pairs.begin(), pairs.end(), [&](const auto& pair) { return pair.first == key; });
  if (found == pairs.end()) {
    pairs.emplace_back(key, std::move(value));
  } else {
    found->second = std::move(value);
  }
}

Status add_template(const Json& settings, const std::string& folder, formats::GgufPairs& pairs) {
  ASSIGN_OR_RETURN(std::optional<std::string> text, read_text(folder + "/chat_template.jinja"));
  if (!text) text = find_string(settings, "chat_template");
  if (text) pairs.emplace_back("tokenizer.chat_template", *text);
  return {};
}

}  // namespace

Result<formats::GgufPairs> vocabulary_pairs(const formats::ModelManifest& manifest, const std::string& folder,
                                            uint32_t rows) {
  formats::GgufPairs pairs;
  ASSIGN_OR_RETURN(const std::optional<std::string> text, read_text(folder + "/tokenizer.json"));
  if (!text) {
    pairs.emplace_back("tokenizer.ggml.model", std::string("none"));
    return pairs;
  }
  ASSIGN_OR_RETURN(const Json tokenizer, parse_json(*text));
  ASSIGN_OR_RETURN(const Json settings, read_json(folder + "/tokenizer_config.json"));
  const Json* model = find_member(tokenizer, "model");
  if (model == nullptr || find_string(*model, "type").value_or("BPE") != "BPE")
    return refuse(ErrorCode::kUnsupported, "only BPE vocabularies are written to GGUF");
  const bool byte_level = is_byte_level(tokenizer);
  if (!byte_level && !find_bool(*model, "byte_fallback").value_or(false))
    return refuse(ErrorCode::kUnsupported,
                  "its BPE is neither byte-level nor SentencePiece's with byte tokens");
  ASSIGN_OR_RETURN(Tokens tokens, collect_tokens(tokenizer, *model, rows));
  ASSIGN_OR_RETURN(std::vector<std::string> merges, collect_merges(*model));
  pairs.emplace_back("tokenizer.ggml.model", std::string(byte_level ? "gpt2" : "llama"));
  if (byte_level) {
    ASSIGN_OR_RETURN(std::string name, pre_tokenizer_name(tokenizer, *model));
    pairs.emplace_back("tokenizer.ggml.pre", std::move(name));
  } else {
    pairs.emplace_back("tokenizer.ggml.pre", std::string("default"));
    pairs.emplace_back("tokenizer.ggml.scores", scores_of(tokens, merges));
    pairs.emplace_back("tokenizer.ggml.add_space_prefix", adds_space_prefix(tokenizer));
  }
  add_special_ids(settings, manifest.config, tokens, pairs);
  ASSIGN_OR_RETURN(const std::optional<uint32_t> leading, leading_token(*text));
  if (leading) set(pairs, "tokenizer.ggml.bos_token_id", *leading);
  pairs.emplace_back("tokenizer.ggml.add_bos_token", leading.has_value());
  pairs.emplace_back("tokenizer.ggml.tokens", std::move(tokens.texts));
  pairs.emplace_back("tokenizer.ggml.token_type", std::move(tokens.types));
  if (byte_level) pairs.emplace_back("tokenizer.ggml.merges", std::move(merges));
  RETURN_IF_ERROR(add_template(settings, folder, pairs));
  return pairs;
}

Status check_vocabulary(const formats::ModelManifest& original, const formats::ModelManifest& written) {
  const auto before = text::load_tokenizer(original);
  if (!before && before.error().code == ErrorCode::kNotFound) return {};
  if (!before) return tl::unexpected<Error>(before.error());
  ASSIGN_OR_RETURN(const text::Tokenizer after, text::load_tokenizer(written));
  for (const char* probe :
       {"The quick brown fox jumps over 13 lazy dogs; it's 3.14159 o'clock, isn't it?",
        "  leading and trailing  \n\n\tint main(void) {\r\n  return 1234567890;\n}\n   ",
        "na\u00efve caf\u00e9 \u00c5ngstr\u00f6m \u4f60\u597d\u4e16\u754c \u3053\u3093\u306b\u3061\u306f "
        "\u0440\u0443\u0441\u0441\u043a\u0438\u0439 \U0001F600\U0001F468\u200D\U0001F469 e\u0301",
        "I'LL don't WE'VE x_1=y**2 // http://a.b/c?d=e&f=%20 <b>&amp;</b> \\n \"q\" ...!!"}) {
    ASSIGN_OR_RETURN(const auto expected, before->encode(probe));
    ASSIGN_OR_RETURN(const auto found, after.encode(probe));
    if (found != expected)
      return fail(ErrorCode::kInternal,
                  "the GGUF vocabulary splits a text differently from tokenizer.json: \"" +
                      std::string(probe) + "\"");
  }
  return {};
}

}  // namespace mlxf::convert
