#include "text/pre_tokenizers.h"

#include <algorithm>
#include <map>

namespace mlxf::text {

namespace {

// Parts that the expressions share, as literals so that they join at compile time.
#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define SPACES "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define UPPER_NOT_HAN "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]"
#define LOWER_NOT_HAN "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]"
#define LEAD "[^\\r\\n\\p{L}\\p{N}]?"

constexpr std::string_view kGpt2Words =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
constexpr std::string_view kThreeDigitWords =
    CONTRACTIONS "|" LEAD "\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" SPACES;
constexpr std::string_view kOneDigitWords =
    CONTRACTIONS "|" LEAD "\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" SPACES;
constexpr std::string_view kMarkedWords =
    CONTRACTIONS "|" LEAD "[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*" SPACES;
constexpr std::string_view kCasedWords =
    LEAD UPPER "*" LOWER "+" CONTRACTIONS "?|" LEAD UPPER "+" LOWER "*" CONTRACTIONS
               "?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*" SPACES;
constexpr std::string_view kTekkenWords =
    LEAD UPPER "*" LOWER "+|" LEAD UPPER "+" LOWER "*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*" SPACES;
constexpr std::string_view kKimiWords =
    "\\p{Han}+|" LEAD UPPER_NOT_HAN "*" LOWER_NOT_HAN "+" CONTRACTIONS "?|" LEAD UPPER_NOT_HAN
    "+" LOWER_NOT_HAN "*" CONTRACTIONS "?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" SPACES;
constexpr std::string_view kBailingWords =
    "'(?i:[sdmt]|ll|ve|re)|" LEAD
    "\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+";
constexpr std::string_view kSeedWords =
    CONTRACTIONS "|" LEAD "\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}\\r\\n]+" SPACES;
constexpr std::string_view kExaoneWords =
    CONTRACTIONS "|" LEAD
                 "(?:\\p{L}\\p{M}*(?: \\p{L}\\p{M}*)*)+|\\p{N}| "
                 "?[^\\s\\p{L}\\p{N}]+[\\r\\n/]?|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+";
constexpr std::string_view kDeepseek3Words =
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\\r\\n]*" SPACES;

#undef CONTRACTIONS
#undef SPACES
#undef UPPER
#undef LOWER
#undef UPPER_NOT_HAN
#undef LOWER_NOT_HAN
#undef LEAD

constexpr std::string_view kGpt2[] = {kGpt2Words};
constexpr std::string_view kLlama3[] = {kThreeDigitWords};
constexpr std::string_view kQwen2[] = {kOneDigitWords};
constexpr std::string_view kQwen35[] = {kMarkedWords};
constexpr std::string_view kGpt4o[] = {kCasedWords};
constexpr std::string_view kTekken[] = {kTekkenWords};
constexpr std::string_view kKimi[] = {kKimiWords};
constexpr std::string_view kBailing[] = {kBailingWords};
constexpr std::string_view kSeed[] = {kSeedWords};
constexpr std::string_view kExaoneMoe[] = {kExaoneWords};
constexpr std::string_view kDigitsThenGpt2[] = {"\\p{N}", kGpt2Words};
constexpr std::string_view kDigitsThenLetters[] = {"\\d{1,3}(?=(?:\\d{3})*\\b)", kCasedWords};
constexpr std::string_view kBloom[] = {" ?[^(\\s|.,!?…。，、।۔،)]+"};
constexpr std::string_view kViking[] = {" ?[^(\\s|.,!?…。，、।۔،)]+", "\\p{N}"};
constexpr std::string_view kFalcon[] = {"[\\p{P}\\$\\+<=>\\^~\\|`]+", kGpt2Words, "[0-9][0-9][0-9]"};
constexpr std::string_view kDeepseekCoder[] = {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+",
                                               "[\\x{4E00}-\\x{9FA5}\\x{0800}-\\x{4E00}\\x{AC00}-\\x{D7FF}]+",
                                               "\\p{N}"};
// The model lists its letters one range at a time; they are the cased ones without modern Georgian.
constexpr std::string_view kDeepseekLlm[] = {"[\\r\\n]",
                                             "\\s?[\\p{Lu}\\p{Ll}\\p{Lt}&&[^\\x{10D0}-\\x{10FF}]]+",
                                             "\\s?[!-/:-~！-／：-～‘-‟\\x{3000}-。]+",
                                             "\\s+$",
                                             "[\\x{4E00}-\\x{9FA5}\\x{0800}-\\x{4E00}\\x{AC00}-\\x{D7FF}]+",
                                             "\\p{N}+"};
constexpr std::string_view kDeepseek3[] = {
    "\\p{N}{1,3}", "[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}]+", kDeepseek3Words};

constexpr PreTokenizer kGpt2Family{kGpt2};
constexpr PreTokenizer kLlama3Family{kLlama3, false, true, true};
constexpr PreTokenizer kThreeDigitFamily{kLlama3};
constexpr PreTokenizer kQwen2Family{kQwen2, true};
constexpr PreTokenizer kStarcoderFamily{kDigitsThenGpt2};
constexpr PreTokenizer kGpt4oFamily{kGpt4o};
constexpr PreTokenizer kDeepseek3Family{kDeepseek3};
constexpr PreTokenizer kBailingFamily{kBailing};

const std::map<std::string_view, PreTokenizer>& pre_tokenizers() {
  static const std::map<std::string_view, PreTokenizer> table = {
      {"gpt-2", kGpt2Family},
      {"phi-2", kGpt2Family},
      {"mpt", kGpt2Family},
      {"olmo", kGpt2Family},
      {"exaone4", kGpt2Family},
      {"gigachat", kGpt2Family},
      {"mellum", kGpt2Family},
      {"jais", kGpt2Family},
      {"trillion", kGpt2Family},
      {"llama-bpe", kLlama3Family},
      {"llama3", kLlama3Family},
      {"llama-v3", kLlama3Family},
      {"falcon3", kLlama3Family},
      {"falcon-h1", kLlama3Family},
      {"pixtral", kLlama3Family},
      {"midm-2.0", kLlama3Family},
      {"lfm2", kLlama3Family},
      {"dbrx", kThreeDigitFamily},
      {"smaug-bpe", kThreeDigitFamily},
      {"chatglm-bpe", kThreeDigitFamily},
      {"glm4", kThreeDigitFamily},
      {"qwen2", kQwen2Family},
      {"deepseek-r1-qwen", kQwen2Family},
      {"stablelm2", kQwen2Family},
      {"megrez", kQwen2Family},
      {"hunyuan", {kQwen2}},
      {"solar-open", {kQwen2}},
      {"grok-2", {kQwen2}},
      {"qwen35", {kQwen35, true}},
      {"deepseek-llm", {kDeepseekLlm}},
      {"deepseek-coder", {kDeepseekCoder}},
      {"deepseek-v3", kDeepseek3Family},
      {"hunyuan-dense", kDeepseek3Family},
      {"joyai-llm", kDeepseek3Family},
      {"gpt-4o", kGpt4oFamily},
      {"llama4", kGpt4oFamily},
      {"kanana2", kGpt4oFamily},
      {"minimax-m2", kGpt4oFamily},
      {"tiny_aya", {kDigitsThenLetters}},
      {"tekken", {kTekken, false, true, true}},
      {"kimi-k2", {kKimi}},
      {"starcoder", kStarcoderFamily},
      {"refact", kStarcoderFamily},
      {"command-r", kStarcoderFamily},
      {"smollm", kStarcoderFamily},
      {"codeshell", kStarcoderFamily},
      {"exaone", kStarcoderFamily},
      {"minerva-7b", kStarcoderFamily},
      {"exaone-moe", {kExaoneMoe}},
      {"falcon", {kFalcon}},
      {"bloom", {kBloom}},
      {"poro-chat", {kBloom}},
      {"gpt3-finnish", {kBloom}},
      {"viking", {kViking}},
      {"bailingmoe", kBailingFamily},
      {"bailingmoe2", kBailingFamily},
      {"llada-moe", kBailingFamily},
      {"seed-coder", {kSeed}},
  };
  return table;
}

}  // namespace

const PreTokenizer* find_pre_tokenizer(std::string_view name) {
  const auto found = pre_tokenizers().find(name);
  return found == pre_tokenizers().end() ? nullptr : &found->second;
}

std::optional<std::string_view> name_pre_tokenizer(const PreTokenizer& habits) {
  const auto matches = [&](const PreTokenizer& known) {
    return std::equal(known.splits.begin(), known.splits.end(), habits.splits.begin(), habits.splits.end()) &&
           known.composes_characters == habits.composes_characters &&
           known.whole_words_first == habits.whole_words_first;
  };
  for (const char* usual : {"gpt-2", "llama-bpe", "qwen2", "starcoder", "deepseek-v3", "gpt-4o", "dbrx"}) {
    if (matches(pre_tokenizers().at(usual))) return usual;
  }
  for (const auto& [name, known] : pre_tokenizers()) {
    if (matches(known)) return name;
  }
  return std::nullopt;
}

std::string pre_tokenizer_names() {
  std::string names;
  for (const auto& [name, unused] : pre_tokenizers()) {
    if (!names.empty()) names += ", ";
    names += name;
  }
  return names;
}

}  // namespace mlxf::text
