#include "kv/page_pool.h"

#include <gtest/gtest.h>

#include <vector>

namespace mlxf::kv {
namespace {

TEST(PagePool, HoldsWhatWasOnceInUseTogether) {
  PagePool pool;
  constexpr uint64_t kSmall = 4096, kLarge = 3 * 4096;
  std::vector<uint16_t*> small, large;
  for (int i = 0; i < 8; ++i) small.push_back(pool.take(kSmall));
  for (uint16_t* page : small) pool.give_back(page, kSmall);
  EXPECT_EQ(pool.bytes(), 8 * kSmall);
  EXPECT_EQ(pool.free_bytes(), 8 * kSmall);
  for (int i = 0; i < 2; ++i) large.push_back(pool.take(kLarge));
  EXPECT_EQ(pool.bytes(), 2 * kSmall + 2 * kLarge);  // Six small pages became two large ones.
  EXPECT_EQ(pool.free_bytes(), 2 * kSmall);
  for (uint16_t* page : large) pool.give_back(page, kLarge);
  small.clear();
  for (int i = 0; i < 3; ++i) small.push_back(pool.take(kSmall));  // Two kept ones and a new one.
  EXPECT_EQ(pool.bytes(), 3 * kSmall + kLarge);
  EXPECT_EQ(pool.free_bytes(), kLarge);
  for (uint16_t* page : small) pool.give_back(page, kSmall);
  EXPECT_EQ(pool.free_bytes(), pool.bytes());
}

TEST(PagePool, GivesTheSamePageAgainAndNewOnesZeroed) {
  PagePool pool;
  uint16_t* page = pool.take(128);
  for (int i = 0; i < 64; ++i) ASSERT_EQ(page[i], 0);
  pool.give_back(page, 128);
  EXPECT_EQ(pool.take(128), page);
  EXPECT_EQ(pool.bytes(), 128U);
  pool.give_back(page, 128);
}

}  // namespace
}  // namespace mlxf::kv
