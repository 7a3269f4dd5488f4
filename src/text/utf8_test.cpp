#include "text/utf8.h"

#include <gtest/gtest.h>

namespace mlxf::text {
namespace {

const std::string kReplacement = "\xEF\xBF\xBD";

std::string repaired(std::string_view bytes) {
  std::string out;
  Utf8Repair repair;
  repair.append(bytes, out);
  repair.finish(out);
  return out;
}

TEST(Utf8, ValidTextPassesUnchanged) {
  const std::string text = "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\x7F";
  EXPECT_TRUE(is_utf8(text));
  EXPECT_EQ(repaired(text), text);
}

// The examples of the Unicode standard, section 3.9, tables 3-8 to 3-11.
TEST(Utf8, MaximalSubpartsBecomeOneReplacementEach) {
  struct Case {
    std::string bytes;
    int replacements;
  };
  const Case cases[] = {
      {"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82", 8},  // Overlong forms: no two bytes belong together.
      {"\xED\xA0\x80\xED\xBF\xBF\xED\xAF", 8},  // Surrogates.
      {"\xF4\x91\x92\x93\xFF", 5},              // Above U+10FFFF.
      {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF", 4},  // Truncated sequences: one each.
      {"\x80\xBF", 2},
  };
  for (const Case& item : cases) {
    std::string expected;
    for (int i = 0; i < item.replacements; ++i) expected += kReplacement;
    EXPECT_FALSE(is_utf8(item.bytes));
    EXPECT_EQ(repaired(item.bytes), expected);
    EXPECT_EQ(repaired(item.bytes + "A"), expected + "A");
  }
}

TEST(Utf8, AnySplitGivesTheSameText) {
  const std::string bytes = "x\xF0\x9F\x98\x80\xE1\x80y\xC3\xC3\xA9\xF4\x90z\xE2\x82";
  const std::string whole = repaired(bytes);
  for (size_t cut = 0; cut <= bytes.size(); ++cut) {
    std::string out;
    Utf8Repair repair;
    repair.append(std::string_view(bytes).substr(0, cut), out);
    EXPECT_TRUE(is_utf8(out));
    repair.append(std::string_view(bytes).substr(cut), out);
    repair.finish(out);
    EXPECT_EQ(out, whole);
  }
}

}  // namespace
}  // namespace mlxf::text
