#include "formats/gguf_header.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <ctime>
#include <functional>
#include <limits>

#include "formats/gguf_types.h"
#include "formats/test_bytes.h"

namespace mlxf::formats {
namespace {

using ::testing::ElementsAre;
using testing::gguf_array;
using testing::gguf_string;
using ::testing::HasSubstr;
using testing::le;
using testing::RawGguf;
using testing::small_gguf;

constexpr uint32_t kF32 = 0;
constexpr uint32_t kQ4_0 = 2;

Result<GgufHeader> parse(const std::string& bytes) {
  return parse_gguf_header(MemorySource("m.gguf", bytes));
}

struct Refusal {
  const char* name;
  std::string bytes;
  const char* message;  // Part of the error.
  ErrorCode code = ErrorCode::kCorrupt;
};

void expect_refusals(const std::vector<Refusal>& cases) {
  testing::TempFolder folder;
  for (const Refusal& c : cases) {
    SCOPED_TRACE(c.name);
    const std::string path = folder.put("m.gguf", c.bytes);
    // Once as a model on disk, once as bytes: the same verdict, and the file, the field and the offset are named.
    const auto model = open_model(path);
    ASSERT_FALSE(model);
    EXPECT_EQ(model.error().code, c.code) << model.error().message;
    EXPECT_THAT(model.error().message, HasSubstr(c.message));
    EXPECT_THAT(model.error().message, HasSubstr(path));
    EXPECT_THAT(model.error().message, HasSubstr(" at byte "));
    const auto header = parse(c.bytes);
    ASSERT_FALSE(header);
    EXPECT_EQ(header.error().code, c.code);
  }
}

std::string changed(std::string bytes, size_t offset, const std::string& patch) {
  bytes.replace(offset, patch.size(), patch);
  return bytes;
}

// A file with one pair, whose key and value are given raw.
std::string one_pair(const std::string& raw) {
  return RawGguf().raw_pair(raw).build() + std::string(64, '\0');
}
std::string one_value(uint32_t type, const std::string& value) {
  return one_pair(gguf_string("k") + le(type) + value);
}
std::string one_value(GgufType type, const std::string& value) {
  return one_value(static_cast<uint32_t>(type), value);
}
// A file with one tensor.
std::string one_tensor(std::string_view name, const std::vector<uint64_t>& dimensions, uint32_t type = kF32,
                       uint64_t offset = 0, uint64_t data_bytes = 32) {
  return RawGguf().tensor(name, dimensions, type, offset).data(data_bytes).build();
}
std::string aligned(GgufType type, const std::string& value) {
  return RawGguf().pair("general.alignment", type, value).tensor("t", {8}, kF32, 0).data(32).build();
}

TEST(GgufHeader, ReadsTheSmallFile) {
  const auto header = parse(small_gguf().build());
  ASSERT_TRUE(header) << header.error().message;
  EXPECT_EQ(header->version, 3U);
  ASSERT_EQ(header->tensors.size(), 2U);
  EXPECT_EQ(header->tensors[0].name, "a.weight");
  EXPECT_EQ(header->tensors[0].dtype, DType::kF32);
  EXPECT_EQ(header->tensors[0].offset, header->data_offset);
  EXPECT_EQ(header->tensors[1].dtype, DType::kQ8_0);
  EXPECT_THAT(header->tensors[1].shape, ElementsAre(2, 32));  // Outermost first.
  EXPECT_EQ(header->tensors[1].offset, header->data_offset + 32);
  EXPECT_EQ(header->tensors[1].bytes, 68U);
  EXPECT_EQ(header->metadata.find_string("general.architecture"), "llama");
  EXPECT_EQ(header->metadata.find_int("llama.block_count"), 1);
  EXPECT_THAT(*header->metadata.find_strings("tokenizer.ggml.tokens"), ElementsAre("a", "b", ""));
}

TEST(GgufHeader, AcceptsWhatTheFormatAllows) {
  RawGguf version_2 = small_gguf();
  version_2.version = 2;
  RawGguf wide = RawGguf();
  wide.alignment = 64;
  wide.pair("general.alignment", GgufType::kU32, le(uint32_t{64})).tensor("t", {8}, kF32, 0).data(64);
  RawGguf unordered;
  unordered.tensor("second", {8}, kF32, 32).tensor("first", {8}, kF32, 0).data(64);
  const std::vector<std::pair<const char*, std::string>> cases = {
      {"version 2", version_2.build()},
      {"alignment 64 with padding at the end", wide.build()},
      {"padding after the last tensor", one_tensor("t", {1}, kF32, 0, 32)},
      {"padding of the file beyond the alignment", one_tensor("t", {8}) + std::string(1, '\0')},
      {"padding of the file, the most there may be", one_tensor("t", {8}) + std::string(65535, '\0')},
      {"no padding after the last tensor", one_tensor("t", {1}, kF32, 0, 4)},
      {"tensors listed out of order", unordered.build()},
      {"vocabulary alone, without tensors", one_value(GgufType::kU8, le(uint8_t{1}))},
      {"nothing at all", RawGguf().build()},
      {"a name of 63 bytes", one_tensor(std::string(63, 'n'), {8})},
      {"a name in UTF-8", one_tensor("größe", {8})},
      {"4 dimensions", one_tensor("t", {2, 2, 2, 1})},
      {"an empty array", one_value(GgufType::kArray, gguf_array(GgufType::kString, 0, ""))},
      {"an empty string", one_value(GgufType::kString, gguf_string(""))},
      {"a string that ends the file",
       RawGguf().raw_pair(gguf_string("k") + le(uint32_t{8}) + gguf_string("to the end")).header()},
      {"a string value that is not UTF-8", one_value(GgufType::kString, gguf_string("\xff\xfe"))},
  };
  for (const auto& [name, bytes] : cases) {
    const auto header = parse(bytes);
    EXPECT_TRUE(header) << name << ": " << header.error().message;
  }
  EXPECT_EQ(parse(unordered.build())->tensors[0].name, "first");
}

TEST(GgufHeader, RefusesWrongStarts) {  // G1, G3
  const std::string good = small_gguf().build();
  std::vector<Refusal> cases = {
      {"empty", "", "needs 24 bytes"},
      {"1 byte", "G", "needs 24 bytes"},
      {"3 bytes", "GGU", "needs 24 bytes"},
      {"magic alone", "GGUF", "needs 24 bytes"},
      {"wrong magic", changed(good, 0, "GGUG"), "magic"},
      {"lower-case magic", changed(good, 0, "gguf"), "magic"},
      {"zeros", std::string(64, '\0'), "magic"},
      {"version 0", changed(good, 4, le(uint32_t{0})), "version 0"},
      {"version 1", changed(good, 4, le(uint32_t{1})), "version 1", ErrorCode::kUnsupported},
      {"version 4", changed(good, 4, le(uint32_t{4})), "version 4", ErrorCode::kUnsupported},
      {"big-endian", changed(good, 4, le(uint32_t{0x03000000})), "big-endian", ErrorCode::kUnsupported},
  };
  expect_refusals(cases);
}

TEST(GgufHeader, RefusesEveryTruncation) {  // G2
  const std::string good = small_gguf().build();
  for (size_t bytes = 0; bytes < good.size(); ++bytes) {
    const auto header = parse(good.substr(0, bytes));
    ASSERT_FALSE(header) << "accepted when cut at " << bytes;
    EXPECT_THAT(header.error().message, HasSubstr("m.gguf: "));
    EXPECT_THAT(header.error().message, HasSubstr(" at byte "));
  }
}

TEST(GgufHeader, RefusesWrongCounts) {  // G4
  const std::string good = small_gguf().build();
  std::vector<Refusal> cases;
  for (const uint64_t count : {UINT64_MAX, uint64_t{INT64_MAX}, uint64_t{1} << 32, uint64_t{1'000'001}}) {
    cases.push_back({"tensors", changed(good, 8, le(count)), "tensor count at byte 8"});
    cases.push_back({"pairs", changed(good, 16, le(count)), "metadata pair count at byte 16"});
  }
  cases.push_back(
      {"more tensors than bytes", changed(good, 8, le(uint64_t{10'000})), "tensor count at byte 8"});
  cases.push_back(
      {"more pairs than bytes", changed(good, 16, le(uint64_t{10'000})), "pair count at byte 16"});
  cases.push_back({"one tensor more", changed(good, 8, le(uint64_t{3})), ""});
  cases.push_back({"one tensor less", changed(good, 8, le(uint64_t{1})), "follow the last tensor"});
  cases.push_back({"one pair more", changed(good, 16, le(uint64_t{4})), ""});
  cases.push_back({"one pair less", changed(good, 16, le(uint64_t{2})), ""});
  expect_refusals(cases);
}

TEST(GgufHeader, RefusesWrongKeys) {  // G5, G6
  const std::string u8 = le(uint32_t{0}) + le(uint8_t{1});
  RawGguf twice = small_gguf();
  twice.pair("general.architecture", GgufType::kString, gguf_string("qwen3"));
  RawGguf same = RawGguf();
  same.pair("k", GgufType::kU8, le(uint8_t{1})).pair("k", GgufType::kU8, le(uint8_t{1}));
  expect_refusals({
      {"empty key", one_pair(le(uint64_t{0}) + u8), "is empty"},
      {"key length 2^64-1", one_pair(le(UINT64_MAX) + "k" + u8), "over the limit"},
      {"key length 2^31", one_pair(le(uint64_t{1} << 31) + "k" + u8), "over the limit"},
      {"key longer than the file", one_pair(le(uint64_t{60'000}) + "k" + u8), "the file ends"},
      {"NUL in a key", one_pair(gguf_string(std::string_view("a\0b", 3)) + u8), "NUL"},
      {"line break in a key", one_pair(gguf_string("a\nb") + u8), "control character"},
      {"key that is not UTF-8", one_pair(gguf_string("\xc0\x80") + u8), "UTF-8"},
      {"architecture twice", twice.build(), "occurs twice"},
      {"one pair twice", same.build(), "\"k\" at byte"},
  });
}

TEST(GgufHeader, RefusesWrongValues) {  // G7-G11
  const std::string inf = le(std::numeric_limits<float>::infinity());
  const std::string nan = le(std::numeric_limits<double>::quiet_NaN());
  std::string nested;
  for (int i = 0; i < 100'000; ++i) nested += le(uint32_t{9}) + le(uint64_t{1});
  std::vector<Refusal> cases = {
      {"type 13", one_value(13, "\1"), "code 13"},
      {"type 255", one_value(255, "\1"), "code 255"},
      {"type -1", one_value(UINT32_MAX, "\1"), "code 4294967295"},
      {"element type 14", one_value(9, le(uint32_t{14}) + le(uint64_t{0})), "code 14"},
      {"array of arrays", one_value(9, nested), "arrays of arrays", ErrorCode::kUnsupported},
      {"array that overflows", one_value(9, gguf_array(GgufType::kU64, uint64_t{1} << 61, "")),
       "array length"},
      {"array of -1", one_value(9, gguf_array(GgufType::kU8, UINT64_MAX, "")), "array length"},
      {"1e9 bools", one_value(9, gguf_array(GgufType::kBool, 1'000'000'000, "")), "array length"},
      {"1e9 strings", one_value(9, gguf_array(GgufType::kString, 1'000'000'000, "")), "array length"},
      {"array one element past the end", one_value(9, gguf_array(GgufType::kU8, 65 + 32, "")),
       "array length"},
      {"string of 2^64-1", one_value(8, le(UINT64_MAX)), "over the limit"},
      {"string of 16 MiB and 1", one_value(8, le((uint64_t{16} << 20) + 1)), "over the limit"},
      {"string past the end", one_value(8, le(uint64_t{1000})), "the file ends"},
      {"string one byte past the end",
       RawGguf().raw_pair(gguf_string("k") + le(uint32_t{8}) + le(uint64_t{4}) + "abc").header(),
       "the file ends"},
      {"element string past the end", one_value(9, gguf_array(GgufType::kString, 1, le(uint64_t{5000}))),
       "the file ends"},
      {"bool in an array", one_value(9, gguf_array(GgufType::kBool, 3, std::string("\0\1\3", 3))),
       "neither 0 nor 1"},
      {"infinite float", one_value(GgufType::kF32, inf), "NaN or infinity"},
      {"NaN double", one_value(GgufType::kF64, nan), "NaN or infinity"},
      {"NaN in an array", one_value(9, gguf_array(GgufType::kF64, 1, nan)), "NaN or infinity"},
  };
  for (const uint8_t byte : {2, 127, 128, 255}) {
    cases.push_back({"bool byte", one_value(GgufType::kBool, le(byte)), "neither 0 nor 1"});
  }
  expect_refusals(cases);
}

TEST(GgufHeader, RefusesWrongAlignments) {  // G12
  std::vector<Refusal> cases;
  for (const uint32_t value : {0U, 1U, 2U, 4U, 13U, 33U, 1U << 25, 1U << 31, UINT32_MAX}) {
    cases.push_back({"alignment", aligned(GgufType::kU32, le(value)), "not a power of two from 8"});
  }
  cases.push_back({"u64", aligned(GgufType::kU64, le(uint64_t{32})), "must be a u32"});
  cases.push_back({"i32", aligned(GgufType::kI32, le(int32_t{32})), "must be a u32"});
  cases.push_back({"string", aligned(GgufType::kString, gguf_string("32")), "must be a u32"});
  expect_refusals(cases);
}

TEST(GgufHeader, RefusesWrongTensorNames) {  // G13
  RawGguf twice;
  twice.tensor("t", {8}, kF32, 0).tensor("t", {8}, kF32, 32).data(64);
  RawGguf huge;
  huge.raw_tensor(le(UINT64_MAX) + "t" + le(uint32_t{1}) + le(uint64_t{8}) + le(kF32) + le(uint64_t{0}))
      .data(64);
  expect_refusals({
      {"empty", RawGguf().tensor("", {8, 1}, kF32, 0).data(32).build(), "is empty"},
      {"64 bytes", one_tensor(std::string(64, 'n'), {8}), "over the limit of 63"},
      {"65 bytes", one_tensor(std::string(65, 'n'), {8}), "over the limit of 63"},
      {"2^64-1 bytes", huge.build(), "over the limit of 63"},
      {"NUL", one_tensor(std::string_view("a\0b", 3), {8}), "NUL"},
      {"not UTF-8", one_tensor("\xed\xa0\x80", {8}), "UTF-8"},
      {"duplicate", twice.build(), "occurs twice"},
  });
}

TEST(GgufHeader, RefusesWrongShapes) {  // G14-G16
  const uint64_t half = uint64_t{1} << 32;
  RawGguf sums;
  for (int i = 0; i < 4; ++i) {
    sums.tensor("t" + std::to_string(i), {uint64_t{1} << 61}, 24,
                (uint64_t{1} << 61) * static_cast<uint64_t>(i));
  }
  RawGguf many;
  many.raw_tensor(gguf_string("t") + le(UINT32_MAX) + std::string(64, '\1')).data(32);
  expect_refusals({
      {"no dimensions", RawGguf().tensor("tttttttttttttt", {}, kF32, 0).data(32).build(), "0 dimensions"},
      {"5 dimensions", one_tensor("t", {1, 1, 1, 1, 8}), "5 dimensions"},
      {"2^32-1 dimensions", many.build(), "4294967295 dimensions"},
      {"row of half a block", one_tensor("t", {16}, kQ4_0), "whole number of Q4_0 blocks"},
      {"row of a block and a half", one_tensor("t", {48, 2}, kQ4_0), "whole number of Q4_0 blocks"},
      {"blocks across rows", one_tensor("t", {16, 2}, kQ4_0), "whole number of Q4_0 blocks"},
      {"dimension 0", one_tensor("t", {0}), "is 0"},
      {"outer dimension 0", one_tensor("t", {8, 0}), "is 0"},
      {"dimension -1", one_tensor("t", {UINT64_MAX}), "is negative"},
      {"outer dimension -1", one_tensor("t", {8, UINT64_MAX}), "is negative"},
      {"product wraps to 0", one_tensor("t", {half, half}), "overflows"},
      {"product wraps to 0 over 4", one_tensor("t", {1 << 16, 1 << 16, 1 << 16, 1 << 16}), "overflows"},
      {"rows wrap to 0", one_tensor("t", {1, half, half}), "overflows"},
      {"product wraps to small", one_tensor("t", {3, 0x5555555555555558}, 24), "overflows"},
      {"product wraps to negative", one_tensor("t", {1, half, half / 2}, 24), "overflows"},
      {"bytes wrap to 0", one_tensor("t", {uint64_t{1} << 62}), "overflows"},
      {"sizes sum past 2^63", sums.build(), "past the end of the file"},
      {"padding overflows", one_tensor("t", {INT64_MAX}, 24, uint64_t{1} << 63), "past the end of the file"},
  });
}

TEST(GgufHeader, RefusesWrongPlaces) {  // G17-G19
  const auto two = [](uint64_t first, uint64_t second, uint64_t data_bytes, uint64_t elements = 16) {
    return RawGguf()
        .tensor("first", {elements}, kF32, first)
        .tensor("second", {8}, kF32, second)
        .data(data_bytes)
        .build();
  };
  expect_refusals({
      {"offset past the end", one_tensor("t", {8}, kF32, 4096), "past the end"},
      {"offset -1", one_tensor("t", {8}, kF32, UINT64_MAX), "not a multiple"},
      {"offset -32", one_tensor("t", {8}, kF32, UINT64_MAX - 31), "past the end"},
      {"one byte short", one_tensor("t", {8}, kF32, 0, 31), "past the end"},
      {"no data", one_tensor("t", {8}, kF32, 0, 0), "past the end"},
      {"whole overlap", two(0, 0, 64), "overlaps"},
      {"inner overlap", two(0, 32, 64), "overlaps"},
      {"overlap by one byte",
       RawGguf().tensor("first", {33}, 24, 0).tensor("second", {32}, 24, 32).data(64).build(), "overlaps"},
      {"not aligned", two(0, 65, 128), "not a multiple of the alignment"},
      {"not aligned by half", two(0, 80, 128), "not a multiple of the alignment"},
      {"gap", two(0, 96, 128), "a gap of 32 bytes"},
      {"gap before the first", one_tensor("t", {8}, kF32, 32, 64), "a gap of 32 bytes"},
      {"64 KiB at the end", one_tensor("t", {8}) + std::string(65536, '\0'), "follow the last tensor"},
      {"more than zeros at the end", one_tensor("t", {8}) + std::string(32, '\0') + "x",
       "33 bytes follow the last tensor"},
      {"a megabyte at the end", one_tensor("t", {8}, kF32, 0, 1 << 20), "follow the last tensor"},
  });
}

TEST(GgufHeader, RefusesTypesItCannotComputeWith) {  // G28
  std::vector<Refusal> cases;
  for (const uint32_t code :
       {4, 5, 9, 15, 16, 17, 18, 19, 21, 22, 29, 31, 32, 33, 34, 35, 36, 37, 38, 40, 255}) {
    cases.push_back({"type", one_tensor("blk.0.ffn_up.weight", {256}, code, 0, 4096),
                     "tensor \"blk.0.ffn_up.weight\"", ErrorCode::kUnsupported});
  }
  expect_refusals(cases);
  EXPECT_THAT(parse(one_tensor("t", {256}, 16)).error().message, HasSubstr("IQ2_XXS"));
  EXPECT_THAT(parse(one_tensor("t", {256}, 9)).error().message, HasSubstr("Q8_1"));
  EXPECT_THAT(parse(one_tensor("t", {256}, 77)).error().message, HasSubstr("unknown type 77"));
}

TEST(GgufHeader, KnowsEveryTypeBothWays) {
  int supported = 0;
  for (uint32_t code = 0; code < 64; ++code) {
    const auto dtype = dtype_of_gguf(code);
    if (!dtype) continue;
    ++supported;
    EXPECT_EQ(gguf_code_of(*dtype), code);
    const uint64_t bytes = *row_bytes(*dtype, 256);
    const auto header = parse(one_tensor("t", {256}, code, 0, bytes));
    ASSERT_TRUE(header) << gguf_type_name(code) << ": " << header.error().message;
    EXPECT_EQ(header->tensors[0].bytes, bytes);
  }
  EXPECT_EQ(supported, 21);
  EXPECT_EQ(gguf_code_of(DType::kU8), std::nullopt);
}

TEST(GgufMetadata, WidensAndKeepsTypesApart) {
  RawGguf raw;
  raw.pair("u8", GgufType::kU8, le(uint8_t{200})).pair("i8", GgufType::kI8, le(int8_t{-2}));
  raw.pair("u16", GgufType::kU16, le(uint16_t{60'000})).pair("i16", GgufType::kI16, le(int16_t{-300}));
  raw.pair("u32", GgufType::kU32, le(UINT32_MAX)).pair("i32", GgufType::kI32, le(INT32_MIN));
  raw.pair("u64", GgufType::kU64, le(UINT64_MAX)).pair("i64", GgufType::kI64, le(INT64_MIN));
  raw.pair("f32", GgufType::kF32, le(0.5F)).pair("f64", GgufType::kF64, le(1e-5));
  raw.pair("yes", GgufType::kBool, le(uint8_t{1})).pair("no", GgufType::kBool, le(uint8_t{0}));
  raw.pair("text", GgufType::kString, gguf_string("täxt"));
  raw.pair("i16s", GgufType::kArray, gguf_array(GgufType::kI16, 2, le(int16_t{-1}) + le(int16_t{7})));
  raw.pair("f32s", GgufType::kArray,
           gguf_array(GgufType::kF32, 2, le(2.5F) + le(-std::numeric_limits<float>::infinity())));
  raw.pair("bools", GgufType::kArray, gguf_array(GgufType::kBool, 3, std::string("\1\0\1", 3)));
  raw.pair("u64s", GgufType::kArray, gguf_array(GgufType::kU64, 1, le(UINT64_MAX)));
  GgufMetadata m;
  {
    const auto header = parse(raw.build());
    ASSERT_TRUE(header) << header.error().message;
    m = header->metadata;  // The copy outlives the header.
  }
  EXPECT_EQ(m.find_int("u8"), 200);
  EXPECT_EQ(m.find_int("i8"), -2);
  EXPECT_EQ(m.find_int("u16"), 60'000);
  EXPECT_EQ(m.find_int("i16"), -300);
  EXPECT_EQ(m.find_int("u32"), int64_t{UINT32_MAX});
  EXPECT_EQ(m.find_int("i32"), INT32_MIN);
  EXPECT_EQ(m.find_int("u64"), std::nullopt);  // Does not fit.
  EXPECT_EQ(m.find_number("u64"), 18446744073709551616.0);
  EXPECT_EQ(m.find_int("i64"), INT64_MIN);
  EXPECT_EQ(m.find_int("f32"), std::nullopt);
  EXPECT_EQ(m.find_number("f32"), 0.5);
  EXPECT_EQ(m.find_number("f64"), 1e-5);
  EXPECT_EQ(m.find_number("i8"), -2.0);
  EXPECT_EQ(m.find_bool("yes"), true);
  EXPECT_EQ(m.find_bool("no"), false);
  EXPECT_EQ(m.find_int("yes"), std::nullopt);
  EXPECT_EQ(m.find_bool("u8"), std::nullopt);
  EXPECT_EQ(m.find_string("text"), "täxt");
  EXPECT_EQ(m.find_string("u8"), std::nullopt);
  EXPECT_EQ(m.find_strings("text"), std::nullopt);
  EXPECT_THAT(*m.find_numbers("i16s"), ElementsAre(-1.0, 7.0));
  EXPECT_THAT(*m.find_numbers("f32s"), ElementsAre(2.5, -std::numeric_limits<double>::infinity()));
  EXPECT_THAT(*m.find_numbers("bools"), ElementsAre(1.0, 0.0, 1.0));
  EXPECT_THAT(*m.find_numbers("u64s"), ElementsAre(18446744073709551616.0));
  EXPECT_EQ(m.find_numbers("u8"), std::nullopt);
  EXPECT_FALSE(m.contains("absent"));
  EXPECT_EQ(m.find_int("absent"), std::nullopt);
  EXPECT_EQ(m.keys().size(), 17U);
  EXPECT_EQ(m.keys()[2], "u16");
  EXPECT_EQ(GgufMetadata().find_int("u8"), std::nullopt);
  EXPECT_EQ(testing::visit_metadata(m), 0U);
}

// A file that claims to be 1 TiB, is zeros after its start, and counts what is read of it.
class EndlessSource final : public ByteSource {
 public:
  explicit EndlessSource(std::string start) : start_(std::move(start)) {}
  [[nodiscard]] const std::string& name() const override { return name_; }
  [[nodiscard]] uint64_t size() const override { return uint64_t{1} << 40; }
  [[nodiscard]] Status read_exact(uint64_t offset, std::span<uint8_t> out) const override {
    bytes_read_ += out.size();
    for (size_t i = 0; i < out.size(); ++i) {
      out[i] = offset + i < start_.size() ? static_cast<uint8_t>(start_[offset + i]) : uint8_t{0};
    }
    return {};
  }
  [[nodiscard]] uint64_t bytes_read() const { return bytes_read_; }

 private:
  std::string name_ = "endless.gguf";
  std::string start_;
  mutable uint64_t bytes_read_ = 0;
};

TEST(GgufHeader, ReadsLittleOfAHugeHostileFile) {
  const auto start = [](uint64_t tensors, uint64_t pairs, const std::string& rest) {
    return "GGUF" + le(uint32_t{3}) + le(tensors) + le(pairs) + rest;
  };
  const std::string array = gguf_string("k") + le(uint32_t{9});
  const std::vector<std::pair<std::string, uint64_t>> cases = {
      {start(1'000'000, 1'000'000, ""), 1 << 20},
      {start(1'000'000, 0, ""), 1 << 20},
      {start(0, 1, array + gguf_array(GgufType::kU8, (uint64_t{64} << 20) + 1, "")), 1 << 20},
      {start(0, 1, array + gguf_array(GgufType::kU64, uint64_t{64} << 20, "")), 1 << 20},
      {start(0, 1, gguf_string("k") + le(uint32_t{8}) + le((uint64_t{16} << 20) + 1)), 1 << 20},
      // 64 Mi empty strings: 512 MiB of zeros, stopped by the limit of the header.
      {start(0, 1, array + gguf_array(GgufType::kString, uint64_t{64} << 20, "")), kGgufHeaderBytesMax},
  };
  for (const auto& [bytes, bytes_max] : cases) {
    const EndlessSource source(bytes);
    const auto header = parse_gguf_header(source);
    ASSERT_FALSE(header);
    EXPECT_LE(source.bytes_read(), bytes_max) << header.error().message;
  }
}

// Forwards to memory and counts what is read.
class CountingSource final : public ByteSource {
 public:
  explicit CountingSource(const std::string& bytes) : memory_("m.gguf", bytes) {}
  [[nodiscard]] const std::string& name() const override { return memory_.name(); }
  [[nodiscard]] uint64_t size() const override { return memory_.size(); }
  [[nodiscard]] Status read_exact(uint64_t offset, std::span<uint8_t> out) const override {
    bytes_read_ += out.size();
    return memory_.read_exact(offset, out);
  }
  [[nodiscard]] uint64_t bytes_read() const { return bytes_read_; }

 private:
  MemorySource memory_;
  mutable uint64_t bytes_read_ = 0;
};

TEST(GgufHeader, ReadsTheHeaderAndLittleMore) {
  RawGguf raw;
  std::string tokens;
  constexpr uint64_t kTokens = 300'000;
  for (uint64_t i = 0; i < kTokens; ++i) tokens += gguf_string("token" + std::to_string(i));
  raw.pair("tokenizer.ggml.tokens", GgufType::kArray, gguf_array(GgufType::kString, kTokens, tokens));
  for (uint64_t i = 0; i < 579; ++i) {
    raw.tensor("blk." + std::to_string(i) + ".weight", {1024, 32}, kF32, i << 17);
  }
  const uint64_t header_bytes = raw.header().size();
  const std::string bytes = raw.data(uint64_t{579} << 17).build();
  const CountingSource source(bytes);
  const std::clock_t begin = std::clock();
  const auto header = parse_gguf_header(source);
  const double ms = 1e3 * static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
  ASSERT_TRUE(header) << header.error().message;
  RecordProperty("parse_ms", std::to_string(ms));
  EXPECT_EQ(header->metadata.find_strings("tokenizer.ggml.tokens")->size(), kTokens);
  EXPECT_LE(source.bytes_read(), header_bytes * 2);
}

TEST(GgufHeader, AMillionKeysAndTensorsTakeLinearTime) {  // G26
  RawGguf raw;
  constexpr uint64_t kCount = 1'000'000;
  for (uint64_t i = 0; i < kCount; ++i) {
    raw.pair("k" + std::to_string(i), GgufType::kU8, le(uint8_t{1}));
    raw.tensor("t" + std::to_string(i), {32}, 24, i * 32);
  }
  const std::string bytes = raw.data(kCount * 32).build();
  const std::clock_t begin = std::clock();
  const auto header = parse(bytes);
  const double seconds = static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
  ASSERT_TRUE(header) << header.error().message;
  RecordProperty("parse_s", std::to_string(seconds));
  EXPECT_EQ(header->metadata.find_int("k999999"), 1);
  EXPECT_EQ(header->tensors.size(), kCount);
  // Comparing every pair of names would take hours; the margin is for sanitizers and busy machines.
  EXPECT_LT(seconds, 30.0);
}

}  // namespace
}  // namespace mlxf::formats
