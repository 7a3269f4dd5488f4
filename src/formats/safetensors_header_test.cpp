#include "formats/safetensors_header.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ctime>
#include <utility>

#include "formats/safetensors_reader.h"
#include "formats/test_bytes.h"

namespace mlxf::formats {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::le;
using testing::safetensors;

Result<std::vector<TensorEntry>> parse(const std::string& bytes) {
  return parse_safetensors_header(MemorySource("model.safetensors", bytes));
}

struct Refusal {
  const char* name;
  std::string bytes;
  const char* message;  // Part of the error.
  ErrorCode code = ErrorCode::kCorrupt;
};

void expect_refusals(const std::vector<Refusal>& cases) {
  testing::TempFolder folder;
  folder.put("config.json", "{}");
  for (const Refusal& c : cases) {
    SCOPED_TRACE(c.name);
    const std::string path = folder.put("model.safetensors", c.bytes);
    // Once as a model on disk, once as bytes: the same verdict, and the file, the field and the offset are named.
    const auto model = open_model(path);
    ASSERT_FALSE(model);
    EXPECT_EQ(model.error().code, c.code) << model.error().message;
    EXPECT_THAT(model.error().message, HasSubstr(c.message));
    EXPECT_THAT(model.error().message, HasSubstr(path));
    EXPECT_THAT(model.error().message, HasSubstr(" at byte "));
    const auto tensors = parse(c.bytes);
    ASSERT_FALSE(tensors);
    EXPECT_EQ(tensors.error().code, c.code);
  }
}

// One tensor "t" whose three members are given as JSON.
std::string one(const std::string& dtype, const std::string& shape, const std::string& offsets,
                uint64_t data_bytes = 8) {
  return safetensors(
      R"({"t":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}",
      data_bytes);
}

// One member of a header: a tensor of bytes.
std::string bytes_tensor(const std::string& name, uint64_t begin, uint64_t end) {
  return "\"" + name + R"(":{"dtype":"U8","shape":[)" + std::to_string(end - begin) +
         R"(],"data_offsets":[)" + std::to_string(begin) + "," + std::to_string(end) + "]}";
}

const std::string kGood = one(R"("F32")", "[2]", "[0,8]");

TEST(SafetensorsHeader, ReadsTensorsInFileOrder) {
  const std::string header =
      R"({"__metadata__":{"format":"pt"}, "late":{"dtype":"F16","shape":[2,1],"data_offsets":[8,12]},)"
      R"( "early":{"shape":[2],"data_offsets":[0,8],"dtype":"F32"}}   )";
  const auto tensors = parse(safetensors(header, 12));
  ASSERT_TRUE(tensors) << tensors.error().message;
  ASSERT_EQ(tensors->size(), 2U);
  EXPECT_EQ((*tensors)[0].name, "early");
  EXPECT_EQ((*tensors)[0].dtype, DType::kF32);
  EXPECT_EQ((*tensors)[0].offset, 8 + header.size());
  EXPECT_EQ((*tensors)[1].name, "late");
  EXPECT_THAT((*tensors)[1].shape, ElementsAre(2, 1));
  EXPECT_EQ((*tensors)[1].offset, 8 + header.size() + 8);
  EXPECT_EQ((*tensors)[1].bytes, 4U);
}

TEST(SafetensorsHeader, AcceptsWhatTheFormatAllows) {
  const std::vector<std::pair<const char*, std::string>> cases = {
      {"plain", kGood},
      {"no tensors", safetensors("{}", 0)},
      {"scalar", one(R"("F32")", "[]", "[0,4]", 4)},  // S6
      {"zero-size tensor", one(R"("F32")", "[0,5]", "[0,0]", 0)},
      {"zero-size tensor between two",
       safetensors("{" + bytes_tensor("a", 0, 4) + "," + bytes_tensor("z", 4, 4) + "," +
                       bytes_tensor("b", 4, 8) + "}",
                   8)},
      {"metadata alone", safetensors(R"({"__metadata__":{"k":"v","":""}})", 0)},
      {"empty metadata", safetensors(R"({"__metadata__":{}})", 0)},
      {"null as metadata, as MLX writes it without any",
       safetensors("{\"__metadata__\":null," + bytes_tensor("t", 0, 8) + "}", 8)},
      {"blanks",
       safetensors("{ \"t\" :\t{ \"dtype\" : \"U8\" ,\r\n\"shape\" : [ ] , \"data_offsets\" : [ 0 , 1 ] } } ",
                   1)},
      {"escapes in a name", safetensors("{" + bytes_tensor(R"(a\/b\u00e9\ud83d\ude00)", 0, 1) + "}", 1)},
      {"16 dimensions", one(R"("U8")", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,8]", "[0,8]")},
  };
  for (const auto& [name, bytes] : cases) {
    const auto tensors = parse(bytes);
    EXPECT_TRUE(tensors) << name << ": " << tensors.error().message;
  }
  const auto named = parse(cases[9].second);
  ASSERT_TRUE(named);
  EXPECT_EQ((*named)[0].name, "a/b\xc3\xa9\xf0\x9f\x98\x80");
}

TEST(SafetensorsHeader, ReadsEveryType) {
  const std::vector<std::pair<std::string, uint64_t>> types = {
      {"F64", 8}, {"F32", 4}, {"F16", 2}, {"BF16", 2}, {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"I64", 8}, {"U64", 8},
      {"I32", 4}, {"U32", 4}, {"I16", 2}, {"U16", 2},  {"I8", 1},      {"U8", 1},      {"BOOL", 1}};
  for (const auto& [name, bytes] : types) {
    const auto tensors =
        parse(one('"' + name + '"', "[3]", "[0," + std::to_string(3 * bytes) + "]", 3 * bytes));
    ASSERT_TRUE(tensors) << name;
    EXPECT_EQ(safetensors_name_of((*tensors)[0].dtype), name);
  }
  EXPECT_EQ(safetensors_name_of(DType::kQ4_0), std::nullopt);
}

TEST(SafetensorsHeader, RefusesWrongLengths) {  // S1
  std::vector<Refusal> cases = {
      {"empty", "", "needs 8 bytes"},
      {"7 bytes", std::string(7, '\1'), "needs 8 bytes"},
      {"length 0", le(uint64_t{0}) + "{}", "is 0"},
      {"length 2^64-1", le(UINT64_MAX) + "{}", "over the format's limit"},
      {"length 100 MB and 1", le(uint64_t{100'000'001}) + "{}", "over the format's limit"},
      {"length of the file and 1", le(uint64_t{3}) + "{}", "more than the file holds"},
      {"length alone", le(uint64_t{2}), "more than the file holds"},
  };
  expect_refusals(cases);
}

TEST(SafetensorsHeader, RefusesEveryTruncation) {
  for (size_t bytes = 0; bytes < kGood.size(); ++bytes) {
    EXPECT_FALSE(parse(kGood.substr(0, bytes))) << "accepted when cut at " << bytes;
  }
}

TEST(SafetensorsHeader, RefusesWhatIsNotJson) {  // S2
  expect_refusals({
      {"leading blank", safetensors(" {}", 0), "demands '{'"},
      {"leading mark", safetensors("\xef\xbb\xbf{}", 0), "demands '{'"},
      {"array", safetensors("[]", 0), "demands '{'"},
      {"not UTF-8 in metadata", safetensors("{\"__metadata__\":{\"k\":\"\xff\"}}", 0), "UTF-8"},
      {"overlong UTF-8", safetensors("{" + bytes_tensor("\xc0\xaf", 0, 1) + "}", 1), "UTF-8"},
      {"surrogate in UTF-8", safetensors("{" + bytes_tensor("\xed\xa0\x80", 0, 1) + "}", 1), "UTF-8"},
      {"cut UTF-8", safetensors("{" + bytes_tensor("\xe2\x82", 0, 1) + "}", 1), "UTF-8"},
      {"open object", safetensors("{", 0), "expected"},
      {"text behind", safetensors("{}x", 0), "follows the closing"},
      {"second object", safetensors("{}{}", 0), "follows the closing"},
      {"NUL padding", safetensors(std::string_view("{}\0\0", 4), 0), "follows the closing"},
      {"comma at the end", safetensors("{" + bytes_tensor("t", 0, 1) + ",}", 1), "expected"},
      {"comma at the start", safetensors("{," + bytes_tensor("t", 0, 1) + "}", 1), "expected"},
      {"no comma", safetensors("{" + bytes_tensor("t", 0, 1) + bytes_tensor("u", 1, 2) + "}", 2),
       "expected ','"},
      {"no colon", safetensors(R"({"t"{}})", 0), "expected ':'"},
      {"single quotes", safetensors("{'t':{}}", 0), "expected"},
      {"comment", safetensors("{/**/}", 0), "expected"},
      {"open string", safetensors(R"({"t)", 0), "is missing"},
      {"control character", safetensors("{\"t\n\":{}}", 0), "control character"},
      {"unknown escape", safetensors(R"({"\x":{}})", 0), "escape"},
      {"cut escape", safetensors(R"({"\)", 0), "escape"},
      {"cut \\u", safetensors(R"({"\u00)", 0), "not a character"},
      {"lone high surrogate", safetensors(R"({"\ud800":{}})", 0), "not a character"},
      {"high surrogate at the end", safetensors(R"({"\ud800)", 0), "not a character"},
      {"lone low surrogate", safetensors(R"({"\udc00":{}})", 0), "not a character"},
      {"two high surrogates", safetensors(R"({"\ud800\ud800":{}})", 0), "not a character"},
      {"tensor is a number", safetensors(R"({"t":1})", 0), "expected '{'"},
      {"tensor is null", safetensors(R"({"t":null})", 0), "expected '{'"},
  });
}

TEST(SafetensorsHeader, RefusesWrongNames) {  // S3
  const std::string a = bytes_tensor("a", 0, 4);
  expect_refusals({
      {"same name, other range", safetensors("{" + a + "," + bytes_tensor("a", 4, 8) + "}", 8),
       "occurs twice"},
      {"same name, same range", safetensors("{" + a + "," + a + "}", 4), "occurs twice"},
      {"same name by escape", safetensors("{" + a + "," + bytes_tensor(R"(\u0061)", 4, 8) + "}", 8),
       "occurs twice"},
      {"empty name", safetensors("{" + bytes_tensor("", 0, 4) + "}", 4), "is empty"},
      {"NUL in a name", safetensors("{" + bytes_tensor(R"(a\u0000b)", 0, 4) + "}", 4), "NUL"},
      {"line break in a name", safetensors("{" + bytes_tensor(R"(a\nb)", 0, 4) + "}", 4),
       "control character"},
      {"name of 4097 bytes", safetensors("{" + bytes_tensor(std::string(4097, 'n'), 0, 4) + "}", 4),
       "too long"},
  });
}

TEST(SafetensorsHeader, RefusesWrongPlaces) {  // S4, S5
  const auto two = [](uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t data_bytes) {
    return safetensors("{" + bytes_tensor("a", a, b) + "," + bytes_tensor("b", c, d) + "}", data_bytes);
  };
  expect_refusals({
      {"whole overlap", two(0, 8, 0, 8, 8), "overlaps"},
      {"overlap by a byte", two(0, 8, 7, 15, 15), "overlaps"},
      {"one inside the other", two(0, 8, 2, 4, 8), "overlaps"},
      {"empty one inside the other", two(0, 8, 4, 4, 8), "overlaps"},
      {"hole", two(0, 4, 5, 9, 9), "a hole of 1 bytes"},
      {"hole at the start", one(R"("U8")", "[4]", "[4,8]"), "a hole of 4 bytes"},
      {"reversed", one(R"("F32")", "[2]", "[8,0]"), "reversed"},
      {"past the end", one(R"("F32")", "[2]", "[8,16]"), "8 bytes of data"},
      {"past the end by a byte", one(R"("U8")", "[9]", "[0,9]"), "8 bytes of data"},
      {"end at 2^64-1", one(R"("U8")", "[18446744073709551615]", "[0,18446744073709551615]"),
       "8 bytes of data"},
      {"trailing byte", one(R"("U8")", "[7]", "[0,7]"), "1 bytes follow"},
      {"data without tensors", safetensors("{}", 5), "5 bytes follow"},
      {"last tensor a byte short", one(R"("F32")", "[2]", "[0,8]", 7), "7 bytes of data"},
  });
}

TEST(SafetensorsHeader, RefusesWrongSizes) {  // S8, S9
  expect_refusals({
      {"product overflows", one(R"("U8")", "[2,18446744073709551614]", "[0,8]"), "overflows"},
      {"product wraps to 0", one(R"("U8")", "[4294967296,4294967296]", "[0,0]", 0), "overflows"},
      {"bits overflow", one(R"("F32")", "[2,9223372036854775807]", "[0,8]"), "overflows"},
      {"bytes wrap to 0", one(R"("F64")", "[2305843009213693952]", "[0,0]", 0), "overflows"},
      {"span too long", one(R"("F32")", "[1]", "[0,8]"), "need 4 bytes"},
      {"span too short", one(R"("F32")", "[3]", "[0,8]"), "need 12 bytes"},
      {"scalar with 8 bytes", one(R"("F32")", "[]", "[0,8]"), "need 4 bytes"},
      {"4-bit float", one(R"("F4")", "[3]", "[0,2]", 2), "F4", ErrorCode::kUnsupported},
      {"6-bit float", one(R"("F6_E2M3")", "[4]", "[0,3]", 3), "F6_E2M3", ErrorCode::kUnsupported},
      {"complex", one(R"("C64")", "[1]", "[0,8]"), "C64", ErrorCode::kUnsupported},
      {"E8M0", one(R"("F8_E8M0")", "[8]", "[0,8]"), "F8_E8M0", ErrorCode::kUnsupported},
      {"unknown type", one(R"("X99")", "[8]", "[0,8]"), "tensor \"t\"", ErrorCode::kUnsupported},
      {"type in lower case", one(R"("f32")", "[2]", "[0,8]"), "\"f32\"", ErrorCode::kUnsupported},
      {"empty type", one(R"("")", "[2]", "[0,8]"), "not supported", ErrorCode::kUnsupported},
      {"type is a number", one("4", "[2]", "[0,8]"), "expected '\"'"},
      {"17 dimensions", one(R"("U8")", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,8]", "[0,8]"), "more than 16"},
  });
}

TEST(SafetensorsHeader, RefusesWrongIntegers) {  // S10
  std::vector<Refusal> cases;
  for (const char* value : {"-1", "2.0", "2e0", "1e400", "\"2\"", "null", "true", "[2]", "{}", "+2", "0x2",
                            "02", ".5", "18446744073709551616", "99999999999999999999", "NaN", ""}) {
    cases.push_back({"shape", one(R"("F32")", std::string("[") + value + ",2]", "[0,8]"), ""});
    cases.push_back({"begin", one(R"("F32")", "[2]", std::string("[") + value + ",8]"), ""});
    cases.push_back({"end", one(R"("F32")", "[2]", std::string("[0,") + value + "]"), ""});
  }
  cases.push_back({"shape is no array", one(R"("F32")", "2", "[0,8]"), "expected '['"});
  cases.push_back(
      {"shape with a comma at the end", one(R"("F32")", "[2,]", "[0,8]"), "not a non-negative integer"});
  cases.push_back({"one offset", one(R"("F32")", "[2]", "[8]"), "expected ','"});
  cases.push_back({"three offsets", one(R"("F32")", "[2]", "[0,8,8]"), "expected ']'"});
  expect_refusals(cases);
}

TEST(SafetensorsHeader, RefusesWrongMembers) {
  const auto tensor = [](const std::string& members) { return safetensors("{\"t\":{" + members + "}}", 8); };
  const std::string dtype = R"("dtype":"F32")";
  const std::string shape = R"("shape":[2])";
  const std::string offsets = R"("data_offsets":[0,8])";
  expect_refusals({
      {"no dtype", tensor(shape + "," + offsets), "has no dtype"},
      {"no shape", tensor(dtype + "," + offsets), "has no shape"},
      {"no offsets", tensor(dtype + "," + shape), "has no data_offsets"},
      {"nothing", tensor(""), "has no dtype"},
      {"dtype twice", tensor(dtype + "," + shape + "," + offsets + "," + dtype), "twice"},
      {"shape twice", tensor(dtype + "," + shape + "," + offsets + "," + shape), "twice"},
      {"offsets twice", tensor(dtype + "," + shape + "," + offsets + "," + offsets), "twice"},
      {"another member", tensor(dtype + "," + shape + "," + offsets + R"(,"x":1)"), "unknown member",
       ErrorCode::kUnsupported},
  });
}

TEST(SafetensorsHeader, RefusesWrongMetadata) {  // S11
  const auto metadata = [](const std::string& value) {
    return safetensors("{\"__metadata__\":" + value + "," + bytes_tensor("t", 0, 8) + "}", 8);
  };
  expect_refusals({
      {"number", metadata(R"({"k":1})"), "is not a string"},
      {"null value", metadata(R"({"k":null})"), "is not a string"},
      {"nested", metadata(R"({"k":{"k":"v"}})"), "is not a string"},
      {"array value", metadata(R"({"k":["v"]})"), "is not a string"},
      {"string", metadata(R"("pt")"), "expected '{'"},
      {"not quite null", metadata("nul"), "expected '{'"},
      {"null twice", metadata(R"(null,"__metadata__":null)"), "occurs twice"},
      {"twice", metadata(R"({"a":"b"},"__metadata__":{"a":"b"})"), "occurs twice"},
  });
}

TEST(SafetensorsHeader, ReadsLargeMetadata) {  // S11
  const std::string text(50'000'000, 'm');
  const auto tensors =
      parse(safetensors("{\"__metadata__\":{\"k\":\"" + text + "\"}," + bytes_tensor("t", 0, 8) + "}", 8));
  ASSERT_TRUE(tensors) << tensors.error().message;
  EXPECT_EQ(tensors->size(), 1U);
}

TEST(SafetensorsHeader, RefusesDeepNestingWithoutRecursion) {  // S12
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += "{\"a\":";
  const std::string arrays(100'000, '[');
  expect_refusals({
      {"objects", safetensors(objects, 0), "unknown member", ErrorCode::kUnsupported},
      {"arrays as a tensor", safetensors("{\"t\":" + arrays, 0), "expected '{'"},
      {"arrays as a shape", one(R"("F32")", arrays, "[0,8]"), "not a non-negative integer"},
      {"arrays as metadata", safetensors("{\"__metadata__\":" + arrays, 0), "expected '{'"},
  });
}

TEST(SafetensorsHeader, RefusesManyTensorsOnOneRange) {  // S12
  std::string header = "{";
  for (int i = 0; i < 100'000; ++i)
    header += (i == 0 ? "" : ",") + bytes_tensor("t" + std::to_string(i), 0, 8);
  expect_refusals({{"one range", safetensors(header + "}", 8), "overlaps"}});
}

TEST(SafetensorsHeader, AMillionTensorsTakeLinearTime) {  // S12
  const auto file = [](uint64_t count) {
    std::string header = "{";
    for (uint64_t i = 0; i < count; ++i)
      header += (i == 0 ? "" : ",") + bytes_tensor("t" + std::to_string(i), i, i + 1);
    return safetensors(header + "}", count);
  };
  const std::string bytes = file(1'000'000);
  const std::clock_t begin = std::clock();
  const auto tensors = parse(bytes);
  const double seconds = static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
  ASSERT_TRUE(tensors) << tensors.error().message;
  RecordProperty("parse_s", std::to_string(seconds));
  EXPECT_EQ(tensors->size(), 1'000'000U);
  EXPECT_LT(seconds, 30.0);  // Comparing every pair of names would take hours.
  const auto more = parse(file(1'000'001));
  ASSERT_FALSE(more);
  EXPECT_THAT(more.error().message, HasSubstr("more than 1000000 tensors"));
}

TEST(SafetensorsReader, WidensStoredTypes) {
  testing::TempFolder folder;
  const std::string header =
      R"({"f32":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},"f16":{"dtype":"F16","shape":[1],"data_offsets":[8,10]},)"
      R"("bf16":{"dtype":"BF16","shape":[1],"data_offsets":[10,12]},"i8":{"dtype":"I8","shape":[1],"data_offsets":[12,13]},)"
      R"("i64":{"dtype":"I64","shape":[1],"data_offsets":[13,21]}})";
  const std::string path = folder.put(
      "x.safetensors", le(uint64_t{header.size()}) + header + le(1.5F) + le(-2.0F) + le(uint16_t{0x3c00}) +
                           le(uint16_t{0x4040}) + le(int8_t{-7}) + le(int64_t{5}));
  const auto f32 = load_tensor_f32(path, "f32");
  ASSERT_TRUE(f32) << f32.error().message;
  EXPECT_THAT(f32->shape, ElementsAre(1, 2));
  EXPECT_THAT(f32->values, ElementsAre(1.5F, -2.0F));
  EXPECT_THAT(load_tensor_f32(path, "f16")->values, ElementsAre(1.0F));
  EXPECT_THAT(load_tensor_f32(path, "bf16")->values, ElementsAre(3.0F));
  EXPECT_THAT(load_tensor_f32(path, "i8")->values, ElementsAre(-7.0F));
  EXPECT_EQ(load_tensor_f32(path, "i64").error().code, ErrorCode::kUnsupported);
  EXPECT_EQ(load_tensor_f32(path, "none").error().code, ErrorCode::kNotFound);
  EXPECT_THAT(*read_safetensors_tensor(path, "i64"), ElementsAre(5, 0, 0, 0, 0, 0, 0, 0));
  EXPECT_EQ(read_safetensors_header(path)->size(), 5U);
}

}  // namespace
}  // namespace mlxf::formats
