#include "weights/resident.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "formats/gguf_writer.h"
#include "formats/safetensors_reader.h"
#include "kernels/kernel_table.h"
#include "kernels/side_by_side.h"
#include "platform/file.h"
#include "weights/test_matrix.h"

namespace mlxf::weights {
namespace {

std::string oracle(const std::string& name) { return MLXF_SOURCE_DIR "/tests/data/oracles/" + name; }

TEST(ResidentWeights, HoldsWhatTheFileHolds) {
  const auto manifest = formats::open_model(oracle("llama"));
  ASSERT_TRUE(manifest) << manifest.error().message;
  for (const uint32_t threads : {1u, 3u}) {
    ResidentWeights weights(*manifest);
    const auto q = weights.add_matrix("model.layers.0.self_attn.q_proj");
    const auto again = weights.add_matrix("model.layers.0.self_attn.q_proj");
    const auto down = weights.add_matrix("model.layers.3.mlp.down_proj");
    ASSERT_TRUE(q && again && down);
    EXPECT_EQ(*q, *again);
    ResidentWeights::Options options;
    options.threads = threads;
    uint64_t last = 0;
    options.progress = [&](uint64_t done, uint64_t total) {
      EXPECT_LE(done, total);
      last = done;
    };
    ASSERT_TRUE(weights.load(options));
    EXPECT_EQ(last, 64u * 64 * 2 + 64 * 128 * 2);
    const auto expected = formats::load_tensor_f32(oracle("llama") + "/model.safetensors",
                                                   "model.layers.3.mlp.down_proj.weight");
    ASSERT_TRUE(expected);
    EXPECT_EQ(weights.matrix(*down).cols, 128u);
    EXPECT_EQ(decode(weights.matrix(*down)), expected->values);
  }
}

// Pages of the file in the page cache.
size_t cached_pages(const std::string& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const size_t bytes = std::filesystem::file_size(path);
  void* map = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, file, 0);
  ::close(file);
  EXPECT_NE(map, MAP_FAILED);
  std::vector<unsigned char> pages((bytes + 4095) / 4096);
  EXPECT_EQ(::mincore(map, bytes, pages.data()), 0);
  ::munmap(map, bytes);
  return static_cast<size_t>(std::count_if(pages.begin(), pages.end(), [](auto page) { return page & 1; }));
}

TEST(ResidentWeights, LeavesNothingInThePageCacheIfAsked) {
  const std::string folder = testing::TempDir() + "/resident-" + std::to_string(::getpid());
  std::filesystem::copy(oracle("llama"), folder, std::filesystem::copy_options::recursive);
  const std::string path = folder + "/model.safetensors";
  const int file = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_EQ(::fsync(file), 0);  // Written pages stay until they are on the disk.
  ::posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
  ::close(file);
  size_t kept = 0;
  for (const bool drop : {false, true}) {
    const auto manifest = formats::open_model(folder);
    ASSERT_TRUE(manifest) << manifest.error().message;
    ResidentWeights weights(*manifest);
    const auto down = weights.add_matrix("model.layers.3.mlp.down_proj");
    ASSERT_TRUE(down);
    ASSERT_TRUE(weights.read_f32("model.norm.weight"));
    ResidentWeights::Options options;
    options.drop_cached = drop;
    options.threads = 2;
    ASSERT_TRUE(weights.load(options));
    // Pages that are being read ahead cannot be dropped yet.
    const size_t pages = cached_pages(path);
    if (drop) {
      EXPECT_LT(pages, kept / 2);
    } else {
      kept = pages;
      ::posix_fadvise(platform::File::open(path)->descriptor(), 0, 0, POSIX_FADV_DONTNEED);
      if (kept == 0 || cached_pages(path) == kept) break;  // A file system with other habits.
    }
  }
  std::filesystem::remove_all(folder);
}

TEST(ResidentWeights, Int8RowsAreWithinHalfAStep) {
  const auto manifest = formats::open_model(oracle("llama"));
  ASSERT_TRUE(manifest);
  ResidentWeights weights(*manifest);
  const auto handle = weights.add_matrix("model.layers.1.mlp.up_proj");
  const auto kept = weights.add_matrix_as_stored("model.embed_tokens");
  ASSERT_TRUE(handle && kept);
  ResidentWeights::Options options;
  options.int8_rows = true;
  ASSERT_TRUE(weights.load(options));
  EXPECT_EQ(weights.matrix(*kept).format, WeightFormat::kBF16);
  ASSERT_EQ(weights.matrix(*handle).format, WeightFormat::kI8Row);
  const auto expected =
      formats::load_tensor_f32(oracle("llama") + "/model.safetensors", "model.layers.1.mlp.up_proj.weight");
  ASSERT_TRUE(expected);
  const auto got = decode(weights.matrix(*handle));
  for (size_t group = 0; group < got.size(); group += 32) {
    float largest = 0;
    for (size_t i = group; i < group + 32; ++i) largest = std::max(largest, std::fabs(expected->values[i]));
    for (size_t i = group; i < group + 32; ++i)
      EXPECT_LE(std::fabs(got[i] - expected->values[i]), largest / 254 * 1.001f);
  }
}

// A GGUF of matrices whose rows can lie side by side, and of one that has 40 of them.
formats::ModelManifest matrices_in_k_formats(const std::string& folder) {
  std::filesystem::create_directories(folder);
  const std::string path = folder + "/model.gguf";
  const std::vector<formats::TensorSpec> tensors = {{"a.weight", DType::kQ4_K, {4096, 512}},
                                                    {"b.weight", DType::kQ6_K, {64, 768}},
                                                    {"forty.weight", DType::kQ4_K, {40, 256}},
                                                    {"c.weight", DType::kQ5_K, {32, 256}},
                                                    {"d.weight", DType::kF16, {32, 256}}};
  auto writer = formats::GgufWriter::create(path, {{"general.architecture", std::string("llama")}}, tensors,
                                            formats::Overwrite::kReplace);
  EXPECT_TRUE(writer);
  uint32_t random = 1;
  for (const formats::TensorSpec& tensor : tensors) {
    std::vector<uint8_t> bytes(tensor.shape[0] * *row_bytes(tensor.dtype, tensor.shape[1]));
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>((random = random * 1664525 + 1013904223) >> 26);
    EXPECT_TRUE(writer->append(tensor.name, bytes));
  }
  EXPECT_TRUE(writer->finish());
  auto manifest = formats::open_model(path);
  EXPECT_TRUE(manifest);
  return std::move(*manifest);
}

TEST(ResidentWeights, RowsGoSideBySideAsTheyAreRead) {
  const std::string folder = testing::TempDir() + "side-" + std::to_string(getpid());
  const formats::ModelManifest manifest = matrices_in_k_formats(folder);
  for (const uint32_t threads : {1u, 3u}) {
    ResidentWeights weights(manifest), stored(manifest);
    ResidentWeights::Options options;
    options.threads = threads;
    ASSERT_TRUE(stored.add_matrix("a") && stored.add_matrix("b") && stored.load(options));
    const auto a = weights.add_matrix("a"), b = weights.add_matrix("b"), forty = weights.add_matrix("forty"),
               c = weights.add_matrix("c"), kept = weights.add_matrix_as_stored("a");
    weights.begin_part();
    const auto apart = weights.add_matrix("a");
    ASSERT_TRUE(a && b && forty && c && kept && apart);
    weights.keep_rows_apart(*apart);
    options.put_side_by_side = kernels::put_side_by_side;
    uint64_t last = 0;
    options.progress = [&last](uint64_t done, uint64_t) { last = done; };
    const auto status = weights.load(options);
    ASSERT_TRUE(status) << status.error().message;
    EXPECT_EQ(last, 3 * 4096u * 288 + 64u * 630 + 40u * 144 + 32u * 176);
    EXPECT_EQ(weights.matrix(*a).format, WeightFormat::kQ4_Kx16);
    EXPECT_EQ(weights.matrix(*b).format, WeightFormat::kQ6_Kx16);
    EXPECT_EQ(weights.matrix(*forty).format, WeightFormat::kQ4_K) << "no whole groups";
    EXPECT_EQ(weights.matrix(*c).format, WeightFormat::kQ5_K);
    EXPECT_EQ(weights.matrix(*kept).format, WeightFormat::kQ4_K);
    EXPECT_EQ(weights.matrix(*apart).format, WeightFormat::kQ4_K);
    EXPECT_EQ(decode(weights.matrix(*a)), decode(stored.matrix(0)));
    EXPECT_EQ(decode(weights.matrix(*a)), decode(weights.matrix(*kept)));
    EXPECT_EQ(decode(weights.matrix(*b)), decode(stored.matrix(1)));
  }
  std::filesystem::remove_all(folder);
}

TEST(ResidentWeights, FloatsThatAreToStayAreNotQuantised) {
  const std::string folder = testing::TempDir() + "floats-" + std::to_string(getpid());
  const formats::ModelManifest manifest = matrices_in_k_formats(folder);
  ResidentWeights weights(manifest);
  const auto a = weights.add_matrix("a"), d = weights.add_matrix("d");
  ASSERT_TRUE(a && d);
  weights.keep_floats(*d);
  weights.keep_floats(*a);
  ResidentWeights::Options options;
  options.int8_rows = true;
  options.put_side_by_side = kernels::put_side_by_side;
  ASSERT_TRUE(weights.load(options));
  EXPECT_EQ(weights.matrix(*d).format, WeightFormat::kF16);
  EXPECT_EQ(weights.matrix(*a).format, WeightFormat::kQ4_Kx16) << "which changes no value";
  std::filesystem::remove_all(folder);
}

// A part is freed whole, whatever the others hold; the same name in two parts is loaded twice.
TEST(ResidentWeights, PartsLieInMemoryOfTheirOwn) {
  const auto manifest = formats::open_model(oracle("llama"));
  ASSERT_TRUE(manifest);
  ResidentWeights weights(*manifest);
  const std::string name = "model.layers.0.self_attn.q_proj";
  const auto first = weights.add_matrix(name);
  const uint32_t part = weights.begin_part();
  const auto again = weights.add_matrix(name);
  const auto up = weights.add_matrix("model.layers.0.mlp.up_proj");
  EXPECT_EQ(weights.begin_part(), part + 1);
  ASSERT_TRUE(first && again && up);
  EXPECT_NE(*first, *again);
  ASSERT_TRUE(weights.load({}));
  const uint64_t all = weights.bytes();
  const std::vector<float> expected = decode(weights.matrix(*first));
  {
    const platform::HugeMemory memory = weights.take_part(part);
    EXPECT_EQ(memory.bytes(), platform::HugeMemory::tight_bytes(64 * 64 * 2 + 128 * 64 * 2));
    EXPECT_EQ(weights.bytes() + memory.bytes(), all);
    for (const uint32_t handle : {*again, *up}) {
      EXPECT_GE(weights.matrix(handle).data, memory.data());
      EXPECT_LT(weights.matrix(handle).data, memory.data() + memory.bytes());
    }
    EXPECT_EQ(decode(weights.matrix(*again)), expected);
  }
  EXPECT_EQ(decode(weights.matrix(*first)), expected) << "it lies elsewhere";
}

TEST(ResidentWeights, NamesWhatIsMissing) {
  const auto manifest = formats::open_model(oracle("llama"));
  ASSERT_TRUE(manifest);
  ResidentWeights weights(*manifest);
  const auto missing = weights.add_matrix("model.layers.9.mlp.up_proj");
  ASSERT_FALSE(missing);
  EXPECT_NE(missing.error().message.find("model.layers.9.mlp.up_proj"), std::string::npos);
  EXPECT_EQ(missing.error().code, ErrorCode::kNotFound);
}

TEST(ResidentWeights, AFileThatShrankAfterOpeningIsAnErrorThatNamesTheTensor) {
  const std::string folder = testing::TempDir() + "shrunk-" + std::to_string(getpid());
  std::filesystem::copy(oracle("llama"), folder);
  const auto manifest = formats::open_model(folder);
  ASSERT_TRUE(manifest);
  std::filesystem::permissions(folder + "/model.safetensors", std::filesystem::perms::owner_write,
                               std::filesystem::perm_options::add);
  std::filesystem::resize_file(folder + "/model.safetensors", manifest->file_bytes[0] - 4096);
  ResidentWeights weights(*manifest);
  for (const auto& tensor : manifest->tensors)
    if (tensor.shape.size() == 2) {
      ASSERT_TRUE(weights.add_matrix(tensor.name.substr(0, tensor.name.size() - 7)));
    }
  const auto status = weights.load({});
  std::filesystem::remove_all(folder);
  ASSERT_FALSE(status);
  EXPECT_NE(status.error().message.find("while reading tensor"), std::string::npos);
}

}  // namespace
}  // namespace mlxf::weights
