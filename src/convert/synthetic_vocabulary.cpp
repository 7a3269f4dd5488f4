#include "convert/synthetic_vocabulary.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/check.h"
#include "base/json.h"

namespace mlxf::convert {
namespace {

constexpr uint32_t kBytes = 256;
constexpr int32_t kNormal = 1;
constexpr int32_t kControl = 3;
constexpr int32_t kUnused = 5;

std::string utf8(uint32_t point) {
  if (point < 0x80) return {static_cast<char>(point)};
  return {static_cast<char>(0xc0 | (point >> 6)), static_cast<char>(0x80 | (point & 0x3f))};
}

// GPT-2's alphabet: printable Latin-1 stands for itself, the other bytes follow from U+0100 on.
std::array<std::string, kBytes> byte_alphabet() {
  std::array<std::string, kBytes> alphabet;
  uint32_t next = 0x100;
  for (uint32_t byte = 0; byte < kBytes; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    alphabet[byte] = utf8(printable ? byte : next++);
  }
  return alphabet;
}

// Bytes from common to rare in English text; those not listed keep their order behind.
std::vector<uint8_t> bytes_by_frequency() {
  const std::string common = "etaoinsrhldcumfpgwybvkxjqz ETAOINSRHLDCUMFPGWYBVKXJQZ.,'\n0123456789-";
  std::vector<uint8_t> order(common.begin(), common.end());
  for (uint32_t byte = 0; byte < kBytes; ++byte) {
    if (common.find(static_cast<char>(byte)) == std::string::npos)
      order.push_back(static_cast<uint8_t>(byte));
  }
  return order;
}

// The first `count` cells of a `side` x `side` square, by diagonals from the corner, as (row, column).
std::vector<std::pair<uint32_t, uint32_t>> diagonals(uint32_t side, uint32_t count) {
  CHECK(uint64_t{side} * side >= count);
  std::vector<std::pair<uint32_t, uint32_t>> cells;
  cells.reserve(count);
  for (uint32_t sum = 0; cells.size() < count; ++sum) {
    for (uint32_t row = sum < side ? 0 : sum - side + 1; row <= std::min(sum, side - 1); ++row) {
      if (cells.size() < count) cells.emplace_back(row, sum - row);
    }
  }
  return cells;
}

// Bytes and merges up to `size` tokens.
void add_base(uint32_t size, SyntheticVocabulary& vocabulary) {
  const auto alphabet = byte_alphabet();
  for (const std::string& letter : alphabet) vocabulary.tokens.push_back(letter);
  const uint32_t merges = size - kBytes;
  const uint32_t pair_count = std::min(kBytes * kBytes, merges / 4 * 3);
  const std::vector<uint8_t> order = bytes_by_frequency();
  std::vector<std::string> pairs;
  pairs.reserve(pair_count);
  for (const auto& [row, column] : diagonals(kBytes, pair_count)) {
    const std::string& left = alphabet[order[row]];
    const std::string& right = alphabet[order[column]];
    vocabulary.merges.push_back(left + " " + right);
    pairs.push_back(left + right);
  }
  const uint32_t quad_count = merges - pair_count;
  const auto side = static_cast<uint32_t>(std::ceil(std::sqrt(static_cast<double>(quad_count))));
  vocabulary.tokens.insert(vocabulary.tokens.end(), pairs.begin(), pairs.end());
  for (const auto& [row, column] : diagonals(side, quad_count)) {
    vocabulary.merges.push_back(pairs[row] + " " + pairs[column]);
    vocabulary.tokens.push_back(pairs[row] + pairs[column]);
  }
  vocabulary.types.assign(vocabulary.tokens.size(), kNormal);
  vocabulary.special_begin = size;
}

void add_special(const std::string& text, int32_t type, SyntheticVocabulary& vocabulary) {
  vocabulary.tokens.push_back(text);
  vocabulary.types.push_back(type);
}

constexpr const char* kChatMl =
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + "
    "'<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

SyntheticVocabulary make_qwen() {
  SyntheticVocabulary vocabulary;
  add_base(151643, vocabulary);
  for (const char* text :
       {"<|endoftext|>",  "<|im_start|>",   "<|im_end|>",      "<|object_ref_start|>", "<|object_ref_end|>",
        "<|box_start|>",  "<|box_end|>",    "<|quad_start|>",  "<|quad_end|>",         "<|vision_start|>",
        "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>",   "<|video_pad|>",        "<tool_call>",
        "</tool_call>",   "<|fim_prefix|>", "<|fim_middle|>",  "<|fim_suffix|>",       "<|fim_pad|>",
        "<|repo_name|>",  "<|file_sep|>",   "<tool_response>", "</tool_response>",     "<think>",
        "</think>"})
    add_special(text, kControl, vocabulary);
  while (vocabulary.tokens.size() < 151936)
    add_special("[PAD" + std::to_string(vocabulary.tokens.size()) + "]", kUnused, vocabulary);
  vocabulary.bos = vocabulary.pad = 151643;
  vocabulary.eos = 151645;
  vocabulary.pre_tokenizer = "qwen2";
  vocabulary.split_pattern =
      "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
      "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
  vocabulary.chat_template = kChatMl;
  return vocabulary;
}

SyntheticVocabulary make_llama3() {
  SyntheticVocabulary vocabulary;
  add_base(128000, vocabulary);
  for (const char* text :
       {"<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>",
        "<|reserved_special_token_1|>", "<|reserved_special_token_2|>", "<|reserved_special_token_3|>",
        "<|start_header_id|>", "<|end_header_id|>", "<|reserved_special_token_4|>", "<|eot_id|>"})
    add_special(text, kControl, vocabulary);
  for (int index = 5; vocabulary.tokens.size() < 128256; ++index)
    add_special("<|reserved_special_token_" + std::to_string(index) + "|>", kControl, vocabulary);
  vocabulary.bos = 128000;
  vocabulary.eos = vocabulary.pad = 128009;
  vocabulary.add_bos = true;
  vocabulary.pre_tokenizer = "llama-bpe";
  vocabulary.split_pattern =
      "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
      "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
  vocabulary.chat_template =
      "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message.role + "
      "'<|end_header_id|>\\n\\n' + message.content + '<|eot_id|>' }}{% endfor %}"
      "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}";
  return vocabulary;
}

SyntheticVocabulary make_small() {
  SyntheticVocabulary vocabulary;
  add_base(31997, vocabulary);
  for (const char* text : {"<unk>", "<s>", "</s>"}) add_special(text, kControl, vocabulary);
  vocabulary.bos = 31998;
  vocabulary.eos = vocabulary.pad = 31999;
  vocabulary.add_bos = true;
  vocabulary.pre_tokenizer = "gpt-2";
  vocabulary.split_pattern =
      "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
  return vocabulary;
}

// What the models that are written as GGUF only differ in.
struct GgufVocabulary {
  VocabularyKind kind;
  uint32_t size;
  uint32_t special_begin;
  const char* pre_tokenizer;
  bool add_bos;
  std::array<const char*, 5> special;  // From special_begin on.
  uint32_t bos, eos, pad;              // Indices of `special`.
};
constexpr GgufVocabulary kGgufVocabularies[] = {
    {VocabularyKind::kDeepseekV3,
     129280,
     128000,
     "deepseek-v3",
     true,
     {"<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>", "<｜User｜>", "<｜Assistant｜>"},
     0,
     1,
     2},
    {VocabularyKind::kQwen35,
     248320,
     248044,
     "qwen35",
     false,
     {"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"},
     0,
     2,
     0},
    {VocabularyKind::kGptOss,
     201088,
     199998,
     "gpt-4o",
     false,
     {"<|startoftext|>", "<|endoftext|>", "<|return|>", "<|start|>", "<|end|>"},
     0,
     2,
     1},
    {VocabularyKind::kGemma,
     262144,
     262139,
     "gpt-2",
     true,
     {"<pad>", "<eos>", "<bos>", "<|turn>", "<turn|>"},
     2,
     1,
     0},
    {VocabularyKind::kGlm4,
     151552,
     151329,
     "glm4",
     false,
     {"<|endoftext|>", "[gMASK]", "<sop>", "<|user|>", "<|assistant|>"},
     1,
     0,
     0},
    {VocabularyKind::kLlama4,
     202048,
     200000,
     "llama4",
     true,
     {"<|begin_of_text|>", "<|end_of_text|>", "<|header_start|>", "<|header_end|>", "<|eot|>"},
     0,
     4,
     1},
};

SyntheticVocabulary make_gguf_vocabulary(const GgufVocabulary& known) {
  SyntheticVocabulary vocabulary;
  add_base(known.special_begin, vocabulary);
  for (const char* text : known.special) add_special(text, kControl, vocabulary);
  while (vocabulary.tokens.size() < known.size)
    add_special("[PAD" + std::to_string(vocabulary.tokens.size()) + "]", kUnused, vocabulary);
  vocabulary.bos = known.special_begin + known.bos;
  vocabulary.eos = known.special_begin + known.eos;
  vocabulary.pad = known.special_begin + known.pad;
  vocabulary.add_bos = known.add_bos;
  vocabulary.pre_tokenizer = known.pre_tokenizer;
  return vocabulary;
}

Json split_step(const SyntheticVocabulary& vocabulary) {
  return {{"type", "Split"},
          {"pattern", {{"Regex", vocabulary.split_pattern}}},
          {"behavior", "Isolated"},
          {"invert", false}};
}

Json byte_level() {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", false}, {"use_regex", false}};
}

}  // namespace

SyntheticVocabulary make_vocabulary(VocabularyKind kind) {
  switch (kind) {
    case VocabularyKind::kQwen:
      return make_qwen();
    case VocabularyKind::kLlama3:
      return make_llama3();
    default:
      break;
  }
  for (const GgufVocabulary& known : kGgufVocabularies)
    if (known.kind == kind) return make_gguf_vocabulary(known);
  return make_small();
}

std::string tokenizer_json(const SyntheticVocabulary& vocabulary) {
  Json added = Json::array();
  for (uint32_t id = vocabulary.special_begin; id < vocabulary.tokens.size(); ++id) {
    if (vocabulary.types[id] == kUnused) continue;
    added.push_back({{"id", id},
                     {"content", vocabulary.tokens[id]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  }
  Json vocab = Json::object();
  for (uint32_t id = 0; id < vocabulary.special_begin; ++id) vocab[vocabulary.tokens[id]] = id;
  const Json tokenizer = {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", std::move(added)},
      {"normalizer", nullptr},
      {"pre_tokenizer",
       {{"type", "Sequence"}, {"pretokenizers", Json::array({split_step(vocabulary), byte_level()})}}},
      {"post_processor", byte_level()},
      {"decoder", byte_level()},
      {"model",
       {{"type", "BPE"},
        {"dropout", nullptr},
        {"unk_token", nullptr},
        {"continuing_subword_prefix", nullptr},
        {"end_of_word_suffix", nullptr},
        {"fuse_unk", false},
        {"byte_fallback", false},
        {"ignore_merges", false},
        {"vocab", std::move(vocab)},
        {"merges", vocabulary.merges}}}};
  return dump_json(tokenizer);
}

std::string tokenizer_config_json(const SyntheticVocabulary& vocabulary) {
  Json config = {
      {"tokenizer_class", "PreTrainedTokenizerFast"},   {"add_bos_token", vocabulary.add_bos},
      {"bos_token", vocabulary.tokens[vocabulary.bos]}, {"eos_token", vocabulary.tokens[vocabulary.eos]},
      {"pad_token", vocabulary.tokens[vocabulary.pad]}, {"clean_up_tokenization_spaces", false}};
  if (!vocabulary.chat_template.empty()) config["chat_template"] = vocabulary.chat_template;
  return dump_json(config, 2);
}

}  // namespace mlxf::convert
