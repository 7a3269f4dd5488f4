#include "platform/folder_lock.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <optional>

namespace mlxf::platform {
namespace {

TEST(FolderLock, IsForOneAtATime) {
  const std::string folder = testing::TempDir() + "/folder_lock." + std::to_string(getpid());
  ASSERT_FALSE(FolderLock::take(folder)) << "it is not there";
  std::filesystem::create_directory(folder);
  {
    auto first = FolderLock::take(folder);
    ASSERT_TRUE(first) << first.error().message;
    const FolderLock moved = std::move(*first);
    const auto second = FolderLock::take(folder);
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().code, ErrorCode::kUnavailable);
    EXPECT_NE(second.error().message.find(folder), std::string::npos);
  }
  EXPECT_TRUE(FolderLock::take(folder));
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace mlxf::platform
