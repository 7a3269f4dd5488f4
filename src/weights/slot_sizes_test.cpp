// Sizes computed by hand.
#include "weights/slot_sizes.h"

#include <gtest/gtest.h>

#include <vector>

namespace mlxf::weights {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

Record record_of(std::vector<RecordExtent> extents) {
  Record record;
  record.extents = std::move(extents);
  return record;
}

TEST(SlotSizes, AreOfWholeBlocksAndTheWidestOfASize) {
  const std::vector<Record> records = {record_of({{0, 4096, 4096}}), record_of({{0, 4095, 4096}}),
                                       record_of({{0, 0, 100}, {0, 8190, 10}})};
  EXPECT_EQ(span_of(records[0]), 4096u);
  EXPECT_EQ(span_of(records[1]), 2 * 4096u);
  EXPECT_EQ(span_of(records[2]), 3 * 4096u);
  EXPECT_EQ(slot_sizes(records, false), (std::map<uint64_t, uint64_t>{{4096, 2 * 4096}, {110, 3 * 4096}}));
  EXPECT_EQ(slot_sizes(records, true), (std::map<uint64_t, uint64_t>{{0, 3 * 4096}}));
}

TEST(SlotSizes, ChunksWasteLittle) {
  EXPECT_EQ(choose_chunk(41 * kMiB, 82 * kMiB, 2 * kMiB), 42 * kMiB) << "one slot, where there are few";
  EXPECT_EQ(choose_chunk(3 * kMiB, 160 * kMiB, 2 * kMiB), 18 * kMiB) << "whole slots, up to an eighth of all";
  EXPECT_EQ(choose_chunk(kMiB, uint64_t{100} << 30, 2 * kMiB), 64 * kMiB);
}

}  // namespace
}  // namespace mlxf::weights
