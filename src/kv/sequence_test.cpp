#include "kv/sequence.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "platform/huge_memory.h"
#include "platform/test_pages.h"

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

// A sequence of every kind of layer, whose states have borders as a model's steps leave them.
class Copies : public testing::Test {
 protected:
  const std::vector<LayerShape> shapes_ = {
      kFull, kSliding, LatentShape{32}, RecurrentShape{5}, NoShape{}, PageShape{1, 16, 16, 0, 128}};
  static constexpr uint32_t kRecurrentLayer = 3;
  PagePool pool_;

  std::unique_ptr<Sequence> make(uint32_t context_max = 1000) {
    return std::make_unique<Sequence>(pool_, shapes_, context_max);
  }
  // Grows in steps of `chunk`; every byte depends on `seed` and its place.
  std::unique_ptr<Sequence> filled(uint32_t length, uint32_t chunk, uint8_t seed) {
    auto sequence = make();
    while (sequence->length() < length) {
      const uint32_t step = std::min(chunk, length - sequence->length());
      EXPECT_TRUE(sequence->reserve(step));
      for (const Recurrent::Step& part :
           sequence->recurrent(kRecurrentLayer).begin(sequence->length() + step))
        for (uint32_t i = 0; i < 5; ++i) part.to[i] = static_cast<float>(part.end * 10 + i);
      sequence->advance(step);
    }
    size_t at = seed;
    for (const std::span<uint8_t> part : sequence->contents()) {
      if (part.size() == 5 * sizeof(float)) continue;  // The states, which were written above.
      for (uint8_t& byte : part) byte = static_cast<uint8_t>(++at * 7 >> 2);
    }
    return sequence;
  }
  static std::vector<uint8_t> bytes_of(Sequence& sequence) {
    std::vector<uint8_t> all;
    for (const std::span<uint8_t> part : sequence.contents()) all.insert(all.end(), part.begin(), part.end());
    return all;
  }
  static void write(Sequence& sequence, std::span<const uint8_t> bytes) {
    for (const std::span<uint8_t> part : sequence.contents()) {
      ASSERT_GE(bytes.size(), part.size());
      std::copy_n(bytes.begin(), part.size(), part.begin());
      bytes = bytes.subspan(part.size());
    }
    EXPECT_TRUE(bytes.empty());
  }
};

TEST_F(Copies, AreTheSameSequence) {
  for (const uint32_t length : {1u, 63u, 64u, 65u, 300u, 512u, 777u})
    for (const uint32_t chunk : {1u, 64u, 200u}) {
      SCOPED_TRACE(std::to_string(length) + " in steps of " + std::to_string(chunk));
      const auto original = filled(length, chunk, static_cast<uint8_t>(length));
      const auto copy = make();
      EXPECT_EQ(copy->geometry(), original->geometry());
      ASSERT_TRUE(copy->restore(length, original->layout()));
      write(*copy, bytes_of(*original));
      EXPECT_EQ(copy->length(), length);
      EXPECT_EQ(copy->bytes(), original->bytes());
      EXPECT_EQ(copy->layout(), original->layout());
      EXPECT_EQ(bytes_of(*copy), bytes_of(*original));
      for (uint32_t back = 0; back <= length; ++back)
        ASSERT_EQ(copy->truncatable(back), original->truncatable(back)) << back;
      // Both go on alike.
      for (Sequence* sequence : {original.get(), copy.get()}) {
        ASSERT_TRUE(sequence->reserve(100));
        const auto parts = sequence->recurrent(kRecurrentLayer).begin(length + 100);
        EXPECT_EQ(parts.front().from[1], static_cast<float>(length * 10 + 1));
        sequence->advance(100);
      }
      EXPECT_EQ(copy->layout(), original->layout());
      const uint32_t border = original->truncatable(length + 99);
      ASSERT_TRUE(original->truncate(border) && copy->truncate(border));
      EXPECT_EQ(copy->layout(), original->layout());
    }
}

TEST_F(Copies, BringMarksBack) {
  const auto original = make();
  for (uint32_t length = 0; length < 900; length += 100) {
    if (length == 200) {
      ASSERT_TRUE(original->mark(256));
    }
    ASSERT_TRUE(original->reserve(100));
    const auto parts = original->recurrent(kRecurrentLayer).begin(length + 100);
    for (const Recurrent::Step& part : parts) std::fill_n(part.to, 5, static_cast<float>(part.end));
    original->advance(100);
  }
  const auto copy = make();
  ASSERT_TRUE(copy->restore(900, original->layout()));
  EXPECT_EQ(copy->bytes(), original->bytes());
  const Contents from = original->contents(), to = copy->contents();
  ASSERT_EQ(from.size(), to.size());
  for (size_t i = 0; i < from.size(); ++i) std::copy(from[i].begin(), from[i].end(), to[i].begin());
  for (uint32_t back = 0; back <= 900; ++back)
    ASSERT_EQ(copy->truncatable(back), original->truncatable(back)) << back;
  EXPECT_EQ(copy->truncatable(300), 256u);
  ASSERT_TRUE(copy->truncate(256));
  EXPECT_EQ(copy->recurrent(kRecurrentLayer).begin(300).front().from[0], 256.0f);
  for (const uint32_t mark :
       {255u, 960u, 0u}) {  // Between borders, beyond the length, before the first position.
    Words wrong = original->layout();
    wrong[1] = mark;
    EXPECT_EQ(make()->restore(900, wrong).error().code, ErrorCode::kCorrupt) << mark;
  }
}

TEST_F(Copies, RefuseALayoutThatNoSequenceHas) {
  const auto original = filled(300, 64, 1);
  const Words layout = original->layout();
  const uint64_t held = pool_.bytes() - pool_.free_bytes();
  const auto refused = [&](const Words& words, uint32_t length = 300) {
    const auto copy = make();
    const Status status = copy->restore(length, words);
    EXPECT_EQ(copy->length(), 0u);
    EXPECT_EQ(copy->bytes(), 0u);
    EXPECT_EQ(pool_.bytes() - pool_.free_bytes(), held) << "all pages are back";
    return !status;
  };
  EXPECT_FALSE(make()->restore(300, {}));
  for (size_t words = 0; words < layout.size(); ++words)
    EXPECT_TRUE(refused({layout.begin(), layout.begin() + static_cast<ptrdiff_t>(words)})) << words;
  Words longer = layout;
  longer.push_back(0);
  EXPECT_TRUE(refused(longer));
  for (size_t i = 0; i < layout.size(); ++i)
    for (const uint32_t value : {layout[i] + 5, layout[i] + 64, 0xFFFFFFFFu, 0x80000000u}) {
      Words wrong = layout;
      wrong[i] = value;
      EXPECT_TRUE(refused(wrong)) << "word " << i << " = " << value;
    }
  EXPECT_TRUE(refused(layout, 0));
  EXPECT_TRUE(refused(layout, 1001)) << "beyond the context";
  EXPECT_TRUE(refused(layout, 299)) << "the state is not of this length";
}

platform::testing::Pages pages_of(Sequence& sequence) {
  platform::testing::Pages pages;
  for (const std::span<uint8_t> part : sequence.contents()) pages += platform::testing::pages_of(part);
  return pages;
}

// The engine's thread has others to serve: what a restored sequence lies in is another thread's work.
TEST(Sequence, WhoRestoresOneTouchesNoneOfItsMemory) {
  const std::vector<LayerShape> layers = {PageShape{8, 128, 128, 0}, RecurrentShape{uint64_t{1} << 20},
                                          LatentShape{576}, PageShape{8, 128, 64, 1000}};
  PagePool pool;
  Sequence sequence(pool, layers, 4096);
  const Words layout = {0, 0, 1, 4096, 47};
  ASSERT_TRUE(sequence.restore(4096, layout));
  EXPECT_EQ(pages_of(sequence).there, 0U);
  EXPECT_EQ(sequence.untouched().size(), sequence.bytes());
  platform::touch(sequence.untouched());
  EXPECT_EQ(pages_of(sequence).there, pages_of(sequence).all);
  for (const std::span<uint8_t> part : sequence.contents()) std::fill(part.begin(), part.end(), uint8_t{1});
  // What lies free is taken again as it is.
  ASSERT_TRUE(sequence.truncate(0));
  Sequence second(pool, layers, 4096);
  ASSERT_TRUE(second.restore(4096, layout));
  EXPECT_TRUE(second.untouched().empty());
  EXPECT_EQ(second.contents().front().front(), 1);
  EXPECT_EQ(pages_of(second).there, pages_of(second).all);
  EXPECT_EQ(pool.bytes(), second.bytes());
}

TEST_F(Copies, TellShapesApart) {
  const Words here = make()->geometry();
  EXPECT_NE(make(999)->geometry(), here) << "some rotations depend on it";
  EXPECT_NE(Sequence(pool_, shapes_, 1000, Element::kF32).geometry(), here);
  std::vector<Words> all = {here};
  for (const LayerShape& other : {LayerShape(PageShape{1, 16, 32, 0}), LayerShape(PageShape{2, 32, 32, 0}),
                                  LayerShape(PageShape{2, 16, 16, 0}), LayerShape(PageShape{2, 16, 32, 64}),
                                  LayerShape(PageShape{2, 16, 32, 0, 64}), LayerShape(LatentShape{16}),
                                  LayerShape(RecurrentShape{5}), LayerShape(NoShape{})}) {
    std::vector<LayerShape> shapes = shapes_;
    shapes[0] = other;
    all.push_back(Sequence(pool_, shapes, 1000).geometry());
  }
  std::sort(all.begin(), all.end());
  EXPECT_EQ(std::unique(all.begin(), all.end()), all.end());
}

}  // namespace
}  // namespace mlxf::kv
