#include "storage/settled_rate.h"

#include <gtest/gtest.h>

#include <vector>

namespace mlxf::storage {
namespace {

constexpr double kWindow = SettledRate::kWindowSeconds;

// Windows with so many reads of ten bytes, evenly spread, from window `first` on. Then an empty read, with which the
// last window is known to have ended.
void add_windows(SettledRate& rate, const std::vector<uint64_t>& reads, size_t first = 0) {
  double begin = SettledRate::kLeadSeconds + kWindow * static_cast<double>(first);
  for (const uint64_t count : reads) {
    for (uint64_t i = 0; i < count; ++i)
      rate.add(begin + kWindow * (static_cast<double>(i) + 0.5) / static_cast<double>(count), 10);
    begin += kWindow;
  }
  rate.add(begin + 1e-6, 0);
}

TEST(SettledRateTest, AnEvenDiskIsMeasuredAsLongAsWanted) {
  SettledRate rate(0.3, 100);
  rate.add(0.01, 990);
  add_windows(rate, {20, 20});
  EXPECT_FALSE(rate.settled()) << "the third window has not ended";
  add_windows(rate, {20}, 2);
  EXPECT_TRUE(rate.settled());
  EXPECT_DOUBLE_EQ(rate.amount().seconds, 0.3);
  EXPECT_EQ(rate.amount().bytes, 600U);
  EXPECT_DOUBLE_EQ(rate.amount().left_out_seconds, SettledRate::kLeadSeconds);
  EXPECT_EQ(rate.bytes(), 1590U);
  EXPECT_NEAR(rate.seconds(), 0.35, 1e-5);
}

TEST(SettledRateTest, LeadingWindowsThatAreFasterDoNotCount) {
  SettledRate rate(0.3, 0);
  add_windows(rate, {80, 30, 20, 20});
  EXPECT_FALSE(rate.settled()) << "two windows only";
  add_windows(rate, {20}, 4);
  EXPECT_TRUE(rate.settled());
  EXPECT_DOUBLE_EQ(rate.amount().seconds, 0.3);
  EXPECT_EQ(rate.amount().bytes, 600U);
  EXPECT_DOUBLE_EQ(rate.amount().left_out_seconds, 0.25);
}

TEST(SettledRateTest, OneThatIsFasterOrSlowerLaterCounts) {
  SettledRate rate(0.5, 0);
  add_windows(rate, {20, 20, 90, 10, 20});
  EXPECT_TRUE(rate.settled());
  EXPECT_EQ(rate.amount().bytes, 1600U);
}

TEST(SettledRateTest, ADiskThatOnlyGetsSlowerIsJudgedByItsLastWindows) {
  SettledRate rate(0.2, 0);
  add_windows(rate, {640, 320, 160, 80, 40});
  EXPECT_FALSE(rate.settled());
  EXPECT_DOUBLE_EQ(rate.amount().seconds, 0.2);
  EXPECT_EQ(rate.amount().bytes, 1200U);
}

TEST(SettledRateTest, ASlowOneIsMeasuredForAsManyBytes) {
  SettledRate rate(0.1, 100);
  add_windows(rate, {2, 2, 2, 2});
  EXPECT_FALSE(rate.settled());
  EXPECT_EQ(rate.amount().bytes, 80U) << "all that there is";
  EXPECT_NEAR(rate.amount().seconds, 0.45, 1e-5);
  add_windows(rate, {2}, 4);
  EXPECT_TRUE(rate.settled());
  EXPECT_EQ(rate.amount().bytes, 100U);
  EXPECT_DOUBLE_EQ(rate.amount().seconds, 0.5);
}

TEST(SettledRateTest, NoSecondsAreNoWindows) {
  SettledRate rate(0, 30);
  EXPECT_FALSE(rate.settled());
  rate.add(0.001, 20);
  EXPECT_FALSE(rate.settled());
  rate.add(0.002, 20);
  EXPECT_TRUE(rate.settled());
  EXPECT_EQ(rate.amount().bytes, 40U);
  EXPECT_DOUBLE_EQ(rate.amount().seconds, 0.002);
}

}  // namespace
}  // namespace mlxf::storage
