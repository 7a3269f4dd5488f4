// Our logits and our reading of quantised blocks against files that other programs made and ran: MLX and mlx-lm,
// llama.cpp, the gguf package, transformers with exact rotary frequencies. See tests/data/reference/README.md.
//
// Bounds are set a few times above what was measured (in the comments), so that a change of arithmetic shows.
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "oracles/testing_model.h"

namespace mlxf {
namespace {

using compute::Arithmetic;
using testing_model::Closeness;
using testing_model::data_folder;
using testing_model::LoadedModel;
using testing_model::RoutedLogits;

// ---- transformers, rope in f32: what users get by default ----

class ExactRopeTest : public testing::TestWithParam<std::string> {};

TEST_P(ExactRopeTest, LogitsMatchByDefault) {
  const std::string folder = data_folder("oracles/" + GetParam());
  const auto expected =
      testing_model::floats(data_folder("reference/exact_rope.safetensors"), GetParam() + ".logits");
  const auto ids = testing_model::token_ids(folder + "/oracle.safetensors", "input_ids");
  LoadedModel exact(folder, 2, Arithmetic::kF32, kernels::select_kernels(), false);
  ASSERT_NE(exact.model, nullptr);
  const RoutedLogits f32 = testing_model::routed_logits_of(*exact.model, ids);
  const double error = testing_model::relative_error(f32.logits, expected);
  RecordProperty("f32_error", std::to_string(error * 1e6) + "e-6");
  EXPECT_LE(error, 1e-5);  // Measured: 1.8e-6 (gemma2).

  // What --activations auto does with 16-bit weights: f32 arithmetic, keys and values in f16. Where that turns a
  // router's near tie, the token gets other experts, and all later ones see it: values are compared up to there.
  LoadedModel usual(folder, 2, Arithmetic::kInt8, kernels::select_kernels(), false);
  ASSERT_NE(usual.model, nullptr);
  const RoutedLogits f16 = testing_model::routed_logits_of(*usual.model, ids);
  const auto same =
      std::mismatch(f32.experts.begin(), f32.experts.end(), f16.experts.begin()).first - f32.experts.begin();
  const size_t vocab = usual.model->spec().vocab;
  const auto head = [&](const std::vector<float>& logits) {
    return std::vector<float>(logits.begin(), logits.begin() + same * static_cast<int64_t>(vocab));
  };
  EXPECT_GE(same, 8);
  const double usual_error = testing_model::relative_error(head(f16.logits), head(expected));
  const double mean_kl = testing_model::compare(f16.logits, expected, vocab).mean_kl;
  RecordProperty("auto_same_routing_tokens", std::to_string(same));
  RecordProperty("auto_error", std::to_string(usual_error * 1e6) + "e-6");
  RecordProperty("auto_mean_kl", std::to_string(mean_kl * 1e6) + "e-6");
  EXPECT_LE(usual_error, 1e-3);
  EXPECT_LE(mean_kl, 1e-4);
}

INSTANTIATE_TEST_SUITE_P(Transformers, ExactRopeTest,
                         testing::Values("gemma2", "gemma3", "llama", "llama-tied", "mistral", "mixtral",
                                         "olmoe", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe"),
                         [](const auto& parameter) { return testing_model::test_name(parameter.param); });

// ---- mlx-lm over checkpoints that MLX quantised ----

class MlxTest : public testing::TestWithParam<std::string> {};

TEST_P(MlxTest, LogitsMatchInF32) {
  const std::string folder = data_folder("reference/mlx-" + GetParam());
  const auto ids = testing_model::token_ids(folder + "/oracle.safetensors", "input_ids");
  for (const bool bf16_rope : {false, true}) {
    LoadedModel loaded(folder, 2, Arithmetic::kF32, kernels::select_kernels(), bf16_rope);
    ASSERT_NE(loaded.model, nullptr);
    const auto expected =
        testing_model::floats(folder + "/oracle.safetensors", bf16_rope ? "logits_rope_bf16" : "logits");
    const double error =
        testing_model::relative_error(testing_model::logits_of(*loaded.model, ids), expected);
    RecordProperty(bf16_rope ? "error_bf16_rope" : "error", std::to_string(error * 1e6) + "e-6");
    EXPECT_LE(error, 1e-5);  // Measured: 1.4e-6 (llama-tied-q4).
  }
}

INSTANTIATE_TEST_SUITE_P(Mlx, MlxTest,
                         testing::Values("gemma3-q4-g32", "gemma3-q8", "llama-mxfp4", "llama-per-layer",
                                         "llama-q4", "llama-q4-f16", "llama-q8-g32", "llama-tied-q4",
                                         "mixtral-q4", "olmoe-q4", "phi3-q4", "qwen2-q4", "qwen2_moe-q4",
                                         "qwen3-q4", "qwen3_moe-mixed-3-6", "qwen3_moe-q4"),
                         [](const auto& parameter) { return testing_model::test_name(parameter.param); });

// The newer families, whose latents, delta nets, wrappers and routers mlx-lm stores in its own way.
class MlxFamilyTest : public testing::TestWithParam<std::string> {};

TEST_P(MlxFamilyTest, LogitsMatchInF32) {
  const std::string folder = data_folder("reference/mlx-" + GetParam());
  const auto ids = testing_model::token_ids(folder + "/oracle.safetensors", "input_ids");
  LoadedModel loaded(folder, 2, Arithmetic::kF32, kernels::select_kernels(), false);
  ASSERT_NE(loaded.model, nullptr);
  const double error =
      testing_model::relative_error(testing_model::logits_of(*loaded.model, ids),
                                    testing_model::floats(folder + "/oracle.safetensors", "logits"));
  RecordProperty("error", std::to_string(error * 1e6) + "e-6");
  EXPECT_LE(error, 2e-5);  // Measured: 8.6e-6 (gemma4-moe-q4), 1.7e-6 elsewhere.
}

INSTANTIATE_TEST_SUITE_P(Mlx, MlxFamilyTest,
                         testing::Values("deepseek_v3-q4", "gemma4-moe-q4", "gpt_oss-mxfp4",
                                         "qwen3_5_moe-q4"),
                         [](const auto& parameter) { return testing_model::test_name(parameter.param); });

// ---- llama.cpp over its own files ----

class LlamaCppTest : public testing::TestWithParam<std::string> {
 protected:
  const std::string path_ = data_folder("reference/llamacpp-" + GetParam());
  const std::string oracle_ = path_ + ".oracle.safetensors";

  const std::vector<TokenId> ids_ = testing_model::token_ids(oracle_, "input_ids");
  const std::vector<float> expected_ = testing_model::floats(oracle_, "logits_f32");

  RoutedLogits logits(Arithmetic arithmetic) const {
    LoadedModel loaded(path_ + ".gguf", 2, arithmetic, kernels::select_kernels(), false);
    return loaded.model == nullptr ? RoutedLogits{} : testing_model::routed_logits_of(*loaded.model, ids_);
  }
  size_t vocab() const { return expected_.size() / ids_.size(); }
};

TEST_P(LlamaCppTest, LogitsMatchInF32) {
  const RoutedLogits found = logits(Arithmetic::kF32);
  const double error = testing_model::relative_error(found.logits, expected_);
  const Closeness close = testing_model::compare(found.logits, expected_, vocab());
  RecordProperty("error", std::to_string(error * 1e6) + "e-6");
  RecordProperty("mean_kl", std::to_string(close.mean_kl * 1e6) + "e-6");
  // Measured: 2.1e-6 (wide-llama/Q4_0); Gemma's GELU is a table of halves in llama.cpp: 3.3e-4.
  EXPECT_LE(error, GetParam().starts_with("gemma") ? 1e-3 : 1e-5);
  EXPECT_LE(close.mean_kl, 1e-6);
  EXPECT_LE(close.largest_gap, 1e-3);
}

// llama.cpp over the same file quantises activations as well, in blocks of its own; ours must not be further from
// the exact logits than that. Tokens whose experts change (near ties of random routers) are few and left out.
TEST_P(LlamaCppTest, LogitsWithInt8ActivationsAreAsCloseAsItsOwn) {
  const RoutedLogits exact = logits(Arithmetic::kF32);
  const RoutedLogits found = logits(Arithmetic::kInt8);
  ASSERT_EQ(found.logits.size(), expected_.size());
  std::vector<bool> keep(ids_.size());
  for (size_t i = 0; i < ids_.size(); ++i) keep[i] = exact.experts[i] == found.experts[i];
  const auto kept = static_cast<size_t>(std::count(keep.begin(), keep.end(), true));
  EXPECT_GE(kept * 8, ids_.size() * 7);
  const Closeness ours = testing_model::compare(found.logits, expected_, vocab(), keep);
  RecordProperty("kept", std::to_string(kept));
  RecordProperty("mean_kl", std::to_string(ours.mean_kl * 1e6) + "e-6");
  RecordProperty("same_top1", std::to_string(ours.same_top1));
  RecordProperty("largest_gap", std::to_string(ours.largest_gap));
  EXPECT_LE(ours.largest_gap,
            0.2);  // Measured: 0.12 (wide-llama/Q5_K_M), of logits of standard deviation 1.5.
  const auto header = formats::read_safetensors_header(oracle_);
  ASSERT_TRUE(header) << header.error().message;
  const bool quantised = std::any_of(header->begin(), header->end(),
                                     [](const auto& tensor) { return tensor.name == "logits_int8"; });
  if (!quantised) {  // 16-bit weights: no activation is quantised.
    EXPECT_LE(ours.mean_kl, 1e-6);
    return;
  }
  const Closeness theirs =
      testing_model::compare(testing_model::floats(oracle_, "logits_int8"), expected_, vocab(), keep);
  RecordProperty("llamacpp_mean_kl", std::to_string(theirs.mean_kl * 1e6) + "e-6");
  EXPECT_LE(ours.mean_kl, 1.3 * theirs.mean_kl);
}

INSTANTIATE_TEST_SUITE_P(LlamaCpp, LlamaCppTest,
                         testing::Values("gemma2/model", "gemma3/model", "llama/model", "llama-tied/model",
                                         "mixtral/model", "olmoe/model", "phi3/model", "qwen2/model",
                                         "qwen2_moe/model", "qwen3/model", "qwen3_moe/model",
                                         "wide-llama/IQ4_XS", "wide-llama/MIX", "wide-llama/Q2_K",
                                         "wide-llama/Q3_K_M", "wide-llama/Q4_0", "wide-llama/Q4_K_M",
                                         "wide-llama/Q5_K_M", "wide-llama/Q6_K", "wide-llama/Q8_0",
                                         "wide-qwen3_moe/MXFP4_MOE", "wide-qwen3_moe/Q4_K_M"),
                         [](const auto& parameter) { return testing_model::test_name(parameter.param); });

// ---- llama.cpp's files of the newer families, transformers over their weights ----

class ConvertedTest : public LlamaCppTest {};

TEST_P(ConvertedTest, LogitsMatchInF32) {
  const RoutedLogits found = logits(Arithmetic::kF32);
  const double error = testing_model::relative_error(found.logits, expected_);
  const Closeness close = testing_model::compare(found.logits, expected_, vocab());
  RecordProperty("error", std::to_string(error * 1e6) + "e-6");
  RecordProperty("mean_kl", std::to_string(close.mean_kl * 1e6) + "e-6");
  EXPECT_LE(error, 1e-5);  // Measured: 3.8e-6 (qwen3_5_moe).
  EXPECT_LE(close.mean_kl, 1e-6);
  EXPECT_LE(close.largest_gap, 1e-3);
}

INSTANTIATE_TEST_SUITE_P(Converted, ConvertedTest,
                         testing::Values("deepseek_v2/model", "deepseek_v3/model", "fused-qwen2/model",
                                         "fused-qwen3_next/model", "glm4_moe/model", "gpt_oss/model",
                                         "llama4/model", "minimax_m2/model", "qwen3_5/model",
                                         "qwen3_5_moe/model"),
                         [](const auto& parameter) { return testing_model::test_name(parameter.param); });

// ---- every file of the folder is one of the above ----

TEST(ReferenceData, EveryCheckpointIsCompared) {
  size_t mlx = 0, gguf = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(data_folder("reference"))) {
    const auto path = entry.path();
    if (path.extension() == ".gguf") ++gguf;
    if (entry.is_directory() && path.filename().string().starts_with("mlx-")) ++mlx;
  }
  EXPECT_EQ(mlx, 20u);
  EXPECT_EQ(gguf, 36u);
}

// ---- the values in the blocks, bit for bit ----

struct BlockType {
  const char* name;
  WeightFormat format;
};

class GgufBlockTest : public testing::TestWithParam<BlockType> {};

TEST_P(GgufBlockTest, ValuesAreThoseOfTheGgufPackage) {
  const std::string file = data_folder("reference/gguf_dequant.safetensors");
  const std::string name = GetParam().name;
  const auto blocks = formats::read_safetensors_tensor(file, name + ".blocks");
  const auto values = formats::load_tensor_f32(file, name + ".values");
  ASSERT_TRUE(blocks && values);
  MatrixView view{.format = GetParam().format,
                  .rows = static_cast<uint32_t>(values->shape[0]),
                  .cols = static_cast<uint32_t>(values->shape[1]),
                  .data = blocks->data(),
                  .row_bytes = blocks->size() / values->shape[0]};
  for (uint32_t t = 0; t < kernels::available_kernels().count; ++t) {
    const kernels::KernelTable& kernels = *kernels::available_kernels().tables[t];
    std::vector<float> row(view.cols);
    for (uint32_t i = 0; i < view.rows; ++i) {
      kernels.decode[static_cast<int>(view.format)](view, i, 0, view.cols, row.data());
      for (uint32_t j = 0; j < view.cols; ++j)
        ASSERT_EQ(row[j], values->values[uint64_t{i} * view.cols + j])
            << kernels.isa << ": block " << i << ", element " << j;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Gguf, GgufBlockTest,
    testing::Values(BlockType{"BF16", WeightFormat::kBF16}, BlockType{"F16", WeightFormat::kF16},
                    BlockType{"Q4_0", WeightFormat::kQ4_0}, BlockType{"Q4_1", WeightFormat::kQ4_1},
                    BlockType{"Q5_0", WeightFormat::kQ5_0}, BlockType{"Q5_1", WeightFormat::kQ5_1},
                    BlockType{"Q8_0", WeightFormat::kQ8_0}, BlockType{"Q2_K", WeightFormat::kQ2_K},
                    BlockType{"Q3_K", WeightFormat::kQ3_K}, BlockType{"Q4_K", WeightFormat::kQ4_K},
                    BlockType{"Q5_K", WeightFormat::kQ5_K}, BlockType{"Q6_K", WeightFormat::kQ6_K},
                    BlockType{"IQ4_NL", WeightFormat::kIQ4_NL}, BlockType{"IQ4_XS", WeightFormat::kIQ4_XS},
                    BlockType{"MXFP4", WeightFormat::kMXFP4}),
    [](const auto& parameter) { return std::string(parameter.param.name); });

// MLX's affine blocks as MLX itself dequantises them: scale * code + bias in the type of the scales.
TEST(MlxBlocks, ValuesAreThoseOfMlx) {
  const std::string file = data_folder("reference/mlx_dequant.safetensors");
  const std::map<std::string, DType> types = {
      {"bf16", DType::kBF16}, {"f16", DType::kF16}, {"f32", DType::kF32}};
  uint32_t compared = 0;
  for (const uint32_t bits : {2u, 3u, 4u, 5u, 6u, 8u})
    for (const uint32_t group : {32u, 64u, 128u})
      for (const auto& [type_name, type] : types) {
        const std::string name =
            "affine.b" + std::to_string(bits) + ".g" + std::to_string(group) + "." + type_name;
        SCOPED_TRACE(name);
        const auto codes = formats::read_safetensors_tensor(file, name + ".weight");
        const auto scales = formats::read_safetensors_tensor(file, name + ".scales");
        const auto biases = formats::read_safetensors_tensor(file, name + ".biases");
        const auto values = formats::load_tensor_f32(file, name + ".values");
        ASSERT_TRUE(codes && scales && biases && values);
        const auto rows = static_cast<uint32_t>(values->shape[0]);
        const MatrixView view{.format = WeightFormat::kMlxAffine,
                              .bits = static_cast<uint8_t>(bits),
                              .group = static_cast<uint16_t>(group),
                              .scale_type = type,
                              .rows = rows,
                              .cols = static_cast<uint32_t>(values->shape[1]),
                              .data = codes->data(),
                              .row_bytes = codes->size() / rows,
                              .scales = scales->data(),
                              .biases = biases->data(),
                              .scale_row_bytes = scales->size() / rows};
        std::vector<float> row(view.cols);
        double error = 0, largest = 0;
        for (uint32_t i = 0; i < rows; ++i) {
          kernels::select_kernels().decode[static_cast<int>(view.format)](view, i, 0, view.cols, row.data());
          for (uint32_t j = 0; j < view.cols; ++j) {
            const double expected = values->values[uint64_t{i} * view.cols + j];
            error = std::max(error, std::fabs(row[j] - expected));
            largest = std::max(largest, std::fabs(expected));
          }
        }
        EXPECT_LE(error, 1e-6 * largest);
        ++compared;
      }
  EXPECT_EQ(compared, 54u);
}

}  // namespace
}  // namespace mlxf
