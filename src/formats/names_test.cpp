#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "formats/name_index.h"
#include "formats/name_text.h"
#include "formats/shard_name.h"

namespace mlxf::formats {
namespace {

TEST(NameText, FindsTheFirstInvalidByte) {
  EXPECT_EQ(find_invalid_utf8(""), std::nullopt);
  EXPECT_EQ(find_invalid_utf8("plain text of many words"), std::nullopt);
  EXPECT_EQ(find_invalid_utf8("\x7f \xc2\x80 \xdf\xbf \xe0\xa0\x80 \xed\x9f\xbf \xee\x80\x80 \xef\xbf\xbf"),
            std::nullopt);
  EXPECT_EQ(find_invalid_utf8("\xf0\x90\x80\x80 \xf4\x8f\xbf\xbf"), std::nullopt);
  for (const char* bad :
       {"\x80", "\xbf", "\xc0\x80", "\xc1\xbf", "\xc2", "\xc2\x41", "\xe0\x80\x80", "\xe0\x9f\xbf",
        "\xe2\x82", "\xed\xa0\x80", "\xed\xbf\xbf", "\xf0\x80\x80\x80", "\xf0\x8f\xbf\xbf", "\xf0\x90\x80",
        "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xfe", "\xff"}) {
    EXPECT_EQ(find_invalid_utf8(std::string("12345678") + bad), 8U) << quoted_name(bad);
    EXPECT_EQ(find_invalid_utf8(std::string("123456789ab") + bad + "rest of it"), 11U) << quoted_name(bad);
  }
}

TEST(NameText, QuotesWhatTerminalsMustNotSee) {
  EXPECT_EQ(quoted_name("a\"b\\c"), "\"a\\\"b\\\\c\"");
  EXPECT_EQ(quoted_name("\x1b[2J\xff"), "\"\\x1b[2J\\xff\"");
  EXPECT_EQ(quoted_name(std::string(100, 'n')), "\"" + std::string(80, 'n') + "\"... (100 bytes)");
}

TEST(NameIndex, FindsEveryNameAndNoOther) {
  std::vector<std::string> names;
  for (int i = 0; i < 1000; ++i) names.push_back("model.layers." + std::to_string(i));
  const auto name_at = [&](size_t i) { return std::string_view(names[i]); };
  NameIndex index;
  EXPECT_EQ(index.find("model.layers.1", name_at), std::nullopt);  // Nothing was built.
  ASSERT_EQ(index.build(names.size(), name_at), std::nullopt);
  for (uint32_t i = 0; i < names.size(); ++i) EXPECT_EQ(index.find(names[i], name_at), i);
  EXPECT_EQ(index.find("model.layers.1000", name_at), std::nullopt);
  names.push_back("model.layers.7");
  const auto twice = index.build(names.size(), name_at);
  ASSERT_TRUE(twice);
  EXPECT_EQ(*twice, std::make_pair(7U, 1000U));
}

TEST(ShardName, ParsesAndPrints) {
  const auto shard = parse_shard_name("qwen-Q4_K-00002-of-00010.gguf");
  ASSERT_TRUE(shard);
  EXPECT_EQ(shard->prefix, "qwen-Q4_K");
  EXPECT_EQ(shard->suffix, ".gguf");
  EXPECT_EQ(shard->part, 2U);
  EXPECT_EQ(shard->count, 10U);
  EXPECT_EQ(shard->name_of(2), "qwen-Q4_K-00002-of-00010.gguf");
  for (const char* name : {"model.gguf", "m-00000-of-00002.gguf", "m-00003-of-00002.gguf",
                           "m-0001-of-0002.gguf", "m-00001-of-00002", "m-00001-of-99999.gguf",
                           "m-0000a-of-00002.gguf", "m-00001_of-00002.gguf", "-00001-of-00002.gguf", ""}) {
    EXPECT_FALSE(parse_shard_name(name)) << name;
  }
}

TEST(ShardName, RefusesNamesThatLeaveTheFolder) {
  EXPECT_EQ(shard_name_fault("model-00001-of-00002.safetensors"), nullptr);
  for (const char* name :
       {"", "..", ".", "../x.safetensors", "/x.safetensors", "a/b.safetensors", "a\\b.safetensors",
        "..\\x.safetensors", ".x.safetensors", "x.bin", "x.safetensors\n", "safetensors"}) {
    EXPECT_NE(shard_name_fault(name), nullptr) << name;
  }
  EXPECT_NE(shard_name_fault(std::string_view("a\0.safetensors", 14)), nullptr);
  EXPECT_NE(shard_name_fault(std::string(250, 'x') + ".safetensors"), nullptr);
}

}  // namespace
}  // namespace mlxf::formats
