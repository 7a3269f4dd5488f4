// Rows put side by side where they lie: with a pool and without, and those left that are not to be.
#include "weights/side_by_side.h"

#include <gtest/gtest.h>

#include <vector>

#include "weights/test_matrix.h"

namespace mlxf::weights {
namespace {

MatrixView view_of(WeightFormat format, uint32_t rows, uint64_t row_bytes, std::vector<uint8_t>& data) {
  data.resize(rows * row_bytes);
  uint32_t random = rows;
  for (uint8_t& byte : data) byte = static_cast<uint8_t>((random = random * 1664525 + 1013904223) >> 26);
  MatrixView w;
  w.format = format;
  w.rows = rows;
  w.cols = 512;
  w.row_bytes = row_bytes;
  w.data = data.data();
  return w;
}

TEST(SideBySide, TakesWholeGroupsOfFormatsThatHaveIt) {
  std::vector<uint8_t> data;
  EXPECT_TRUE(can_be_side_by_side(view_of(WeightFormat::kQ4_K, 32, 288, data)));
  EXPECT_TRUE(can_be_side_by_side(view_of(WeightFormat::kQ6_K, 16, 420, data)));
  EXPECT_FALSE(can_be_side_by_side(view_of(WeightFormat::kQ4_K, 40, 288, data)));
  EXPECT_FALSE(can_be_side_by_side(view_of(WeightFormat::kQ5_K, 32, 352, data)));
  EXPECT_FALSE(can_be_side_by_side(view_of(WeightFormat::kQ4_Kx16, 32, 288, data)));
}

TEST(SideBySide, PutsMatricesSoWhereTheyLie) {
  compute::ThreadPool pool(3);
  for (compute::ThreadPool* each : {static_cast<compute::ThreadPool*>(nullptr), &pool}) {
    std::vector<uint8_t> data[5];
    std::vector<MatrixView> matrices = {
        view_of(WeightFormat::kQ4_K, 160, 288, data[0]), view_of(WeightFormat::kQ6_K, 48, 420, data[1]),
        view_of(WeightFormat::kQ4_K, 40, 288, data[2]), view_of(WeightFormat::kQ4_K, 64, 288, data[3]),
        view_of(WeightFormat::kQ4_K, 32, 288, data[4])};
    std::vector<RecordMatrix> records(matrices.size());
    std::vector<std::vector<float>> values;
    for (size_t i = 0; i < matrices.size(); ++i) {
      records[i].layout = matrices[i];
      values.push_back(decode(matrices[i]));
    }
    records[3].by_row = true;
    records[4].row_step = 2;
    put_side_by_side(kernels::put_side_by_side, matrices, records, each);
    EXPECT_EQ(matrices[0].format, WeightFormat::kQ4_Kx16);
    EXPECT_EQ(matrices[1].format, WeightFormat::kQ6_Kx16);
    for (size_t i = 2; i < 5; ++i) EXPECT_EQ(matrices[i].format, WeightFormat::kQ4_K) << i;
    for (size_t i = 0; i < matrices.size(); ++i) {
      EXPECT_EQ(matrices[i].data, data[i].data());
      EXPECT_EQ(decode(matrices[i]), values[i]) << i;
    }
  }
}

}  // namespace
}  // namespace mlxf::weights
