#include "kv/recurrent.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "kv/sequence.h"

namespace mlxf::kv {
namespace {

constexpr RecurrentShape kShape{5};

// A stand-in for the block: a state of one number, the sum of all positions so far, one by one.
void run(Recurrent& cache, uint32_t length, uint32_t end) {
  for (const Recurrent::Step& step : cache.begin(end)) {
    float sum = step.from[0];
    for (; length < step.end; ++length) sum += static_cast<float>(length + 1);
    step.to[0] = sum;
  }
}
float sum_of(uint32_t length) { return static_cast<float>(length * (length + 1) / 2); }
// What a pass would begin with.
float current(Recurrent& cache, uint32_t length) { return cache.begin(length + 1).front().from[0]; }

TEST(Recurrent, GoesBackToBordersWhateverTheChunks) {
  for (const uint32_t chunk : {1u, 7u, 64u, 100u, 128u, 500u}) {
    PagePool pool;
    Recurrent cache(pool, kShape, Element::kF16);
    ASSERT_TRUE(cache.grow(500));
    for (uint32_t length = 0; length < 500;) {
      const uint32_t end = std::min(500u, length + chunk);
      run(cache, length, end);
      cache.advance(end);
      length = end;
      ASSERT_EQ(cache.truncatable(length), length);
      ASSERT_EQ(current(cache, length), sum_of(length));
      // Every length that is a rollback away has its border.
      for (uint32_t back = length > kRollbackPositions ? length - kRollbackPositions : 0; back < length;
           ++back)
        ASSERT_EQ(cache.truncatable(back), back / kStateBlock * kStateBlock) << length << " chunk " << chunk;
    }
    cache.truncate(cache.truncatable(450));
    EXPECT_EQ(current(cache, 448), sum_of(448));
    run(cache, 448, 470);
    cache.advance(470);
    EXPECT_EQ(current(cache, 470), sum_of(470));
    EXPECT_EQ(cache.truncatable(469), 448u);
    EXPECT_EQ(cache.truncatable(447), 384u);
    EXPECT_EQ(cache.truncatable(383), 0u) << "a border too far back is no longer kept";
    cache.truncate(0);
    EXPECT_EQ(cache.bytes(), 0u);
    ASSERT_TRUE(cache.grow(1));
    EXPECT_EQ(current(cache, 0), 0.0f) << "memory that comes back is cleared";
  }
}

// A pass that begins at a border and writes two others: the first is one too many, for those that copy as well.
TEST(Recurrent, KeepsNoMoreBordersThanItNames) {
  PagePool pool;
  Recurrent cache(pool, kShape, Element::kF16), copy(pool, kShape, Element::kF16);
  ASSERT_TRUE(cache.grow(500));
  uint32_t length = 0;
  for (const uint32_t end : {64u, 200u}) {
    run(cache, length, end);
    cache.advance(end);
    length = end;
  }
  EXPECT_EQ(cache.truncatable(191), 128u);
  EXPECT_EQ(cache.truncatable(127), 0u);
  Words layout;
  cache.add_layout(layout);
  EXPECT_EQ(layout, (Words{3, 128, 192, 200}));
  std::span<const uint32_t> words(layout);
  ASSERT_TRUE(copy.restore(200, Marks(), words));
  for (uint32_t back = 0; back <= 200; ++back)
    EXPECT_EQ(copy.truncatable(back), cache.truncatable(back)) << back;
}

TEST(Recurrent, APassThatFailsChangesNothing) {
  PagePool pool;
  Recurrent cache(pool, kShape, Element::kF16);
  ASSERT_TRUE(cache.grow(1000));
  run(cache, 0, 200);
  cache.advance(200);
  for (const uint32_t end : {201u, 230u, 256u}) run(cache, 200, end);  // And never advances.
  EXPECT_EQ(current(cache, 200), sum_of(200));
  EXPECT_EQ(cache.truncatable(199), 192u);
  run(cache, 200, 1000);
  EXPECT_EQ(cache.truncatable(199), 0u) << "a pass that goes far makes room for its own borders";
  EXPECT_EQ(current(cache, 200), sum_of(200));
  run(cache, 200, 330);
  cache.advance(330);
  EXPECT_EQ(current(cache, 330), sum_of(330));
  cache.truncate(cache.truncatable(270));
  EXPECT_EQ(current(cache, 256), sum_of(256));
}

TEST(Recurrent, TakesTheSameBytesAtAnyLengthAndGivesThemBack) {
  PagePool pool;
  {
    const LayerShape layers[] = {kShape, PageShape{1, 16, 16, 0}};
    Sequence sequence(pool, layers, 1000);
    const uint64_t state = RecurrentShape::kStates * kShape.state_bytes(), page = 2 * 64 * 16 * 2;
    EXPECT_EQ(sequence.missing_bytes(1), state + page);
    ASSERT_TRUE(sequence.fill(1000));
    EXPECT_EQ(sequence.bytes(), state + 16 * page);
    EXPECT_EQ(kShape.bytes(1, Element::kF16), kShape.bytes(1000, Element::kF32));
    EXPECT_EQ(sequence.truncatable(999), 0u) << "what fill() wrote has no borders";
    const auto refused = sequence.truncate(999);
    ASSERT_FALSE(refused);
    EXPECT_NE(refused.error().message.find("go back to 0"), std::string::npos) << refused.error().message;
    EXPECT_EQ(sequence.length(), 1000u);
    ASSERT_TRUE(sequence.truncate(0));
    EXPECT_EQ(sequence.bytes(), 0u);
    EXPECT_FALSE(sequence.reserve(1001));
    EXPECT_EQ(sequence.bytes(), 0u);
  }
  EXPECT_EQ(pool.free_bytes(), pool.bytes());
}

}  // namespace
}  // namespace mlxf::kv
