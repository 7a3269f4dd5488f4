// Real vocabularies against independent references. They are large and not ours to publish, so these tests run where
// tools/fetch_tokenizers.sh has put them (build/tokenizers, or the folder that MLXF_TOKENIZERS names).
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "formats/manifest.h"
#include "formats/test_bytes.h"
#include "text/test_corpus.h"
#include "text/test_gguf.h"
#include "text/tokenizer.h"

namespace mlxf::text {
namespace {

namespace fs = std::filesystem;
using formats::testing::TempFolder;
using testing::expect_reference_ids;
using testing::GgufVocabulary;
using testing::read_file;
using testing::read_json;
using testing::read_reference;
using testing::Reference;
using testing::write_gguf;

std::string fetched_folder() {
  const char* named = std::getenv("MLXF_TOKENIZERS");
  return named != nullptr ? named : MLXF_SOURCE_DIR "/build/tokenizers";
}

struct Model {
  std::string name;
  std::string kind;  // As a GGUF vocabulary.
  std::string pre;
  formats::GgufPairs pairs = {};  // Further keys that the model's GGUF files carry.
};

// Names the test's parameter in its output.
void PrintTo(const Model& model, std::ostream* out) { *out << model.name; }

class FetchedTokenizer : public ::testing::TestWithParam<Model> {
 protected:
  void SetUp() override {
    path_ = fetched_folder() + "/" + GetParam().name + "/tokenizer.json";
    if (!fs::exists(path_)) GTEST_SKIP() << path_ << " is absent: run tools/fetch_tokenizers.sh";
  }
  std::string path_;
};

TEST_P(FetchedTokenizer, GivesTheReferenceIds) {
  const auto tokenizer = parse_tokenizer(read_file(path_));
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  const Reference reference = read_reference(GetParam().name);
  expect_reference_ids(*tokenizer, reference, GetParam().name);
  EXPECT_EQ(tokenizer->encode("").value(), reference.added);
  const std::vector<std::string> lines = testing::corpus();
  for (size_t i = 0; i < lines.size(); ++i) {
    const auto found = reference.decoded.find(i);
    const std::string& text = found == reference.decoded.end() ? lines[i] : found->second;
    EXPECT_EQ(tokenizer->decode(reference.encode[i]).value(), text) << "line " << i + 1;
  }
  for (const auto& [ids, text] : reference.random) EXPECT_EQ(tokenizer->decode(ids).value(), text);
}

TEST_P(FetchedTokenizer, AsGgufGivesTheReferenceIds) {
  const Model& model = GetParam();
  TempFolder folder;
  const std::string path = folder / "vocabulary.gguf";
  formats::GgufPairs pairs = GgufVocabulary(read_json(path_)).pairs(model.kind, model.pre);
  pairs.insert(pairs.end(), model.pairs.begin(), model.pairs.end());
  write_gguf(path, pairs);
  const auto manifest = formats::open_model(path);
  ASSERT_TRUE(manifest) << manifest.error().message;
  const auto tokenizer = load_tokenizer(*manifest);
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  expect_reference_ids(*tokenizer, read_reference(model.name), model.name + " as GGUF");
}

INSTANTIATE_TEST_SUITE_P(
    Text, FetchedTokenizer,
    ::testing::Values(Model{"llama2", "llama", ""}, Model{"llama3_1", "gpt2", "llama-bpe"},
                      Model{"qwen3", "gpt2", "qwen2"},
                      Model{"gemma3", "llama", "", {{"tokenizer.ggml.add_space_prefix", false}}},
                      Model{"deepseek_v3", "gpt2", "deepseek-v3"}, Model{"gptoss", "gpt2", "gpt-4o"}),
    [](const auto& instance) { return instance.param.name; });

// Texts and ids as in the files that llama.cpp keeps beside its test vocabularies.
std::vector<std::string> split(const std::string& text, const std::string& separator) {
  std::vector<std::string> parts;
  for (size_t begin = 0;;) {
    const size_t end = text.find(separator, begin);
    parts.push_back(text.substr(begin, end - begin));
    if (end == std::string::npos) return parts;
    begin = end + separator.size();
  }
}

std::vector<TokenId> ids_of(const std::string& line) {
  std::vector<TokenId> ids;
  for (const std::string& word : split(line, " ")) {
    if (!word.empty()) ids.push_back(static_cast<TokenId>(std::stol(word)));
  }
  return ids;
}

TEST(FetchedGguf, VocabulariesOfLlamaCppGiveItsIds) {
  const std::string folder = fetched_folder() + "/llama.cpp";
  if (!fs::exists(folder)) GTEST_SKIP() << folder << " is absent: run tools/fetch_tokenizers.sh";
  int compared = 0;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string path = entry.path().string();
    if (!path.ends_with(".gguf") || !fs::exists(path + ".inp")) continue;
    const auto manifest = formats::open_model(path);
    ASSERT_TRUE(manifest) << manifest.error().message;
    const auto tokenizer = load_tokenizer(*manifest);
    if (path.ends_with("bert-bge.gguf")) {  // A WordPiece vocabulary: encoders only, not what we run.
      EXPECT_EQ(tokenizer.error().code, ErrorCode::kUnsupported);
      continue;
    }
    ASSERT_TRUE(tokenizer) << path << ": " << tokenizer.error().message;
    const auto texts = split(read_file(path + ".inp"), "\n__ggml_vocab_test__\n");
    const auto lines = split(read_file(path + ".out"), "\n");
    ASSERT_GE(lines.size(), texts.size()) << path;
    for (size_t i = 0; i < texts.size(); ++i) {
      // Qwen 3.5 composes characters first (its own tokenizer's NFC); llama.cpp leaves e + U+0301 as two.
      const bool combines = texts[i].find("\xCC\x80") != std::string::npos ||  // U+0300
                            texts[i].find("\xCC\x81") != std::string::npos;    // U+0301
      if (combines && path.ends_with("qwen35.gguf")) continue;
      const auto ids = tokenizer->encode(texts[i], {.add_special_tokens = false, .parse_special = false});
      ASSERT_TRUE(ids) << path << ": " << ids.error().message;
      EXPECT_EQ(*ids, ids_of(lines[i])) << path << ": \"" << texts[i] << '"';
    }
    ++compared;
  }
  EXPECT_GT(compared, 10);
}

}  // namespace
}  // namespace mlxf::text
