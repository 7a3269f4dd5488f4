#include "base/json.h"

#include <gtest/gtest.h>

namespace mlxf {
namespace {

TEST(Json, ParsesNestedValues) {
  const auto value = parse_json(R"({"a":[1,2,{"b":null}],"c":"x","d":-3,"e":1.5,"f":true})");
  ASSERT_TRUE(value);
  EXPECT_EQ(find_int(*value, "d"), -3);
  EXPECT_EQ(find_string(*value, "c"), "x");
  EXPECT_EQ(find_number(*value, "e"), 1.5);
  EXPECT_EQ(find_bool(*value, "f"), true);
  EXPECT_EQ((*value)["a"].size(), 3u);
  EXPECT_FALSE(find_int(*value, "c"));
  EXPECT_FALSE(find_int(*value, "missing"));
}

TEST(Json, RefusesWhatIsNotStrict) {
  for (const char* text :
       {"", "{", "{\"a\":1,}", "{\"a\":1,\"a\":2}", "[1] x", "{'a':1}", "[1e999]", "nul", "\"\xff\""})
    EXPECT_FALSE(parse_json(text)) << text;
}

TEST(Json, RefusesDepthBombs) {
  const std::string bomb(100000, '[');
  const auto value = parse_json(bomb);
  ASSERT_FALSE(value);
  EXPECT_NE(value.error().message.find("nested deeper than 128"), std::string::npos);
}

TEST(Json, NamesTheOffset) {
  const auto value = parse_json("{\"a\": bad}");
  ASSERT_FALSE(value);
  EXPECT_NE(value.error().message.find("byte"), std::string::npos);
}

TEST(Json, DumpReplacesInvalidUtf8) { EXPECT_EQ(dump_json(Json("\xff")), "\"\xEF\xBF\xBD\""); }

TEST(OrderedJson, KeepsTheOrderAndTheLimitsOfParsing) {
  const std::string text = R"({"z":1,"a":{"y":[true,null],"b":"x"},"m":2.5})";
  const auto json = parse_ordered_json(text);
  ASSERT_TRUE(json) << json.error().message;
  EXPECT_EQ(dump_ordered_json(*json), text);
  EXPECT_FALSE(parse_ordered_json(R"({"a":{"b":1,"c":2,"b":3}})"));        // A duplicate key.
  EXPECT_TRUE(parse_ordered_json(R"({"a":{"b":1},"c":{"b":1},"b":{}})"));  // Of different objects.
  EXPECT_FALSE(parse_ordered_json("[[[1]]]", {.depth_max = 2}));
  EXPECT_FALSE(parse_ordered_json("{} x"));
}

}  // namespace
}  // namespace mlxf
