// Sequences that share pages, against a plain account of what was written to each of them.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kv/sequence.h"

namespace mlxf::kv {
namespace {

constexpr uint32_t kContext = 1200;
constexpr uint64_t kStateFloats = 5;

enum Layer : uint32_t { kFull, kSliding, kChunked, kLatent, kRecurrent, kNone };

// What one is expected to hold: a number for each position, of which every byte depends.
struct Account {
  std::unique_ptr<Sequence> sequence;
  std::vector<uint32_t> written;

  [[nodiscard]] uint32_t state(uint32_t length) const {
    return std::accumulate(written.begin(), written.begin() + length, 7u,
                           [](uint32_t sum, uint32_t one) { return sum * 31 + one; });
  }
};

uint16_t element(uint32_t written, uint32_t layer, uint32_t index) {
  return static_cast<uint16_t>((written * 2654435761u + layer * 40503u + index * 97u) >> 16);
}

class Shares : public testing::Test {
 protected:
  std::vector<LayerShape> shapes_ = {PageShape{2, 16, 32, 0},      PageShape{2, 16, 16, 100},
                                     PageShape{1, 16, 16, 0, 128}, LatentShape{32},
                                     RecurrentShape{kStateFloats}, NoShape{}};
  PagePool pool_;
  uint32_t writes_ = 0;

  // From now on all layers can go back to every length.
  void forget_nothing() {
    std::get<PageShape>(shapes_[kSliding]).window = 0;
    std::get<PageShape>(shapes_[kChunked]).chunk = 0;
    shapes_[kRecurrent] = NoShape{};
  }
  [[nodiscard]] bool recurs() const { return std::holds_alternative<RecurrentShape>(shapes_[kRecurrent]); }

  Account make() {
    Account account;
    account.sequence = std::make_unique<Sequence>(pool_, shapes_, kContext);
    return account;
  }
  [[nodiscard]] uint64_t in_use() const { return pool_.bytes() - pool_.free_bytes(); }

  // As a forward pass over `tokens` would.
  void append(Account& account, uint32_t tokens) {
    Sequence& sequence = *account.sequence;
    ASSERT_TRUE(sequence.reserve(tokens));
    const uint32_t end = sequence.length() + tokens;
    for (uint32_t position = sequence.length(); position < end; ++position) {
      const uint32_t written = ++writes_;
      account.written.push_back(written);
      for (const uint32_t layer : {kFull, kSliding, kChunked}) {
        const PageShape& shape = std::get<PageShape>(shapes_[layer]);
        Pages& pages = sequence.pages(layer);
        for (uint32_t d = 0; d < shape.kv_heads * shape.key_dim; ++d)
          pages.key<uint16_t>(position)[d * 64] = element(written, layer, d);
        for (uint32_t d = 0; d < shape.value_dim; ++d)
          pages.value<uint16_t>(position)[d] = element(written, layer, d);
      }
      for (uint32_t d = 0; d < 32; ++d)
        sequence.latents(kLatent).row<uint16_t>(position)[d] = element(written, kLatent, d);
    }
    if (recurs())
      for (const Recurrent::Step& step : sequence.recurrent(kRecurrent).begin(end))
        std::fill_n(step.to, kStateFloats, static_cast<float>(account.state(step.end) % 100000));
    sequence.advance(tokens);
  }
  Account share(Account& source, uint32_t length) {
    Account account = make();
    EXPECT_TRUE(account.sequence->share(*source.sequence, length));
    account.written.assign(source.written.begin(), source.written.begin() + length);
    return account;
  }
  static void truncate(Account& account, uint32_t length) {
    ASSERT_TRUE(account.sequence->truncate(length));
    account.written.resize(length);
  }

  // Of all positions that its next token could see every fifth element, and the states that it could go back to.
  void check(Account& account) {
    Sequence& sequence = *account.sequence;
    const uint32_t length = sequence.length();
    ASSERT_EQ(length, account.written.size());
    for (const uint32_t layer : {kFull, kSliding, kChunked}) {
      const PageShape& shape = std::get<PageShape>(shapes_[layer]);
      Pages& pages = sequence.pages(layer);
      for (uint32_t position = 0; position < length; ++position) {
        if (pages.key_pages()[position / 64] == nullptr) {
          ASSERT_LT(position, pages.first_visible(length)) << "layer " << layer;
          continue;
        }
        for (uint32_t d = 0; d < shape.kv_heads * shape.key_dim; d += 5)
          ASSERT_EQ(pages.key<uint16_t>(position)[d * 64], element(account.written[position], layer, d))
              << "layer " << layer << " position " << position;
        for (uint32_t d = 0; d < shape.value_dim; d += 5)
          ASSERT_EQ(pages.value<uint16_t>(position)[d], element(account.written[position], layer, d));
      }
    }
    for (uint32_t position = 0; position < length; ++position)
      for (uint32_t d = 0; d < 32; d += 5)
        ASSERT_EQ(sequence.latents(kLatent).row<uint16_t>(position)[d],
                  element(account.written[position], kLatent, d));
    if (!recurs()) return;
    Words positions;
    Contents states;
    sequence.recurrent(kRecurrent).add_layout(positions);
    sequence.recurrent(kRecurrent).add_contents(states);
    if (length > 0) {
      ASSERT_EQ(positions.back(), length);
    }
    for (const uint32_t mark : sequence.marks()) {
      ASSERT_EQ(sequence.truncatable(mark), mark) << "of " << length;
      positions.push_back(mark);
    }
    ASSERT_EQ(states.size() + 1, positions.size());
    for (size_t i = 0; i < states.size(); ++i)
      ASSERT_EQ(reinterpret_cast<const float*>(states[i].data())[3],
                static_cast<float>(account.state(positions[i + 1]) % 100000));
  }
};

TEST_F(Shares, HoldFullPagesTogetherAndTheLastOneEachForItself) {
  Account source = make();
  append(source, 200);
  const uint64_t alone = in_use();
  {
    Account copy = share(source, 200);
    EXPECT_EQ(copy.sequence->bytes(), source.sequence->bytes());
    EXPECT_EQ(copy.sequence->layout(), source.sequence->layout());
    for (uint32_t back = 0; back <= 200; ++back)
      ASSERT_EQ(copy.sequence->truncatable(back), source.sequence->truncatable(back)) << back;
    // Of each kind of page one, and the states.
    const uint64_t page = 64 * 2 * (2 * (16 + 32) + 2 * (16 + 16) + (16 + 16) + 32);
    EXPECT_EQ(in_use() - alone, page + RecurrentShape::kStates * kStateFloats * sizeof(float));
    EXPECT_GT(pool_.shared_pages(), 0u);
    append(copy, 100);
    append(source, 70);
    check(copy);
    check(source);
  }
  EXPECT_EQ(pool_.shared_pages(), 0u);
  check(source);
  Account first = share(source, 256), second = share(first, 256);
  EXPECT_EQ(first.sequence->bytes(), second.sequence->bytes());
  source = make();
  first = make();
  check(second);
  EXPECT_EQ(in_use(), second.sequence->bytes());
  EXPECT_EQ(pool_.shared_pages(), 0u);
}

TEST_F(Shares, AreAsTheSourceTruncatedThere) {
  for (const uint32_t length : {1u, 63u, 64u, 65u, 128u, 300u, 512u, 777u})
    for (const uint32_t beyond : {0u, 1u, 30u, 64u, 200u}) {
      SCOPED_TRACE(std::to_string(length) + " of " + std::to_string(length + beyond));
      Account source = make();
      append(source, length);
      if (beyond > 0) append(source, beyond);
      const uint32_t reach = source.sequence->truncatable(length);
      if (reach == 0) continue;
      Account copy = share(source, reach);
      check(copy);
      check(source);
      truncate(source, reach);
      EXPECT_EQ(copy.sequence->layout(), source.sequence->layout());
      EXPECT_EQ(copy.sequence->bytes(), source.sequence->bytes());
      append(copy, 3);
      append(source, 65);
      check(copy);
      check(source);
    }
}

TEST_F(Shares, WhoGoesBackIntoASharedPageWritesToACopy) {
  const LayerShape full[] = {PageShape{1, 16, 16, 0}, LatentShape{16}};
  constexpr uint64_t kPage = 64 * 2 * 32, kLatents = 64 * 2 * 16;
  for (const bool source_goes_back : {false, true}) {
    Sequence source(pool_, full, kContext), copy(pool_, full, kContext);
    ASSERT_TRUE(source.fill(256));
    ASSERT_TRUE(copy.share(source, 192));
    EXPECT_EQ(in_use(), 4 * (kPage + kLatents));
    EXPECT_EQ(pool_.shared_pages(), 9u);
    Sequence& back = source_goes_back ? source : copy;
    Sequence& other = source_goes_back ? copy : source;
    const auto bytes_of = [](Sequence& sequence) {
      std::vector<uint8_t> all;
      for (const std::span<uint8_t> part : sequence.contents())
        all.insert(all.end(), part.begin(), part.end());
      return all;
    };
    const std::vector<uint8_t> before = bytes_of(other);
    ASSERT_TRUE(back.truncate(128));
    EXPECT_EQ(back.missing_bytes(1), kPage + kLatents) << "nothing but a new page";
    ASSERT_TRUE(back.truncate(100));
    EXPECT_EQ(pool_.shared_pages(), 6u);
    EXPECT_EQ(back.missing_bytes(1), kPage + kLatents) << "the one that it goes on in";
    ASSERT_TRUE(back.truncate(90));
    const uint64_t held = in_use();
    ASSERT_TRUE(back.reserve(20));
    EXPECT_EQ(in_use(), held + kPage + kLatents);
    EXPECT_EQ(pool_.shared_pages(), 3u);
    EXPECT_EQ(back.missing_bytes(20), 0u);
    for (uint32_t position = 90; position < 110; ++position) {
      std::fill_n(back.pages(0).value<uint16_t>(position), 16, uint16_t{1});
      back.pages(0).key<uint16_t>(position)[0] = 1;
      std::fill_n(back.latents(1).row<uint16_t>(position), 16, uint16_t{1});
    }
    back.advance(20);
    EXPECT_EQ(bytes_of(other), before);
    // What it had before that place is what it was.
    EXPECT_EQ(back.pages(0).value<uint16_t>(89)[3], other.pages(0).value<uint16_t>(89)[3]);
    EXPECT_EQ(back.latents(1).row<uint16_t>(64)[3], other.latents(1).row<uint16_t>(64)[3]);
    // Nobody else has the first page any more: no copy is made.
    ASSERT_TRUE(back.truncate(10));
    ASSERT_TRUE(other.truncate(0));
    const uint16_t* const page = back.pages(0).key_pages()[0];
    EXPECT_EQ(back.missing_bytes(1), 0u);
    ASSERT_TRUE(back.reserve(1));
    EXPECT_EQ(back.pages(0).key_pages()[0], page);
    EXPECT_EQ(pool_.shared_pages(), 0u);
  }
}

TEST_F(Shares, WithoutMemoryNothingHappens) {
  const LayerShape layers[] = {PageShape{1, 16, 16, 0}, LatentShape{16}, RecurrentShape{64}};
  constexpr uint64_t kPage = 64 * 2 * 32, kLatents = 64 * 2 * 16;
  constexpr uint64_t kStates = RecurrentShape::kStates * 64 * sizeof(float);
  constexpr uint64_t kSource = 2 * (kPage + kLatents) + kStates;
  for (uint64_t more = 0; more < kPage + kLatents + kStates; more += kLatents / 2) {
    SCOPED_TRACE(more);
    PagePool pool(kSource + more);
    Sequence source(pool, layers, kContext), copy(pool, layers, kContext);
    ASSERT_TRUE(source.reserve(100));
    (void)source.recurrent(2).begin(100);
    source.advance(100);
    const Status status = copy.share(source, 100);
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().code, ErrorCode::kOutOfBudget);
    EXPECT_EQ(copy.length(), 0u);
    EXPECT_EQ(copy.bytes(), 0u);
    EXPECT_EQ(pool.shared_pages(), 0u);
    EXPECT_EQ(pool.bytes() - pool.free_bytes(), kSource);
    ASSERT_TRUE(source.truncate(0));
    ASSERT_TRUE(copy.reserve(100)) << "it can be used";
  }
  // Nor when there is none for the copy of a page that is written to: it may be tried again.
  PagePool pool(2 * kPage + 2 * kLatents);
  const LayerShape full[] = {PageShape{1, 16, 16, 0}, LatentShape{16}};
  Sequence source(pool, full, kContext), copy(pool, full, kContext);
  ASSERT_TRUE(source.fill(128));
  ASSERT_TRUE(copy.share(source, 128));
  ASSERT_TRUE(copy.truncate(30));
  EXPECT_EQ(copy.reserve(1).error().code, ErrorCode::kOutOfBudget);
  EXPECT_EQ(copy.length(), 30u);
  EXPECT_EQ(copy.missing_bytes(1), kPage + kLatents);
  ASSERT_TRUE(source.truncate(64));
  ASSERT_TRUE(copy.reserve(1));
  EXPECT_NE(copy.pages(0).key_pages()[0], source.pages(0).key_pages()[0]);
  EXPECT_NE(copy.latents(1).pages()[0], source.latents(1).pages()[0]);
}

// Layers that forget go back to marks, wherever in a pass those are, and go on as if they never had been beyond.
TEST_F(Shares, GoBackToMarks) {
  for (const uint32_t chunk : {1u, 64u, 100u, 500u}) {
    SCOPED_TRACE(chunk);
    Account source = make();
    while (source.written.size() < 1000) {
      const auto length = static_cast<uint32_t>(source.written.size());
      for (const uint32_t mark : {192u, 320u, 512u})
        if (mark > length && mark <= length + chunk) {
          ASSERT_TRUE(source.sequence->mark(mark));
        }
      append(source, std::min(chunk, 1000 - length));
    }
    check(source);
    for (const auto& [length, reach] :
         {std::pair(999u, 960u), {895u, 512u}, {512u, 512u}, {511u, 320u}, {319u, 192u}, {191u, 0u}})
      EXPECT_EQ(source.sequence->truncatable(length), reach) << length;
    const uint64_t before = source.sequence->bytes();
    Account branch = share(source, 512);
    EXPECT_EQ(branch.sequence->marks().size(), 3u);
    append(branch, 400);
    check(branch);
    check(source);
    truncate(branch, 320);
    append(branch, 90);
    check(branch);
    EXPECT_EQ(branch.sequence->truncatable(300), 192u);
    branch = make();
    EXPECT_EQ(source.sequence->bytes(), before);
    truncate(source, 192);
    check(source);
    append(source, 700);
    check(source);
    EXPECT_EQ(source.sequence->truncatable(500), 192u);
    const uint64_t held = source.sequence->bytes();
    source.sequence->unmark_all();
    EXPECT_LT(source.sequence->bytes(), held);
    check(source);
    EXPECT_EQ(source.sequence->truncatable(500), 0u);
    // One that is never reached leaves nothing behind.
    ASSERT_TRUE(source.sequence->mark(960));
    truncate(source, 892);
    EXPECT_TRUE(source.sequence->marks().empty());
    check(source);
  }
  EXPECT_EQ(in_use(), 0u);
}

TEST_F(Shares, MarksWithoutMemoryAreRefused) {
  const LayerShape layers[] = {RecurrentShape{64}, PageShape{1, 16, 16, 100}, RecurrentShape{64}};
  constexpr uint64_t kState = 64 * sizeof(float), kPage = 64 * 2 * 32;
  PagePool pool(2 * RecurrentShape::kStates * kState + 2 * kPage + kState);
  Sequence sequence(pool, layers, kContext);
  ASSERT_TRUE(sequence.reserve(100));
  EXPECT_FALSE(sequence.mark(64));
  EXPECT_TRUE(sequence.marks().empty());
  EXPECT_EQ(pool.free_bytes(), kState);
  (void)sequence.recurrent(0).begin(100);
  (void)sequence.recurrent(2).begin(100);
  sequence.advance(100);
  EXPECT_EQ(sequence.truncatable(99), 64u);
}

// Whatever is done to one of many that share, the others are as they were.
TEST_F(Shares, AnyOrderOfStepsLeavesEachWhatItWrote) {
  for (uint32_t seed = 0; seed < 6; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    if (seed == 3) forget_nothing();
    std::mt19937 random(seed);
    const auto below = [&](uint32_t end) { return static_cast<uint32_t>(random() % end); };
    std::vector<Account> all;
    uint32_t shared = 0;
    for (uint32_t step = 0; step < 200; ++step) {
      if (all.empty() || (all.size() < 3 && below(8) == 0)) all.push_back(make());
      Account& one = all[below(static_cast<uint32_t>(all.size()))];
      const uint32_t length = one.sequence->length();
      const uint32_t near = length - std::min(length, below(9) == 0 ? below(length + 1) : below(100));
      switch (below(6)) {
        case 0:
        case 1:
        case 2: {
          const uint32_t tokens = std::min(1 + below(below(2) == 0 ? 3 : 200), kContext - length);
          for (uint32_t mark = (length / 64 + 1) * 64; mark <= length + tokens; mark += 64)
            if (recurs() && below(2) == 0) {
              ASSERT_TRUE(one.sequence->mark(mark));
            }
          if (tokens > 0) append(one, tokens);
          break;
        }
        case 3:
          if (below(9) == 0 || one.sequence->truncatable(near) > 0)
            truncate(one, one.sequence->truncatable(near));
          break;
        case 4:
          if (const uint32_t reach = one.sequence->truncatable(near); reach > 0 && all.size() < 6) {
            Account copy = share(one, reach);
            all.push_back(std::move(copy));
            ++shared;
          }
          break;
        default:
          if (below(4) == 0) all.erase(all.begin() + below(static_cast<uint32_t>(all.size())));
      }
      for (Account& account : all) {
        check(account);
        const Sequence& sequence = *account.sequence;
        ASSERT_LE(sequence.bytes(), Sequence::bytes_max(shapes_, Element::kF16, sequence.length(), 200) +
                                        sequence.marked_bytes());
      }
      if (HasFatalFailure()) return;
      if (below(20) == 0 && !all.empty()) {
        all.front().sequence->unmark_all();
        check(all.front());
      }
    }
    EXPECT_GT(shared, 5u);
    all.clear();
    EXPECT_EQ(in_use(), 0u);
    EXPECT_EQ(pool_.shared_pages(), 0u);
  }
}

}  // namespace
}  // namespace mlxf::kv
