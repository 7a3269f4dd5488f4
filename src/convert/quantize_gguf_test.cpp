#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <map>

#include "convert/gguf_plan.h"
#include "convert/quantize.h"
#include "formats/manifest.h"
#include "formats/test_bytes.h"
#include "kernels/kernel_table.h"
#include "model/families/families.h"
#include "platform/file.h"
#include "text/tokenizer.h"
#include "weights/stored_matrix.h"

namespace mlxf::convert {
namespace {

using formats::testing::TempFolder;
using ::testing::HasSubstr;

std::string source_path(const std::string& name) { return std::string(MLXF_SOURCE_DIR) + "/" + name; }
std::string oracle(const std::string& name) { return source_path("tests/data/oracles/" + name); }

bool exists(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0;
}

QuantizeOptions gguf_options(const std::string& model, const std::string& out, const char* type) {
  QuantizeOptions options;
  options.model = model;
  options.out = out;
  options.type = *parse_quantize_type(type);
  return options;
}

std::vector<uint8_t> bytes_of(const formats::ModelManifest& model, const formats::TensorEntry& tensor) {
  const auto file = platform::File::open(model.files[tensor.file]);
  EXPECT_TRUE(file.has_value());
  std::vector<uint8_t> bytes(tensor.bytes);
  EXPECT_TRUE(file->read_exact(tensor.offset, bytes));
  return bytes;
}

std::vector<float> values_of(const formats::ModelManifest& model, const formats::TensorEntry& tensor) {
  const std::map<DType, WeightFormat> formats_of = {{DType::kF32, WeightFormat::kF32},
                                                    {DType::kBF16, WeightFormat::kBF16},
                                                    {DType::kQ8_0, WeightFormat::kQ8_0}};
  const std::vector<uint8_t> bytes = bytes_of(model, tensor);
  const auto cols = static_cast<uint32_t>(tensor.shape.back());
  MatrixView view{.format = formats_of.at(tensor.dtype), .cols = cols, .data = bytes.data()};
  view.row_bytes = *row_bytes(tensor.dtype, cols);
  view.rows = static_cast<uint32_t>(bytes.size() / view.row_bytes);
  std::vector<float> values(uint64_t{view.rows} * cols);
  for (uint32_t row = 0; row < view.rows; ++row)
    kernels::reference_kernels().decode[static_cast<int>(view.format)](view, row, 0, cols,
                                                                       values.data() + uint64_t{row} * cols);
  return values;
}

struct Converted {
  const char* name;
  const char* type;  // What llama.cpp's converter and llama-quantize made of it.
};

class LikeLlamaCppTest : public testing::TestWithParam<Converted> {};

// Names, shapes, types, row orders, values and architecture keys are those of llama.cpp's own converter.
TEST_P(LikeLlamaCppTest, TheSameTensorsAndKeys) {
  compute::ThreadPool pool(2);
  TempFolder folder;
  const std::string out = folder / "out.gguf";
  const auto report = quantize(gguf_options(oracle(GetParam().name), out, GetParam().type), pool, {});
  ASSERT_TRUE(report.has_value()) << report.error().message;
  const auto ours = formats::open_model(out);
  const auto theirs = formats::open_model(
      source_path("tests/data/reference/llamacpp-" + std::string(GetParam().name) + "/model.gguf"));
  ASSERT_TRUE(ours.has_value() && theirs.has_value());
  EXPECT_EQ(ours->tensors.size(), theirs->tensors.size());
  for (const formats::TensorEntry& expected : theirs->tensors) {
    SCOPED_TRACE(expected.name);
    const formats::TensorEntry* found = ours->find(expected.name);
    ASSERT_NE(found, nullptr);
    EXPECT_EQ(found->shape, expected.shape);
    EXPECT_EQ(found->dtype, expected.dtype);
    const std::vector<float> a = values_of(*theirs, expected);
    const std::vector<float> b = values_of(*ours, *found);
    ASSERT_EQ(a.size(), b.size());
    double error = 0, largest = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      error = std::max(error, std::fabs(double{a[i]} - b[i]));
      largest = std::max(largest, std::fabs(double{a[i]}));
    }
    // A code may be rounded the other way where it lies between two; plain types are the same but for the last
    // bit of rope_freqs.
    EXPECT_LE(error, (expected.dtype == DType::kQ8_0 ? 1.01 / 127 : 1e-6) * largest);
  }
  for (const std::string_view key : theirs->metadata.keys()) {
    if (key.starts_with("tokenizer.") || key == "general.size_label" || key == "general.name") continue;
    EXPECT_EQ(ours->metadata.find_number(key), theirs->metadata.find_number(key)) << key;
    EXPECT_EQ(ours->metadata.find_string(key), theirs->metadata.find_string(key)) << key;
  }
}

INSTANTIATE_TEST_SUITE_P(Oracles, LikeLlamaCppTest,
                         testing::Values(Converted{"llama", "bf16"}, Converted{"llama-tied", "bf16"},
                                         Converted{"qwen2", "bf16"}, Converted{"qwen3", "bf16"},
                                         Converted{"phi3", "bf16"}, Converted{"gemma2", "bf16"},
                                         Converted{"gemma3", "bf16"}, Converted{"mixtral", "q8_0"},
                                         Converted{"qwen2_moe", "q8_0"}, Converted{"qwen3_moe", "q8_0"},
                                         Converted{"olmoe", "q8_0"}),
                         [](const auto& parameter) {
                           std::string name = parameter.param.name;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(QuantizeGguf, RowsThatAreNoWholeBlocksGetAnotherType) {
  compute::ThreadPool pool(2);
  TempFolder folder;
  const auto report = quantize(gguf_options(oracle("llama"), folder / "k.gguf", "q4_k"), pool, {});
  ASSERT_TRUE(report.has_value()) << report.error().message;
  const auto model = formats::open_model(folder / "k.gguf");
  ASSERT_TRUE(model.has_value());
  EXPECT_EQ(model->find("blk.0.attn_q.weight")->dtype, DType::kQ5_0);  // 64 columns.
  EXPECT_EQ(model->find("output.weight")->dtype, DType::kQ8_0);        // Q6_K where it fits.
  EXPECT_EQ(model->find("blk.0.attn_norm.weight")->dtype, DType::kF32);
  EXPECT_GT(report->relative_error, 0.01);
  EXPECT_LT(report->relative_error, 0.05);
}

TEST(QuantizeGguf, ThreadsDoNotChangeTheFile) {
  TempFolder folder;
  compute::ThreadPool one(1), three(3);
  ASSERT_TRUE(quantize(gguf_options(oracle("llama"), folder / "1.gguf", "q4_0"), one, {}).has_value());
  ASSERT_TRUE(quantize(gguf_options(oracle("llama"), folder / "3.gguf", "q4_0"), three, {}).has_value());
  const auto a = platform::read_whole_file(folder / "1.gguf", 1 << 24);
  const auto b = platform::read_whole_file(folder / "3.gguf", 1 << 24);
  ASSERT_TRUE(a.has_value() && b.has_value());
  EXPECT_TRUE(*a == *b);
}

TEST(QuantizeGguf, RefusesAndLeavesNothing) {
  compute::ThreadPool pool(1);
  TempFolder folder;
  const std::string out = folder / "out.gguf";
  QuantizeOptions options = gguf_options(oracle("llama"), out, "q8_0");
  options.overrides = {*parse_override("lm_head=mlx6", 64)};
  auto report = quantize(options, pool, {});
  ASSERT_FALSE(report.has_value());
  EXPECT_THAT(report.error().message, HasSubstr("lm_head"));
  EXPECT_FALSE(exists(out));

  std::ofstream(out) << "precious";
  report = quantize(gguf_options(oracle("llama"), out, "q8_0"), pool, {});
  ASSERT_FALSE(report.has_value());
  std::string kept;
  std::ifstream(out) >> kept;
  EXPECT_EQ(kept, "precious");
}

// An oracle with members of its configuration replaced.
void copy_oracle(const std::string& name, const std::string& folder,
                 const std::map<std::string, Json>& edits) {
  ASSERT_EQ(::mkdir(folder.c_str(), 0700), 0);
  for (const char* file : {"config.json", "model.safetensors"}) {
    const auto bytes = platform::read_whole_file(oracle(name) + "/" + file, 1 << 24);
    ASSERT_TRUE(bytes.has_value());
    std::string text(bytes->begin(), bytes->end());
    if (std::string_view(file) == "config.json") {
      auto config = parse_json(text);
      ASSERT_TRUE(config.has_value());
      for (const auto& [member, value] : edits) (*config)[member] = value;
      text = config->dump();
    }
    std::ofstream(folder + "/" + file, std::ios::binary) << text;
  }
}

// What such a file cannot say is refused, with the member that says it.
TEST(QuantizeGguf, RefusesWhatTheArchitectureImpliesOtherwise) {
  const struct {
    const char* model;
    std::map<std::string, Json> edits;
    const char* named;
  } cases[] = {
      {"gemma2", {{"query_pre_attn_scalar", 16}}, "query_pre_attn_scalar"},
      {"gemma2", {{"final_logit_softcapping", nullptr}}, "final_logit_softcapping"},
      {"gemma3", {{"final_logit_softcapping", 30.0}}, "final_logit_softcapping"},
      {"gemma3",
       {{"layer_types", std::vector<std::string>(7, "full_attention")}},
       "layer 0 has no sliding window"},
      {"gemma2",
       {{"layer_types", std::vector<std::string>(4, "sliding_attention")}},
       "layer 1 has a sliding window"},
      {"llama",
       {{"rope_parameters",
         {{"rope_type", "dynamic"},
          {"factor", 2.0},
          {"rope_theta", 10000.0},
          {"original_max_position_embeddings", 64}}}},
       "rope scaling"},
  };
  compute::ThreadPool pool(1);
  for (const auto& c : cases) {
    TempFolder folder;
    copy_oracle(c.model, folder / "model", c.edits);
    const auto report = quantize(gguf_options(folder / "model", folder / "out.gguf", "q8_0"), pool, {});
    ASSERT_FALSE(report.has_value()) << c.named;
    EXPECT_EQ(report.error().code, ErrorCode::kUnsupported);
    EXPECT_THAT(report.error().message, HasSubstr(c.named));
    EXPECT_FALSE(exists(folder / "out.gguf"));
  }
}

TEST(QuantizeGguf, LongRopeFactorsBecomeTensors) {
  std::vector<float> short_factors, long_factors;
  for (int i = 0; i < 8; ++i) {
    short_factors.push_back(1.0f + 0.25f * static_cast<float>(i));
    long_factors.push_back(2.0f + 3.5f * static_cast<float>(i));
  }
  TempFolder folder;
  copy_oracle("phi3", folder / "model",
              {{"original_max_position_embeddings", 1024},
               {"sliding_window", 32},
               {"rope_parameters",
                {{"rope_type", "longrope"},
                 {"rope_theta", 10000.0},
                 {"original_max_position_embeddings", 1024},
                 {"short_factor", short_factors},
                 {"long_factor", long_factors}}}});
  compute::ThreadPool pool(1);
  const std::string out = folder / "out.gguf";
  const auto report = quantize(gguf_options(folder / "model", out, "bf16"), pool, {});
  ASSERT_TRUE(report.has_value()) << report.error().message;
  const auto written = formats::open_model(out);
  ASSERT_TRUE(written.has_value());
  EXPECT_EQ(values_of(*written, *written->find("rope_factors_short.weight")), short_factors);
  EXPECT_EQ(values_of(*written, *written->find("rope_factors_long.weight")), long_factors);
  // Both files describe the same model.
  const auto source = formats::open_model(folder / "model");
  ASSERT_TRUE(source.has_value());
  const auto expected = model::make_spec(*source);
  const auto found = model::make_spec(*written);
  ASSERT_TRUE(expected.has_value() && found.has_value());
  EXPECT_EQ(found->ropes[0].scaling, model::RopeScaling::kLongRope);
  EXPECT_EQ(found->ropes[0].original_positions, 1024.0f);
  EXPECT_GT(expected->ropes[0].attention_factor, 1.0f);  // 4096 positions after 1024.
  EXPECT_FLOAT_EQ(found->ropes[0].attention_factor, expected->ropes[0].attention_factor);
  EXPECT_EQ(found->context_max, expected->context_max);
  EXPECT_EQ(found->layers[3].attention().window, 32u);
}

TEST(QuantizeGguf, OverridesKeepTensorsIn16Bits) {
  compute::ThreadPool pool(1);
  TempFolder folder;
  QuantizeOptions options = gguf_options(oracle("llama"), folder / "out.gguf", "q4_0");
  options.overrides = {*parse_override("layers.1.mlp=none", 64)};
  ASSERT_TRUE(quantize(options, pool, {}).has_value());
  const auto model = formats::open_model(options.out);
  ASSERT_TRUE(model.has_value());
  EXPECT_EQ(model->find("blk.1.ffn_up.weight")->dtype, DType::kF16);
  EXPECT_EQ(model->find("blk.0.ffn_up.weight")->dtype, DType::kQ4_0);
}

TEST(GgufPlan, InterleavingPairsTheHalvesOfEachHead) {
  std::vector<uint64_t> rows;
  for (uint64_t row = 0; row < 8; ++row) rows.push_back(interleaved_row(row, 8, 2));
  EXPECT_EQ(rows, (std::vector<uint64_t>{0, 2, 1, 3, 4, 6, 5, 7}));
}

// ---- tokenizers ----

// The oracle's weights beside a tokenizer of our choice.
class TokenizerTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(::mkdir(model_.c_str(), 0700), 0);
    for (const char* name : {"config.json", "model.safetensors"}) {
      const auto text = platform::read_whole_file(oracle("llama") + "/" + name, 1 << 24);
      ASSERT_TRUE(text.has_value());
      std::ofstream(model_ + "/" + name, std::ios::binary) << *text;
    }
  }
  void write(const char* name, const std::string& text) { std::ofstream(model_ + "/" + name) << text; }
  Result<QuantizeReport> make() { return quantize(gguf_options(model_, out_, "q8_0"), pool_, {}); }

  compute::ThreadPool pool_{1};
  TempFolder folder_;
  const std::string model_ = folder_ / "model";
  const std::string out_ = folder_ / "out.gguf";
};

std::string added_token(int id, const std::string& text, bool special) {
  return "{\"id\": " + std::to_string(id) + ", \"content\": \"" + text +
         "\", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, "
         "\"special\": " +
         (special ? "true}" : "false}");
}

constexpr const char* kSplits =
    R"({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true})";

std::string byte_level_json() {
  return R"({"version": "1.0", "added_tokens": [)" + added_token(0, "<pad>", true) + "," +
         added_token(1, "<s>", true) + "," + added_token(2, "<tool>", false) + R"(],
    "normalizer": null, "post_processor": {"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
      "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
      "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
    "pre_tokenizer": )" +
         kSplits + R"(, "decoder": )" + kSplits + R"(,
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
      "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
      "vocab": {"<pad>": 0, "<s>": 1, "<tool>": 2, "a": 3, "b": 4, "c": 5, "ab": 6, "abc": 7, "\u0120": 8},
      "merges": [["a", "b"], ["ab", "c"]]}})";
}

TEST_F(TokenizerTest, AByteLevelVocabularyKeepsTokensTypesAndMerges) {
  write("tokenizer.json", byte_level_json());
  write("tokenizer_config.json", R"({"eos_token": {"content": "<pad>"}, "chat_template": "{{ messages }}"})");
  const auto report = make();
  ASSERT_TRUE(report.has_value()) << report.error().message;
  const auto model = formats::open_model(out_);
  ASSERT_TRUE(model.has_value());
  const formats::GgufMetadata& metadata = model->metadata;
  EXPECT_EQ(metadata.find_string("tokenizer.ggml.model"), "gpt2");
  EXPECT_EQ(metadata.find_string("tokenizer.ggml.pre"), "gpt-2");
  EXPECT_EQ(metadata.find_int("tokenizer.ggml.bos_token_id"), 1);
  EXPECT_EQ(metadata.find_int("tokenizer.ggml.eos_token_id"), 0);
  EXPECT_EQ(metadata.find_bool("tokenizer.ggml.add_bos_token"), true);
  EXPECT_EQ(metadata.find_string("tokenizer.chat_template"), "{{ messages }}");
  const auto tokens = metadata.find_strings("tokenizer.ggml.tokens");
  const auto types = metadata.find_numbers("tokenizer.ggml.token_type");
  ASSERT_TRUE(tokens && types);
  ASSERT_EQ(tokens->size(), 256u);  // The rows of the embedding.
  EXPECT_EQ((*tokens)[7], "abc");
  EXPECT_EQ((*tokens)[9], "[PAD9]");
  EXPECT_EQ(std::vector<double>(types->begin(), types->begin() + 10),
            (std::vector<double>{3, 3, 4, 1, 1, 1, 1, 1, 1, 5}));
  EXPECT_EQ(metadata.find_strings("tokenizer.ggml.merges"), (std::vector<std::string_view>{"a b", "ab c"}));
  const auto tokenizer = text::load_tokenizer(*model);
  ASSERT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
  EXPECT_EQ(*tokenizer->encode("abcab"), (std::vector<TokenId>{1, 7, 6}));
}

TEST_F(TokenizerTest, SentencePieceMergesBecomeScores) {
  write("tokenizer.json", R"({"version": "1.0", "added_tokens": [)" + added_token(0, "<unk>", true) + "," +
                              added_token(1, "<s>", true) + R"(],
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"},
      {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
    "pre_tokenizer": null, "post_processor": null,
    "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
    "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
      "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true,
      "vocab": {"<unk>": 0, "<s>": 1, "<0x0A>": 2, "a": 3, "b": 4, "c": 5, "\u2581": 6, 
        "bc": 7, "\u2581a": 8, "\u2581abc": 9},
      "merges": ["b c", "\u2581 a", "\u2581a bc"]}})");
  const auto report = make();
  ASSERT_TRUE(report.has_value()) << report.error().message;
  const auto model = formats::open_model(out_);
  ASSERT_TRUE(model.has_value());
  EXPECT_EQ(model->metadata.find_string("tokenizer.ggml.model"), "llama");
  EXPECT_EQ(model->metadata.find_bool("tokenizer.ggml.add_space_prefix"), true);
  EXPECT_EQ(model->metadata.find_int("tokenizer.ggml.unknown_token_id"), std::nullopt);
  const auto scores = model->metadata.find_numbers("tokenizer.ggml.scores");
  ASSERT_TRUE(scores);
  EXPECT_EQ((*scores)[7], -1);
  EXPECT_EQ((*scores)[9], -3);
  const auto types = model->metadata.find_numbers("tokenizer.ggml.token_type");
  EXPECT_EQ((*types)[0], 2);
  EXPECT_EQ((*types)[2], 6);
  const auto tokenizer = text::load_tokenizer(*model);
  ASSERT_TRUE(tokenizer.has_value());
  EXPECT_EQ(*tokenizer->encode("abc\n", {.add_special_tokens = false}), (std::vector<TokenId>{9, 2}));
}

TEST_F(TokenizerTest, WhatGgufCannotSayIsRefusedWithNothingWritten) {
  std::string text = byte_level_json();
  const std::string plain =
      R"({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true})";
  text.replace(text.find(plain), plain.size(),
               R"({"type": "Sequence", "pretokenizers": [
                 {"type": "Split", "pattern": {"Regex": "[xyz]"}, "behavior": "Isolated", "invert": false},
                 {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]})");
  write("tokenizer.json", text);
  auto report = make();
  ASSERT_FALSE(report.has_value());
  EXPECT_EQ(report.error().code, ErrorCode::kUnsupported);
  EXPECT_THAT(report.error().message, HasSubstr("[xyz]"));
  EXPECT_FALSE(exists(out_));

  text = byte_level_json();
  text.replace(text.find("\"abc\": 7"), 8, "\"abc\": 700");
  write("tokenizer.json", text);
  report = make();
  ASSERT_FALSE(report.has_value());
  EXPECT_THAT(report.error().message, HasSubstr("abc"));
  EXPECT_FALSE(exists(out_));
}

TEST_F(TokenizerTest, WithoutATokenizerTheFileSaysNone) {
  ASSERT_TRUE(make().has_value());
  const auto model = formats::open_model(out_);
  ASSERT_TRUE(model.has_value());
  EXPECT_EQ(model->metadata.find_string("tokenizer.ggml.model"), "none");
}

}  // namespace
}  // namespace mlxf::convert
