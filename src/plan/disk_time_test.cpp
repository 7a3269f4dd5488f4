#include "plan/disk_time.h"

#include <gtest/gtest.h>

namespace mlxf::plan {
namespace {

// A made-up disk: blocks of 16 KiB in 50, 30, 20 and 15 us each, one to four at a time, and not faster with more; and
// blocks of 1 MiB in 1 ms, however many.
constexpr double kSmall = 16 << 10;
constexpr double kMicro = 1e-6;
const SsdRate kDisk[] = {{16 << 10, 1, kSmall / 50e-6}, {16 << 10, 2, kSmall / 30e-6},
                         {16 << 10, 3, kSmall / 20e-6}, {16 << 10, 4, kSmall / 15e-6},
                         {1 << 20, 1, 1048.576e6},      {1 << 20, 16, 1048.576e6}};

TEST(DiskTimeTest, TheLastReadsOfABatchAreAlone) {
  const BatchTime batch(kDisk, kSmall);
  EXPECT_EQ(batch.of(0), 0);
  EXPECT_NEAR(batch.of(1), 50 * kMicro, 1e-12);
  EXPECT_NEAR(batch.of(2), 80 * kMicro, 1e-12);
  EXPECT_NEAR(batch.of(3), 100 * kMicro, 1e-12);
  EXPECT_NEAR(batch.of(4), 115 * kMicro, 1e-12);
  EXPECT_NEAR(batch.of(1.5), 65 * kMicro, 1e-12);
  EXPECT_NEAR(batch.of(16), (115 + 12 * 15) * kMicro, 1e-12);
  EXPECT_NEAR(batch.of(30), (115 + 26 * 15) * kMicro, 1e-12);
}

TEST(DiskTimeTest, AStreamIsABatchWithoutEnd) {
  const BatchTime batch(kDisk, kSmall);
  EXPECT_NEAR(batch.of(1e6) / 1e6, kSmall / ssd_rate(kDisk, kSmall, 16), 1e-9);
  // A disk that is as fast with one read as with many makes no difference between them.
  const BatchTime even(kDisk, 1 << 20);
  for (const double reads : {0.5, 1.0, 7.0, 40.0}) EXPECT_NEAR(even.of(reads), reads * 1e-3, 1e-12);
}

TEST(DiskTimeTest, ExpectedIsTheMeanOverWhatIsMissed) {
  const BatchTime batch(kDisk, kSmall);
  // Two records with a chance of a half: none, one twice as often, both.
  EXPECT_NEAR(batch.expected(2, 0.5, 1), (0.5 * 50 + 0.25 * 80) * kMicro, 1e-12);
  EXPECT_NEAR(batch.expected(2, 0.25, 9), (0.375 * (115 + 5 * 15) + 0.0625 * (115 + 14 * 15)) * kMicro,
              1e-12);
  EXPECT_EQ(batch.expected(4, 0, 9), 0);
  EXPECT_NEAR(batch.expected(4, 1, 1), 115 * kMicro, 1e-12);
  // Where time goes by the bytes, the mean is that of the bytes.
  EXPECT_NEAR(BatchTime(kDisk, 1 << 20).expected(512, 0.3, 2), 512 * 0.3 * 2 * 1e-3, 1e-9);
}

TEST(DiskTimeTest, DisksAreLookedUpByBlockAndDepth) {
  EXPECT_EQ(ssd_rate({}, 1e6, 4), 0);
  const SsdRate table[] = {{1 << 18, 1, 1e9}, {1 << 18, 16, 3e9}, {1 << 20, 1, 2e9}, {1 << 20, 16, 6e9}};
  EXPECT_DOUBLE_EQ(ssd_rate(table, 1 << 18, 1), 1e9);
  EXPECT_DOUBLE_EQ(ssd_rate(table, 1 << 20, 4), 4e9);
  EXPECT_DOUBLE_EQ(ssd_rate(table, 1 << 19, 16), 4.5e9);
  // 87 us and a byte in 0.333 ns for one read; a disk that gives the same for all blocks gives it for smaller ones too.
  EXPECT_NEAR(ssd_rate(table, 1 << 16, 0.5), 65536 / (262144 / 1e9 - 196608 / 3e9), 1);
  const SsdRate even[] = {{1 << 20, 1, 1e9}, {1 << 20, 16, 1e9}};
  EXPECT_DOUBLE_EQ(ssd_rate(even, 1 << 10, 4), 1e9);
  const SsdRate flat[] = {{1 << 18, 1, 1e9}, {1 << 20, 1, 1e9}};
  EXPECT_DOUBLE_EQ(ssd_rate(flat, 1 << 12, 1), 1e9);
  EXPECT_DOUBLE_EQ(ssd_rate(table, 1 << 30, 500), 6e9);
}

}  // namespace
}  // namespace mlxf::plan
