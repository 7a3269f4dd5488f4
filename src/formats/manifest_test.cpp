#include "formats/manifest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <vector>

#include "formats/test_bytes.h"

namespace mlxf::formats {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using testing::gguf_string;
using ::testing::HasSubstr;
using testing::le;
using testing::RawGguf;
using testing::safetensors;
using testing::small_gguf;
using testing::TempFolder;

constexpr const char* kIndex = "model.safetensors.index.json";
constexpr const char* kFirst = "model-00001-of-00002.safetensors";
constexpr const char* kSecond = "model-00002-of-00002.safetensors";

std::string tensor_file(const std::string& name, uint64_t bytes) {
  return safetensors("{\"" + name + R"(":{"dtype":"U8","shape":[)" + std::to_string(bytes) +
                         R"(],"data_offsets":[0,)" + std::to_string(bytes) + "]}}",
                     bytes);
}

std::string index_json(const std::string& map, const std::string& total = "12") {
  return R"({"metadata":{"total_size":)" + total + R"(},"weight_map":)" + map + "}";
}

std::string good_index() {
  return index_json(std::string(R"({"a":")") + kFirst + R"(","b":")" + kSecond + "\"}");
}

void put_sharded(const TempFolder& folder) {
  folder.put("config.json", R"({"model_type":"llama"})");
  folder.put(kFirst, tensor_file("a", 4));
  folder.put(kSecond, tensor_file("b", 8));
  folder.put(kIndex, good_index());
}

void expect_refused(const std::string& path, ErrorCode code, const std::string& message) {
  const auto model = open_model(path);
  ASSERT_FALSE(model) << "accepted; expected: " << message;
  EXPECT_EQ(model.error().code, code) << model.error().message;
  EXPECT_THAT(model.error().message, HasSubstr(message));
}

// Part `part` of `count`, holding one tensor.
RawGguf gguf_part(uint16_t part, uint16_t count, int32_t total, const std::string& tensor) {
  RawGguf raw;
  if (part == 1) raw.pair("general.architecture", GgufType::kString, gguf_string("llama"));
  raw.pair("split.no", GgufType::kU16, le(static_cast<uint16_t>(part - 1)));
  raw.pair("split.count", GgufType::kU16, le(count));
  raw.pair("split.tensors.count", GgufType::kI32, le(total));
  return raw.tensor(tensor, {8}, 0, 0).data(32);
}

void put_split(const TempFolder& folder) {
  folder.put("m-00001-of-00003.gguf", gguf_part(1, 3, 3, "a").build());
  folder.put("m-00002-of-00003.gguf", gguf_part(2, 3, 3, "b").build());
  folder.put("m-00003-of-00003.gguf", gguf_part(3, 3, 3, "c").build());
}

TEST(OpenModel, OpensARealCheckpoint) {
  const std::string path = std::string(MLXF_SOURCE_DIR) + "/tests/data/oracles/llama";
  const auto model = open_model(path);
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_EQ(model->container, Container::kSafetensors);
  EXPECT_EQ(model->files.size(), 1U);
  EXPECT_EQ(model->file_bytes[0], fs::file_size(model->files[0]));
  EXPECT_EQ(find_string(model->config, "model_type"), "llama");
  EXPECT_EQ(testing::tensors_fault(model->tensors, model->file_bytes[0]), "");
  const TensorEntry* embedding = model->find("model.embed_tokens.weight");
  ASSERT_NE(embedding, nullptr);
  EXPECT_EQ(embedding->shape.size(), 2U);
  EXPECT_EQ(model->find("no.such.tensor"), nullptr);
}

TEST(OpenModel, OpensShardsByFolderByAnyShardAndWithoutIndex) {
  TempFolder folder;
  put_sharded(folder);
  for (const bool with_index : {true, false}) {
    if (!with_index) fs::remove(folder / kIndex);
    for (const std::string& path : {folder.path(), folder / kFirst, folder / kSecond}) {
      const auto model = open_model(path);
      ASSERT_TRUE(model) << model.error().message;
      EXPECT_EQ(model->path, path);
      EXPECT_EQ(model->files.size(), 2U);
      ASSERT_EQ(model->tensors.size(), 2U);
      EXPECT_EQ(model->find("b")->file, 1U);
      EXPECT_EQ(find_string(model->config, "model_type"), "llama");
    }
  }
}

TEST(OpenModel, OpensASafetensorsFileByContentUnderAnyName) {
  TempFolder folder;
  folder.put("config.json", "{}");
  const auto model = open_model(folder.put("weights", tensor_file("a", 4)));
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_EQ(model->container, Container::kSafetensors);
  // A header of 0x280 bytes starts as a pickle does.
  const std::string name(640 - std::string(R"({"":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})").size(),
                         'n');
  const std::string pickle_like = tensor_file(name, 4);
  ASSERT_EQ(pickle_like.substr(0, 2), "\x80\x02");
  EXPECT_TRUE(open_model(folder.put("weights", pickle_like)));
}

TEST(OpenModel, PrefersModelSafetensorsAmongOthers) {
  TempFolder folder;
  folder.put("config.json", "{}");
  folder.put("model.safetensors", tensor_file("a", 4));
  folder.put("oracle.safetensors", tensor_file("b", 4));
  const auto model = open_model(folder.path());
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_NE(model->find("a"), nullptr);
  EXPECT_EQ(model->find("b"), nullptr);
}

TEST(OpenModel, FollowsTheUsersOwnLinks) {
  // The Hugging Face cache keeps files in blobs/ and links to them from snapshots/.
  TempFolder folder;
  fs::create_directories(folder / "blobs");
  fs::create_directories(folder / "snapshot");
  folder.put("blobs/1", "{}");
  folder.put("blobs/2", tensor_file("a", 4));
  fs::create_symlink("../blobs/1", folder / "snapshot/config.json");
  fs::create_symlink("../blobs/2", folder / "snapshot/model.safetensors");
  EXPECT_TRUE(open_model(folder / "snapshot"));
}

TEST(OpenModel, RefusesALyingIndex) {  // S13
  struct Case {
    std::string index;
    ErrorCode code;
    const char* message;
  };
  const auto with_name = [](const std::string& name) {
    return index_json("{\"a\":\"" + name + "\",\"b\":\"" + kSecond + "\"}");
  };
  const std::string map = std::string(R"({"a":")") + kFirst + R"(","b":")" + kSecond + "\"}";
  const Case cases[] = {
      {with_name("model-00003-of-00002.safetensors"), ErrorCode::kNotFound, "is missing"},
      {with_name("../../etc/passwd"), ErrorCode::kCorrupt, "path separator"},
      {with_name("../model.safetensors"), ErrorCode::kCorrupt, "path separator"},
      {with_name("/etc/passwd"), ErrorCode::kCorrupt, "path separator"},
      {with_name("..\\\\x.safetensors"), ErrorCode::kCorrupt, "path separator"},
      {with_name(".."), ErrorCode::kCorrupt, "starts with a dot"},
      {with_name(""), ErrorCode::kCorrupt, "is empty"},
      {with_name("config.json"), ErrorCode::kCorrupt, "not that of a .safetensors file"},
      {with_name("a\\u0000.safetensors"), ErrorCode::kCorrupt, "NUL"},
      {with_name(kSecond), ErrorCode::kCorrupt, "in none of the files"},
      {index_json(std::string(R"({"a":")") + kSecond + R"(","b":")" + kFirst + "\"}"), ErrorCode::kCorrupt,
       "not in"},
      {index_json(std::string(R"({"a":")") + kFirst + R"(","b":")" + kSecond + R"(","c":")" + kFirst + "\"}"),
       ErrorCode::kCorrupt, "in none of the files"},
      {index_json(std::string(R"({"a":")") + kFirst + "\"}"), ErrorCode::kCorrupt, ""},
      {index_json(map, "13"), ErrorCode::kCorrupt, "total_size"},
      {index_json(map, "-1"), ErrorCode::kCorrupt, "total_size"},
      {index_json(map, "1e300"), ErrorCode::kCorrupt, "total_size"},
      {index_json("{}"), ErrorCode::kCorrupt, "weight_map"},
      {index_json("[]"), ErrorCode::kCorrupt, "weight_map"},
      {index_json("{\"a\":1}"), ErrorCode::kCorrupt, "is not a string"},
      {"{}", ErrorCode::kCorrupt, "weight_map"},
      {"[]", ErrorCode::kCorrupt, "is not a JSON object"},
      {"", ErrorCode::kCorrupt, "invalid JSON"},
      {good_index().substr(0, 40), ErrorCode::kCorrupt, "invalid JSON"},
      {std::string(100'000, '['), ErrorCode::kCorrupt, "nested deeper"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.index.substr(0, 200));
    TempFolder folder;
    put_sharded(folder);
    folder.put(kIndex, c.index);
    expect_refused(folder.path(), c.code, c.message);
  }
}

TEST(OpenModel, RefusesShardsThatDoNotFit) {  // S13
  {
    TempFolder folder;
    put_sharded(folder);
    folder.put(kSecond, tensor_file("a", 8));
    expect_refused(folder.path(), ErrorCode::kCorrupt, "as well");
  }
  {
    TempFolder folder;
    put_sharded(folder);
    fs::remove(folder / kSecond);
    expect_refused(folder.path(), ErrorCode::kNotFound, "complete the download");
    fs::remove(folder / kIndex);
    expect_refused(folder.path(), ErrorCode::kNotFound, "complete the download");
    expect_refused(folder / kFirst, ErrorCode::kNotFound, "complete the download");
  }
  {
    TempFolder folder;
    put_sharded(folder);
    fs::remove(folder / kSecond);
    fs::create_symlink(kSecond, folder / kSecond);  // A loop.
    expect_refused(folder.path(), ErrorCode::kIo, kSecond);
  }
  {
    TempFolder folder;
    put_sharded(folder);
    fs::remove(folder / kIndex);
    folder.put("another.safetensors", tensor_file("c", 4));
    expect_refused(folder.path(), ErrorCode::kInvalidArgument, "name the file to open");
  }
  {
    TempFolder folder;
    put_sharded(folder);
    folder.put(kSecond, small_gguf().build());
    expect_refused(folder.path(), ErrorCode::kCorrupt, "GGUF file under a safetensors name");
  }
  {
    TempFolder folder;
    put_sharded(folder);
    fs::remove(folder / kSecond);
    fs::create_hard_link(folder / kFirst, folder / kSecond);
    expect_refused(folder.path(), ErrorCode::kCorrupt, "the same file");
  }
}

TEST(OpenModel, RefusesWrongConfigs) {  // S14
  TempFolder folder;
  folder.put("model.safetensors", tensor_file("a", 4));
  expect_refused(folder.path(), ErrorCode::kNotFound, "config.json: is missing");
  expect_refused(folder / "model.safetensors", ErrorCode::kNotFound, "config.json: is missing");
  for (const char* text :
       {"", "{", "{\"a\":", "{\"a\":1,}", "{\"a\":1}x", "{\"a\":1,\"a\":2}", "[1]", "null", "\xff\xfe"}) {
    folder.put("config.json", text);
    expect_refused(folder.path(), ErrorCode::kCorrupt, "config.json");
  }
  folder.put("config.json", std::string(100'000, '['));
  expect_refused(folder.path(), ErrorCode::kCorrupt, "nested deeper");
  fs::remove(folder / "config.json");
  fs::create_directory(folder / "config.json");
  expect_refused(folder.path(), ErrorCode::kInvalidArgument, "is a directory");
}

TEST(OpenModel, RefusesASafetensorsModelWithoutTensors) {
  TempFolder folder;
  folder.put("config.json", "{}");
  folder.put("model.safetensors", safetensors("{}", 0));
  expect_refused(folder.path(), ErrorCode::kCorrupt, "holds no tensors");
}

TEST(OpenModel, RefusesOtherFilesByContent) {  // S7
  struct Case {
    std::string bytes;
    const char* message;
  };
  const Case cases[] = {
      {std::string("PK\x03\x04", 4) + std::string(100, '\0'), "never unpickled"},
      {std::string("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8", 12), "pickle"},
      {std::string("\x80\x04\x95", 3) + std::string(100, 'x'), "pickle"},
      {"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS"},
      {"<!DOCTYPE html><html>", "HTML"},
      {"<html>", "HTML"},
      {std::string("tjgg") + std::string(60, '\1'), "older than GGUF"},
      {"\x89HDF\r\n\x1a\n and more", "HDF5"},
      {"\x93NUMPY and more of it", "NumPy"},
      {std::string(257, 'n') + "ustar" + std::string(300, '\0'), "tar archive"},
  };
  TempFolder folder;
  folder.put("config.json", "{}");
  for (const Case& c : cases) {
    // Whatever the name says.
    for (const char* name : {"pytorch_model.bin", "model.pt", "model.safetensors", "model.gguf"}) {
      const std::string path = folder.put(name, c.bytes);
      expect_refused(path, ErrorCode::kUnsupported, c.message);
    }
  }
  expect_refused(folder.put("notes.txt", "some text"), ErrorCode::kUnsupported,
                 "neither GGUF nor safetensors");
  expect_refused(folder.put("nothing", ""), ErrorCode::kUnsupported, "is empty");
}

TEST(OpenModel, RefusesFoldersWithoutAModel) {
  TempFolder folder;
  expect_refused(folder.path(), ErrorCode::kNotFound, "holds no model");
  folder.put("config.json", "{}");
  expect_refused(folder.path(), ErrorCode::kNotFound, "holds no model");
  folder.put("pytorch_model.bin", "PK\x03\x04");
  expect_refused(folder.path(), ErrorCode::kUnsupported, "only PyTorch files");
  expect_refused(folder / "absent", ErrorCode::kNotFound, "absent");
  expect_refused("", ErrorCode::kNotFound, "cannot open");
  expect_refused(std::string("a\0b", 3), ErrorCode::kInvalidArgument, "NUL");
}

TEST(OpenModel, RefusesWhatIsNoRegularFile) {  // G1
  TempFolder folder;
  const std::string fifo = folder / "pipe.gguf";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  expect_refused(fifo, ErrorCode::kInvalidArgument, "is a FIFO");
  expect_refused(folder.path(), ErrorCode::kInvalidArgument, "is a FIFO");
  expect_refused("/dev/zero", ErrorCode::kInvalidArgument, "is a device");
  expect_refused("/dev/null", ErrorCode::kInvalidArgument, "is a device");
  TempFolder other;
  fs::create_directory(other / "model.gguf");
  expect_refused(other.path(), ErrorCode::kInvalidArgument, "is a directory");
}

TEST(OpenModel, OpensGgufByFileAndFolder) {
  TempFolder folder;
  const std::string path = folder.put("m.gguf", small_gguf().build());
  folder.put("mmproj-m.gguf", small_gguf().build());
  for (const std::string& p : {path, folder.path(), folder.put("blob", small_gguf().build())}) {
    const auto model = open_model(p);
    ASSERT_TRUE(model) << model.error().message;
    EXPECT_EQ(model->container, Container::kGguf);
    EXPECT_EQ(model->path, p);
    EXPECT_TRUE(model->config.is_object() && model->config.empty());
    EXPECT_EQ(model->metadata.find_string("general.architecture"), "llama");
    EXPECT_EQ(model->find("b.weight")->bytes, 68U);
  }
  folder.put("n.gguf", small_gguf().build());
  expect_refused(folder.path(), ErrorCode::kInvalidArgument, "m.gguf, n.gguf");
}

TEST(OpenModel, OpensSplitGgufByAnyPart) {
  TempFolder folder;
  put_split(folder);
  for (const std::string& path :
       {folder.path(), folder / "m-00001-of-00003.gguf", folder / "m-00003-of-00003.gguf"}) {
    const auto model = open_model(path);
    ASSERT_TRUE(model) << model.error().message;
    EXPECT_EQ(model->files.size(), 3U);
    EXPECT_EQ(model->tensors.size(), 3U);
    EXPECT_EQ(model->find("c")->file, 2U);
    EXPECT_EQ(model->metadata.find_string("general.architecture"), "llama");
  }
  // A name of one part needs no split keys.
  TempFolder single;
  single.put("m-00001-of-00001.gguf", small_gguf().build());
  EXPECT_TRUE(open_model(single.path()));
}

TEST(OpenModel, RefusesPartsThatDoNotFit) {  // G24
  struct Case {
    const char* name;  // Of the part that is replaced.
    std::string bytes;
    const char* message;
  };
  RawGguf named = gguf_part(2, 3, 3, "b");
  named.pair("general.architecture", GgufType::kString, gguf_string("qwen3"));
  const Case cases[] = {
      {"m-00001-of-00003.gguf", gguf_part(1, 2, 3, "a").build(), "split.count"},
      {"m-00002-of-00003.gguf", gguf_part(2, 4, 3, "b").build(), "split.count"},
      {"m-00002-of-00003.gguf", gguf_part(3, 3, 3, "b").build(), "split.no"},
      {"m-00002-of-00003.gguf", gguf_part(2, 3, 3, "a").build(), "as well"},
      {"m-00002-of-00003.gguf", gguf_part(2, 3, 4, "b").build(), "another model"},
      {"m-00002-of-00003.gguf", named.build(), "another model"},
      {"m-00002-of-00003.gguf", small_gguf().build(), "split.no and split.count"},
      {"m-00003-of-00003.gguf", gguf_part(3, 3, 3, "c").tensor("d", {8}, 0, 32).data(64).build(),
       "split.tensors.count"},
      {"m-00003-of-00003.gguf", gguf_part(3, 3, 3, "c").data(31).build(), "past the end"},
      {"m-00002-of-00003.gguf", tensor_file("b", 4), "safetensors file under a GGUF name"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.message);
    TempFolder folder;
    put_split(folder);
    folder.put(c.name, c.bytes);
    expect_refused(folder.path(), ErrorCode::kCorrupt, c.message);
  }
  TempFolder folder;
  put_split(folder);
  fs::remove(folder / "m-00002-of-00003.gguf");
  expect_refused(folder / "m-00001-of-00003.gguf", ErrorCode::kNotFound, "complete the download");
  fs::create_symlink("m-00001-of-00003.gguf", folder / "m-00002-of-00003.gguf");  // The same part twice.
  expect_refused(folder.path(), ErrorCode::kCorrupt, "split.no");
  fs::remove(folder / "m-00002-of-00003.gguf");
  fs::create_symlink("m-00002-of-00003.gguf", folder / "m-00002-of-00003.gguf");
  expect_refused(folder.path(), ErrorCode::kIo, "m-00002-of-00003.gguf");
  // A part under a name of its own.
  TempFolder renamed;
  renamed.put("model.gguf", gguf_part(1, 3, 3, "a").build());
  expect_refused(renamed.path(), ErrorCode::kCorrupt, "original names");
}

}  // namespace
}  // namespace mlxf::formats
