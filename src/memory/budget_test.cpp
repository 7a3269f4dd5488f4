#include "memory/budget.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace mlxf::memory {
namespace {

using platform::MemoryReading;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kGiB = uint64_t{1} << 30;

MemoryReading host(uint64_t total, uint64_t available) {
  MemoryReading reading;
  reading.total_bytes = total;
  reading.available_bytes = available;
  return reading;
}

MemoryReading limited(MemoryReading reading, uint64_t limit, uint64_t room) {
  reading.limit_bytes = limit;
  reading.limit_room_bytes = room;
  return reading;
}

BudgetRequest request(const char* text) {
  const auto parsed = parse_budget(text);
  EXPECT_TRUE(parsed) << parsed.error().message;
  return parsed.value_or(BudgetRequest{});
}

TEST(ParseBudget, ReadsEveryForm) {
  EXPECT_EQ(request("auto").kind, BudgetRequest::Kind::kAuto);
  EXPECT_EQ(request("AUTO").kind, BudgetRequest::Kind::kAuto);
  EXPECT_EQ(request("50%").kind, BudgetRequest::Kind::kShare);
  EXPECT_DOUBLE_EQ(request("50%").share, 0.5);
  EXPECT_DOUBLE_EQ(request("12.5%").share, 0.125);
  EXPECT_DOUBLE_EQ(request("100%").share, 1.0);
  const std::pair<const char*, uint64_t> sizes[] = {{"4GiB", 4 * kGiB},
                                                    {"4096MiB", 4 * kGiB},
                                                    {"4G", 4 * kGiB},
                                                    {"4g", 4 * kGiB},
                                                    {"512m", 512 * kMiB},
                                                    {"8gb", 8000000000},
                                                    {"300KiB", 300 * 1024},
                                                    {"300k", 300 * 1024},
                                                    {"2TiB", 2048 * kGiB},
                                                    {"1.5GiB", 1536 * kMiB},
                                                    {"0.25g", 256 * kMiB},
                                                    {"4294967296", 4 * kGiB},
                                                    {"77b", 77},
                                                    {"1", 1},
                                                    {"18446744073709551615", ~uint64_t{0}}};
  for (const auto& [text, bytes] : sizes) {
    EXPECT_EQ(request(text).kind, BudgetRequest::Kind::kBytes) << text;
    EXPECT_EQ(request(text).bytes, bytes) << text;
  }
}

TEST(ParseBudget, RefusesWithTheTextAndTheForms) {
  for (const char* text : {"",
                           " ",
                           "auto ",
                           " 4GiB",
                           "4 GiB",
                           "-4GiB",
                           "+1G",
                           "GiB",
                           "%",
                           "0",
                           "0%",
                           "0GiB",
                           "101%",
                           "100.5%",
                           "4GiBs",
                           "4X",
                           "1e9",
                           "0x10",
                           ".5G",
                           "5.G",
                           "1.5",
                           "1.2.3G",
                           "nan%",
                           "inf",
                           "18446744073709551616",
                           "99999999999TiB",
                           "18446744073709551615k",
                           "0.0000000001g",
                           "half",
                           "max"}) {
    const auto parsed = parse_budget(text);
    ASSERT_FALSE(parsed) << text;
    EXPECT_EQ(parsed.error().code, ErrorCode::kInvalidArgument);
    EXPECT_THAT(parsed.error().message, AllOf(HasSubstr("'" + std::string(text) + "'"), HasSubstr("auto"),
                                              HasSubstr("50%"), HasSubstr("4GiB"), HasSubstr("bytes")));
  }
}

TEST(ParseBudget, ShowsHostileTextCutAndPrintable) {
  const auto parsed = parse_budget("\x1b[31m" + std::string(100000, 'x'));
  ASSERT_FALSE(parsed);
  EXPECT_LT(parsed.error().message.size(), 250U);
  EXPECT_THAT(parsed.error().message, Not(HasSubstr("\x1b")));
}

TEST(ResolveBudget, AutoLeavesATenthOfTheHostToOthers) {
  const Budget budget = resolve_budget(request("auto"), host(32 * kGiB, 20 * kGiB), 0);
  EXPECT_EQ(budget.bytes, 20 * kGiB - 32 * kGiB / 10);
  EXPECT_EQ(budget.reason, "auto: 20 GiB available, 3.2 GiB left for other programs");
}

TEST(ResolveBudget, AutoLeavesAtLeastOneAndAtMostSixteenGiB) {
  EXPECT_EQ(resolve_budget(request("auto"), host(4 * kGiB, 3 * kGiB), 0).bytes, 2 * kGiB);
  EXPECT_EQ(resolve_budget(request("auto"), host(1024 * kGiB, 1000 * kGiB), 0).bytes, 984 * kGiB);
}

TEST(ResolveBudget, AutoCountsWhatWeHoldAsOurs) {
  const Budget fresh = resolve_budget(request("auto"), host(32 * kGiB, 20 * kGiB), 0);
  const Budget loaded = resolve_budget(request("auto"), host(32 * kGiB, 15 * kGiB), 5 * kGiB);
  EXPECT_EQ(fresh.bytes, loaded.bytes);
  EXPECT_THAT(loaded.reason, HasSubstr("5 GiB held already"));
}

TEST(ResolveBudget, AutoStaysUnderAGroupsLimit) {
  const Budget budget =
      resolve_budget(request("auto"), limited(host(64 * kGiB, 60 * kGiB), 8 * kGiB, 7 * kGiB), kGiB / 2);
  EXPECT_EQ(budget.bytes, 7 * kGiB + kGiB / 2 - 8 * kGiB / 33);
  EXPECT_EQ(budget.reason,
            "auto: 60 GiB available, cgroup limit 8 GiB (7 GiB free), 512 MiB held already, 248.2 MiB of the "
            "cgroup "
            "left for all else in it");
  // A small group keeps its 64 MiB.
  EXPECT_EQ(resolve_budget(request("auto"), limited(host(64 * kGiB, 60 * kGiB), kGiB, kGiB), 0).bytes,
            960 * kMiB);
}

TEST(ResolveBudget, AutoUnderAWideGroupIsHeldByTheHost) {
  const Budget budget =
      resolve_budget(request("auto"), limited(host(32 * kGiB, 11 * kGiB), 30 * kGiB, 25 * kGiB), 0);
  EXPECT_EQ(budget.bytes, 11 * kGiB - 32 * kGiB / 10);
  EXPECT_EQ(budget.reason, "auto: 11 GiB available, cgroup limit 30 GiB, 3.2 GiB left for other programs");
}

TEST(ResolveBudget, AutoOnAFullMachineTakesHalfOfWhatIsLeft) {
  EXPECT_EQ(resolve_budget(request("auto"), host(32 * kGiB, 600 * kMiB), 0).bytes, 300 * kMiB);
  EXPECT_EQ(resolve_budget(request("auto"), limited(host(32 * kGiB, 20 * kGiB), kGiB, 40 * kMiB), 0).bytes,
            20 * kMiB);
}

TEST(ResolveBudget, AShareIsOfWhatMayBeHadAtMost) {
  EXPECT_EQ(resolve_budget(request("50%"), host(32 * kGiB, 20 * kGiB), 0).bytes, 16 * kGiB);
  const Budget budget =
      resolve_budget(request("25%"), limited(host(32 * kGiB, 20 * kGiB), 8 * kGiB, 8 * kGiB), 0);
  EXPECT_EQ(budget.bytes, 2 * kGiB);
  EXPECT_EQ(budget.reason, "25% of the 8 GiB that the cgroup limit allows");
  EXPECT_EQ(resolve_budget(request("100%"), host(32 * kGiB + 7, 20 * kGiB), 0).bytes, 32 * kGiB + 7);
}

TEST(ResolveBudget, ASizeIsWhatWasAskedForUnlessItCannotExist) {
  const Budget fits = resolve_budget(request("4GiB"), host(32 * kGiB, 20 * kGiB), 0);
  EXPECT_EQ(fits.bytes, 4 * kGiB);
  EXPECT_EQ(fits.reason, "4 GiB asked for");
  const Budget later = resolve_budget(request("24GiB"), host(32 * kGiB, 20 * kGiB), kGiB);
  EXPECT_EQ(later.bytes, 24 * kGiB);
  EXPECT_EQ(later.reason, "24 GiB asked for; only 21 GiB can be had now");
  const Budget never = resolve_budget(request("64GiB"), host(32 * kGiB, 32 * kGiB), 0);
  EXPECT_EQ(never.bytes, 32 * kGiB);
  EXPECT_THAT(never.reason, HasSubstr("64 GiB asked for, but at most the 32 GiB of memory"));
}

TEST(ResolveBudget, SurvivesAbsurdReadings) {
  constexpr uint64_t kHuge = ~uint64_t{0};
  for (const char* text : {"auto", "50%", "4GiB"})
    for (const uint64_t held : {uint64_t{0}, kGiB, kHuge}) {
      EXPECT_EQ(resolve_budget(request(text), host(0, 0), held).bytes, 0U);
      EXPECT_LE(resolve_budget(request(text), limited(host(kGiB, kHuge), kMiB, kHuge), held).bytes, kMiB);
    }
}

TEST(SizeText, OneDecimalUnlessZero) {
  EXPECT_EQ(size_text(0), "0 bytes");
  EXPECT_EQ(size_text(1023), "1023 bytes");
  EXPECT_EQ(size_text(1024), "1 KiB");
  EXPECT_EQ(size_text(1536), "1.5 KiB");
  EXPECT_EQ(size_text(512 * kMiB), "512 MiB");
  EXPECT_EQ(size_text(kGiB - 1), "1 GiB");
  EXPECT_EQ(size_text(kGiB * 112 / 10), "11.2 GiB");
  EXPECT_EQ(size_text(~uint64_t{0}), "16777216 TiB");
}

}  // namespace
}  // namespace mlxf::memory
