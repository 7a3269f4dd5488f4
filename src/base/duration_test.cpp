#include "base/duration.h"

#include <gtest/gtest.h>

#include <limits>

namespace mlxf {
namespace {

using std::chrono::milliseconds;

TEST(Duration, ReadsSecondsAndGosNotation) {
  for (const auto& [text, wanted] :
       std::initializer_list<std::pair<const char*, int64_t>>{{"0", 0},
                                                              {"300", 300'000},
                                                              {"2.5", 2'500},
                                                              {"5m", 300'000},
                                                              {"1h30m", 5'400'000},
                                                              {"1h0.5s", 3'600'500},
                                                              {"250ms", 250},
                                                              {"3000us", 3},
                                                              {"3000\u00b5s", 3},
                                                              {"+10s", 10'000},
                                                              {"0s", 0},
                                                              {"-0", 0}}) {
    const auto read = parse_duration(text);
    ASSERT_TRUE(read) << text;
    EXPECT_EQ(*read, milliseconds(wanted)) << text;
  }
}

TEST(Duration, BelowZeroOrBeyondACenturyIsForEver) {
  for (const char* text : {"-1", "-1s", "-5m", "-0.001", "9999999h", "99999999999999999999999"})
    EXPECT_EQ(parse_duration(text).value_or(milliseconds(0)), kForever) << text;
  EXPECT_EQ(duration_of_seconds(-1), kForever);
  EXPECT_EQ(duration_of_seconds(std::numeric_limits<double>::quiet_NaN()), kForever);
  EXPECT_EQ(duration_of_seconds(0.25), milliseconds(250));
}

TEST(Duration, RefusesWhatIsNone) {
  for (const char* text : {"", "-", "m", "5 m", "5x", "5m3", "1e3", "0x10", "1..2s", ".", "5mm", "--1", "inf",
                           "nan", "for ever"})
    EXPECT_FALSE(parse_duration(text)) << text;
}

}  // namespace
}  // namespace mlxf
