#include "convert/gguf_blocks.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "kernels/kernel_table.h"
#include "tensor/float16.h"

namespace mlxf::convert {
namespace {

struct Encoder {
  DType dtype;
  WeightFormat format;
  double error_max;  // Relative error on normal weights, a few percent above what was measured.
};

const Encoder kEncoders[] = {
    {DType::kF32, WeightFormat::kF32, 0.0},      {DType::kF16, WeightFormat::kF16, 3e-4},
    {DType::kBF16, WeightFormat::kBF16, 2.4e-3}, {DType::kQ8_0, WeightFormat::kQ8_0, 5.5e-3},
    {DType::kQ5_0, WeightFormat::kQ5_0, 0.041},  {DType::kQ4_0, WeightFormat::kQ4_0, 0.082},
    {DType::kQ4_K, WeightFormat::kQ4_K, 0.073},  {DType::kQ5_K, WeightFormat::kQ5_K, 0.036},
    {DType::kQ6_K, WeightFormat::kQ6_K, 0.0175},
};

// The kernels, which the gguf package's own values are compared with elsewhere, read the block back.
std::vector<float> decode(const Encoder& encoder, const std::vector<uint8_t>& bytes, uint32_t cols) {
  const MatrixView view{
      .format = encoder.format, .rows = 1, .cols = cols, .data = bytes.data(), .row_bytes = bytes.size()};
  std::vector<float> values(cols);
  kernels::reference_kernels().decode[static_cast<int>(encoder.format)](view, 0, 0, cols, values.data());
  return values;
}

double squared_distance(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += std::pow(double{a[i]} - b[i], 2);
  return sum;
}

std::vector<float> normal_weights(size_t n, float mean, float sigma) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal(mean, sigma);
  std::vector<float> weights(n);
  for (float& w : weights) w = normal(random);
  return weights;
}

class GgufBlocksTest : public testing::TestWithParam<Encoder> {
 protected:
  double encode_and_compare(const std::vector<float>& weights, double* reported = nullptr) {
    std::vector<uint8_t> bytes(*row_bytes(GetParam().dtype, weights.size()), 0xa5);
    const double error = encode_gguf_row(GetParam().dtype, weights, bytes);
    if (reported != nullptr) *reported = error;
    return squared_distance(decode(GetParam(), bytes, static_cast<uint32_t>(weights.size())), weights);
  }
};

TEST_P(GgufBlocksTest, ErrorIsSmallAndTheOneReported) {
  for (const float mean : {0.0f, 0.01f}) {
    const std::vector<float> weights = normal_weights(1 << 15, mean, 0.02f);
    double reported = 0;
    const double found = encode_and_compare(weights, &reported);
    EXPECT_NEAR(found, reported, 1e-5 * found);
    const double relative = std::sqrt(found / squared_distance(weights, std::vector<float>(weights.size())));
    RecordProperty("relative_error", std::to_string(relative));
    EXPECT_LE(relative, GetParam().error_max) << "mean " << mean;
  }
}

TEST_P(GgufBlocksTest, EdgesStayFinite) {
  const std::vector<std::vector<float>> edges = {
      std::vector<float>(256, 0.0f),   std::vector<float>(256, 1e-30f), std::vector<float>(256, -1e-30f),
      std::vector<float>(256, 1.0f),   std::vector<float>(256, -1.0f),  std::vector<float>(256, 6e4f),
      std::vector<float>(256, -1e-6f),
  };
  for (const std::vector<float>& weights : edges) {
    std::vector<uint8_t> bytes(*row_bytes(GetParam().dtype, weights.size()), 0xa5);
    encode_gguf_row(GetParam().dtype, weights, bytes);
    for (const float value : decode(GetParam(), bytes, 256)) {
      ASSERT_TRUE(std::isfinite(value)) << weights[0];
      // A constant block is nearly exact: the offset or one code holds it, up to the scale's precision.
      EXPECT_NEAR(value, weights[0], 0.02 * std::fabs(weights[0]) + 1e-6) << weights[0];
    }
  }
}

TEST_P(GgufBlocksTest, OneOutlierDoesNotLoseTheOthers) {
  std::vector<float> weights = normal_weights(256, 0.0f, 0.02f);
  weights[77] = -0.5f;
  const double found = encode_and_compare(weights);
  EXPECT_LE(std::sqrt(found / 256), 0.02);
}

INSTANTIATE_TEST_SUITE_P(Types, GgufBlocksTest, testing::ValuesIn(kEncoders), [](const auto& parameter) {
  return std::string(traits(parameter.param.dtype).name);
});

// Codes on a grid of the format come back as they were.
TEST(GgufBlocks, WhatTheFormatHoldsExactlyIsKept) {
  std::mt19937 random(3);
  std::vector<float> weights(1024);
  for (float& w : weights) w = static_cast<float>(static_cast<int>(random() % 16) - 8) * 0.0625f;
  for (size_t i = 0; i < weights.size(); i += 32) weights[i] = -0.5f;  // Every block has the extreme.
  for (const Encoder& encoder : kEncoders) {
    // The scale of Q8_0 is a 127th of the extreme; those of the K types are products of two.
    if (encoder.dtype == DType::kQ8_0 || traits(encoder.dtype).block_elements == 256) continue;
    std::vector<uint8_t> bytes(*row_bytes(encoder.dtype, weights.size()));
    const double error = encode_gguf_row(encoder.dtype, weights, bytes);
    const double relative = std::sqrt(error / squared_distance(weights, std::vector<float>(weights.size())));
    EXPECT_LE(relative, 2e-3) << traits(encoder.dtype).name;
  }
}

TEST(GgufBlocks, TypesWithoutAnEncoderSaySo) {
  EXPECT_TRUE(has_gguf_encoder(DType::kQ4_K));
  for (const DType type : {DType::kQ2_K, DType::kIQ4_XS, DType::kMXFP4, DType::kI32})
    EXPECT_FALSE(has_gguf_encoder(type));
}

}  // namespace
}  // namespace mlxf::convert
