#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <limits>

#include "formats/gguf_writer.h"
#include "formats/safetensors_header.h"
#include "formats/safetensors_reader.h"
#include "formats/safetensors_writer.h"
#include "formats/test_bytes.h"

namespace mlxf::formats {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::TempFolder;

std::vector<uint8_t> counted(size_t bytes) {
  std::vector<uint8_t> data(bytes);
  for (size_t i = 0; i < bytes; ++i) data[i] = static_cast<uint8_t>(i * 7 + 1);
  return data;
}

size_t entries_in(const std::string& folder) {
  size_t count = 0;
  for (const auto& entry : fs::directory_iterator(folder)) {
    (void)entry;
    ++count;
  }
  return count;
}

TEST(SafetensorsWriter, WritesWhatTheReaderReads) {
  TempFolder folder;
  const std::string path = folder / "x.safetensors";
  const std::vector<TensorSpec> specs = {{"z.scalar", DType::kF32, {}},
                                         {"empty", DType::kBF16, {0, 4}},
                                         {"a \"quoted\" größe", DType::kU8, {2, 3}},
                                         {"last", DType::kF16, {2}}};
  auto writer = SafetensorsWriter::create(path, specs, {{"format", "pt"}, {"note", "two\nlines"}});
  ASSERT_TRUE(writer) << writer.error().message;
  const auto data = counted(6);
  EXPECT_TRUE(writer->append("z.scalar", counted(4)));
  EXPECT_TRUE(writer->append("a \"quoted\" größe", std::span(data).subspan(0, 1)));  // In chunks.
  EXPECT_TRUE(writer->append("a \"quoted\" größe", std::span(data).subspan(1)));
  EXPECT_TRUE(writer->append("last", counted(4)));
  EXPECT_FALSE(fs::exists(path));  // Not before it is whole.
  ASSERT_TRUE(writer->finish());
  EXPECT_EQ(entries_in(folder.path()), 1U);
  const auto tensors = read_safetensors_header(path);
  ASSERT_TRUE(tensors) << tensors.error().message;
  ASSERT_EQ(tensors->size(), 4U);
  EXPECT_EQ((*tensors)[0].name, "z.scalar");  // The declared order is kept.
  EXPECT_EQ((*tensors)[0].offset % 8, 0U);    // The header is padded.
  EXPECT_THAT((*tensors)[1].shape, ElementsAre(0, 4));
  EXPECT_EQ(*read_safetensors_tensor(path, "a \"quoted\" größe"), data);
  EXPECT_EQ(*read_safetensors_tensor(path, "last"), counted(4));
  EXPECT_EQ(fs::status(path).permissions() & fs::perms::group_read, fs::perms::group_read);
}

TEST(SafetensorsWriter, RefusesBadDeclarations) {
  TempFolder folder;
  const std::string path = folder / "x.safetensors";
  const std::vector<std::pair<std::vector<TensorSpec>, const char*>> cases = {
      {{{"t", DType::kU8, {1}}, {"t", DType::kU8, {1}}}, "declared twice"},
      {{{"", DType::kU8, {1}}}, "is empty"},
      {{{"__metadata__", DType::kU8, {1}}}, "reserves"},
      {{{"\xff", DType::kU8, {1}}}, "UTF-8"},
      {{{"t", DType::kQ4_0, {32}}}, "no type Q4_0"},
      {{{"t", DType::kF32, {uint64_t{1} << 32, uint64_t{1} << 32}}}, "overflows"},
      {{{"t", DType::kF32, {uint64_t{1} << 62}}}, "overflows"},
      {{{"t", DType::kU8, std::vector<uint64_t>(17, 1)}}, "too many dimensions"},
  };
  for (const auto& [specs, message] : cases) {
    const auto writer = SafetensorsWriter::create(path, specs);
    ASSERT_FALSE(writer) << message;
    EXPECT_EQ(writer.error().code, ErrorCode::kInvalidArgument);
    EXPECT_THAT(writer.error().message, HasSubstr(message));
    EXPECT_THAT(writer.error().message, HasSubstr(path));
  }
  EXPECT_EQ(entries_in(folder.path()), 0U);
}

TEST(SafetensorsWriter, RefusesDataOutOfOrder) {
  TempFolder folder;
  const std::string path = folder / "x.safetensors";
  auto writer = SafetensorsWriter::create(path, {{"a", DType::kU8, {4}}, {"b", DType::kU8, {4}}});
  ASSERT_TRUE(writer);
  EXPECT_THAT(writer->append("b", counted(4)).error().message, HasSubstr("\"a\" was due"));
  EXPECT_THAT(writer->append("a", counted(5)).error().message, HasSubstr("more than its 4 bytes"));
  EXPECT_TRUE(writer->append("a", counted(4)));
  EXPECT_THAT(writer->append("a", counted(1)).error().message, HasSubstr("\"b\" was due"));
  EXPECT_TRUE(writer->append("b", counted(3)));
  EXPECT_THAT(writer->finish().error().message, HasSubstr("3 of its 4 bytes"));
  EXPECT_TRUE(writer->append("b", counted(1)));
  EXPECT_THAT(writer->append("c", counted(1)).error().message, HasSubstr("after all declared"));
  EXPECT_TRUE(writer->finish());
  EXPECT_FALSE(writer->finish());
}

TEST(Writers, KeepAnExistingFileUnlessToldOtherwise) {
  TempFolder folder;
  const std::string path = folder.put("x", "precious");
  EXPECT_EQ(SafetensorsWriter::create(path, {}).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(GgufWriter::create(path, {}, {}).error().code, ErrorCode::kInvalidArgument);
  {
    auto abandoned = SafetensorsWriter::create(path, {{"a", DType::kU8, {4}}}, {}, Overwrite::kReplace);
    ASSERT_TRUE(abandoned);
    EXPECT_TRUE(abandoned->append("a", counted(2)));
    EXPECT_EQ(entries_in(folder.path()), 2U);
  }
  EXPECT_EQ(entries_in(folder.path()), 1U);  // The temporary file is gone.
  EXPECT_EQ(testing::read_file(path), "precious");
  auto writer = SafetensorsWriter::create(path, {}, {}, Overwrite::kReplace);
  ASSERT_TRUE(writer);
  ASSERT_TRUE(writer->finish());
  EXPECT_TRUE(read_safetensors_header(path));
  // A file that appears while ours is being written.
  const std::string late = folder / "late";
  auto second = GgufWriter::create(late, {}, {});
  ASSERT_TRUE(second);
  testing::write_file(late, "precious");
  EXPECT_FALSE(second->finish());
  EXPECT_EQ(testing::read_file(late), "precious");
  EXPECT_EQ(entries_in(folder.path()), 2U);
  EXPECT_FALSE(SafetensorsWriter::create(folder / "no/such/folder", {}));
}

TEST(GgufWriter, WritesWhatTheReaderReads) {
  TempFolder folder;
  const std::string path = folder / "m.gguf";
  const GgufPairs pairs = {
      {"general.architecture", std::string("llama")},
      {"u8", uint8_t{1}},
      {"i8", int8_t{-1}},
      {"u16", uint16_t{2}},
      {"i16", int16_t{-2}},
      {"u32", uint32_t{3}},
      {"i32", int32_t{-3}},
      {"u64", uint64_t{4}},
      {"i64", int64_t{-4}},
      {"f32", 0.5F},
      {"f64", 0.25},
      {"bool", true},
      {"tokens", std::vector<std::string>{"a", "", "größe"}},
      {"u32s", std::vector<uint32_t>{1, 2}},
      {"i32s", std::vector<int32_t>{-1}},
      {"f32s", std::vector<float>{}},
      {"u8s", std::vector<uint8_t>{7}},
  };
  const std::vector<TensorSpec> specs = {
      {"norm", DType::kF32, {3}}, {"q4", DType::kQ4_0, {3, 64}}, {"mx", DType::kMXFP4, {2, 2, 32}}};
  auto writer = GgufWriter::create(path, pairs, specs);
  ASSERT_TRUE(writer) << writer.error().message;
  EXPECT_TRUE(writer->append("norm", counted(12)));
  EXPECT_TRUE(writer->append("q4", counted(3 * 36)));
  EXPECT_TRUE(writer->append("mx", counted(4 * 17)));
  ASSERT_TRUE(writer->finish());
  const auto model = open_model(path);
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_EQ(model->metadata.keys().size(), pairs.size());
  EXPECT_EQ(testing::visit_metadata(model->metadata), 0U);
  EXPECT_EQ(model->metadata.find_int("i64"), -4);
  EXPECT_EQ(model->metadata.find_int("u8"), 1);
  EXPECT_EQ(model->metadata.find_number("f64"), 0.25);
  EXPECT_EQ(model->metadata.find_bool("bool"), true);
  EXPECT_THAT(*model->metadata.find_strings("tokens"), ElementsAre("a", "", "größe"));
  EXPECT_THAT(*model->metadata.find_numbers("u32s"), ElementsAre(1.0, 2.0));
  EXPECT_TRUE(model->metadata.find_numbers("f32s")->empty());
  const TensorEntry* mx = model->find("mx");
  ASSERT_NE(mx, nullptr);
  EXPECT_THAT(mx->shape, ElementsAre(2, 2, 32));
  EXPECT_EQ(mx->offset % 32, 0U);
  const std::string file = testing::read_file(path);
  const auto data = counted(mx->bytes);
  EXPECT_EQ(file.substr(mx->offset, mx->bytes), std::string(data.begin(), data.end()));
  EXPECT_EQ(testing::tensors_fault(model->tensors, model->file_bytes[0]), "");
}

TEST(GgufWriter, RefusesWhatTheReaderWouldRefuse) {
  TempFolder folder;
  const std::string path = folder / "m.gguf";
  const std::vector<std::pair<std::vector<TensorSpec>, const char*>> bad_tensors = {
      {{{"t", DType::kF32, {1}}, {"t", DType::kF32, {1}}}, "declared twice"},
      {{{"", DType::kF32, {1}}}, "is empty"},
      {{{std::string(64, 'n'), DType::kF32, {1}}}, "too long"},
      {{{"t", DType::kU8, {1}}}, "no type u8"},
      {{{"t", DType::kF32, {}}}, "0 dimensions"},
      {{{"t", DType::kF32, {1, 1, 1, 1, 1}}}, "5 dimensions"},
      {{{"t", DType::kF32, {0}}}, "a dimension is 0"},
      {{{"t", DType::kQ4_0, {2, 16}}}, "whole blocks"},
      {{{"t", DType::kF32, {uint64_t{1} << 62}}}, "overflows"},
  };
  for (const auto& [specs, message] : bad_tensors) {
    const auto writer = GgufWriter::create(path, {}, specs);
    ASSERT_FALSE(writer) << message;
    EXPECT_THAT(writer.error().message, HasSubstr(message));
  }
  const std::vector<std::pair<GgufPairs, const char*>> bad_pairs = {
      {{{"k", uint8_t{1}}, {"k", uint8_t{1}}}, "occurs twice"},
      {{{"", uint8_t{1}}}, "is empty"},
      {{{"k", std::numeric_limits<float>::infinity()}}, "is not finite"},
      {{{"k", std::vector<float>{std::numeric_limits<float>::quiet_NaN()}}}, "is not finite"},
      {{{"general.alignment", uint32_t{64}}}, "only the default"},
  };
  for (const auto& [pairs, message] : bad_pairs) {
    const auto writer = GgufWriter::create(path, pairs, {});
    ASSERT_FALSE(writer) << message;
    EXPECT_THAT(writer.error().message, HasSubstr(message));
  }
  EXPECT_EQ(entries_in(folder.path()), 0U);
}

}  // namespace
}  // namespace mlxf::formats
