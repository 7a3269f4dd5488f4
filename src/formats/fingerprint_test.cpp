// The same content has the same name wherever it lies; another model of the same shape has another.
#include "formats/fingerprint.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace mlxf::formats {
namespace {

namespace fs = std::filesystem;

std::string name_of(const fs::path& folder) {
  const auto manifest = open_model(folder);
  EXPECT_TRUE(manifest);
  const auto name = fingerprint(*manifest);
  EXPECT_TRUE(name);
  return *name;
}

TEST(Fingerprint, FollowsTheContent) {
  const fs::path source = MLXF_SOURCE_DIR "/tests/data/oracles/qwen3_moe";
  const fs::path copy = fs::path(testing::TempDir()) / ("mlxf-fingerprint-" + std::to_string(getpid()));
  fs::create_directories(copy);
  for (const char* name : {"config.json", "model.safetensors"}) fs::copy(source / name, copy / name);
  fs::permissions(copy / "model.safetensors", fs::perms::owner_write, fs::perm_options::add);
  const std::string name = name_of(source);
  EXPECT_EQ(name.size(), 16u);
  EXPECT_EQ(name_of(copy), name);
  const uint64_t bytes = fs::file_size(copy / "model.safetensors");
  std::fstream(copy / "model.safetensors", std::ios::in | std::ios::out | std::ios::binary)
          .seekp(static_cast<std::streamoff>(bytes / 9 * 4 + 100))
      << "other weights";
  EXPECT_NE(name_of(copy), name);
  EXPECT_NE(name_of(MLXF_SOURCE_DIR "/tests/data/oracles/olmoe"), name);
  fs::remove_all(copy);
}

}  // namespace
}  // namespace mlxf::formats
