#include "memory/ledger.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <random>
#include <thread>
#include <vector>

namespace mlxf::memory {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kGiB = uint64_t{1} << 30;

Reservation take(Ledger& ledger, Tag tag, uint64_t bytes) {
  auto taken = ledger.reserve(tag, bytes);
  EXPECT_TRUE(taken) << taken.error().message;
  return taken ? std::move(*taken) : Reservation{};
}

TEST(Ledger, ChargesUntilTheReservationEnds) {
  Ledger ledger(10 * kGiB);
  {
    const Reservation weights = take(ledger, Tag::kWeights, 4 * kGiB);
    const Reservation kv = take(ledger, Tag::kKv, kGiB);
    EXPECT_EQ(ledger.snapshot().held(Tag::kWeights), 4 * kGiB);
    EXPECT_EQ(ledger.snapshot().held(Tag::kKv), kGiB);
    EXPECT_EQ(ledger.snapshot().held_bytes, 5 * kGiB);
    EXPECT_EQ(ledger.room(), 5 * kGiB);
    EXPECT_EQ(ledger.over(), 0U);
  }
  EXPECT_EQ(ledger.snapshot().held_bytes, 0U);
  EXPECT_EQ(ledger.snapshot().held_bytes_max, 5 * kGiB);
}

TEST(Ledger, RefusesWithTheWholeAccount) {
  Ledger ledger(8 * kGiB);
  const Reservation weights = take(ledger, Tag::kWeights, 5 * kGiB);
  const Reservation slots = take(ledger, Tag::kSlots, 2 * kGiB);
  const auto refused = ledger.reserve(Tag::kKv, 2 * kGiB);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kOutOfBudget);
  EXPECT_EQ(
      refused.error().message,
      "2 GiB for kv do not fit into the memory budget of 8 GiB: 7 GiB held (weights 5 GiB, slots 2 GiB); a "
      "larger --memory-budget, or less context, makes room");
  EXPECT_EQ(ledger.snapshot().held_bytes, 7 * kGiB);
  EXPECT_EQ(ledger.snapshot().refusals, 1U);
  const Reservation exactly = take(ledger, Tag::kKv, kGiB);
  EXPECT_EQ(ledger.room(), 0U);
  EXPECT_FALSE(ledger.reserve(Tag::kScratch, 1));
  EXPECT_TRUE(ledger.reserve(Tag::kScratch, 0));
}

TEST(Ledger, RefusesSumsThatDoNotFitANumber) {
  Ledger ledger(~uint64_t{0});
  const Reservation one = take(ledger, Tag::kKv, 1);
  EXPECT_FALSE(ledger.reserve(Tag::kKv, ~uint64_t{0}));
  EXPECT_EQ(ledger.snapshot().held_bytes, 1U);
}

TEST(Ledger, ABudgetBelowWhatIsHeldIsReportedAndBlocks) {
  Ledger ledger(4 * kGiB);
  Reservation slots = take(ledger, Tag::kSlots, 3 * kGiB);
  ledger.set_budget(2 * kGiB);
  EXPECT_EQ(ledger.budget(), 2 * kGiB);
  EXPECT_EQ(ledger.over(), kGiB);
  EXPECT_EQ(ledger.room(), 0U);
  EXPECT_FALSE(ledger.reserve(Tag::kKv, 1));
  ASSERT_TRUE(slots.resize(2 * kGiB + kMiB));  // Shrinking is allowed though it does not suffice.
  EXPECT_EQ(ledger.over(), kMiB);
  ASSERT_TRUE(slots.resize(kGiB));
  EXPECT_EQ(ledger.over(), 0U);
  EXPECT_TRUE(ledger.reserve(Tag::kKv, kGiB));
}

TEST(Ledger, WhatIsHeldAnywayIsNeverRefused) {
  Ledger ledger(kMiB);
  const Reservation process = ledger.hold(Tag::kProcess, 3 * kMiB);
  EXPECT_EQ(ledger.over(), 2 * kMiB);
  EXPECT_EQ(ledger.snapshot().held(Tag::kProcess), 3 * kMiB);
  EXPECT_FALSE(ledger.reserve(Tag::kKv, 1));
}

TEST(Reservation, ResizeThatDoesNotFitChangesNothing) {
  Ledger ledger(kGiB);
  Reservation kv = take(ledger, Tag::kKv, 100);
  ASSERT_TRUE(kv.resize(kGiB));
  const Status refused = kv.resize(kGiB + 1);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, AllOf(HasSubstr("1 bytes for kv"), Not(HasSubstr("weights"))));
  EXPECT_EQ(kv.bytes(), kGiB);
  EXPECT_EQ(ledger.snapshot().held_bytes, kGiB);
}

TEST(Reservation, MovesWithItsCharge) {
  Ledger ledger(kGiB);
  Reservation a = take(ledger, Tag::kKv, 100);
  Reservation b = std::move(a);
  EXPECT_EQ(ledger.snapshot().held_bytes, 100U);
  Reservation c = take(ledger, Tag::kPrefix, 7);
  c = std::move(b);
  EXPECT_EQ(c.tag(), Tag::kKv);
  EXPECT_EQ(ledger.snapshot().held(Tag::kPrefix), 0U);
  EXPECT_EQ(ledger.snapshot().held_bytes, 100U);
  Reservation& same = c;
  c = std::move(same);
  EXPECT_EQ(c.bytes(), 100U);
  c.release();
  c.release();
  EXPECT_EQ(ledger.snapshot().held_bytes, 0U);
}

TEST(LedgerDeathTest, OutlivesItsReservations) {
  EXPECT_DEATH(
      {
        Reservation left;
        Ledger ledger(kGiB);
        left = take(ledger, Tag::kKv, 1);
      },
      "held_bytes == 0");
}

TEST(Ledger, ThreadsNeverOverdraw) {
  static constexpr uint64_t kBudget = 1000;
  Ledger ledger(kBudget);
  std::vector<std::thread> threads;
  for (uint32_t seed = 1; seed <= 4; ++seed)
    threads.emplace_back([&ledger, seed] {
      std::mt19937 random(seed);
      std::vector<Reservation> mine;
      for (int i = 0; i < 5000; ++i) {
        const auto tag = static_cast<Tag>(random() % kTagCount);
        const uint32_t what = random() % 4;
        if (what == 0 && !mine.empty()) {
          mine.erase(mine.begin() + random() % static_cast<uint32_t>(mine.size()));
        } else if (what == 1 && !mine.empty()) {
          (void)mine[random() % mine.size()].resize(random() % 200);
        } else if (auto taken = ledger.reserve(tag, random() % 200)) {
          mine.push_back(std::move(*taken));
        }
        const LedgerSnapshot account = ledger.snapshot();
        ASSERT_LE(account.held_bytes, kBudget);
        ASSERT_EQ(account.held_bytes,
                  std::accumulate(account.by_tag.begin(), account.by_tag.end(), uint64_t{0}));
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(ledger.snapshot().held_bytes, 0U);
  EXPECT_GT(ledger.snapshot().refusals, 0U);
  EXPECT_GT(ledger.snapshot().held_bytes_max, kBudget * 9 / 10);
}

}  // namespace
}  // namespace mlxf::memory
