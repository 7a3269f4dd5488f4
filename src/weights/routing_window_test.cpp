// What of a run's passes is kept.
#include "weights/routing_window.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace mlxf::weights {
namespace {

using testing::ElementsAre;

// A token of two layers that chooses experts `id` and `id` + 1, in the order of their rank.
void decode(RoutingWindow& window, int32_t id) {
  for (const uint32_t layer : {0u, 1u}) {
    const int32_t chosen[] = {id + 1, id};
    window.observe(layer, 0, chosen);
  }
}

TEST(RoutingWindow, KeepsTheLastDecodedTokens) {
  RoutingWindow window({2, {9, 9}, {}}, 2);
  EXPECT_EQ(window.trace().tokens, 0u);
  decode(window, 1);
  EXPECT_THAT(window.trace().ids, ElementsAre(1, 2, 1, 2));
  decode(window, 3);
  decode(window, 5);
  const RoutingTrace trace = window.trace();
  EXPECT_EQ(trace.tokens, 2u);
  EXPECT_EQ(trace.shape.experts, (std::vector<uint32_t>{9, 9}));
  EXPECT_THAT(trace.ids, ElementsAre(3, 4, 3, 4, 5, 6, 5, 6));
}

TEST(RoutingWindow, PromptsAndUnfinishedPassesAreLeftOut) {
  RoutingWindow window({2, {9, 9}, {}}, 2);
  decode(window, 1);
  decode(window, 2);
  const int32_t chosen[] = {7, 8};
  for (const uint32_t layer : {0u, 1u})
    for (const uint32_t row : {0u, 1u}) window.observe(layer, row, chosen);
  EXPECT_THAT(window.trace().ids, ElementsAre(1, 2, 1, 2, 2, 3, 2, 3));
  window.observe(0, 0, chosen);  // Ends before its second layer.
  EXPECT_THAT(window.trace().ids, ElementsAre(1, 2, 1, 2, 2, 3, 2, 3));
  decode(window, 4);
  EXPECT_THAT(window.trace().ids, ElementsAre(2, 3, 2, 3, 4, 5, 4, 5));
}

}  // namespace
}  // namespace mlxf::weights
