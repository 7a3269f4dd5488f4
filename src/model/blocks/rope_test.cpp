#include "model/blocks/rope.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

namespace mlxf::model {
namespace {

RopeSpec spec_of(uint32_t dims, float base, RopeScaling scaling = RopeScaling::kNone, float factor = 1.0f,
                 float original_positions = 0.0f) {
  RopeSpec spec;
  spec.dims = dims;
  spec.base = base;
  spec.scaling = scaling;
  spec.factor = factor;
  spec.original_positions = original_positions;
  return spec;
}

Rope make(const RopeSpec& spec) {
  auto rope = Rope::make(spec, [](const VectorSource& source) -> Result<std::vector<float>> {
    return fail(ErrorCode::kNotFound, source.name);
  });
  EXPECT_TRUE(rope) << rope.error().message;
  return *std::move(rope);
}

// Expected values were computed from the published formulas in double precision.
void expect_frequencies(const Rope& rope, uint32_t context_max, const std::vector<float>& expected) {
  const std::vector<float> got = rope.frequencies(context_max);
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i)
    EXPECT_NEAR(got[i], expected[i], 2e-6f * std::fabs(expected[i])) << "pair " << i;
}

TEST(Rope, LinearDividesAllFrequencies) {
  const Rope rope = make(spec_of(16, 10000.0f, RopeScaling::kLinear, 8.0f));
  expect_frequencies(rope, 4096,
                     {0.125f, 0.0395284705f, 0.0125000002f, 0.00395284733f, 0.00124999997f, 0.000395284733f,
                      0.000125000006f, 3.95284733e-05f});
}

TEST(Rope, Llama3StretchesLongWavelengthsOnly) {
  RopeSpec spec = spec_of(16, 500000.0f, RopeScaling::kLlama3, 8.0f, 64.0f);
  spec.low_frequency_factor = 1.0f;
  spec.high_frequency_factor = 4.0f;
  const Rope rope = make(spec);
  expect_frequencies(rope, 4096,
                     {1.0f, 0.0794030223f, 0.00470075384f, 0.000911583134f, 0.000176776681f, 3.42810235e-05f,
                      6.64786967e-06f, 1.28917316e-06f});
}

TEST(Rope, YarnRampsBetweenTheTwoBorders) {
  RopeSpec spec = spec_of(16, 10000.0f, RopeScaling::kYarn, 40.0f, 64.0f);
  expect_frequencies(make(spec), 4096,
                     {1.0f, 0.213453741f, 0.0350000005f, 0.000790569466f, 0.000249999994f, 7.90569466e-05f,
                      2.50000012e-05f, 7.90569466e-06f});
  spec.base = 150000.0f;
  spec.factor = 32.0f;
  spec.original_positions = 4096.0f;
  spec.truncate = false;
  expect_frequencies(make(spec), 131072,
                     {1.0f, 0.225418001f, 0.0508132726f, 0.00679495929f, 0.000456483924f, 1.8188337e-05f,
                      4.09997847e-06f, 9.24208962e-07f});
}

TEST(Rope, DynamicFollowsTheContextOfTheSequence) {
  const Rope rope = make(spec_of(16, 10000.0f, RopeScaling::kDynamic, 4.0f, 64.0f));
  const Rope plain = make(spec_of(16, 10000.0f));
  EXPECT_EQ(rope.frequencies(64), plain.frequencies(64));
  expect_frequencies(rope, 256,
                     {1.0f, 0.219212472f, 0.0480541028f, 0.0105340583f, 0.00230919686f, 0.000506204728f,
                      0.000110966386f, 2.43252125e-05f});
  // The table rows of a pass use the same frequencies.
  float row[16];
  rope.fill_row(7, 256, row);
  EXPECT_NEAR(row[1], std::cos(7 * 0.219212472), 1e-6);
  EXPECT_NEAR(row[8 + 1], std::sin(7 * 0.219212472), 1e-6);
}

TEST(Rope, LongRopeChoosesFactorsByContextAndScalesTheTable) {
  RopeSpec spec = spec_of(4, 100.0f, RopeScaling::kLongRope, 1.0f, 64.0f);
  spec.attention_factor = 1.25f;
  spec.short_factors = {1.0f, 2.0f};
  spec.long_factors = {4.0f, 8.0f};
  const Rope rope = make(spec);
  expect_frequencies(rope, 64, {1.0f, 0.05f});
  expect_frequencies(rope, 65, {0.25f, 0.0125f});
  float row[4];
  rope.fill_row(3, 65, row);
  EXPECT_NEAR(row[0], 1.25 * std::cos(0.75), 1e-6);
  EXPECT_NEAR(row[3], 1.25 * std::sin(0.0375), 1e-6);
}

TEST(Rope, DivisorsOfTheWrongLengthOrZeroAreErrors) {
  RopeSpec spec = spec_of(4, 100.0f, RopeScaling::kLongRope);
  spec.short_factors = {1.0f, 2.0f};
  spec.long_factors = {1.0f};
  const auto no_read = [](const VectorSource&) -> Result<std::vector<float>> { return std::vector<float>(); };
  auto rope = Rope::make(spec, no_read);
  ASSERT_FALSE(rope);
  EXPECT_NE(rope.error().message.find("long_factor"), std::string::npos);
  spec.long_factors = {1.0f, 0.0f};
  EXPECT_FALSE(Rope::make(spec, no_read));
  spec.scaling = RopeScaling::kNone;
  spec.divisors = {"rope_freqs.weight", 2, false};
  rope = Rope::make(spec, no_read);
  ASSERT_FALSE(rope);
  EXPECT_NE(rope.error().message.find("rope_freqs.weight"), std::string::npos);
}

TEST(Rope, BothLayoutsRotateTheSamePairs) {
  RopeSpec spec = spec_of(6, 100.0f);
  const Rope half = make(spec);
  spec.layout = RopeLayout::kInterleaved;
  const Rope interleaved = make(spec);
  float row[6];
  half.fill_row(5, 64, row);
  // Two elements beyond the rotated ones stay as they are.
  float a[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  float b[8] = {1, 4, 2, 5, 3, 6, 7, 8};
  half.rotate(row, a);
  interleaved.rotate(row, b);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(a[i], b[2 * i]);
    EXPECT_EQ(a[3 + i], b[2 * i + 1]);
    EXPECT_NEAR(a[i], (i + 1) * row[i] - (i + 4) * row[3 + i], 1e-5);
  }
  EXPECT_EQ(a[6], 7);
  EXPECT_EQ(b[7], 8);
}

}  // namespace
}  // namespace mlxf::model
