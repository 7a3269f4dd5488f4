// Rows as they lie in the file, through rings of two slots and of many, repeated rows included; errors name tensor and
// row.
#include "weights/row_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "storage/faulty_storage.h"
#include "storage/test_file.h"

namespace mlxf::weights {
namespace {

using storage::FaultyStorage;
using testing::HasSubstr;

constexpr uint32_t kRows = 300;
constexpr uint64_t kRowBytes = 1000, kScaleBytes = 24;

// A table of codes, scales and biases at odd places of one file.
struct Table {
  storage::TestFile file{kRows * (kRowBytes + 2 * kScaleBytes) + 777};
  formats::TensorEntry codes{"embed.weight", DType::kU32, {}, 0, 13, kRows* kRowBytes};
  formats::TensorEntry scales{"embed.scales",    DType::kF16, {}, 0, codes.offset + codes.bytes + 5,
                              kRows* kScaleBytes};
  formats::TensorEntry biases{"embed.biases",    DType::kF16, {}, 0, scales.offset + scales.bytes,
                              kRows* kScaleBytes};
  StoredMatrix stored;
  Table() {
    stored.layout.format = WeightFormat::kMlxAffine;
    stored.layout.rows = kRows;
    stored.layout.row_bytes = kRowBytes;
    stored.layout.scale_row_bytes = kScaleBytes;
    stored.data = &codes;
    stored.scales = &scales;
    stored.biases = &biases;
  }
  void expect_row(uint32_t row, const MatrixView& view) const {
    EXPECT_EQ(view.rows, 1u);
    EXPECT_EQ(storage::first_difference({view.data, kRowBytes}, codes.offset + row * kRowBytes), kRowBytes);
    EXPECT_EQ(storage::first_difference({view.scales, kScaleBytes}, scales.offset + row * kScaleBytes),
              kScaleBytes);
    EXPECT_EQ(storage::first_difference({view.biases, kScaleBytes}, biases.offset + row * kScaleBytes),
              kScaleBytes);
  }
};

std::vector<uint32_t> some_rows() {
  std::vector<uint32_t> rows;
  for (uint32_t i = 0; i < 200; ++i) rows.push_back(i * 7919 % kRows);
  rows.insert(rows.end(), {0, kRows - 1, 5, 5, 0});
  return rows;
}

TEST(RowReader, TheRingIsAtMostAQuarterOfTheTable) {
  Table table;
  const uint64_t slot = 3 * 8192;
  for (const auto& [bytes, slots] :
       {std::pair{uint64_t{1}, uint64_t{2}}, {12 * slot, 3}, {4000 * slot, 64}}) {
    table.codes.bytes = bytes;
    table.scales.bytes = table.biases.bytes = 0;
    EXPECT_EQ(RowReader::buffer_bytes(table.stored), slots * slot) << bytes;
  }
}

// In order, whatever repeats, through rings of two slots and of many; neighbours that are equal are read once.
TEST(RowReader, GivesTheRowsInOrder) {
  for (const uint64_t bytes : {uint64_t{1}, uint64_t{10'000'000}}) {
    Table table;
    table.codes.bytes = bytes;
    FaultyStorage faulty({.interrupted_per_mille = 50, .short_per_mille = 200, .ticks_max = 5});
    const auto file = faulty.storage().open(table.file.path());
    ASSERT_TRUE(file);
    RowReader reader(faulty.storage(), {{*file}}, table.stored);
    const std::vector<uint32_t> rows = some_rows();
    for (int call = 0; call < 2; ++call) {
      const uint64_t before = faulty.storage().stats().reads;
      ASSERT_TRUE(reader.begin(rows));
      for (const uint32_t row : rows) {
        const auto view = reader.next();
        ASSERT_TRUE(view) << view.error().message;
        table.expect_row(row, *view);
      }
      EXPECT_EQ(faulty.storage().stats().reads - before, 3 * (rows.size() - 1));
    }
    EXPECT_GT(reader.stall_seconds(), 0.0);
  }
}

TEST(RowReader, ACallMayLeaveRowsUntaken) {
  const Table table;
  FaultyStorage faulty({.ticks_max = 5});
  const auto file = faulty.storage().open(table.file.path());
  RowReader reader(faulty.storage(), {{*file}}, table.stored);
  for (uint32_t taken = 0; taken < 6; ++taken) {
    ASSERT_TRUE(reader.begin(std::vector<uint32_t>{7, 8, 8, 9, 10, 11}));
    for (uint32_t i = 0; i < taken; ++i) ASSERT_TRUE(reader.next());
  }
  ASSERT_TRUE(reader.begin(std::vector<uint32_t>{42}));
  table.expect_row(42, reader.next().value());
}

TEST(RowReader, HandsOutEveryRowOnce) {
  for (const uint64_t bytes : {uint64_t{1}, uint64_t{500'000}, uint64_t{10'000'000}}) {
    Table table;
    table.codes.bytes = bytes;  // What the ring is sized by.
    FaultyStorage faulty({.interrupted_per_mille = 50, .short_per_mille = 200, .ticks_max = 5});
    const auto file = faulty.storage().open(table.file.path());
    ASSERT_TRUE(file);
    RowReader reader(faulty.storage(), {{*file}}, table.stored);
    const std::vector<uint32_t> rows = some_rows();
    std::vector<uint32_t> seen(rows.size(), 0);
    ASSERT_TRUE(reader.read(rows, [&](size_t index, const MatrixView& view) {
      ++seen[index];
      table.expect_row(rows[index], view);
    }));
    EXPECT_EQ(seen, std::vector<uint32_t>(rows.size(), 1));
    // A row that comes several times is read once.
    EXPECT_EQ(faulty.storage().stats().reads, 3 * std::set<uint32_t>(rows.begin(), rows.end()).size());
  }
}

TEST(RowReader, AnErrorNamesTheRowAndTheNextCallWorks) {
  const Table table;
  FaultyStorage faulty({.error_at = 5});
  const auto file = faulty.storage().open(table.file.path());
  RowReader reader(faulty.storage(), {{*file}}, table.stored);
  const std::vector<uint32_t> rows = {10, 20, 30};
  uint32_t used = 0;
  const auto use = [&](size_t index, const MatrixView& view) {
    ++used;
    table.expect_row(rows[index], view);
  };
  const Status status = reader.read(rows, use);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kIo);
  EXPECT_THAT(status.error().message, HasSubstr("tensor embed.scales row 20"));
  EXPECT_THAT(status.error().message, HasSubstr("model.bin"));
  EXPECT_EQ(used, 1u);
  ASSERT_TRUE(reader.read(rows, use));
  EXPECT_EQ(used, 4u);
}

TEST(RowReader, RowsThatShareScalesAreRefused) {
  Table table;
  table.stored.layout.format = WeightFormat::kF8E4M3;
  EXPECT_EQ(RowReader::buffer_bytes(table.stored), 0u);
}

}  // namespace
}  // namespace mlxf::weights
