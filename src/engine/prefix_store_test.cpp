#include "engine/prefix_store.h"

#include <gtest/gtest.h>

#include <numeric>

namespace mlxf::engine {
namespace {

// Entries of a model with one layer: 64 positions are a page of 64 * (16 + 16) * 2 bytes.
class PrefixStoreTest : public testing::Test {
 protected:
  static constexpr uint64_t kPage = 64 * 32 * 2;
  static std::vector<TokenId> tokens(uint32_t count, TokenId first = 0) {
    std::vector<TokenId> ids(count);
    std::iota(ids.begin(), ids.end(), first);
    return ids;
  }
  std::unique_ptr<kv::Sequence> sequence(uint32_t length, uint32_t window = 0) {
    const kv::LayerShape shape = kv::PageShape{1, 16, 16, window};
    auto s = std::make_unique<kv::Sequence>(pool_, std::span(&shape, 1), 4096);
    EXPECT_TRUE(s->reserve(length));
    s->advance(length);
    return s;
  }
  void keep(PrefixStore& store, const std::vector<TokenId>& ids, const std::string& user = "a") {
    store.keep(user, ids, sequence(static_cast<uint32_t>(ids.size())));
  }

  static std::unique_ptr<kv::Sequence> take(PrefixStore& store, const std::string& user,
                                            const std::vector<TokenId>& prompt) {
    const auto match = store.find(user, prompt);
    return match ? store.take(*match) : nullptr;
  }

  kv::PagePool pool_;
  memory::Ledger ledger_{100 * kPage};
};

TEST_F(PrefixStoreTest, GivesTheLongestBeginningAndLeavesTheLastToken) {
  PrefixStore store(ledger_, 100 * kPage);
  keep(store, tokens(100));
  keep(store, tokens(60, 1000));
  std::vector<TokenId> prompt = tokens(90);
  auto taken = take(store, "a", prompt);
  ASSERT_TRUE(taken);
  EXPECT_EQ(taken->length(), 89u);
  EXPECT_EQ(store.entries(), 1u);
  EXPECT_FALSE(take(store, "a", prompt)) << "it serves one at a time";
  EXPECT_EQ(ledger_.snapshot().held(memory::Tag::kPrefix), kPage);
}

TEST_F(PrefixStoreTest, KeepsUsersApartAndLongEntriesWhole) {
  PrefixStore store(ledger_, 100 * kPage);
  keep(store, tokens(200), "a");
  EXPECT_FALSE(take(store, "b", tokens(200)));
  std::vector<TokenId> prompt = tokens(99);
  prompt.push_back(-1);
  prompt.push_back(-2);
  const auto part = store.find("a", prompt);
  ASSERT_TRUE(part);
  EXPECT_EQ(part->tokens, 99u);
  EXPECT_EQ(part->part, PrefixStore::Part::kLess) << "it would lose more than half";
  EXPECT_FALSE(take(store, "a", tokens(10))) << "not worth it";
  EXPECT_TRUE(take(store, "a", tokens(200)));
}

TEST_F(PrefixStoreTest, SharesABeginningAndKeepsTheEntry) {
  PrefixStore store(ledger_, 100 * kPage);
  keep(store, tokens(1000));
  keep(store, tokens(100, 5000));
  std::vector<TokenId> prompt = tokens(130);
  prompt.push_back(-1);
  for (int branch = 0; branch < 3; ++branch) {
    const auto match = store.find("a", prompt);
    ASSERT_TRUE(match);
    auto shared = sequence(0);
    ASSERT_TRUE(store.share(*match, *shared));
    EXPECT_EQ(shared->length(), 130u);
    ASSERT_TRUE(shared->reserve(70));
    shared->advance(70);
    std::vector<TokenId> branched = tokens(130);
    branched.resize(200, -1 - branch);
    store.keep("a", branched, std::move(shared));
  }
  EXPECT_EQ(store.entries(), 5u);
  EXPECT_EQ(pool_.bytes() - pool_.free_bytes(), (16 + 2 + 3 * 2) * kPage) << "two pages are of all";
  EXPECT_EQ(store.bytes(), (16 + 2 + 3 * 4) * kPage) << "and charged to each";
  // It was used by that: what was not leaves first.
  ASSERT_EQ(store.make_room(ledger_.room() + 1), PrefixStore::Room::kNow);
  EXPECT_FALSE(store.find("a", tokens(90, 5000)));
  EXPECT_EQ(store.find("a", tokens(1000))->tokens, 999u);
  while (store.entries() > 0) ASSERT_EQ(store.make_room(ledger_.room() + 1), PrefixStore::Room::kNow);
  EXPECT_EQ(pool_.shared_pages(), 0u);
  EXPECT_EQ(pool_.bytes(), pool_.free_bytes());
}

// Each is charged in full, and what is charged twice is room: in the ledger and under the cap.
TEST_F(PrefixStoreTest, WhatIsSharedCountsOnce) {
  memory::Ledger ledger(20 * kPage);
  PrefixStore store(ledger, 20 * kPage, nullptr, [this] { return pool_.doubled_bytes(); });
  keep(store, tokens(640));  // 10 pages.
  for (int branch = 0; branch < 5; ++branch) {
    std::vector<TokenId> branched = tokens(576);
    branched.push_back(-1);
    const auto match = store.find("a", branched);
    ASSERT_TRUE(match);
    auto shared = sequence(0);
    ASSERT_TRUE(store.share(*match, *shared));
    ASSERT_TRUE(shared->reserve(64));
    shared->advance(64);
    branched.resize(640, -1 - branch);
    store.keep("a", branched, std::move(shared));
    store.settle();
    EXPECT_EQ(store.entries(), 2u + static_cast<uint32_t>(branch));
    EXPECT_EQ(ledger.room(), 20 * kPage - (pool_.bytes() - pool_.free_bytes())) << "what nobody holds";
  }
  EXPECT_EQ(store.bytes(), 60 * kPage);
  EXPECT_EQ(pool_.bytes() - pool_.free_bytes(), 15 * kPage);
  // One that leaves gives its own page.
  EXPECT_EQ(store.make_room(6 * kPage), PrefixStore::Room::kNow);
  EXPECT_EQ(store.entries(), 5u);
  // Another one takes the place of what is charged with more than it holds alone.
  keep(store, tokens(64 * 15, 5000));
  EXPECT_TRUE(store.find("a", tokens(64 * 15, 5000)));
  EXPECT_LE(pool_.bytes() - pool_.free_bytes(), 20 * kPage);
  store.clear();
  store.settle();
  EXPECT_EQ(ledger.room(), 20 * kPage);
  EXPECT_EQ(pool_.doubled_bytes(), 0u);
}

TEST_F(PrefixStoreTest, OfEqualBeginningsTheOneThatLosesLeastIsGiven) {
  PrefixStore store(ledger_, 100 * kPage);
  std::vector<TokenId> prompt = tokens(100), half = tokens(100), most = tokens(100), other = tokens(100);
  half.resize(150, -1);
  most.resize(110, -2);
  other.resize(300, -3);
  for (const auto& ids : {half, most, other}) keep(store, ids);
  prompt.resize(200, -9);
  const auto match = store.find("a", prompt);
  ASSERT_TRUE(match);
  EXPECT_EQ(match->part, PrefixStore::Part::kAll) << "ten tokens are not worth an entry";
  EXPECT_TRUE(store.take(*match));
  ASSERT_TRUE(store.find("a", prompt));
  EXPECT_EQ(store.find("a", prompt)->part, PrefixStore::Part::kMost);
}

TEST_F(PrefixStoreTest, WhatAnEntryHoldsIsNotKeptTwice) {
  PrefixStore store(ledger_, 100 * kPage);
  keep(store, tokens(300));
  keep(store, tokens(100, 5000));
  keep(store, tokens(200));
  EXPECT_EQ(store.entries(), 2u);
  EXPECT_EQ(store.bytes(), 7 * kPage);
  ASSERT_EQ(store.make_room(ledger_.room() + 1), PrefixStore::Room::kNow);
  EXPECT_TRUE(store.find("a", tokens(300))) << "it was used by that";
  // One that cannot go back does not hold it.
  store.keep("a", tokens(500, 20000), sequence(500, 64));
  store.keep("a", tokens(200, 20000), sequence(200, 64));
  EXPECT_EQ(store.entries(), 3u);
}

TEST_F(PrefixStoreTest, WhatAnotherNearlyHoldsLeavesFirst) {
  PrefixStore store(ledger_, 100 * kPage);
  keep(store, tokens(300, 9000));
  std::vector<TokenId> first = tokens(500), second = tokens(420), third = tokens(300);
  second.resize(500, -1);
  third.resize(500, -2);
  for (const auto& ids : {first, second, third}) keep(store, ids);
  keep(store, second, "b");
  ASSERT_EQ(store.make_room(ledger_.room() + 1), PrefixStore::Room::kNow);
  EXPECT_EQ(store.find("a", first)->tokens, 420u) << "the first branch";
  EXPECT_TRUE(store.find("a", tokens(300, 9000)));
  ASSERT_EQ(store.make_room(ledger_.room() + 1), PrefixStore::Room::kNow);
  EXPECT_FALSE(store.find("a", tokens(300, 9000))) << "then the oldest";
  EXPECT_EQ(store.find("a", third)->tokens, 499u);
}

TEST_F(PrefixStoreTest, AnEntryReplacesThoseThatItHolds) {
  PrefixStore store(ledger_, 100 * kPage);
  keep(store, tokens(100));
  keep(store, tokens(300));
  EXPECT_EQ(store.entries(), 1u);
  EXPECT_EQ(store.bytes(), 5 * kPage);
}

TEST_F(PrefixStoreTest, TheOldestLeavesFirstAndTheCapHoldsForOneTooLarge) {
  PrefixStore store(ledger_, 4 * kPage);
  keep(store, tokens(128, 0));
  keep(store, tokens(128, 5000));
  keep(store, tokens(128, 9000));
  EXPECT_EQ(store.entries(), 2u);
  EXPECT_FALSE(take(store, "a", tokens(200, 0)));
  keep(store, tokens(64 * 5, 20000));
  EXPECT_FALSE(take(store, "a", tokens(400, 20000)));
  EXPECT_EQ(store.bytes(), 4 * kPage) << "and those that fit stay";
  EXPECT_EQ(store.make_room(ledger_.room() + 1), PrefixStore::Room::kNow);
  EXPECT_FALSE(take(store, "a", tokens(200, 5000)));
  EXPECT_TRUE(take(store, "a", tokens(200, 9000)));
  EXPECT_EQ(store.make_room(ledger_.room() + 1), PrefixStore::Room::kNone);
  EXPECT_EQ(ledger_.snapshot().held_bytes, 0u);
}

TEST_F(PrefixStoreTest, AShorterMatchDoesWhereASlidingLayerCannotGoBack) {
  PrefixStore store(ledger_, 100 * kPage);
  // Shares 300 with the prompt, but its window ended up far beyond.
  std::vector<TokenId> far = tokens(300);
  for (TokenId i = 0; i < 250; ++i) far.push_back(-1 - i);
  store.keep("a", far, sequence(550, 64));
  EXPECT_FALSE(take(store, "a", tokens(400)));
  store.keep("a", tokens(200), sequence(200, 64));
  const auto taken = take(store, "a", tokens(400));
  ASSERT_TRUE(taken);
  EXPECT_EQ(taken->length(), 200u);
}

TEST_F(PrefixStoreTest, ARecurrentStateGoesBackToABorder) {
  PrefixStore store(ledger_, 100 * kPage);
  const kv::LayerShape shape = kv::RecurrentShape{16};
  auto sequence = std::make_unique<kv::Sequence>(pool_, std::span(&shape, 1), 4096);
  ASSERT_TRUE(sequence->reserve(200));
  (void)sequence->recurrent(0).begin(200);
  sequence->advance(200);
  store.keep("a", tokens(200), std::move(sequence));
  const auto taken = take(store, "a", tokens(160));
  ASSERT_TRUE(taken);
  EXPECT_EQ(taken->length(), 128u);
}

}  // namespace
}  // namespace mlxf::engine
