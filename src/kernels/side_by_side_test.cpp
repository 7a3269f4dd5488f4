// Rows side by side: they hold what the rows held, and their products have the bits of the reference's with the rows.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <set>
#include <vector>

#include "kernels/code_row.h"
#include "kernels/kernel_table.h"
#include "kernels/side_by_side.h"
#include "kernels/test_isa.h"

namespace mlxf::kernels {
namespace {

std::vector<Format> formats() {
  std::vector<Format> formats;
  for (const Format& f : integer_formats())
    if (side_by_side(f.format) != f.format) formats.push_back(f);
  return formats;
}

// The rows of a matrix side by side, in memory of its own that ends with them.
struct SideBySide {
  std::vector<uint8_t> data;
  MatrixView view;

  SideBySide(SideBySideFn put, const MatrixView& rows) : data(rows.rows * rows.row_bytes), view(rows) {
    put(rows, data.data());
    view.format = side_by_side(rows.format);
    view.data = data.data();
  }
};

TEST(SideBySide, HasAFormatOfItsOwnWithTheSameCodes) {
  EXPECT_EQ(formats().size(), 2u);
  for (const Format& f : formats()) {
    const WeightFormat format = side_by_side(f.format);
    EXPECT_NE(format, f.format);
    EXPECT_EQ(row_by_row(format), f.format);
    EXPECT_EQ(side_by_side(format), format);
    EXPECT_EQ(row_by_row(f.format), f.format);
    MatrixView rows, x16;
    rows.format = f.format;
    x16.format = format;
    EXPECT_EQ(code_traits(rows).block, code_traits(x16).block);
    EXPECT_EQ(code_traits(rows).sub, code_traits(x16).sub);
  }
  EXPECT_EQ(side_by_side(WeightFormat::kQ5_K), WeightFormat::kQ5_K);
}

// Every byte has a place of its own; vectors of sixteen rows' dwords, then what is left of their blocks.
TEST(SideBySide, DwordsOfSixteenRowsFollowEachOther) {
  std::mt19937 random(1);
  for (const Format& f : formats()) {
    const Weights w(f, 32, 512, random);
    const SideBySide x16(put_side_by_side, w.view);
    const uint32_t dwords = f.block_bytes / 4;
    std::set<uint32_t> places;
    for (uint32_t i = 0; i < dwords; ++i) places.insert(dword_place(f.format, i));
    EXPECT_EQ(places.size(), dwords);
    EXPECT_EQ(*places.rbegin(), dwords - 1);
    // Dword 5 of block 1 of row 16 + 3.
    const uint8_t* group = x16.data.data() + 16 * w.view.row_bytes;
    const uint8_t* block = w.view.data + 19 * w.view.row_bytes + f.block_bytes;
    const uint32_t place = f.format == WeightFormat::kQ4_K ? 5 : 4 + 2 * 5;
    EXPECT_EQ(std::memcmp(group + ((dwords + place) * 16 + 3) * 4, block + 5 * 4, 4), 0);
    if (f.block_bytes % 4 != 0) {  // And the two bytes behind the last dword.
      EXPECT_EQ(std::memcmp(group + 2 * dwords * 64 + 16 * 2 + 3 * 2, block + 208, 2), 0);
    }
  }
}

TEST(SideBySide, TheReferenceDecodesAndMultipliesThemAsRows) {
  std::mt19937 random(2);
  const KernelTable& kernels = reference_kernels();
  for (const Format& f : formats()) {
    const Weights w(f, 48, 768, random);
    const SideBySide x16(put_side_by_side, w.view);
    const auto stored = static_cast<uint32_t>(f.format), beside = static_cast<uint32_t>(x16.view.format);
    std::vector<float> expected(512), got(512);
    for (uint32_t row = 0; row < 48; ++row) {
      kernels.decode[stored](w.view, row, 256, 768, expected.data());
      kernels.decode[beside](x16.view, row, 256, 768, got.data());
      ASSERT_EQ(got, expected) << "row " << row;
    }
    const Activations x(kernels, w.view, 3, random);
    EXPECT_EQ(multiply(kernels.matmul_i8[beside], x16.view, 5, 43, x.view),
              multiply(kernels.matmul_i8[stored], w.view, 5, 43, x.view));
    EXPECT_EQ(multiply(kernels.matmul_f32[beside], x16.view, 5, 43, x.view),
              multiply(kernels.matmul_f32[stored], w.view, 5, 43, x.view));
  }
}

TEST_P(IsaTest, PutsRowsSideBySideAsTheReference) {
  if (table_->put_side_by_side == nullptr) GTEST_SKIP() << "SKIPPED: not on " << table_->isa;
  std::mt19937 random(16);
  for (const Format& f : formats())
    for (const uint32_t rows : {16u, 48u})
      for (const uint32_t blocks : {1u, 3u}) {
        const Weights w(f, rows, blocks * 256, random);
        EXPECT_EQ(SideBySide(table_->put_side_by_side, w.view).data,
                  SideBySide(put_side_by_side, w.view).data);
      }
}

// Any range of rows, any number of tokens: few as they lie, many on panels or tiles.
TEST_P(IsaTest, ProductsOfRowsSideBySideHaveTheBitsOfTheReference) {
  std::mt19937 random(17);
  for (const Format& f : formats())
    for (const uint32_t blocks : {1u, 2u, 9u}) {
      const Weights w(f, 48, blocks * 256, random);
      const SideBySide x16(put_side_by_side, w.view);
      const auto stored = static_cast<uint32_t>(f.format), beside = static_cast<uint32_t>(x16.view.format);
      for (const uint32_t tokens :
           {1u, 2u, 3u, 4u, 5u, 6u, 7u, 8u, 9u, 11u, 13u, 15u, 16u, 17u, 31u, 32u, 33u, 65u}) {
        const Activations x(*table_, w.view, tokens, random);
        for (const auto& [begin, end] :
             {std::pair{0u, 48u}, {16u, 32u}, {0u, 5u}, {3u, 7u}, {7u, 41u}, {15u, 17u}})
          ASSERT_EQ(multiply(table_->matmul_i8[beside], x16.view, begin, end, x.view),
                    multiply(reference_kernels().matmul_i8[stored], w.view, begin, end, x.view))
              << "format " << stored << " blocks " << blocks << " tokens " << tokens << " rows " << begin
              << " to " << end;
      }
    }
}

TEST_P(IsaTest, ProductsOfExtremeCodesSideBySideHaveTheBitsOfTheReference) {
  std::mt19937 random(18);
  constexpr uint8_t kBytes[] = {0xff, 0x7f, 0x80, 0x00};
  for (const Format& f : formats())
    for (uint32_t fill = 0; fill < 5; ++fill) {  // One of the bytes everywhere, then all of them mixed.
      const Weights w(f, 16, 512, random, [&] { return kBytes[fill < 4 ? fill : random() % 4]; });
      const SideBySide x16(put_side_by_side, w.view);
      for (uint32_t sign = 0; sign < 3; ++sign)
        for (const uint32_t tokens : {1u, 7u, 16u, 40u}) {
          Activations x(*table_, w.view, tokens, random);
          x.set_codes([&] { return sign == 0 || (sign == 2 && random() % 2 == 0) ? 127 : -127; });
          ASSERT_EQ(
              multiply(table_->matmul_i8[static_cast<uint32_t>(x16.view.format)], x16.view, 0, 16, x.view),
              multiply(reference_kernels().matmul_i8[static_cast<uint32_t>(f.format)], w.view, 0, 16, x.view))
              << "fill " << fill << " sign " << sign << " tokens " << tokens;
        }
    }
}

}  // namespace
}  // namespace mlxf::kernels
