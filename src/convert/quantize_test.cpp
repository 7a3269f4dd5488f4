#include "convert/quantize.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cmath>
#include <fstream>

#include "compute/cpu.h"
#include "convert/mlx_affine.h"
#include "convert/random_blocks.h"
#include "formats/manifest.h"
#include "formats/safetensors_reader.h"
#include "formats/test_bytes.h"
#include "model/model.h"

namespace mlxf::convert {
namespace {

using formats::testing::TempFolder;
using ::testing::HasSubstr;

std::string oracle(const std::string& name) {
  return std::string(MLXF_SOURCE_DIR) + "/tests/data/oracles/" + name;
}
std::string reference(const std::string& name) {
  return std::string(MLXF_SOURCE_DIR) + "/tests/data/reference/" + name;
}

bool exists(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0;
}

QuantizeOptions mlx_rule(const std::string& model, const std::string& out) {
  QuantizeOptions options;
  options.model = model;
  options.out = out;
  options.encoder = AffineEncoder::kMlx;
  return options;
}

// Every tensor of the folder that MLX wrote, byte for byte.
void expect_same_model(const std::string& ours, const std::string& theirs) {
  const auto expected = formats::read_safetensors_header(theirs + "/model.safetensors");
  const auto found = formats::read_safetensors_header(ours + "/model.safetensors");
  ASSERT_TRUE(expected.has_value() && found.has_value());
  EXPECT_EQ(expected->size(), found->size());
  for (const formats::TensorEntry& tensor : *expected) {
    SCOPED_TRACE(tensor.name);
    const auto a = formats::read_safetensors_tensor(theirs + "/model.safetensors", tensor.name);
    const auto b = formats::read_safetensors_tensor(ours + "/model.safetensors", tensor.name);
    ASSERT_TRUE(a.has_value());
    ASSERT_TRUE(b.has_value()) << b.error().message;
    EXPECT_TRUE(*a == *b);
  }
}

TEST(QuantizeMlx, EqualsWhatMlxItselfWrites) {
  compute::ThreadPool pool(2);
  TempFolder folder;
  struct Case {
    const char* source;
    const char* made_by_mlx;
    uint32_t bits;
    uint32_t group;
    std::vector<std::string> overrides;
  };
  const Case cases[] = {
      {"llama", "mlx-llama-q4", 4, 64, {}},
      {"llama", "mlx-llama-q8-g32", 8, 32, {}},
      {"llama-tied", "mlx-llama-tied-q4", 4, 64, {}},
      {"qwen3_moe", "mlx-qwen3_moe-q4", 4, 64, {}},
      {"mixtral", "mlx-mixtral-q4", 4, 64, {"block_sparse_moe.gate=mlx4"}},
      {"qwen3_moe",
       "mlx-qwen3_moe-mixed-3-6",
       3,
       64,
       {"mlp.gate=mlx3", "lm_head=mlx6", "layers.2.self_attn.v_proj=mlx6", "layers.3.self_attn.v_proj=mlx6",
        "layers.2.mlp.switch_mlp.down_proj=mlx6", "layers.3.mlp.switch_mlp.down_proj=mlx6"}},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.made_by_mlx);
    QuantizeOptions options = mlx_rule(oracle(c.source), folder / c.made_by_mlx);
    options.type.mlx_bits = c.bits;
    options.group = c.group;
    for (const std::string& text : c.overrides) options.overrides.push_back(*parse_override(text, c.group));
    const auto report = quantize(options, pool, {});
    ASSERT_TRUE(report.has_value()) << report.error().message;
    expect_same_model(options.out, reference(c.made_by_mlx));
  }
}

TEST(QuantizeMlx, ConfigNamesTheLayersThatDiffer) {
  compute::ThreadPool pool(1);
  TempFolder folder;
  QuantizeOptions options = mlx_rule(oracle("qwen3_moe"), folder / "out");
  options.overrides = {*parse_override("lm_head=mlx8:32", 64), *parse_override("embed_tokens=none", 64)};
  ASSERT_TRUE(quantize(options, pool, {}).has_value());
  const auto model = formats::open_model(options.out);
  ASSERT_TRUE(model.has_value()) << model.error().message;
  const Json* quantization = find_member(model->config, "quantization");
  ASSERT_NE(quantization, nullptr);
  EXPECT_EQ(find_int(*quantization, "bits"), 4);
  EXPECT_EQ(find_int(*quantization, "group_size"), 64);
  const Json* head = find_member(*quantization, "lm_head");
  ASSERT_NE(head, nullptr);
  EXPECT_EQ(find_int(*head, "bits"), 8);
  EXPECT_EQ(find_int(*head, "group_size"), 32);
  EXPECT_EQ(find_bool(*quantization, "model.embed_tokens"), false);
  EXPECT_EQ(find_member(*quantization, "model.layers.0.self_attn.q_proj"), nullptr);
  EXPECT_EQ(model->find("model.embed_tokens.weight")->dtype, DType::kBF16);
  EXPECT_EQ(model->find("lm_head.scales")->shape, (std::vector<uint64_t>{256, 2}));
}

// Experts stored [in, out] stay as they are; routers get eight bits, whatever they are called.
TEST(QuantizeMlx, ModelsWithTransposedExpertsLoad) {
  compute::ThreadPool pool(1);
  TempFolder folder;
  for (const auto& [name, router] : {std::pair{"gpt_oss", "model.layers.1.mlp.router"},
                                     {"llama4", "model.layers.1.feed_forward.router"}}) {
    QuantizeOptions options = mlx_rule(oracle(name), folder / name);
    ASSERT_TRUE(quantize(options, pool, {}).has_value());
    const auto written = formats::open_model(options.out);
    ASSERT_TRUE(written);
    EXPECT_EQ(written->config["quantization"][router]["bits"], 8) << name;
    compute::Cpu cpu(kernels::select_kernels(), pool, {});
    const auto loaded = model::Model::load(*written, cpu, {});
    EXPECT_TRUE(loaded) << loaded.error().message;
  }
}

TEST(QuantizeMlx, ThreadsAndShardsDoNotChangeTheWeights) {
  TempFolder folder;
  compute::ThreadPool one(1);
  compute::ThreadPool three(3);
  QuantizeOptions options;
  options.model = oracle("qwen3_moe");
  options.out = folder / "one";
  ASSERT_TRUE(quantize(options, one, {}).has_value());
  options.out = folder / "shards";
  options.shard_bytes_max = 100'000;
  uint64_t last = 0;
  uint64_t total = 0;
  ASSERT_TRUE(quantize(options, three, [&](uint64_t done, uint64_t all) {
                EXPECT_GE(done, last);
                last = done;
                total = all;
              }).has_value());
  EXPECT_EQ(last, total);
  EXPECT_TRUE(exists(options.out + "/model.safetensors.index.json"));
  const auto a = formats::open_model(folder / "one");
  const auto b = formats::open_model(folder / "shards");
  ASSERT_TRUE(a.has_value());
  ASSERT_TRUE(b.has_value()) << b.error().message;
  EXPECT_GT(b->files.size(), 2u);
  for (const formats::TensorEntry& tensor : a->tensors) {
    const formats::TensorEntry* other = b->find(tensor.name);
    ASSERT_NE(other, nullptr);
    EXPECT_TRUE(*formats::read_safetensors_tensor(a->files[tensor.file], tensor.name) ==
                *formats::read_safetensors_tensor(b->files[other->file], tensor.name))
        << tensor.name;
  }
}

TEST(QuantizeMlx, RefinedErrorIsReportedAndSmaller) {
  compute::ThreadPool pool(1);
  TempFolder folder;
  QuantizeOptions options = mlx_rule(oracle("llama"), folder / "mlx");
  const auto plain = quantize(options, pool, {});
  options.encoder = AffineEncoder::kRefined;
  options.out = folder / "refined";
  const auto refined = quantize(options, pool, {});
  ASSERT_TRUE(plain.has_value() && refined.has_value());
  EXPECT_LT(refined->relative_error, 0.96 * plain->relative_error);
  EXPECT_GT(refined->relative_error, 0.03);
}

TEST(QuantizeMlx, RefusesAndLeavesNothing) {
  compute::ThreadPool pool(1);
  TempFolder folder;
  QuantizeOptions options = mlx_rule(reference("mlx-llama-q4"), folder / "twice");
  auto report = quantize(options, pool, {});
  ASSERT_FALSE(report.has_value());
  EXPECT_THAT(report.error().message, HasSubstr("quantised already"));
  EXPECT_FALSE(exists(options.out));

  options.model = oracle("llama");
  options.out = folder / "taken";
  std::ofstream(options.out) << "precious";
  report = quantize(options, pool, {});
  ASSERT_FALSE(report.has_value());
  EXPECT_EQ(report.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(report.error().message, HasSubstr("exists already"));
  std::string kept;
  std::ifstream(options.out) >> kept;
  EXPECT_EQ(kept, "precious");

  options.model = folder / "absent";
  options.out = folder / "out";
  EXPECT_FALSE(quantize(options, pool, {}).has_value());
  EXPECT_FALSE(exists(options.out));
}

TEST(QuantizeOptions, TextsAreChecked) {
  EXPECT_EQ(parse_quantize_type("mlx6")->mlx_bits, 6u);
  EXPECT_FALSE(parse_quantize_type("mlx7").has_value());
  const auto rule = parse_override("a=b=mlx5:128", 64);
  ASSERT_TRUE(rule.has_value());
  EXPECT_EQ(rule->pattern, "a=b");
  EXPECT_EQ(rule->format->bits, 5u);
  EXPECT_EQ(rule->format->group, 128u);
  EXPECT_FALSE(parse_override("x=none", 64)->format.has_value());
  for (const char* wrong : {"", "=mlx4", "lm_head", "lm_head=mlx9", "lm_head=mlx4:16", "lm_head=mlx4:64x"})
    EXPECT_FALSE(parse_override(wrong, 64).has_value()) << wrong;
}

}  // namespace
}  // namespace mlxf::convert
