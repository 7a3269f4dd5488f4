#include "kv/sequence.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace mlxf::kv {
namespace {

constexpr PageShape kFull{2, 16, 32, 0};
constexpr PageShape kSliding{2, 16, 16, 100};

TEST(Sequence, GrowsByPageAndGivesEverythingBack) {
  PagePool pool;
  {
    const LayerShape layers[] = {kFull, kFull};
    Sequence sequence(pool, layers, 1000);
    EXPECT_EQ(sequence.bytes(), 0u);
    ASSERT_TRUE(sequence.reserve(1));
    sequence.advance(1);
    const uint64_t page = 2 * 2 * 64 * (16 + 32) * 2;
    EXPECT_EQ(sequence.bytes(), page);
    ASSERT_TRUE(sequence.reserve(63));
    sequence.advance(63);
    EXPECT_EQ(sequence.bytes(), page);
    ASSERT_TRUE(sequence.reserve(1));
    EXPECT_EQ(sequence.bytes(), 2 * page);
  }
  EXPECT_EQ(pool.free_bytes(), pool.bytes());
}

TEST(Sequence, F32TakesTwiceTheBytes) {
  PagePool pool;
  const LayerShape layers[] = {kFull};
  Sequence half(pool, layers, 100), single(pool, layers, 100, Element::kF32);
  ASSERT_TRUE(half.reserve(1) && single.reserve(1));
  EXPECT_EQ(single.bytes(), 2 * half.bytes());
}

TEST(Sequence, LatentsAreOneRowPerPosition) {
  PagePool pool;
  const LayerShape layers[] = {LatentShape{576}, kFull};
  const LayerShape latent[] = {LatentShape{576}};
  Sequence both(pool, layers, 1000), sequence(pool, latent, 1000);
  EXPECT_EQ(sequence.missing_bytes(65), 2u * 64 * 576 * 2);
  ASSERT_TRUE(sequence.reserve(65) && both.reserve(65));
  sequence.advance(65);
  EXPECT_EQ(sequence.bytes(), 2u * 64 * 576 * 2);
  EXPECT_EQ(sequence.latents(0).row<uint16_t>(64), sequence.latents(0).pages()[1]);
  EXPECT_EQ(sequence.latents(0).row<uint16_t>(3) - sequence.latents(0).row<uint16_t>(2), 576);
  ASSERT_TRUE(sequence.truncate(64)) << "nothing is forgotten";
  EXPECT_EQ(sequence.bytes(), 64u * 576 * 2);
  ASSERT_TRUE(sequence.truncate(0));
  EXPECT_EQ(sequence.bytes(), 0u);
}

TEST(Sequence, AFullContextChangesNothing) {
  PagePool pool;
  const LayerShape layers[] = {kFull};
  Sequence sequence(pool, layers, 10);
  ASSERT_TRUE(sequence.reserve(10));
  sequence.advance(10);
  const auto status = sequence.reserve(1);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(sequence.length(), 10u);
}

TEST(Sequence, SlidingLayersGivePagesBackAndRefuseToGoTooFarBack) {
  PagePool pool;
  const LayerShape layers[] = {kSliding};
  Sequence sequence(pool, layers, 100000);
  ASSERT_TRUE(sequence.fill(5000));
  EXPECT_EQ(sequence.length(), 5000u);
  // The window, what a rollback needs, and the two pages that they may share with others.
  EXPECT_LE(sequence.bytes(), ((100 + kRollbackPositions) / 64 + 2) * 2u * 64 * 32 * 2);
  EXPECT_TRUE(sequence.truncate(5000 - kRollbackPositions));
  EXPECT_FALSE(sequence.truncate(1000));
}

TEST(Sequence, KeysAreColumnsAndValuesRows) {
  PagePool pool;
  const LayerShape layers[] = {kFull};
  Sequence sequence(pool, layers, 200);
  ASSERT_TRUE(sequence.reserve(70));
  EXPECT_EQ(sequence.pages(0).key<uint16_t>(65), sequence.pages(0).key_pages()[1] + 1);
  EXPECT_EQ(sequence.pages(0).value<uint16_t>(65), sequence.pages(0).value_pages()[1] + 32);
}

TEST(Sequence, NeverHoldsMoreThanItSaysBeforehand) {
  PagePool pool;
  const LayerShape layers[] = {kFull, kSliding, PageShape{1, 16, 16, 0, 256}, PageShape{1, 16, 16, 300, 256}};
  for (const uint32_t chunk : {1u, 7u, 64u, 200u}) {
    Sequence sequence(pool, layers, 2000);
    uint64_t most = 0;
    while (sequence.length() + chunk <= 1000) {
      ASSERT_TRUE(sequence.reserve(chunk));
      most = std::max(most, sequence.bytes());
      EXPECT_LE(most, Sequence::bytes_max(layers, Element::kF16, sequence.length() + chunk, chunk));
      sequence.advance(chunk);
    }
    EXPECT_GT(most, Sequence::bytes_max(layers, Element::kF16, 1000, chunk) / 2);
  }
}

}  // namespace
}  // namespace mlxf::kv
