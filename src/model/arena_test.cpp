#include "model/arena.h"

#include <gtest/gtest.h>

#include "compute/aligned_buffer.h"

namespace mlxf::model {
namespace {

struct Placed {
  float* first;
  double* small;
  double* large;
  uint8_t* last;
};

// Two users that take turns between two that do not.
Placed place(Arena& arena) {
  Placed placed{};
  placed.first = arena.take<float>(3);
  Arena turn = arena;
  placed.large = turn.take<double>(20);
  placed.small = arena.take<double>(1);
  arena.cover(turn);
  placed.last = arena.take<uint8_t>(1);
  return placed;
}

TEST(Arena, CountsWithoutMemoryWhatItLaysOutWithIt) {
  Arena size;
  EXPECT_EQ(place(size).last, nullptr);
  EXPECT_EQ(size.bytes(), 64u + 192 + 64);
  compute::AlignedBuffer memory;
  uint8_t* const base = memory.at_least(size.bytes());
  Arena arena(base);
  const Placed placed = place(arena);
  EXPECT_EQ(arena.bytes(), size.bytes());
  EXPECT_EQ(reinterpret_cast<uint8_t*>(placed.first), base);
  EXPECT_EQ(placed.small, placed.large) << "they take turns";
  EXPECT_EQ(reinterpret_cast<uint8_t*>(placed.large), base + 64);
  EXPECT_EQ(placed.last, base + 64 + 192) << "behind the longer of the two";
}

}  // namespace
}  // namespace mlxf::model
