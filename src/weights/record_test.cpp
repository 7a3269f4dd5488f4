// make_record: which bytes of which file a record's matrices come from.
#include "weights/record.h"

#include <gtest/gtest.h>

namespace mlxf::weights {
namespace {

formats::TensorEntry tensor(uint32_t file, uint64_t offset, uint64_t bytes) {
  return {"t", DType::kF32, {}, file, offset, bytes};
}

RecordSlice plain(const formats::TensorEntry& data, uint32_t row_begin, uint32_t rows, uint64_t row_bytes) {
  RecordSlice slice;
  slice.stored.layout.rows = static_cast<uint32_t>(data.bytes / row_bytes);
  slice.stored.layout.row_bytes = row_bytes;
  slice.stored.data = &data;
  slice.row_begin = row_begin;
  slice.rows = rows;
  return slice;
}

void expect_extent(const RecordExtent& extent, uint32_t file, uint64_t offset, uint64_t bytes) {
  EXPECT_EQ(extent.file, file);
  EXPECT_EQ(extent.offset, offset);
  EXPECT_EQ(extent.bytes, bytes);
}

TEST(Record, JoinsWhatTouchesOrNearlyTouchesAndKeepsTheRestApart) {
  const auto gate = tensor(0, 1000, 500), up = tensor(0, 1500, 500), down = tensor(0, 2000 + 4096, 500),
             far = tensor(0, 2000 + 4096 + 500 + 4097, 500), other = tensor(1, 1000, 100);
  // Given in another order than they lie in.
  const Record record = make_record({plain(far, 0, 5, 100), plain(other, 0, 1, 100), plain(down, 0, 5, 100),
                                     plain(gate, 0, 5, 100), plain(up, 0, 5, 100)});
  ASSERT_EQ(record.extents.size(), 3u);
  expect_extent(record.extents[0], 0, 1000, 1000 + 4096 + 500);
  expect_extent(record.extents[1], 0, far.offset, 500);
  expect_extent(record.extents[2], 1, 1000, 100);
  EXPECT_EQ(record.bytes(), 1000u + 4096 + 500 + 500 + 100);
  const uint32_t extents[] = {1, 2, 0, 0, 0};
  const uint64_t at[] = {0, 0, 1000 + 4096, 0, 500};
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(record.matrices[i].data.extent, extents[i]) << i;
    EXPECT_EQ(record.matrices[i].data.at, at[i]) << i;
    EXPECT_EQ(record.matrices[i].scales.extent, UINT32_MAX);
  }
}

TEST(Record, TakesTheRowsOfASliceWithTheirScalesAndBiases) {
  const auto codes = tensor(0, 10000, 64 * 20), scales = tensor(0, 50000, 64 * 4),
             biases = tensor(0, 90000, 64 * 4);
  RecordSlice slice = plain(codes, 48, 16, 20);
  slice.stored.layout.format = WeightFormat::kMlxAffine;
  slice.stored.layout.scale_row_bytes = 4;
  slice.stored.scales = &scales;
  slice.stored.biases = &biases;
  const Record record = make_record({slice});
  ASSERT_EQ(record.extents.size(), 3u);
  expect_extent(record.extents[0], 0, 10000 + 48 * 20, 16 * 20);
  expect_extent(record.extents[1], 0, 50000 + 48 * 4, 16 * 4);
  expect_extent(record.extents[2], 0, 90000 + 48 * 4, 16 * 4);
  EXPECT_EQ(record.matrices[0].layout.rows, 16u);
  EXPECT_EQ(record.matrices[0].data.extent, 0u);
  EXPECT_EQ(record.matrices[0].scales.extent, 1u);
  EXPECT_EQ(record.matrices[0].biases.extent, 2u);
}

// f8 has one row of scales for 128 rows of codes.
TEST(Record, TakesBlockScalesOfFloat8) {
  const auto codes = tensor(0, 0, 512 * 256), scales = tensor(0, 200000, 4 * 8);
  RecordSlice slice = plain(codes, 256, 200, 256);
  slice.stored.layout.format = WeightFormat::kF8E4M3;
  slice.stored.layout.scale_row_bytes = 8;
  slice.stored.scales = &scales;
  const Record record = make_record({slice});
  ASSERT_EQ(record.extents.size(), 2u);
  expect_extent(record.extents[0], 0, 256 * 256, 200 * 256);
  expect_extent(record.extents[1], 0, 200000 + 2 * 8, 2 * 8);
}

// Slices of one fused tensor (qkv) that follow each other are one read.
TEST(Record, ReadsTheSlicesOfAFusedTensorAtOnce) {
  const auto fused = tensor(2, 4096, 90 * 10);
  const Record record =
      make_record({plain(fused, 0, 50, 10), plain(fused, 50, 20, 10), plain(fused, 70, 20, 10)});
  ASSERT_EQ(record.extents.size(), 1u);
  expect_extent(record.extents[0], 2, 4096, 900);
  EXPECT_EQ(record.matrices[2].data.at, 700u);
  // The same bytes twice (tied tensors) are read once.
  EXPECT_EQ(make_record({plain(fused, 0, 50, 10), plain(fused, 0, 50, 10)}).bytes(), 500u);
}

// Rows of gate and up that take turns are read at once, and seen with twice the stride.
TEST(Record, TakesEverySecondRowWithItsScales) {
  const auto codes = tensor(0, 0, 40 * 16), scales = tensor(0, 9000, 40 * 2);
  RecordSlice gate = plain(codes, 20, 10, 16);
  gate.stored.layout.format = WeightFormat::kMlxMxfp4;
  gate.stored.layout.scale_row_bytes = 2;
  gate.stored.scales = &scales;
  gate.row_step = 2;
  RecordSlice up = gate;
  up.row_begin = 21;
  const Record record = make_record({gate, up});
  ASSERT_EQ(record.extents.size(), 2u);
  expect_extent(record.extents[0], 0, 20 * 16, 20 * 16);
  expect_extent(record.extents[1], 0, 9000 + 20 * 2, 20 * 2);
  EXPECT_EQ(record.matrices[1].layout.rows, 10u);
  EXPECT_EQ(record.matrices[1].layout.row_bytes, 32u);
  EXPECT_EQ(record.matrices[1].layout.scale_row_bytes, 4u);
  EXPECT_EQ(record.matrices[0].data.at, 0u);
  EXPECT_EQ(record.matrices[1].data.at, 16u);
  EXPECT_EQ(record.matrices[1].scales.at, 2u);
}

// Experts stored [in, out]: the slab of one expert is turned once for the two matrices that lie in it.
TEST(Record, TurnsASlabThatTwoMatricesShareOnce) {
  auto stacked = tensor(0, 5000, uint64_t{3} * 64 * 96 * 2);
  stacked.dtype = DType::kBF16;
  stacked.shape = {3, 64, 96};  // [experts, in, out]
  RecordSlice gate = plain(stacked, 96, 48, 96 * 2);
  gate.stored.layout.format = WeightFormat::kBF16;
  gate.stored.layout.cols = 96;
  gate.transposed = true;
  RecordSlice up = gate;
  up.row_begin = 96 + 48;
  for (const uint32_t step : {1u, 2u}) {
    gate.row_step = up.row_step = step;
    up.row_begin = step == 1 ? 96 + 48 : 96 + 1;
    const Record record = make_record({gate, up});
    ASSERT_EQ(record.extents.size(), 1u);
    expect_extent(record.extents[0], 0, 5000 + 64 * 96 * 2, 64 * 96 * 2);
    ASSERT_EQ(record.transposes.size(), 1u);
    EXPECT_EQ(record.transposes[0].rows, 64u);
    EXPECT_EQ(record.transposes[0].cols, 96u);
    EXPECT_EQ(record.transpose_bytes(), 64u * 96 * 2);
    EXPECT_EQ(record.matrices[1].layout.rows, 48u);
    EXPECT_EQ(record.matrices[1].layout.cols, 64u);
    EXPECT_EQ(record.matrices[1].layout.row_bytes, 64u * 2 * step);
    EXPECT_EQ(record.matrices[1].data.at, (step == 1 ? 48u : 1u) * 64 * 2);
    EXPECT_FALSE(record.matrices[1].becomes_int8());
  }
  gate.transposed = false;
  gate.row_step = 1;
  EXPECT_TRUE(make_record({gate}).matrices[0].becomes_int8());
}

}  // namespace
}  // namespace mlxf::weights
