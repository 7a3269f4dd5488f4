#include "kv/page_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
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

TEST(PagePool, ARunIsWhatNoFreePageServesInTheOrderOfTaking) {
  const uint64_t small = platform::small_page_bytes(), large = 3 * small;
  PagePool pool;
  uint16_t* const kept = pool.take(small);
  kept[0] = 7;
  pool.give_back(kept, small);
  pool.begin_run(2 * small + 2 * large);
  EXPECT_EQ(pool.take(small), kept) << "it has been touched already";
  std::vector<uint16_t*> pages;
  for (const uint64_t bytes : {small, large, small}) pages.push_back(pool.take(bytes));
  uint16_t* const odd = pool.take(100);
  const std::span<uint8_t> run = pool.end_run();
  EXPECT_EQ(run.size(), 2 * small + large);
  EXPECT_EQ(static_cast<void*>(pages[0]), run.data());
  EXPECT_EQ(static_cast<void*>(pages[1]), run.data() + small);
  EXPECT_EQ(static_cast<void*>(pages[2]), run.data() + small + large);
  EXPECT_TRUE(std::all_of(run.begin(), run.end(), [](uint8_t byte) { return byte == 0; }));
  EXPECT_EQ(pool.bytes(), 3 * small + large + 100);
  EXPECT_EQ(pool.free_bytes(), 0u);
  uint16_t* const single = pool.take(small);
  EXPECT_TRUE(static_cast<void*>(single) < run.data() ||
              static_cast<void*>(single) >= run.data() + run.size());
  EXPECT_EQ(pool.bytes(), 4 * small + large + 100);
  pool.begin_run(small);
  EXPECT_TRUE(pool.end_run().empty());
  pool.give_back(odd, 100);
  pool.give_back(pages[1], large);
  EXPECT_EQ(pool.take(large), pages[1]) << "a page as any other";
  pool.give_back(pages[1], large);
  for (uint16_t* page : {kept, pages[0], pages[2], single}) pool.give_back(page, small);
  EXPECT_EQ(pool.free_bytes(), pool.bytes());
}

TEST(PagePool, ARunsPagesGoBackToTheSystemOneByOne) {
  const uint64_t small = platform::small_page_bytes(), large = 4 * small;
  PagePool pool;
  std::vector<uint16_t*> pages;
  const auto take_run = [&](uint64_t bytes, int count) {
    pool.begin_run(count * bytes);
    for (int i = 0; i < count; ++i) pages.push_back(pool.take(bytes));
    const std::span<uint8_t> run = pool.end_run();
    std::fill(run.begin(), run.end(), uint8_t{1});
    return run;
  };
  take_run(small, 8);
  pages[7][0] = 77;
  for (int i = 0; i < 6; ++i) pool.give_back(pages[static_cast<size_t>(i)], small);
  uint16_t* const single = pool.take(large);  // Four of the six had to go for it,
  EXPECT_EQ(pool.bytes(), 4 * small + large);
  EXPECT_EQ(pool.free_bytes(), 2 * small);
  pool.give_back(single, large);
  EXPECT_EQ(pages[7][0], 77) << "and none that is in use.";
  const std::vector<uint16_t*> first = {pages[6], pages[7]};
  pages.clear();
  const std::span<uint8_t> run = take_run(2 * small, 2);  // Whatever is free goes for a run.
  EXPECT_EQ(run.size(), 4 * small);
  EXPECT_EQ(pool.bytes(), 2 * small + 4 * small + pool.free_bytes());
  EXPECT_LE(pool.free_bytes(), large);
  for (uint16_t* page : first) pool.give_back(page, small);
  uint16_t* const huge = pool.take(100 * small);  // The rest of the first run goes, and with it its mapping.
  EXPECT_EQ(pool.bytes(), 4 * small + 100 * small);
  EXPECT_EQ(pool.free_bytes(), 0u);
  pool.give_back(huge, 100 * small);
  for (uint16_t* page : pages) pool.give_back(page, 2 * small);
  EXPECT_EQ(pool.free_bytes(), pool.bytes());
}

TEST(PagePool, ARunThatIsTooShortTakesNoMore) {
  const uint64_t small = platform::small_page_bytes();
  PagePool pool;
  pool.begin_run(2 * small);
  std::vector<uint16_t*> pages;
  for (int i = 0; i < 4; ++i) pages.push_back(pool.take(small));
  EXPECT_EQ(pool.end_run().size(), 2 * small);
  EXPECT_EQ(pool.bytes(), 4 * small);
  for (uint16_t* page : pages) pool.give_back(page, small);
}

TEST(PagePool, ASharedPageLiesFreeOnceAllHaveGivenItBack) {
  PagePool pool;
  uint16_t* const page = pool.take(128);
  EXPECT_FALSE(pool.shared(page));
  EXPECT_EQ(pool.unshared(page, 128), page);
  pool.share(page);
  pool.share(page);
  EXPECT_TRUE(pool.shared(page));
  EXPECT_EQ(pool.shared_pages(), 1u);
  EXPECT_EQ(pool.bytes(), 128u);
  page[5] = 55;
  uint16_t* const copy = pool.unshared(page, 128);
  EXPECT_NE(copy, page);
  EXPECT_EQ(copy[5], 55);
  EXPECT_EQ(pool.bytes(), 256u);
  pool.give_back(page, 128);
  EXPECT_EQ(pool.free_bytes(), 0u) << "one still holds it,";
  EXPECT_FALSE(pool.shared(page)) << "alone";
  EXPECT_EQ(pool.shared_pages(), 0u);
  pool.give_back(page, 128);
  EXPECT_EQ(pool.free_bytes(), 128u);
  pool.give_back(copy, 128);
}

TEST(PagePool, HoldsNoMoreThanItMay) {
  PagePool pool(300);
  uint16_t* const page = pool.take(128);
  pool.share(page);
  uint16_t* const other = pool.take(128);
  EXPECT_EQ(pool.take(128), nullptr);
  EXPECT_EQ(pool.unshared(page, 128), nullptr);
  EXPECT_TRUE(pool.shared(page));
  pool.give_back(other, 128);
  EXPECT_EQ(pool.unshared(page, 128), other);
  pool.give_back(page, 128);
  pool.give_back(other, 128);
  uint16_t* const large = pool.take(300);
  ASSERT_NE(large, nullptr) << "the small ones went for it";
  EXPECT_EQ(pool.bytes(), 300u);
  pool.give_back(large, 300);
}

}  // namespace
}  // namespace mlxf::kv
