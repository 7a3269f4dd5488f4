#include "text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "formats/manifest.h"
#include "formats/test_bytes.h"
#include "text/detokenizer.h"
#include "text/test_corpus.h"
#include "text/test_gguf.h"
#include "text/utf8.h"

namespace mlxf::text {
namespace {

using formats::testing::TempFolder;
using testing::corpus;
using ::testing::ElementsAre;
using testing::expect_reference_ids;
using testing::GgufVocabulary;
using ::testing::HasSubstr;
using testing::kDataFolder;
using testing::read_file;
using testing::read_json;
using testing::read_reference;
using testing::Reference;
using testing::write_gguf;

const std::string kBundled = MLXF_SOURCE_DIR "/models/classics-moe-4bit";

struct Small {
  std::string name;
  std::string path;
  std::string kind;  // As a GGUF vocabulary.
  std::string pre;
};

std::vector<Small> smalls() {
  return {{"byte_bpe", kDataFolder + "byte_bpe.json", "gpt2", "dbrx"},
          {"spm_bpe", kDataFolder + "spm_bpe.json", "llama", ""},
          {"unigram", kDataFolder + "unigram.json", "t5", ""},
          {"classics", kBundled + "/tokenizer.json", "", ""}};
}

Tokenizer small(const std::string& name) {
  for (const Small& item : smalls()) {
    if (item.name != name) continue;
    auto tokenizer = parse_tokenizer(read_file(item.path));
    if (tokenizer) return *tokenizer;
    ADD_FAILURE() << tokenizer.error().message;
  }
  std::abort();
}

TEST(Tokenizer, GivesTheIdsOfTheOtherImplementation) {
  for (const Small& item : smalls()) {
    const auto tokenizer = parse_tokenizer(read_file(item.path));
    ASSERT_TRUE(tokenizer) << item.name << ": " << tokenizer.error().message;
    const Reference reference = read_reference(item.name);
    expect_reference_ids(*tokenizer, reference, item.name);
    EXPECT_EQ(tokenizer->encode("").value(), reference.added) << item.name;
  }
}

TEST(Tokenizer, DecodesAsTheOtherImplementation) {
  for (const Small& item : smalls()) {
    const Tokenizer tokenizer = small(item.name);
    const Reference reference = read_reference(item.name);
    const std::vector<std::string> lines = corpus();
    for (size_t i = 0; i < lines.size(); ++i) {
      const auto found = reference.decoded.find(i);
      EXPECT_EQ(tokenizer.decode(reference.encode[i]).value(),
                found == reference.decoded.end() ? lines[i] : found->second)
          << item.name << ", line " << i + 1;
    }
    for (const auto& [ids, text] : reference.random)
      EXPECT_EQ(tokenizer.decode(ids).value(), text) << item.name;
  }
}

TEST(Tokenizer, AGgufVocabularyGivesTheSameIds) {
  TempFolder folder;
  for (const Small& item : smalls()) {
    if (item.kind.empty()) continue;
    const std::string path = folder / (item.name + ".gguf");
    write_gguf(path, GgufVocabulary(read_json(item.path)).pairs(item.kind, item.pre));
    const auto manifest = formats::open_model(path);
    ASSERT_TRUE(manifest) << manifest.error().message;
    const auto tokenizer = load_tokenizer(*manifest);
    ASSERT_TRUE(tokenizer) << item.name << ": " << tokenizer.error().message;
    expect_reference_ids(*tokenizer, read_reference(item.name), item.name + ".gguf");
  }
}

// A model folder with byte_bpe's tokenizer.json and the given tokenizer_config.json.
struct ModelFolder {
  explicit ModelFolder(const std::string& config) {
    folder.put("tokenizer.json", read_file(kDataFolder + "byte_bpe.json"));
    folder.put("tokenizer_config.json", config);
    manifest.path = folder.path();
    manifest.files = {folder / "model.safetensors"};
  }
  TempFolder folder;
  formats::ModelManifest manifest;
};

TEST(Tokenizer, ConfigDecidesAboutBosAndEos) {
  const auto encoded = [](const std::string& config) {
    const ModelFolder model(config);
    const auto tokenizer = load_tokenizer(model.manifest);
    EXPECT_TRUE(tokenizer) << tokenizer.error().message;
    std::vector<std::string> spellings;
    const std::vector<TokenId> ids = tokenizer->encode("").value();
    spellings.reserve(ids.size());
    for (const TokenId id : ids) spellings.push_back(tokenizer->token_text(id));
    return spellings;
  };
  const std::string bos = R"("bos_token": "<|begin_of_text|>")";
  const std::string eos = R"("eos_token": {"content": "<|end_of_text|>", "__type": "AddedToken"})";
  EXPECT_THAT(encoded("{" + bos + "}"), ElementsAre("<|begin_of_text|>"));  // The post-processor's.
  EXPECT_THAT(encoded("{" + bos + R"(, "add_bos_token": true})"),
              ElementsAre("<|begin_of_text|>"));  // Not twice.
  EXPECT_THAT(encoded("{" + bos + R"(, "add_bos_token": false})"), ElementsAre());
  EXPECT_THAT(encoded("{" + bos + "," + eos + R"(, "add_eos_token": true})"),
              ElementsAre("<|begin_of_text|>", "<|end_of_text|>"));
  EXPECT_THAT(encoded(R"({"bos_token": "<|im_start|>", "add_bos_token": true})"),
              ElementsAre("<|im_start|>", "<|begin_of_text|>"));
  EXPECT_THAT(encoded(R"({"bos_token": null, "add_bos_token": true})"), ElementsAre("<|begin_of_text|>"));
}

TEST(Tokenizer, GgufKeysDecideAboutBosAndEos) {
  TempFolder folder;
  const GgufVocabulary vocabulary(read_json(kDataFolder + "byte_bpe.json"));
  const Tokenizer plain = small("byte_bpe");
  const auto id = [&](const char* text) { return static_cast<uint32_t>(*plain.find_token(text)); };
  int file = 0;
  const auto encoded = [&](const formats::GgufPairs& more) {
    formats::GgufPairs pairs = vocabulary.pairs("gpt2", "dbrx");
    pairs.insert(pairs.end(), more.begin(), more.end());
    const std::string path = folder / (std::to_string(file++) + ".gguf");
    write_gguf(path, pairs);
    const auto tokenizer = load_tokenizer(formats::open_model(path).value());
    EXPECT_TRUE(tokenizer) << tokenizer.error().message;
    return tokenizer->encode("").value();
  };
  const uint32_t bos = id("<|begin_of_text|>");
  const uint32_t eos = id("<|end_of_text|>");
  EXPECT_THAT(encoded({}), ElementsAre());
  EXPECT_THAT(encoded({{"tokenizer.ggml.bos_token_id", bos}}), ElementsAre());
  EXPECT_THAT(encoded({{"tokenizer.ggml.bos_token_id", bos}, {"tokenizer.ggml.add_bos_token", true}}),
              ElementsAre(static_cast<TokenId>(bos)));
  EXPECT_THAT(encoded({{"tokenizer.ggml.bos_token_id", bos},
                       {"tokenizer.ggml.eos_token_id", eos},
                       {"tokenizer.ggml.add_bos_token", true},
                       {"tokenizer.ggml.add_eos_token", true}}),
              ElementsAre(static_cast<TokenId>(bos), static_cast<TokenId>(eos)));
}

TEST(Tokenizer, EndsOfGenerationComeFromEveryFileThatNamesThem) {
  ModelFolder model(R"({"eos_token": "<|end_of_text|>"})");
  const Tokenizer plain = small("byte_bpe");
  const TokenId think = *plain.find_token("</think>");
  model.folder.put("generation_config.json", R"({"eos_token_id": [)" + std::to_string(think) + "]}");
  const auto tokenizer = load_tokenizer(model.manifest);
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  EXPECT_EQ(tokenizer->eos(), plain.find_token("<|end_of_text|>"));
  EXPECT_TRUE(tokenizer->is_end_of_generation(think));
  EXPECT_TRUE(tokenizer->is_end_of_generation(*plain.find_token("<|im_end|>")));  // Ends a turn.
  EXPECT_FALSE(tokenizer->is_end_of_generation(*plain.find_token("<|im_start|>")));
  model.folder.put("generation_config.json", R"({"eos_token_id": 99999999})");
  EXPECT_EQ(load_tokenizer(model.manifest).error().code, ErrorCode::kCorrupt);
}

// Arrays of metadata may hold infinities, for which scores have no use.
TEST(Tokenizer, GgufScoresMustBeFinite) {
  TempFolder folder;
  formats::GgufPairs pairs = GgufVocabulary(read_json(kDataFolder + "spm_bpe.json")).pairs("llama", "");
  ASSERT_EQ(pairs.back().first, "tokenizer.ggml.scores");
  const float finite = -12345.678F;
  std::get<std::vector<float>>(pairs.back().second)[3] = finite;
  const std::string path = folder / "model.gguf";
  write_gguf(path, pairs);
  EXPECT_TRUE(load_tokenizer(formats::open_model(path).value()));
  std::string bytes = read_file(path);
  const size_t at = bytes.find(formats::testing::le(finite));
  ASSERT_NE(at, std::string::npos);
  bytes.replace(at, sizeof finite, formats::testing::le(std::numeric_limits<float>::infinity()));
  folder.put("model.gguf", bytes);
  const auto tokenizer = load_tokenizer(formats::open_model(path).value());
  ASSERT_FALSE(tokenizer);
  EXPECT_THAT(tokenizer.error().message, HasSubstr("tokenizer.ggml.scores"));
}

TEST(Tokenizer, BrokenFilesGiveOneClearLine) {
  const std::string whole = read_file(kDataFolder + "byte_bpe.json");
  const auto replaced = [&](const std::string& from, const std::string& to) {
    std::string text = whole;
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return text.replace(at, from.size(), to);
  };
  std::vector<std::string> broken = {
      "",
      "{}",
      "[]",
      "null",
      "\xFF\xFE",
      std::string(100'000, '['),
      replaced(R"("type":"BPE")", R"("type":"Wombat")"),
      replaced(R"("vocab":{)", R"("vocab":[],"x":{)"),
      replaced(R"("merges":[)", R"("merges":[["no","such"],)"),
      replaced(R"("decoder":{"type":"ByteLevel")", R"("decoder":{"type":"WordPiece")"),
      // The crate panics on this one.
      replaced(R"("decoder":{"type":"ByteLevel")",
               R"("decoder":{"type":"Replace","pattern":{"String":"\uD800"},"content":" ","x":0)"),
      replaced(R"("special":true)", R"("special":"yes")"),
      replaced(R"({"!":0)", R"({"!":4294967295)"),
      replaced(R"({"!":0)", R"({"!":4000000000000)"),
      replaced(R"({"!":0)", R"({"!":-1)"),
  };
  for (size_t bytes = 1; bytes + 2 < whole.size(); bytes += whole.size() / 50)
    broken.push_back(whole.substr(0, bytes));
  for (const std::string& text : broken) {
    const auto tokenizer = parse_tokenizer(text);
    ASSERT_FALSE(tokenizer) << text.substr(0, 200);
    EXPECT_FALSE(tokenizer.error().message.empty());
    EXPECT_EQ(tokenizer.error().message.find('\n'), std::string::npos) << tokenizer.error().message;
    EXPECT_LT(tokenizer.error().message.size(), 500U) << tokenizer.error().message;
    EXPECT_NE(tokenizer.error().code, ErrorCode::kInternal) << tokenizer.error().message;
  }
}

TEST(Tokenizer, RefusesTextThatIsNotUtf8AndIdsOutside) {
  const Tokenizer tokenizer = small("byte_bpe");
  EXPECT_EQ(tokenizer.encode("a\xFF").error().code, ErrorCode::kInvalidArgument);
  const std::vector<TokenId> outside = {static_cast<TokenId>(tokenizer.vocab_size())};
  EXPECT_EQ(tokenizer.decode(outside).error().code, ErrorCode::kInvalidArgument);
  const std::vector<TokenId> negative = {-1};
  EXPECT_EQ(tokenizer.decode(negative).error().code, ErrorCode::kInvalidArgument);
}

// The splitting expression must not give up on long runs: a text of a megabyte has the ids of its parts.
TEST(Tokenizer, LongRunsKeepTheirSplits) {
  const Tokenizer tokenizer = small("byte_bpe");
  for (const std::string& run :
       {std::string(1'500'000, ' '), std::string(300'000, '\n'), std::string(200'000, '!')}) {
    const auto ids = tokenizer.encode(run + "x 1234 the the", {.add_special_tokens = false});
    ASSERT_TRUE(ids) << ids.error().message;
    const auto tail = tokenizer.encode(" 1234 the the", {.add_special_tokens = false}).value();
    ASSERT_GT(ids->size(), tail.size());
    EXPECT_EQ(std::vector<TokenId>(ids->end() - static_cast<ptrdiff_t>(tail.size()), ids->end()), tail)
        << run[0];
  }
}

}  // namespace
}  // namespace mlxf::text
