// The tiny checkpoints of tests/data/oracles against the logits that the reference implementation computed in f32, and
// the promise about bits: any chunking, batch and thread count gives the same ones.
//
// The reference model had been cast to bf16 and back together with its table of rotary frequencies, so the comparison
// rounds them too; with exact ones the same logits differ by 1e-3 to 5e-3.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "oracles/testing_model.h"

namespace mlxf {
namespace {

const char* const kOracles[] = {"llama",     "llama-tied",  "mistral",     "phi3",        "qwen2",
                                "qwen3",     "gemma2",      "gemma3",      "mixtral",     "qwen2_moe",
                                "qwen3_moe", "olmoe",       "deepseek_v2", "deepseek_v3", "qwen3_next",
                                "qwen3_5",   "qwen3_5_moe", "gpt_oss",     "glm4_moe",    "minimax_m2",
                                "llama4",    "gemma4",      "gemma4-ple",  "gemma4-moe",  "gemma3n"};

using testing_model::LoadedModel;
using testing_model::relative_error;

// The reference's tables of rotary frequencies were rounded to bf16.
struct Loaded : LoadedModel {
  Loaded(const std::string& path, uint32_t threads, compute::Arithmetic arithmetic,
         const kernels::KernelTable& kernels)
      : LoadedModel(path, threads, arithmetic, kernels, true) {}
};

struct Oracle {
  std::string folder;
  std::vector<TokenId> ids;
  std::vector<TokenId> greedy;
  std::vector<float> logits;

  explicit Oracle(const std::string& name) : folder(MLXF_SOURCE_DIR "/tests/data/oracles/" + name) {
    ids = testing_model::token_ids(folder + "/oracle.safetensors", "input_ids");
    greedy = testing_model::token_ids(folder + "/oracle.safetensors", "greedy");
    logits = testing_model::floats(folder + "/oracle.safetensors", "logits");
  }
};

class OracleTest : public testing::TestWithParam<const char*> {};

TEST_P(OracleTest, LogitsMatchTheReference) {
  const Oracle oracle(GetParam());
  for (uint32_t i = 0; i < kernels::available_kernels().count; ++i) {
    const kernels::KernelTable& kernels = *kernels::available_kernels().tables[i];
    Loaded loaded(oracle.folder, 1, compute::Arithmetic::kF32, kernels);
    ASSERT_NE(loaded.model, nullptr);
    const double error =
        relative_error(testing_model::logits_of(*loaded.model, oracle.ids, {512}), oracle.logits);
    RecordProperty(std::string("error_") + kernels.isa, std::to_string(error));
    EXPECT_LE(error, 2e-5) << kernels.isa;
  }
}

TEST_P(OracleTest, GreedyContinuationMatchesWhereTheGapAllows) {
  const Oracle oracle(GetParam());
  Loaded loaded(oracle.folder, 2, compute::Arithmetic::kF32, kernels::select_kernels());
  ASSERT_NE(loaded.model, nullptr);
  std::vector<TokenId> ids = oracle.ids;
  ids.insert(ids.end(), oracle.greedy.begin(), oracle.greedy.end() - 1);
  const std::vector<float> logits = testing_model::logits_of(*loaded.model, ids, {512});
  const size_t vocab = loaded.model->spec().vocab;
  uint32_t compared = 0;
  for (size_t i = 0; i < oracle.greedy.size(); ++i) {
    const float* row = logits.data() + (oracle.ids.size() - 1 + i) * vocab;
    const auto best = std::max_element(row, row + vocab) - row;
    if (best == oracle.greedy[i]) ++compared;
    // A different token is right only if the two are closer than the error that is allowed.
    EXPECT_LE(row[best] - row[oracle.greedy[i]], 1e-2f) << "at " << i;
  }
  EXPECT_GE(compared, oracle.greedy.size() - 2);
}

TEST_P(OracleTest, BitsDoNotDependOnChunksBatchOrThreads) {
  const Oracle oracle(GetParam());
  Loaded one(oracle.folder, 1, compute::Arithmetic::kInt8, kernels::select_kernels());
  Loaded two(oracle.folder, 2, compute::Arithmetic::kInt8, kernels::select_kernels());
  ASSERT_NE(one.model, nullptr);
  ASSERT_NE(two.model, nullptr);
  const std::vector<float> whole = testing_model::logits_of(*one.model, oracle.ids, {512});
  EXPECT_EQ(testing_model::logits_of(*one.model, oracle.ids, {1}), whole);
  EXPECT_EQ(testing_model::logits_of(*one.model, oracle.ids, {7, 24, 3, 40}), whole);
  EXPECT_EQ(testing_model::logits_of(*two.model, oracle.ids, {512}), whole);
  EXPECT_EQ(testing_model::logits_of(*two.model, oracle.ids, {65, 1}), whole);

  // Three sequences in one call, of different lengths.
  const uint32_t vocab = two.model->spec().vocab;
  std::vector<std::unique_ptr<kv::Sequence>> sequences;
  std::vector<model::Chunk> chunks;
  const size_t lengths[] = {oracle.ids.size(), 5, 33};
  size_t rows = 0;
  for (const size_t length : lengths) {
    sequences.push_back(two.model->make_sequence(4096));
    chunks.push_back({sequences.back().get(), {oracle.ids.data(), length}, true});
    rows += length;
  }
  std::vector<float> logits(rows * vocab);
  ASSERT_TRUE(two.model->forward(chunks, logits.data()));
  size_t at = 0;
  for (const size_t length : lengths) {
    EXPECT_TRUE(std::equal(whole.begin(), whole.begin() + static_cast<int64_t>(length * vocab),
                           logits.begin() + static_cast<int64_t>(at * vocab)))
        << "sequence of " << length;
    at += length;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, OracleTest, testing::ValuesIn(kOracles), [](const auto& parameter) {
  std::string name = parameter.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

TEST(Model, TokensOutsideTheVocabularyAreRefused) {
  const Oracle oracle("llama");
  Loaded loaded(oracle.folder, 1, compute::Arithmetic::kF32, kernels::select_kernels());
  const auto sequence = loaded.model->make_sequence(128);
  std::vector<float> logits(256 * 2);
  for (const TokenId bad : {-1, 256}) {
    const TokenId ids[] = {1, bad};
    const model::Chunk chunk{sequence.get(), ids, true};
    EXPECT_FALSE(loaded.model->forward({&chunk, 1}, logits.data()));
    EXPECT_EQ(sequence->length(), 0u);
  }
}

TEST(Model, AFullContextIsAnErrorAndChangesNothing) {
  const Oracle oracle("llama");
  Loaded loaded(oracle.folder, 1, compute::Arithmetic::kF32, kernels::select_kernels());
  const auto sequence = loaded.model->make_sequence(70);
  std::vector<float> logits(72 * 256);
  const model::Chunk chunk{sequence.get(), oracle.ids, true};
  const auto status = loaded.model->forward({&chunk, 1}, logits.data());
  ASSERT_FALSE(status);
  EXPECT_NE(status.error().message.find("70"), std::string::npos);
  EXPECT_EQ(sequence->length(), 0u);
}

}  // namespace
}  // namespace mlxf
