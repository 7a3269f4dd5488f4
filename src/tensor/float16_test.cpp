#include "tensor/float16.h"

#include <gtest/gtest.h>

#include <cmath>

namespace mlxf {
namespace {

// The compiler's own type of 16 bits, where it has one.
#if defined(__aarch64__)
#define MLXF_TEST_HALF __fp16
#elif defined(__FLT16_MAX__) && !defined(__clang__)
#define MLXF_TEST_HALF _Float16
#endif

TEST(Float16, EveryF16SurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = f32_from_f16(static_cast<uint16_t>(bits));
    if (std::isnan(value)) continue;
    EXPECT_EQ(f16_from_f32(value), bits);
#if defined(MLXF_TEST_HALF)
    MLXF_TEST_HALF reference;
    const auto narrow = static_cast<uint16_t>(bits);
    __builtin_memcpy(&reference, &narrow, 2);
    EXPECT_EQ(static_cast<float>(reference), value);
#endif
  }
}

TEST(Float16, NarrowingRoundsToNearestEven) {
  EXPECT_EQ(f16_from_f32(65519.0f), 0x7bff);
  EXPECT_EQ(f16_from_f32(65520.0f), 0x7c00);
  EXPECT_EQ(f16_from_f32(1.0f + 0x1p-11f), 0x3c00);  // A tie goes to even.
  EXPECT_EQ(f16_from_f32(1.0f + 3 * 0x1p-11f), 0x3c02);
  EXPECT_EQ(f16_from_f32(0x1p-25f), 0);  // A tie below the least subnormal.
  EXPECT_EQ(f16_from_f32(-0x1.8p-24f), 0x8002);
  EXPECT_EQ(bf16_from_f32(1.0f + 0x1p-8f), 0x3f80);
  EXPECT_EQ(bf16_from_f32(1.0f + 3 * 0x1p-8f), 0x3f82);
}

TEST(Float8, KnownValues) {
  EXPECT_EQ(f32_from_f8e4m3(0x7e), 448.0f);
  EXPECT_EQ(f32_from_f8e4m3(0x01), 0x1p-9f);
  EXPECT_EQ(f32_from_f8e4m3(0xb8), -1.0f);
  EXPECT_TRUE(std::isnan(f32_from_f8e4m3(0x7f)));
  EXPECT_EQ(f32_from_f8e5m2(0x3c), 1.0f);
  EXPECT_EQ(f32_from_e8m0(127), 1.0f);
  EXPECT_EQ(f32_from_e8m0(0), 0x1p-127f);
}

}  // namespace
}  // namespace mlxf
