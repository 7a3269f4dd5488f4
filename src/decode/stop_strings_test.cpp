#include "decode/stop_strings.h"

#include <gtest/gtest.h>

namespace mlxf::decode {
namespace {

// What is shown when `text` arrives in pieces of `piece` bytes.
std::string shown(std::vector<std::string> stops, const std::string& text, size_t piece) {
  StopStrings matcher(std::move(stops));
  std::string out;
  for (size_t at = 0; at < text.size(); at += piece) out += matcher.push(text.substr(at, piece));
  if (!matcher.stopped()) out += matcher.finish();
  return out;
}

TEST(StopStrings, CutAcrossPiecesOfAnySize) {
  for (size_t piece = 1; piece < 20; ++piece) {
    EXPECT_EQ(shown({"END"}, "the ENd and the END of it", piece), "the ENd and the ") << piece;
    EXPECT_EQ(shown({"xyz", "and"}, "the ENd and the END of it", piece), "the ENd ") << piece;
    EXPECT_EQ(shown({"aab"}, "aaab", piece), "a") << piece;
    EXPECT_EQ(shown({"never"}, "never mind: nev", piece), "") << piece;
    EXPECT_EQ(shown({"never!"}, "never mind: nev", piece), "never mind: nev") << piece;
    EXPECT_EQ(shown({}, "all of it", piece), "all of it") << piece;
    EXPECT_EQ(shown({""}, "all of it", piece), "all of it") << piece;
  }
}

TEST(StopStrings, HoldBackOnlyWhatMayBecomeAStop) {
  StopStrings matcher({"\n\nQ:"});
  EXPECT_EQ(matcher.push("answer\n"), "answer");
  EXPECT_EQ(matcher.push("more"), "\nmore");
  EXPECT_EQ(matcher.push("\n\nQ"), "");
  EXPECT_FALSE(matcher.stopped());
  EXPECT_EQ(matcher.push(": next"), "");
  EXPECT_TRUE(matcher.stopped());
  EXPECT_EQ(matcher.matched(), "\n\nQ:");
  EXPECT_EQ(matcher.push("more"), "");
}

TEST(StopStrings, TheFirstMatchWins) {
  StopStrings matcher({"b", "abc"});
  EXPECT_EQ(matcher.push("xabc"), "x");
  EXPECT_EQ(matcher.matched(), "abc");
}

}  // namespace
}  // namespace mlxf::decode
