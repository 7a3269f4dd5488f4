// Mutants of valid files: whatever the bytes, a model is refused with an error or accepted as one that keeps every
// promise of its manifest. The seed and the mutant's number are printed on failure and reproduce it.
#include <gtest/gtest.h>

#include <array>
#include <random>

#include "formats/test_bytes.h"

namespace mlxf::formats {
namespace {

using testing::gguf_array;
using testing::gguf_string;
using testing::gguf_strings;
using testing::le;
using testing::RawGguf;
using testing::safetensors;
using testing::TempFolder;

constexpr uint64_t kSeed = 20260727;
constexpr int kMutantsPerSeed = 2500;

// A model in a folder: fixed files, and the one that is mutated.
struct SeedModel {
  const char* name;
  const char* file;
  std::string bytes;
  std::vector<std::pair<std::string, std::string>> others;
};

std::string gguf_of_many_types() {
  RawGguf raw;
  raw.pair("general.architecture", GgufType::kString, gguf_string("qwen3moe"));
  uint64_t offset = 0;
  int number = 0;
  for (const uint32_t code : {0, 1, 2, 3, 6, 7, 8, 10, 11, 12, 13, 14, 20, 23, 24, 27, 30, 39}) {
    raw.tensor("blk." + std::to_string(number++) + ".w", {256, 1}, code, offset);
    constexpr std::array<uint64_t, 40> kBytes = {
        1024, 512, 144, 160, 0,   0, 176, 192,  272, 0, 84,  110, 144, 176, 210, 0, 0, 0, 0, 0,
        144,  0,   0,   136, 256, 0, 0,   2048, 0,   0, 512, 0,   0,   0,   0,   0, 0, 0, 0, 136};
    offset += (kBytes[code] + 31) / 32 * 32;
  }
  return raw.data(offset).build();
}

std::string gguf_of_all_values() {
  RawGguf raw;
  raw.pair("u8", GgufType::kU8, le(uint8_t{1})).pair("i8", GgufType::kI8, le(int8_t{-1}));
  raw.pair("u16", GgufType::kU16, le(uint16_t{1})).pair("i16", GgufType::kI16, le(int16_t{-1}));
  raw.pair("u32", GgufType::kU32, le(1U)).pair("i32", GgufType::kI32, le(-1));
  raw.pair("u64", GgufType::kU64, le(uint64_t{1})).pair("i64", GgufType::kI64, le(int64_t{-1}));
  raw.pair("f32", GgufType::kF32, le(1.0F)).pair("f64", GgufType::kF64, le(1.0));
  raw.pair("bool", GgufType::kBool, le(uint8_t{1})).pair("string", GgufType::kString, gguf_string("text"));
  raw.pair("bools", GgufType::kArray, gguf_array(GgufType::kBool, 2, std::string("\0\1", 2)));
  raw.pair("f32s", GgufType::kArray, gguf_array(GgufType::kF32, 2, le(1.0F) + le(2.0F)));
  raw.pair("strings", GgufType::kArray, gguf_strings({"a", "bc", ""}));
  return raw.tensor("t", {8}, 0, 0).data(32).build();
}

std::string gguf_aligned(uint32_t alignment) {
  RawGguf raw;
  raw.alignment = alignment;
  raw.pair("general.alignment", GgufType::kU32, le(alignment));
  raw.tensor("a", {3}, 0, 0).tensor("b", {2, 3, 2, 1}, 1, alignment).data(uint64_t{alignment} + 24);
  return raw.build();
}

std::vector<SeedModel> seed_models() {
  RawGguf version_2 = testing::small_gguf();
  version_2.version = 2;
  RawGguf part;
  part.pair("split.no", GgufType::kU16, le(uint16_t{0})).pair("split.count", GgufType::kU16, le(uint16_t{2}));
  part.pair("split.tensors.count", GgufType::kI32, le(2)).tensor("a", {8}, 0, 0).data(32);
  RawGguf second;
  second.pair("split.no", GgufType::kU16, le(uint16_t{1}))
      .pair("split.count", GgufType::kU16, le(uint16_t{2}));
  second.pair("split.tensors.count", GgufType::kI32, le(2)).tensor("b", {8}, 0, 0).data(32);
  const std::string plain = safetensors(
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},)"
      R"("b":{"dtype":"BF16","shape":[4],"data_offsets":[16,24]}})",
      24);
  const std::string odd = safetensors(
      R"({"sc\u00e4lar":{"dtype":"I64","shape":[],"data_offsets":[0,8]},"empty":{"dtype":"U8","shape":[0,7],"data_offsets":[8,8]},)"
      R"("x":{"dtype":"F8_E4M3","shape":[1,1,3],"data_offsets":[8,11]},"y":{"dtype":"BOOL","shape":[1],"data_offsets":[11,12]}}  )",
      12);
  const std::string shard_a = safetensors(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 4);
  const std::string shard_b = safetensors(R"({"b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 4);
  const std::string index =
      R"({"metadata":{"total_size":8},"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}})";
  const std::pair<std::string, std::string> config = {"config.json", R"({"model_type":"llama"})"};
  return {
      {"small GGUF", "m.gguf", testing::small_gguf().build(), {}},
      {"GGUF version 2", "m.gguf", version_2.build(), {}},
      {"GGUF of many tensor types", "m.gguf", gguf_of_many_types(), {}},
      {"GGUF of all value types", "m.gguf", gguf_of_all_values(), {}},
      {"GGUF of alignment 64", "m.gguf", gguf_aligned(64), {}},
      {"split GGUF", "m-00001-of-00002.gguf", part.build(), {{"m-00002-of-00002.gguf", second.build()}}},
      {"plain safetensors", "model.safetensors", plain, {config}},
      {"odd safetensors", "model.safetensors", odd, {config}},
      {"safetensors shard",
       "model-00001-of-00002.safetensors",
       shard_a,
       {config, {"model-00002-of-00002.safetensors", shard_b}}},
      {"shard index",
       "model.safetensors.index.json",
       index,
       {config,
        {"model-00001-of-00002.safetensors", shard_a},
        {"model-00002-of-00002.safetensors", shard_b}}},
      {"config", "config.json", config.second, {{"model.safetensors", plain}}},
  };
}

class Mutator {
 public:
  explicit Mutator(uint64_t seed) : random_(seed) {}

  std::string mutate(std::string bytes, const std::string& donor) {
    const uint64_t rounds = 1 + below(3);
    for (uint64_t i = 0; i < rounds; ++i) step(bytes, donor);
    return bytes;
  }

 private:
  uint64_t below(uint64_t bound) { return bound == 0 ? 0 : random_() % bound; }

  void step(std::string& bytes, const std::string& donor) {
    const uint64_t at = below(bytes.size());
    switch (below(10)) {
      case 0:
        if (!bytes.empty()) bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(8)));
        break;
      case 1:
        if (!bytes.empty()) bytes[at] = static_cast<char>(random_());
        break;
      case 2:
        bytes.resize(at);
        break;
      case 3:
        bytes.append(below(70), static_cast<char>(random_()));
        break;
      case 4:
        bytes.erase(at, 1 + below(16));
        break;
      case 5:
        bytes.insert(at, bytes.substr(below(bytes.size()), 1 + below(32)));
        break;
      case 6:
        splice(bytes, donor);
        break;
      case 7:
        set_integer(bytes);
        break;
      case 8:
        set_number_token(bytes);
        break;
      default:
        set_word(bytes, donor);
        break;
    }
  }

  void splice(std::string& bytes, const std::string& donor) {
    const std::string piece = donor.substr(below(donor.size()), 1 + below(64));
    bytes.replace(below(bytes.size()), below(64), piece);
  }

  // Lengths, counts, dimensions, offsets and type codes are integers of 4 or 8 bytes: finds one that is small, as
  // those are, and sets it to a value from the edges.
  void set_integer(std::string& bytes) {
    constexpr std::array<uint64_t, 20> kEdges = {0,
                                                 1,
                                                 2,
                                                 3,
                                                 7,
                                                 8,
                                                 9,
                                                 31,
                                                 32,
                                                 63,
                                                 64,
                                                 255,
                                                 65'535,
                                                 uint64_t{1} << 31,
                                                 uint64_t{1} << 32,
                                                 uint64_t{1} << 61,
                                                 uint64_t{1} << 63,
                                                 INT64_MAX,
                                                 UINT64_MAX,
                                                 UINT64_MAX - 31};
    for (int attempt = 0; attempt < 64 && bytes.size() >= 8; ++attempt) {
      const uint64_t at = below(bytes.size() - 7);
      uint32_t high = 0;
      std::memcpy(&high, bytes.data() + at + 4, sizeof high);
      const bool wide = high == 0;
      if (!wide && attempt < 60) continue;
      const uint64_t value = below(2) == 0 ? kEdges[below(kEdges.size())] : below(bytes.size() * 2);
      std::memcpy(bytes.data() + at, &value, below(4) == 0 ? 4 : 8);
      return;
    }
  }

  // Sets a decimal number of a JSON text and keeps the length of a safetensors header true.
  void set_number_token(std::string& bytes) {
    constexpr std::array<const char*, 14> kTokens = {"0",
                                                     "1",
                                                     "4",
                                                     "8",
                                                     "16",
                                                     "24",
                                                     "-1",
                                                     "1e400",
                                                     "2.0",
                                                     "18446744073709551615",
                                                     "18446744073709551616",
                                                     "9223372036854775807",
                                                     "4294967296",
                                                     "null"};
    const size_t begin = bytes.find_first_of("0123456789", below(bytes.size()));
    if (begin == std::string::npos) return;
    const size_t end = std::min(bytes.find_first_not_of("0123456789", begin), bytes.size());
    const std::string token = kTokens[below(kTokens.size())];
    bytes.replace(begin, end - begin, token);
    fix_length(bytes, static_cast<int64_t>(token.size()) - static_cast<int64_t>(end - begin));
  }

  // Replaces a quoted word by one of the donor's.
  void set_word(std::string& bytes, const std::string& donor) {
    const auto word = [this](const std::string& text) {
      const size_t begin = text.find('"', below(text.size()));
      const size_t end = begin == std::string::npos ? begin : text.find('"', begin + 1);
      return end == std::string::npos ? std::make_pair(size_t{0}, size_t{0})
                                      : std::make_pair(begin, end + 1 - begin);
    };
    const auto to = word(bytes);
    const auto from = word(donor);
    if (to.second == 0 || from.second == 0) return;
    const std::string text = donor.substr(from.first, from.second);
    bytes.replace(to.first, to.second, text);
    fix_length(bytes, static_cast<int64_t>(text.size()) - static_cast<int64_t>(to.second));
  }

  void fix_length(std::string& bytes, int64_t change) {
    if (bytes.size() < 9 || bytes[8] != '{') return;
    int64_t length = 0;
    std::memcpy(&length, bytes.data(), sizeof length);
    length = static_cast<int64_t>(static_cast<uint64_t>(length) + static_cast<uint64_t>(change));
    std::memcpy(bytes.data(), &length, sizeof length);
  }

  std::mt19937_64 random_;
};

// What is wrong with an accepted model; empty if nothing is.
std::string manifest_fault(const ModelManifest& model) {
  for (uint32_t file = 0; file < model.files.size(); ++file) {
    std::vector<TensorEntry> tensors;
    for (const TensorEntry& tensor : model.tensors) {
      if (tensor.file == file) tensors.push_back(tensor);
    }
    if (std::string fault = testing::tensors_fault(tensors, model.file_bytes[file]); !fault.empty())
      return fault;
  }
  for (const TensorEntry& tensor : model.tensors) {
    if (tensor.file >= model.files.size()) return "a tensor of no file";
    if (model.find(tensor.name) != &tensor) return tensor.name + " is not found";
  }
  if (!model.config.is_object()) return "config is no object";
  // A u64 beyond int64 is still a number, so some finder answers for each key.
  return testing::visit_metadata(model.metadata) == 0 ? "" : "a key that no finder answers";
}

TEST(Mutants, AreRefusedOrKeepThePromises) {  // G30
  const std::vector<SeedModel> seeds = seed_models();
  size_t accepted = 0;
  size_t refused = 0;
  for (size_t s = 0; s < seeds.size(); ++s) {
    const SeedModel& seed = seeds[s];
    const TempFolder folder;
    for (const auto& [name, bytes] : seed.others) folder.put(name, bytes);
    folder.put(seed.file, seed.bytes);
    const auto original = open_model(folder.path());
    ASSERT_TRUE(original) << seed.name << ": " << original.error().message;
    ASSERT_EQ(manifest_fault(*original), "") << seed.name;
    Mutator mutator(kSeed + s);
    for (int i = 0; i < kMutantsPerSeed; ++i) {
      folder.put(seed.file,
                 mutator.mutate(seed.bytes, seeds[(s + static_cast<size_t>(i)) % seeds.size()].bytes));
      const auto model = open_model(folder.path());
      if (model) {
        ++accepted;
        ASSERT_EQ(manifest_fault(*model), "") << seed.name << ", mutant " << i << ", seed " << kSeed + s;
      } else {
        ++refused;
        ASSERT_FALSE(model.error().message.empty());
        ASSERT_NE(model.error().message.find(folder.path()), std::string::npos) << model.error().message;
      }
    }
  }
  RecordProperty("refused", std::to_string(refused));
  RecordProperty("accepted", std::to_string(accepted));
  EXPECT_GE(refused + accepted, 20'000U);
  EXPECT_GT(accepted, 100U);  // Otherwise the promises were hardly tried.
  EXPECT_GT(refused, 10'000U);
}

}  // namespace
}  // namespace mlxf::formats
