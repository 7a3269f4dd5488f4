// Which layers are given back, which come back and in what order: cases worked out by hand, and what must hold whatever
// the sizes and the changes.
#include "model/layer_places.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>

namespace mlxf::model {
namespace {

using Move = LayerPlaces::Move;

WeightSizes equal_layers(uint32_t count, uint64_t head = 0) {
  WeightSizes sizes;
  sizes.layers.assign(count, 100);
  sizes.trunk = head;
  return sizes;
}

std::vector<uint32_t> streamed_of(const LayerPlaces& places, uint32_t layers) {
  std::vector<uint32_t> streamed;
  for (uint32_t i = 0; i < layers; ++i)
    if (places.streamed(i)) streamed.push_back(i);
  return streamed;
}

// A pass whose moves are all done; what moved.
struct Pass {
  std::vector<uint32_t> taken, given;
};
Pass run_pass(LayerPlaces& places, uint32_t layers) {
  Pass pass;
  for (uint32_t i = 0; i < layers; ++i) switch (places.next_move(i)) {
      case Move::kNone:
        break;
      case Move::kTake:
        EXPECT_TRUE(places.streamed(i));
        places.took(i);
        pass.taken.push_back(i);
        break;
      case Move::kGiveBack:
        EXPECT_FALSE(places.streamed(i));
        places.gave_back(i);
        pass.given.push_back(i);
    }
  return pass;
}

using Layers = std::vector<uint32_t>;

TEST(LayerPlaces, GivesBackAtOnceAndStreamsEvenly) {
  LayerPlaces places(equal_layers(12), 200, {});
  EXPECT_FALSE(places.streams());
  EXPECT_EQ(places.held_bytes(), 1200u);
  EXPECT_TRUE(places.set_bytes(1200).empty());
  EXPECT_FALSE(places.streams()) << "it all fits";
  // 700 beside the ring: five are streamed, as they would be had the model been loaded so.
  EXPECT_EQ(places.set_bytes(900), (Layers{2, 4, 7, 9, 11}));
  EXPECT_TRUE(places.streams());
  EXPECT_EQ(places.held_bytes(), 900u);
  EXPECT_EQ(run_pass(places, 12).given, Layers{});
}

// One layer more stays: with it the places of the others change, one exchange a pass, and never above what is allowed.
TEST(LayerPlaces, ExchangesLayersAsTheyPass) {
  LayerPlaces places(equal_layers(12), 200, {2, 4, 7, 9, 11});
  EXPECT_EQ(places.held_bytes(), 900u);
  EXPECT_TRUE(places.set_bytes(1000).empty());
  Pass pass = run_pass(places, 12);
  EXPECT_EQ(pass.taken, Layers{4});
  EXPECT_EQ(pass.given, Layers{5});
  pass = run_pass(places, 12);
  EXPECT_EQ(pass.taken, Layers{7});
  EXPECT_EQ(pass.given, Layers{8});
  pass = run_pass(places, 12);
  EXPECT_EQ(pass.taken, Layers{9});
  EXPECT_EQ(pass.given, Layers{});
  EXPECT_EQ(streamed_of(places, 12), spread_layers(equal_layers(12), 4));
  EXPECT_EQ(places.held_bytes(), 1000u);
  pass = run_pass(places, 12);
  EXPECT_TRUE(pass.taken.empty() && pass.given.empty());
}

// What goes at once goes evenly: not the first or the last of those that are to go.
TEST(LayerPlaces, GivesBackEvenlyWhatGoesFirst) {
  LayerPlaces places(equal_layers(24, 400), 200, spread_layers(equal_layers(24, 400), 4));
  const Layers now = places.set_bytes(places.held_bytes() - 300);
  ASSERT_EQ(now.size(), 3u);
  EXPECT_LT(now[0], 8u);
  EXPECT_GE(now[1], 8u);
  EXPECT_LT(now[1], 16u);
  EXPECT_GE(now[2], 16u);
}

TEST(LayerPlaces, AtTheFloorTheRingIsLeft) {
  LayerPlaces places(equal_layers(6), 250, {});
  EXPECT_EQ(places.set_bytes(0).size(), 6u);
  EXPECT_EQ(places.held_bytes(), places.floor_bytes());
  EXPECT_TRUE(places.set_bytes(places.floor_bytes() + 99).empty());
  EXPECT_TRUE(run_pass(places, 6).taken.empty());
}

// Two streamed layers stay in the two slots: as good as in memory.
TEST(LayerPlaces, WithTheMostTheRingHoldsTheLastTwo) {
  LayerPlaces places(equal_layers(6), 250, {});
  EXPECT_EQ(places.most_bytes(), 650u);
  EXPECT_EQ(places.set_bytes(0).size(), 6u);
  EXPECT_TRUE(places.set_bytes(650).empty());
  for (int pass = 0; pass < 8; ++pass) run_pass(places, 6);
  EXPECT_EQ(streamed_of(places, 6), (Layers{2, 5}));
  EXPECT_EQ(places.held_bytes(), 650u);
}

// The system may refuse the memory: the layer is streamed on and offered again.
TEST(LayerPlaces, OffersAgainWhatWasNotTaken) {
  LayerPlaces places(equal_layers(6), 200, spread_layers(equal_layers(6), 6));
  EXPECT_TRUE(places.set_bytes(300).empty());
  for (int pass = 0; pass < 3; ++pass) {
    uint32_t offers = 0;
    for (uint32_t i = 0; i < 6; ++i) offers += places.next_move(i) == Move::kTake ? 1 : 0;
    EXPECT_EQ(offers, 1u);
    EXPECT_EQ(places.held_bytes(), 200u);
  }
}

// Whatever the layers' sizes and the memory: never more than is allowed, all that is to go at once goes, few moves in a
// pass, and they end where a model loaded with that much memory would be, or better.
TEST(LayerPlaces, SettlesWithinItsMemoryWhateverHappens) {
  for (uint32_t seed = 1; seed <= 150; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    const uint32_t layers = 3 + random() % 60;
    WeightSizes sizes;
    uint64_t slot = 0;
    for (uint32_t i = 0; i < layers; ++i) {
      sizes.layers.push_back(80 + random() % 40);
      slot = std::max(slot, sizes.layers.back());
    }
    sizes.trunk = random() % 1000;
    const uint64_t ring = 2 * slot + random() % 10;
    LayerPlaces places(sizes, ring,
                       random() % 2 == 0 ? Layers{} : spread_layers(sizes, 1 + random() % layers));
    for (int change = 0; change < 6; ++change) {
      const uint64_t bytes = random() % (places.most_bytes() + 50);
      const Layers now = places.set_bytes(bytes);
      for (const uint32_t layer : now) EXPECT_TRUE(places.streamed(layer));
      ASSERT_LE(places.held_bytes(), std::max(bytes, ring));
      const uint64_t passes = random() % 3 == 0 ? 2 : 2 * layers + 2;
      bool moved = true;
      for (uint64_t p = 0; p < passes; ++p) {
        const uint64_t most = 1 + streamed_of(places, layers).size() / 8;
        const Pass pass = run_pass(places, layers);
        ASSERT_LE(places.held_bytes(), std::max(bytes, ring));
        ASSERT_LE(pass.taken.size(), most);
        ASSERT_LE(pass.given.size(), most);
        moved = !pass.taken.empty() || !pass.given.empty();
      }
      if (passes == 2 || !places.streams()) continue;
      EXPECT_FALSE(moved) << "no end to the moves";
      const Layers wanted = streamed_within(sizes, bytes > ring ? bytes - ring : 0, 2);
      const Layers streamed = streamed_of(places, layers);
      EXPECT_TRUE(std::includes(wanted.begin(), wanted.end(), streamed.begin(), streamed.end()));
    }
  }
}

}  // namespace
}  // namespace mlxf::model
