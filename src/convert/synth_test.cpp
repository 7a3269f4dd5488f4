#include "convert/synth.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "convert/random_blocks.h"
#include "convert/synth_plan.h"
#include "convert/synthetic_vocabulary.h"
#include "formats/manifest.h"
#include "formats/test_bytes.h"
#include "kernels/kernel_table.h"
#include "platform/file.h"

namespace mlxf::convert {
namespace {

using formats::testing::TempFolder;
using ::testing::HasSubstr;

struct Statistics {
  double mean = 0.0;
  double deviation = 0.0;
};

Statistics statistics(const std::vector<float>& values) {
  Statistics result;
  for (const float value : values) result.mean += value / static_cast<double>(values.size());
  for (const float value : values)
    result.deviation += (value - result.mean) * (value - result.mean) / static_cast<double>(values.size());
  result.deviation = std::sqrt(result.deviation);
  return result;
}

WeightFormat format_of(DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return WeightFormat::kF16;
    case DType::kBF16:
      return WeightFormat::kBF16;
    case DType::kQ4_0:
      return WeightFormat::kQ4_0;
    case DType::kQ5_0:
      return WeightFormat::kQ5_0;
    case DType::kMXFP4:
      return WeightFormat::kMXFP4;
    case DType::kQ8_0:
      return WeightFormat::kQ8_0;
    case DType::kQ4_K:
      return WeightFormat::kQ4_K;
    case DType::kQ5_K:
      return WeightFormat::kQ5_K;
    case DType::kQ6_K:
      return WeightFormat::kQ6_K;
    default:
      return WeightFormat::kF32;
  }
}

// Columns [begin, end) of all rows.
std::vector<float> decode(const std::vector<uint8_t>& bytes, DType dtype, uint32_t cols, uint32_t begin,
                          uint32_t end) {
  MatrixView view;
  view.format = format_of(dtype);
  view.cols = cols;
  view.data = bytes.data();
  view.row_bytes = *row_bytes(dtype, cols);
  view.rows = static_cast<uint32_t>(bytes.size() / view.row_bytes);
  std::vector<float> values(size_t{view.rows} * (end - begin));
  for (uint32_t row = 0; row < view.rows; ++row)
    kernels::reference_kernels().decode[static_cast<int>(view.format)](
        view, row, begin, end, values.data() + size_t{row} * (end - begin));
  return values;
}

TEST(RandomBlocks, HaveTheWantedStatisticsInEveryType) {
  constexpr uint32_t kCols = 1024;
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kQ4_0, DType::kQ5_0, DType::kQ8_0,
                            DType::kQ4_K, DType::kQ5_K, DType::kQ6_K, DType::kMXFP4}) {
    SCOPED_TRACE(std::string(traits(dtype).name));
    RandomRows rows{.dtype = dtype, .cols = kCols, .sigma = 0.02, .positive_cols = 256, .positive_mean = 0.1};
    std::vector<uint8_t> bytes(256 * *row_bytes(dtype, kCols));
    RandomBytes random(1, 2, 3);
    fill_rows(rows, random, bytes);
    const Statistics zero_mean = statistics(decode(bytes, dtype, kCols, 256, kCols));
    EXPECT_NEAR(zero_mean.deviation, 0.02, 0.001);
    EXPECT_NEAR(zero_mean.mean, 0.0, 0.0005);
    const std::vector<float> positive = decode(bytes, dtype, kCols, 0, 256);
    EXPECT_NEAR(statistics(positive).mean, 0.1, 0.005);
    for (const float value : positive) ASSERT_GE(value, 0.0f);
  }
}

TEST(RandomBlocks, DependOnSeedStreamAndBlockAlone) {
  const auto fill = [](uint64_t seed, uint64_t stream, uint64_t block) {
    std::vector<uint8_t> bytes(4096);
    RandomBytes(seed, stream, block).fill(bytes);
    return bytes;
  };
  EXPECT_EQ(fill(1, 2, 3), fill(1, 2, 3));
  EXPECT_NE(fill(1, 2, 3), fill(0, 2, 3));
  EXPECT_NE(fill(1, 2, 3), fill(1, 0, 3));
  EXPECT_NE(fill(1, 2, 3), fill(1, 2, 0));
}

TEST(SyntheticVocabulary, HasTheRealSizesAndIsConsistent) {
  const std::pair<VocabularyKind, size_t> kinds[] = {
      {VocabularyKind::kQwen, 151936},   {VocabularyKind::kLlama3, 128256},
      {VocabularyKind::kSmall, 32000},   {VocabularyKind::kDeepseekV3, 129280},
      {VocabularyKind::kQwen35, 248320}, {VocabularyKind::kGptOss, 201088},
      {VocabularyKind::kGemma, 262144},  {VocabularyKind::kGlm4, 151552},
      {VocabularyKind::kLlama4, 202048}};
  for (const auto& [kind, size] : kinds) {
    const SyntheticVocabulary vocabulary = make_vocabulary(kind);
    EXPECT_EQ(vocabulary.tokens.size(), size);
    EXPECT_EQ(vocabulary.types.size(), size);
    const std::set<std::string> distinct(vocabulary.tokens.begin(), vocabulary.tokens.end());
    EXPECT_EQ(distinct.size(), size);
    ASSERT_EQ(vocabulary.merges.size(), vocabulary.special_begin - 256);
    // The merge of rank r makes token 256 + r of two tokens that exist.
    for (size_t rank = 0; rank < vocabulary.merges.size(); ++rank) {
      const std::string& merge = vocabulary.merges[rank];
      const size_t space = merge.find(' ');
      const std::string left = merge.substr(0, space);
      const std::string right = merge.substr(space + 1);
      ASSERT_EQ(left + right, vocabulary.tokens[256 + rank]);
      ASSERT_EQ(distinct.count(left) + distinct.count(right), 2u);
    }
    EXPECT_LT(vocabulary.eos, size);
    if (vocabulary.split_pattern.empty()) continue;  // GGUF only.
    EXPECT_TRUE(parse_json(tokenizer_json(vocabulary)).has_value());
    EXPECT_TRUE(parse_json(tokenizer_config_json(vocabulary)).has_value());
  }
}

ModelShape tiny_moe() {
  ModelShape shape = *find_shape("qwen3-30b-a3b");
  shape.layers = 8;
  shape.width = 512;
  shape.ffn_width = 256;
  shape.experts = 8;
  shape.experts_used = 2;
  shape.heads = 2;
  shape.kv_heads = 1;
  shape.vocabulary = VocabularyKind::kSmall;
  return shape;
}

TEST(Synth, RealShapeOpensWithExactTensors) {
  TempFolder folder;
  SynthOptions options;
  options.shape = *find_shape("qwen3-0.6b");
  options.layers = 2;
  options.out = folder / "model.gguf";
  const Status written = synthesise(options, {});
  ASSERT_TRUE(written.has_value()) << written.error().message;
  EXPECT_THAT(synthesise(options, {}).error().message, HasSubstr("exists already"));
  const auto model = formats::open_model(options.out);
  ASSERT_TRUE(model.has_value()) << model.error().message;
  EXPECT_EQ(model->tensors.size(), 2u + 2u * 11u);
  const auto expect = [&](const char* name, DType dtype, std::vector<uint64_t> shape) {
    const formats::TensorEntry* tensor = model->find(name);
    ASSERT_NE(tensor, nullptr) << name;
    EXPECT_EQ(tensor->dtype, dtype) << name;
    EXPECT_EQ(tensor->shape, shape) << name;
  };
  expect("token_embd.weight", DType::kQ6_K, {151936, 1024});  // Tied, so it is the output matrix.
  expect("output_norm.weight", DType::kF32, {1024});
  expect("blk.0.attn_norm.weight", DType::kF32, {1024});
  expect("blk.0.attn_q.weight", DType::kQ4_K, {2048, 1024});
  expect("blk.0.attn_k.weight", DType::kQ4_K, {1024, 1024});
  expect("blk.0.attn_output.weight", DType::kQ4_K, {1024, 2048});
  expect("blk.0.attn_q_norm.weight", DType::kF32, {128});
  expect("blk.0.ffn_up.weight", DType::kQ4_K, {3072, 1024});
  expect("blk.1.ffn_down.weight", DType::kQ6_K, {1024, 3072});
  EXPECT_EQ(model->metadata.find_string("general.architecture"), "qwen3");
  EXPECT_EQ(model->metadata.find_int("qwen3.block_count"), 2);
  EXPECT_EQ(model->metadata.find_int("qwen3.attention.head_count_kv"), 8);
  EXPECT_EQ(model->metadata.find_number("qwen3.rope.freq_base"), 1e6);
  EXPECT_EQ(model->metadata.find_strings("tokenizer.ggml.tokens")->size(), 151936u);
}

// Billions of parameters as published, without the layers that predict further tokens, vision and audio.
TEST(Synth, ShapesHaveThePublishedNumbersOfParameters) {
  const std::pair<const char*, double> published[] = {
      {"qwen3-30b-a3b", 30.5}, {"qwen3-8b", 8.19},     {"qwen3-0.6b", 0.596},      {"llama3-70b", 70.6},
      {"mixtral-8x7b", 46.7},  {"deepseek-v3", 671.0}, {"qwen3-next-80b-a3b", 80}, {"qwen3.5-35b-a3b", 35},
      {"gpt-oss-120b", 116.8}, {"gpt-oss-20b", 20.9},  {"gemma4-26b-a4b", 25.2},   {"gemma4-e4b", 7.5},
      {"glm-4.5-air", 106.9},  {"llama4-scout", 107.8}};
  EXPECT_EQ(std::size(published), known_shapes().size());
  for (const auto& [name, billions] : published) {
    double count = 0.0;
    for (const PlannedTensor& tensor : plan_tensors(*find_shape(name), false)) {
      double elements = 1.0;
      for (const uint64_t extent : tensor.shape) elements *= static_cast<double>(extent);
      count += elements;
    }
    EXPECT_NEAR(count / 1e9, billions, billions * 0.01) << name;
  }
}

TEST(Synth, CutsLayersThatShareKeysByWholeIntervals) {
  const ModelShape shape = *find_shape("gemma4-e4b");
  EXPECT_EQ(cut_layers(shape, 42).kv_shared_layers, 18u);
  EXPECT_EQ(cut_layers(shape, 24).kv_shared_layers, 12u);
  EXPECT_EQ(cut_layers(shape, 12).kv_shared_layers, 6u);
  EXPECT_EQ(cut_layers(shape, 7).kv_shared_layers, 1u);
  EXPECT_EQ(cut_layers(shape, 5).kv_shared_layers, 0u);
  EXPECT_EQ(cut_layers(*find_shape("deepseek-v3"), 2).dense_layers, 2u);
}

TEST(Synth, MixOfTypesIsLlamaCpps) {
  const GgufModel dense{.layers = 36};
  // Of 36 layers: the first 4, the last 5 (31 …), and 6, 9, 12 … between.
  std::set<uint32_t> more;
  for (uint32_t layer = 0; layer < 36; ++layer) {
    const DType down = gguf_type(GgufMix::kQ4KM, TensorRole::kDown, layer, dense);
    EXPECT_EQ(down, gguf_type(GgufMix::kQ4KM, TensorRole::kV, layer, dense));
    if (down == DType::kQ6_K) more.insert(layer);
  }
  EXPECT_EQ(more, (std::set<uint32_t>{0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 31, 32, 33, 34, 35}));
  const GgufModel mixtral{.layers = 32, .experts = 8};
  EXPECT_EQ(gguf_type(GgufMix::kQ4KM, TensorRole::kV, 5, mixtral), DType::kQ8_0);
  EXPECT_EQ(gguf_type(GgufMix::kQ4KM, TensorRole::kAttentionOutput, 5, mixtral), DType::kQ5_K);
  EXPECT_EQ(gguf_type(GgufMix::kQ4KM, TensorRole::kRouter, 5, mixtral), DType::kF32);
  const GgufModel large{.layers = 80, .is_70b = true};
  EXPECT_EQ(gguf_type(GgufMix::kQ4KM, TensorRole::kV, 10, large), DType::kQ5_K);
  EXPECT_EQ(gguf_type(GgufMix::kQ4_0, TensorRole::kOutput, 0, large), DType::kQ6_K);
  EXPECT_EQ(gguf_type(GgufMix::kQ8_0, TensorRole::kOutput, 0, large), DType::kQ8_0);
}

TEST(Synth, EveryFormatOpensAndIsReproducible) {
  TempFolder folder;
  for (const char* name : {"q4_k_m", "q8_0", "q4_0", "bf16", "mlx4", "mlx8"}) {
    SCOPED_TRACE(name);
    SynthOptions options;
    options.shape = tiny_moe();
    options.shape.layers = 2;
    options.routing_skew = 1.0;
    options.format = *parse_synth_format(name);
    std::vector<formats::ModelManifest> made;
    for (const char* copy : {"a", "b"}) {
      options.out = folder / (std::string(name) + copy);
      const Status written = synthesise(options, {});
      ASSERT_TRUE(written.has_value()) << written.error().message;
      auto model = formats::open_model(options.out);
      ASSERT_TRUE(model.has_value()) << model.error().message;
      made.push_back(std::move(*model));
    }
    ASSERT_EQ(made[0].files.size(), 1u);
    EXPECT_EQ(*platform::read_whole_file(made[0].files[0], 1 << 30),
              *platform::read_whole_file(made[1].files[0], 1 << 30));
  }
}

TEST(Synth, MlxFolderHasMlxLmsNames) {
  TempFolder folder;
  SynthOptions options;
  options.shape = tiny_moe();
  options.shape.layers = 1;
  options.format = SynthFormat::kMlx4;
  options.out = folder / "model";
  ASSERT_TRUE(synthesise(options, {}).has_value());
  const auto model = formats::open_model(options.out);
  ASSERT_TRUE(model.has_value()) << model.error().message;
  const formats::TensorEntry* gate = model->find("model.layers.0.mlp.switch_mlp.gate_proj.weight");
  ASSERT_NE(gate, nullptr);
  EXPECT_EQ(gate->shape, (std::vector<uint64_t>{8, 256, 64}));
  EXPECT_EQ(model->find("model.layers.0.mlp.gate.weight")->shape, (std::vector<uint64_t>{8, 128}));  // 8 bits
  EXPECT_EQ(find_string(model->config, "model_type"), "qwen3_moe");
  const Json* quantization = find_member(model->config, "quantization");
  ASSERT_NE(quantization, nullptr);
  EXPECT_EQ(find_int(*find_member(*quantization, "model.layers.0.mlp.gate"), "bits"), 8);
}

// Router logits for hidden states as the embedding makes them: skew concentrates the choices.
double share_of_busiest_quarter(double skew) {
  ModelShape shape = tiny_moe();
  shape.width = 1024;
  shape.experts = 32;
  const std::vector<float> router = router_weights(shape, 0, skew, 5);
  const PlannedTensor embedding = plan_tensors(shape, skew > 0.0)[0];
  RandomRows rows{.dtype = DType::kF32,
                  .cols = shape.width,
                  .sigma = embedding.sigma,
                  .positive_cols = embedding.positive_cols,
                  .positive_mean = embedding.positive_mean};
  std::vector<float> states(uint64_t{512} * shape.width);
  RandomBytes random(9, 9, 9);
  fill_rows(rows, random, {reinterpret_cast<uint8_t*>(states.data()), states.size() * sizeof(float)});
  std::vector<uint32_t> uses(shape.experts);
  for (size_t token = 0; token < 512; ++token) {
    std::vector<std::pair<float, uint32_t>> logits(shape.experts);
    for (uint32_t expert = 0; expert < shape.experts; ++expert) {
      double sum = 0.0;
      for (uint32_t i = 0; i < shape.width; ++i)
        sum += double{router[expert * shape.width + i]} * states[token * shape.width + i];
      logits[expert] = {static_cast<float>(sum), expert};
    }
    std::sort(logits.rbegin(), logits.rend());
    for (int rank = 0; rank < 4; ++rank) ++uses[logits[rank].second];
  }
  std::sort(uses.rbegin(), uses.rend());
  double busiest = 0.0;
  for (int expert = 0; expert < 8; ++expert) busiest += uses[expert] / (512.0 * 4.0);
  return busiest;
}

TEST(Synth, RoutingSkewConcentratesTheChoices) {
  EXPECT_LT(share_of_busiest_quarter(0.0), 0.40);
  const double some = share_of_busiest_quarter(0.5);
  EXPECT_GT(some, 0.60);
  EXPECT_LT(some, 0.85);
  EXPECT_GT(share_of_busiest_quarter(1.5), 0.95);
}

TEST(Synth, RefusesWhatMakesNoSense) {
  TempFolder folder;
  EXPECT_THAT(find_shape("gpt-5").error().message, HasSubstr("qwen3-30b-a3b"));
  EXPECT_THAT(parse_synth_format("q3_k").error().message, HasSubstr("q4_k_m"));
  SynthOptions options;
  options.shape = *find_shape("qwen3-0.6b");
  options.out = folder / "out";
  options.layers = 29;
  EXPECT_THAT(synthesise(options, {}).error().message, HasSubstr("has 28 layers"));
  options.layers = 1;
  options.format = SynthFormat::kMxfp4;
  EXPECT_THAT(synthesise(options, {}).error().message, HasSubstr("gpt-oss shapes alone"));
  options.shape = *find_shape("gpt-oss-20b");
  options.format = SynthFormat::kQ4KM;
  EXPECT_THAT(synthesise(options, {}).error().message, HasSubstr("mxfp4 only"));
  options.shape = *find_shape("glm-4.5-air");
  options.format = SynthFormat::kMlx4;
  EXPECT_THAT(synthesise(options, {}).error().message, HasSubstr("GGUF only"));
  options.shape = *find_shape("qwen3-0.6b");
  options.format = {};
  options.routing_skew = 1.0;
  EXPECT_THAT(synthesise(options, {}).error().message, HasSubstr("no experts"));
  struct stat status {};
  EXPECT_NE(::stat(options.out.c_str(), &status), 0);
}

}  // namespace
}  // namespace mlxf::convert
