#include "platform/huge_memory.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "platform/test_pages.h"

namespace mlxf::platform {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

TEST(HugeMemory, IsRoundedUpToHugePagesOrToSmallOnes) {
  EXPECT_EQ(HugeMemory::allocate(3 * kMiB)->bytes(), 4 * kMiB);
  EXPECT_EQ(HugeMemory::allocate_tight(3 * kMiB)->bytes(), 3 * kMiB);
  EXPECT_EQ(HugeMemory::allocate_tight(1)->bytes(), small_page_bytes());
  EXPECT_EQ(HugeMemory::allocate_tight(0)->data(), nullptr);
  EXPECT_EQ(HugeMemory::allocate(0)->data(), nullptr);
}

TEST(HugeMemory, GivesItsEndBack) {
  auto memory = HugeMemory::allocate_tight(8 * kMiB);
  ASSERT_TRUE(memory);
  memory->data()[3 * kMiB - 1] = 7;
  memory->shrink(9 * kMiB);
  EXPECT_EQ(memory->bytes(), 8 * kMiB);
  memory->shrink(3 * kMiB - 1);
  EXPECT_EQ(memory->bytes(), 3 * kMiB);
  EXPECT_EQ(memory->data()[3 * kMiB - 1], 7);
  memory->shrink(0);
  EXPECT_EQ(memory->data(), nullptr);
}

TEST(HugeMemory, IsTouchedAtOnceAndKeepsWhatItHolds) {
  const auto memory = HugeMemory::allocate_tight(7 * kMiB + small_page_bytes());
  ASSERT_TRUE(memory);
  const std::span<uint8_t> all(memory->data(), memory->bytes());
  EXPECT_EQ(testing::pages_of(all).there, 0U);
  all[5] = 9;
  touch(all.subspan(1));
  EXPECT_EQ(testing::pages_of(all).there, testing::pages_of(all).all);
  EXPECT_EQ(all[5], 9);
  EXPECT_TRUE(std::all_of(all.begin() + 6, all.end(), [](uint8_t byte) { return byte == 0; }));
  touch({});
}

TEST(HugeMemory, PagesThatAreLetGoOfComeBackZeroed) {
  const auto memory = HugeMemory::allocate_tight(4 * kMiB);
  ASSERT_TRUE(memory);
  std::fill_n(memory->data(), memory->bytes(), uint8_t{3});
  const uint64_t page = small_page_bytes();
  let_go({memory->data() + page, 2 * page});
  EXPECT_EQ(memory->data()[page - 1], 3);
  EXPECT_EQ(memory->data()[page], 0);
  EXPECT_EQ(memory->data()[3 * page - 1], 0);
  EXPECT_EQ(memory->data()[3 * page], 3);
}

}  // namespace
}  // namespace mlxf::platform
