// In place or apart, from any float format and at any alignment: the same codes and scales.
#include "weights/int8_rows.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

namespace mlxf::weights {
namespace {

MatrixView stored_as(WeightFormat format, uint32_t rows, uint32_t cols, const uint8_t* data) {
  MatrixView view;
  view.format = format;
  view.rows = rows;
  view.cols = cols;
  view.row_bytes = uint64_t{cols} * (format == WeightFormat::kF32 ? 4 : 2);
  view.data = data;
  return view;
}

TEST(Int8Rows, InPlaceIsTheSameAsApart) {
  std::mt19937 random(7);
  for (const WeightFormat format : {WeightFormat::kF32, WeightFormat::kF16, WeightFormat::kBF16})
    for (const uint32_t cols : {32u, 64u, 480u})
      for (const uint64_t shift : {0u, 1u, 8u}) {
        constexpr uint32_t kRows = 9;
        const MatrixView shape = stored_as(format, kRows, cols, nullptr);
        std::vector<uint8_t> memory(shift + kRows * shape.row_bytes + 16, 0xAB);
        for (uint64_t i = 0; i < kRows * shape.row_bytes; ++i)
          // Exponents of moderate size: neither infinities nor numbers that are none.
          memory[shift + i] =
              static_cast<uint8_t>(i % shape.row_bytes % 2 == 1 ? 0x38 + random() % 8 : random());
        const MatrixView stored = stored_as(format, kRows, cols, memory.data() + shift);
        ASSERT_TRUE(can_be_int8(stored));
        MatrixView apart = int8_layout(stored);
        std::vector<uint8_t> codes(kRows * apart.row_bytes), scales(kRows * apart.scale_row_bytes);
        EXPECT_EQ(int8_bytes(stored), codes.size() + scales.size());
        apart.data = codes.data();
        apart.scales = scales.data();
        convert_rows(stored, apart, 0);
        const MatrixView in_place = convert_in_place(stored);
        for (uint32_t row = 0; row < kRows; ++row) {
          EXPECT_EQ(0,
                    std::memcmp(in_place.data + row * in_place.row_bytes, codes.data() + row * cols, cols));
          EXPECT_EQ(0, std::memcmp(in_place.scales + row * in_place.scale_row_bytes,
                                   scales.data() + row * apart.scale_row_bytes, apart.scale_row_bytes));
        }
        for (size_t i = shift + kRows * shape.row_bytes; i < memory.size(); ++i) EXPECT_EQ(memory[i], 0xAB);
        for (uint64_t i = 0; i < shift; ++i) EXPECT_EQ(memory[i], 0xAB);
      }
}

TEST(Int8Rows, OnlyFloatsInWholeGroups) {
  EXPECT_FALSE(can_be_int8(stored_as(WeightFormat::kBF16, 1, 40, nullptr)));
  EXPECT_FALSE(can_be_int8(stored_as(WeightFormat::kQ8_0, 1, 64, nullptr)));
}

}  // namespace
}  // namespace mlxf::weights
