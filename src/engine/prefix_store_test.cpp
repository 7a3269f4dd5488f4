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
  EXPECT_FALSE(take(store, "a", prompt)) << "it would lose more than half";
  EXPECT_FALSE(take(store, "a", tokens(10))) << "not worth it";
  EXPECT_TRUE(take(store, "a", tokens(200)));
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
