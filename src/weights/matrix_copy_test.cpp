// Copies of matrices as they lie in slots: every row is the same, whatever lies between, and the memory is their own.
#include "weights/matrix_copy.h"

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>

namespace mlxf::weights {
namespace {

class MatrixCopyTest : public testing::Test {
 protected:
  MatrixCopyTest() : slot_(5 << 20) {
    for (size_t i = 0; i < slot_.size(); ++i) slot_[i] = static_cast<uint8_t>(i * 2654435761u >> 13);
  }
  // A matrix whose row `i` begins at `at` + i * stride.
  MatrixView view(uint64_t at, uint32_t rows, uint64_t stride) {
    MatrixView w;
    w.format = WeightFormat::kQ8_0;
    w.rows = rows;
    w.cols = 32;
    w.data = slot_.data() + at;
    w.row_bytes = stride;
    return w;
  }
  MatrixCopy copy(const std::vector<MatrixView>& matrices, uint32_t step = 1) {
    std::vector<RecordMatrix> stored(matrices.size());
    for (RecordMatrix& matrix : stored) matrix.row_step = step;
    auto made = copy_matrices(matrices, stored, nullptr);
    EXPECT_TRUE(made) << made.error().message;
    EXPECT_EQ(made->matrices.size(), matrices.size());
    for (size_t i = 0; i < matrices.size(); ++i)
      EXPECT_TRUE(inside(*made, made->matrices[i].data)) << "matrix " << i;
    return std::move(*made);
  }
  static bool inside(const MatrixCopy& copy, const uint8_t* at) {
    return at >= copy.memory.data() && at < copy.memory.data() + copy.memory.bytes();
  }
  static void expect_rows(const uint8_t* a, const uint8_t* b, uint64_t rows, uint64_t stride,
                          uint64_t bytes) {
    for (uint64_t row = 0; row < rows; ++row)
      ASSERT_EQ(std::memcmp(a + row * stride, b + row * stride, bytes), 0) << "row " << row;
  }
  std::vector<uint8_t> slot_;
};

TEST_F(MatrixCopyTest, LeavesOutWhatLiesBetween) {
  const MatrixView a = view(100, 10, 340), b = view(2'000'000, 3, 1000);
  const MatrixCopy copied = copy({a, b});
  expect_rows(a.data, copied.matrices[0].data, 10, 340, 340);
  expect_rows(b.data, copied.matrices[1].data, 3, 1000, 1000);
  EXPECT_EQ(copied.memory.bytes(), platform::HugeMemory::tight_bytes(3400 + 3000 + copy_slack_bytes(2)));
}

TEST_F(MatrixCopyTest, KeepsRowsThatAlternate) {
  // Gate and up of a matrix of 20 rows; the last byte is the end of what may be read.
  const uint64_t begin = slot_.size() - 20 * 100;
  const MatrixView gate = view(begin, 10, 200), up = view(begin + 100, 10, 200);
  const MatrixCopy copied = copy({gate, up}, 2);
  expect_rows(gate.data, copied.matrices[0].data, 10, 200, 100);
  expect_rows(up.data, copied.matrices[1].data, 10, 200, 100);
  EXPECT_EQ(copied.matrices[1].data - copied.matrices[0].data, 100);
  EXPECT_EQ(copied.memory.bytes(), platform::HugeMemory::tight_bytes(2000));
}

TEST_F(MatrixCopyTest, KeepsScalesAndBiases) {
  MatrixView w = view(5, 7, 400);
  w.scales = slot_.data() + 100'000;
  w.biases = slot_.data() + 200'001;
  w.scale_row_bytes = 24;
  MatrixView blocks = view(300'000, 300, 128);  // Scales by 128 rows.
  blocks.format = WeightFormat::kF8E4M3;
  blocks.scales = slot_.data() + 400'000;
  blocks.scale_row_bytes = 8;
  const MatrixCopy copied = copy({w, blocks});
  expect_rows(w.data, copied.matrices[0].data, 7, 400, 400);
  expect_rows(w.scales, copied.matrices[0].scales, 7, 24, 24);
  expect_rows(w.biases, copied.matrices[0].biases, 7, 24, 24);
  expect_rows(blocks.data, copied.matrices[1].data, 300, 128, 128);
  expect_rows(blocks.scales, copied.matrices[1].scales, 3, 8, 8);
}

// Rows that were converted in their slot: each one's scales behind its codes.
TEST_F(MatrixCopyTest, KeepsScalesThatStandBetweenTheCodes) {
  const uint64_t stride = 64 + 8, begin = slot_.size() - 9 * stride;
  MatrixView w = view(begin, 9, stride);
  w.format = WeightFormat::kI8Row;
  w.cols = 64;
  w.scales = w.data + 64;
  w.scale_row_bytes = stride;
  const MatrixCopy copied = copy({w});
  expect_rows(w.data, copied.matrices[0].data, 9, stride, stride);
  EXPECT_EQ(copied.matrices[0].scales, copied.matrices[0].data + 64);
}

TEST_F(MatrixCopyTest, SharesLongCopiesAmongThreads) {
  compute::ThreadPool pool(2);
  const MatrixView w = view(3, 1, slot_.size() - 3);
  const RecordMatrix stored;
  const auto copied = copy_matrices({&w, 1}, {&stored, 1}, &pool);
  ASSERT_TRUE(copied);
  EXPECT_EQ(std::memcmp(copied->matrices[0].data, w.data, w.row_bytes), 0);
}

}  // namespace
}  // namespace mlxf::weights
