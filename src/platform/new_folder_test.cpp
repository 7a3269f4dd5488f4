#include "platform/new_folder.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace {

// The folders and files that were flushed, as they were opened.
std::vector<std::string>& flushed() {
  static std::vector<std::string> names;
  return names;
}

}  // namespace

// In place of the system's.
extern "C" int fsync(int descriptor) {
  std::error_code error;
  flushed().push_back(
      std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(descriptor), error).string());
  return static_cast<int>(::syscall(SYS_fsync, descriptor));
}

namespace mlxf::platform {
namespace {

namespace fs = std::filesystem;

class NewFolderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::canonical(fs::temp_directory_path()) / "mlxf-folder-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    flushed().clear();
  }
  void TearDown() override { fs::remove_all(folder_); }
  [[nodiscard]] static unsigned mode_of(const std::string& path) {
    struct stat status {};
    return ::stat(path.c_str(), &status) == 0 ? status.st_mode & 0777u : 0;
  }
  std::string folder_;
};

TEST_F(NewFolderTest, ANewFoldersNameIsFlushedWithThoseAboveIt) {
  const std::string path = folder_ + "/a/b/c";
  const Status made = make_folders(path, Readers::kOwner);
  ASSERT_TRUE(made) << made.error().message;
  EXPECT_EQ(flushed(), (std::vector<std::string>{folder_, folder_ + "/a", folder_ + "/a/b"}));
  EXPECT_EQ(mode_of(path), 0700u);
  EXPECT_NE(mode_of(folder_ + "/a"), 0700u);
  flushed().clear();
  EXPECT_TRUE(make_folders(path));
  EXPECT_TRUE(make_folders(path + "//"));
  EXPECT_TRUE(flushed().empty());
  EXPECT_EQ(mode_of(path), 0700u) << "what is there stays as it is";
  EXPECT_TRUE(make_folders(path + "//d/", Readers::kOwner));
  EXPECT_EQ(mode_of(path + "/d"), 0700u);
  EXPECT_TRUE(make_folders("/"));
  EXPECT_TRUE(fs::is_directory(path + "/d"));
  EXPECT_EQ(flushed(), std::vector<std::string>{path});
}

TEST_F(NewFolderTest, WhatIsNoFolderIsNamed) {
  std::ofstream(folder_ + "/file") << "x";
  for (const char* name : {"/file", "/file/below"}) {
    const Status made = make_folders(folder_ + name);
    ASSERT_FALSE(made);
    EXPECT_NE(made.error().message.find("/file"), std::string::npos) << made.error().message;
    EXPECT_NE(made.error().message.find("cannot make the folder"), std::string::npos) << made.error().message;
  }
  EXPECT_FALSE(make_folders(""));
  EXPECT_FALSE(make_folder(folder_ + "/a/b")) << "there is no folder for it";
  EXPECT_TRUE(make_folder(folder_ + "/a"));
}

TEST_F(NewFolderTest, AFilledFolderIsFlushedUnderItsName) {
  auto made = NewFolder::create(folder_ + "/whole");
  ASSERT_TRUE(made) << made.error().message;
  ASSERT_TRUE(made->write_file("f", "text"));
  flushed().clear();
  ASSERT_TRUE(made->commit());
  EXPECT_EQ(flushed(), std::vector<std::string>{folder_});
}

}  // namespace
}  // namespace mlxf::platform
