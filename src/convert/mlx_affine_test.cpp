#include "convert/mlx_affine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "convert/random_blocks.h"
#include "kernels/kernel_table.h"

namespace mlxf::convert {
namespace {

// Sums of three uniform values: bell-shaped, as weights are.
std::vector<float> bell(uint64_t count, uint64_t seed) {
  std::vector<uint16_t> bits(count * 3);
  RandomBytes(seed, 0, 0).fill({reinterpret_cast<uint8_t*>(bits.data()), bits.size() * 2});
  std::vector<float> values(count);
  for (uint64_t i = 0; i < count; ++i)
    values[i] = (static_cast<float>(bits[3 * i]) + static_cast<float>(bits[3 * i + 1]) +
                 static_cast<float>(bits[3 * i + 2]) - 98302.5f) *
                1e-6f;
  return values;
}

struct Row {
  std::vector<uint8_t> codes;
  std::vector<uint16_t> scales;
  std::vector<uint16_t> biases;
  double error = 0.0;
};

Row encode(const std::vector<float>& values, const AffineFormat& format, AffineEncoder encoder) {
  Row row;
  row.codes.resize(affine_code_bytes(values.size(), format.bits));
  row.scales.resize(values.size() / format.group);
  row.biases.resize(row.scales.size());
  row.error = encode_affine_row(values, format, encoder, row.codes, row.scales, row.biases);
  return row;
}

double squared_error(const std::vector<float>& values, const Row& row, const AffineFormat& format) {
  std::vector<float> decoded(values.size());
  decode_affine_row(row.codes, row.scales, row.biases, format, decoded);
  double error = 0.0;
  for (size_t i = 0; i < values.size(); ++i)
    error += (double{decoded[i]} - values[i]) * (double{decoded[i]} - values[i]);
  return error;
}

TEST(MlxAffine, RefinedBeatsMlxAtEveryWidth) {
  // The shares of MLX's squared error that remain, measured on this data, plus a margin.
  const std::pair<uint32_t, double> bounds[] = {{2, 0.72}, {3, 0.83}, {4, 0.89},
                                                {5, 0.93}, {6, 0.94}, {8, 0.94}};
  const std::vector<float> values = bell(64 * 512, 7);
  for (const auto& [bits, share] : bounds) {
    for (const uint32_t group : {32u, 64u, 128u}) {
      const AffineFormat format{.bits = bits, .group = group, .scale_type = DType::kF16};
      const Row plain = encode(values, format, AffineEncoder::kMlx);
      const Row refined = encode(values, format, AffineEncoder::kRefined);
      EXPECT_LT(refined.error, share * plain.error) << bits << " bits, group " << group;
      EXPECT_NEAR(squared_error(values, plain, format), plain.error, 1e-4 * plain.error);
      EXPECT_NEAR(squared_error(values, refined, format), refined.error, 1e-4 * refined.error);
    }
  }
}

TEST(MlxAffine, NoWeightIsFurtherOffThanHalfAStep) {
  const std::vector<float> values = bell(64 * 64, 3);
  for (const uint32_t bits : {2u, 3u, 4u, 5u, 6u, 8u}) {
    const AffineFormat format{.bits = bits, .group = 64, .scale_type = DType::kF16};
    const Row row = encode(values, format, AffineEncoder::kMlx);
    std::vector<float> decoded(values.size());
    decode_affine_row(row.codes, row.scales, row.biases, format, decoded);
    for (size_t i = 0; i < values.size(); i += 64) {
      float low = values[i];
      float high = values[i];
      for (size_t k = i; k < i + 64; ++k) {
        low = std::min(low, values[k]);
        high = std::max(high, values[k]);
      }
      // Half a step, doubled because moving the grid onto the edge may leave the other end one step short,
      // and f16's rounding of scale and bias.
      const float bound = (high - low) / static_cast<float>((1u << bits) - 1) * 1.01f + 2e-3f * (high - low);
      for (size_t k = i; k < i + 64; ++k) EXPECT_LE(std::abs(decoded[k] - values[k]), bound) << bits;
    }
  }
}

TEST(MlxAffine, DecodesAsTheKernelsDo) {
  const std::vector<float> values = bell(256, 11);
  for (const uint32_t bits : {2u, 3u, 4u, 5u, 6u, 8u}) {
    const AffineFormat format{.bits = bits, .group = 32, .scale_type = DType::kBF16};
    const Row row = encode(values, format, AffineEncoder::kRefined);
    std::vector<float> ours(values.size());
    decode_affine_row(row.codes, row.scales, row.biases, format, ours);
    MatrixView view;
    view.format = WeightFormat::kMlxAffine;
    view.bits = static_cast<uint8_t>(bits);
    view.group = 32;
    view.scale_type = DType::kBF16;
    view.rows = 1;
    view.cols = 256;
    view.data = row.codes.data();
    view.row_bytes = row.codes.size();
    view.scales = reinterpret_cast<const uint8_t*>(row.scales.data());
    view.biases = reinterpret_cast<const uint8_t*>(row.biases.data());
    view.scale_row_bytes = row.scales.size() * 2;
    std::vector<float> theirs(values.size());
    kernels::reference_kernels().decode[static_cast<int>(view.format)](view, 0, 0, 256, theirs.data());
    for (size_t i = 0; i < ours.size(); ++i)
      EXPECT_NEAR(ours[i], theirs[i], 1e-6f * std::abs(ours[i]) + 1e-9f);
  }
}

TEST(MlxAffine, ConstantGroupsAreExact) {
  for (const float value : {0.0f, 0.5f, -0.25f}) {
    const std::vector<float> values(64, value);
    for (const AffineEncoder encoder : {AffineEncoder::kMlx, AffineEncoder::kRefined})
      EXPECT_EQ(encode(values, {.bits = 4, .group = 64}, encoder).error, 0.0) << value;
  }
}

}  // namespace
}  // namespace mlxf::convert
