#include "server/model_room.h"

#include <gtest/gtest.h>

namespace mlxf::server {
namespace {

using Kind = RoomStep::Kind;

std::chrono::steady_clock::time_point at(int seconds) {
  return std::chrono::steady_clock::time_point(std::chrono::seconds(seconds));
}

constexpr ModelNeed kSmall{10, 100};
constexpr RoomLimits kLimits{1000, 50, 3};

TEST(ModelRoom, LoadsWhereThereIsRoom) {
  EXPECT_EQ(next_step(kSmall, kLimits, {}), (RoomStep{Kind::kLoad, 0}));
  const HeldModel held[] = {{850, true, false, at(1)}};
  EXPECT_EQ(next_step(kSmall, kLimits, held).kind, Kind::kLoad) << "exactly";
  const HeldModel many[] = {{1, false, false, at(1)}, {1, false, false, at(2)}};
  EXPECT_EQ(next_step({}, {0, 50, 3}, many).kind, Kind::kLoad) << "no budget";
}

TEST(ModelRoom, TheIdleOneThatWasUsedLongestAgoGoesFirst) {
  const HeldModel held[] = {
      {300, false, false, at(3)}, {300, false, false, at(2)}, {300, true, false, at(1)}};
  EXPECT_EQ(next_step(kSmall, {1000, 50, 4}, held), (RoomStep{Kind::kUnload, 1}));
  EXPECT_EQ(next_step({}, {0, 0, 3}, held), (RoomStep{Kind::kUnload, 1})) << "as many as there may be";
}

TEST(ModelRoom, ABusyOneIsWaitedForOnlyWhereIdleOnesDoNotDo) {
  const HeldModel held[] = {{945, true, false, at(3)}, {1, false, false, at(2)}};
  EXPECT_EQ(next_step(kSmall, kLimits, held), (RoomStep{Kind::kAwait, 0}))
      << "5 are left without the idle one";
  const HeldModel two[] = {{1, true, false, at(3)}, {1, true, false, at(2)}};
  EXPECT_EQ(next_step({}, {0, 0, 2}, two), (RoomStep{Kind::kAwait, 1}));
  const HeldModel leaving[] = {{1, true, true, at(3)}, {1, true, false, at(2)}};
  EXPECT_EQ(next_step({}, {0, 0, 2}, leaving), (RoomStep{Kind::kAwait, 0})) << "one is enough";
}

TEST(ModelRoom, StreamsBesideABusyOneRatherThanWait) {
  const HeldModel held[] = {{900, true, false, at(3)}};
  EXPECT_EQ(next_step(kSmall, kLimits, held).kind, Kind::kLoad) << "50 are left, and 10 are enough";
}

TEST(ModelRoom, WhatStreamsAnywayTakesHalfAndLeavesSmallOnesAlone) {
  const ModelNeed large{100, 5000};
  const HeldModel small[] = {{400, false, false, at(1)}};
  EXPECT_EQ(next_step(large, kLimits, small).kind, Kind::kLoad);
  const HeldModel most[] = {{600, false, false, at(1)}};
  EXPECT_EQ(next_step(large, kLimits, most), (RoomStep{Kind::kUnload, 0}));
}

TEST(ModelRoom, WhatNeverFitsCostsNobodyAnything) {
  const HeldModel held[] = {{400, false, false, at(1)}, {400, true, false, at(1)}};
  EXPECT_EQ(next_step({951, 2000}, kLimits, held).kind, Kind::kRefuse);
  EXPECT_EQ(next_step({950, 2000}, kLimits, held).kind, Kind::kAwait);
}

}  // namespace
}  // namespace mlxf::server
