#include "kv/marks.h"

#include <gtest/gtest.h>

#include <vector>

namespace mlxf::kv {
namespace {

std::vector<uint32_t> all(const Marks& marks) { return {marks.all().begin(), marks.all().end()}; }

TEST(Marks, AreInOrderWhateverTheOrderOfAdding) {
  Marks marks;
  EXPECT_EQ(marks.longest(UINT32_MAX), 0u);
  for (const uint32_t position : {512u, 64u, 1024u, 128u}) marks.add(position);
  EXPECT_EQ(all(marks), (std::vector<uint32_t>{64, 128, 512, 1024}));
  EXPECT_EQ(marks.longest(63), 0u);
  EXPECT_EQ(marks.longest(64), 64u);
  EXPECT_EQ(marks.longest(1000), 512u);
  marks.remove(128);
  EXPECT_FALSE(marks.contains(128));
  EXPECT_TRUE(marks.contains(512));
  marks.cut(512);
  EXPECT_EQ(all(marks), (std::vector<uint32_t>{64, 512}));
  marks.cut(0);
  EXPECT_TRUE(marks.all().empty());
}

// Few marks for any length: what has to be computed again is never more than three times the way from there to the end.
TEST(Marks, ThinOutWithTheDistanceFromTheEnd) {
  Marks marks;
  for (uint32_t position = 512; position <= 128 * 1024; position += 512) {
    if (marks.full()) marks.remove(marks.least_worth(position));
    marks.add(position);
    for (uint32_t length = 512; length <= position; length += 512)
      ASSERT_LE(length - marks.longest(length), 3 * (position - length) + 512)
          << length << " of " << position;
  }
  EXPECT_TRUE(marks.full());
  EXPECT_EQ(marks.longest(UINT32_MAX), 128u * 1024);
}

TEST(MarksDeathTest, AreNeverAddedTwiceNorRemovedWhereThereAreNone) {
  Marks marks;
  marks.add(64);
  EXPECT_DEATH(marks.add(64), "contains");
  EXPECT_DEATH(marks.remove(128), "end");
}

}  // namespace
}  // namespace mlxf::kv
