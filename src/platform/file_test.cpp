#include "platform/file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <utility>
#include <vector>

namespace mlxf::platform {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

class FileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "mlxf-file-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { fs::remove_all(folder_); }

  [[nodiscard]] std::string put(const std::string& name, const std::string& text) const {
    const std::string path = folder_ + "/" + name;
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }
  [[nodiscard]] static std::string text_of(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }
  [[nodiscard]] size_t entries() const {
    return static_cast<size_t>(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()));
  }

  std::string folder_;
};

std::span<const uint8_t> bytes_of(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

TEST_F(FileTest, ReadsAtAnyPosition) {
  const auto file = File::open(put("f", "0123456789"));
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(file->size(), 10U);
  std::array<uint8_t, 4> out{};
  ASSERT_TRUE(file->read_exact(6, out));
  EXPECT_EQ(std::string(out.begin(), out.end()), "6789");
  ASSERT_TRUE(file->read_exact(0, out));
  EXPECT_EQ(std::string(out.begin(), out.end()), "0123");
  EXPECT_TRUE(file->read_exact(10, {}));
}

TEST_F(FileTest, NamesPathAndOffsetWhenAReadFails) {
  const std::string path = put("f", "0123456789");
  const auto file = File::open(path);
  ASSERT_TRUE(file);
  std::array<uint8_t, 4> out{};
  for (const auto& [offset, where] : {std::pair<uint64_t, const char*>{7, "byte 10"}, {1000, "byte 1000"}}) {
    const Status status = file->read_exact(offset, out);
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().code, ErrorCode::kIo);
    EXPECT_THAT(status.error().message, AllOf(HasSubstr(path), HasSubstr(where)));
  }
  for (const uint64_t offset : {uint64_t{INT64_MAX}, UINT64_MAX}) {
    EXPECT_EQ(file->read_exact(offset, out).error().code, ErrorCode::kInvalidArgument);
  }
}

TEST_F(FileTest, SeesTruncationAfterOpening) {
  const std::string path = put("f", "0123456789");
  const auto file = File::open(path);
  ASSERT_TRUE(file);
  fs::resize_file(path, 3);
  std::array<uint8_t, 4> out{};
  EXPECT_EQ(file->read_exact(0, out).error().code, ErrorCode::kIo);
}

TEST_F(FileTest, RefusesWhatIsNoRegularFile) {
  ASSERT_EQ(::mkfifo((folder_ + "/pipe").c_str(), 0600), 0);
  EXPECT_THAT(File::open(folder_ + "/pipe").error().message, HasSubstr("is a FIFO"));
  EXPECT_THAT(File::open(folder_).error().message, HasSubstr("is a directory"));
  EXPECT_THAT(File::open("/dev/zero").error().message, HasSubstr("is a device"));
  EXPECT_EQ(File::open(folder_ + "/absent").error().code, ErrorCode::kNotFound);
  EXPECT_EQ(File::open("").error().code, ErrorCode::kNotFound);
  EXPECT_EQ(File::open(put("f", "") + "/under").error().code, ErrorCode::kNotFound);
  EXPECT_EQ(File::open(std::string("a\0b", 3)).error().code, ErrorCode::kInvalidArgument);
}

TEST_F(FileTest, TellsFilesApart) {
  const std::string a = put("a", "text");
  const std::string b = put("b", "text");
  fs::create_symlink(a, folder_ + "/link");
  const auto identity = [](const std::string& path) { return File::open(path)->identity(); };
  EXPECT_EQ(identity(a), identity(folder_ + "/link"));
  EXPECT_NE(identity(a), identity(b));
  const FileIdentity before = identity(a);
  std::ofstream(a, std::ios::app) << "more";
  EXPECT_NE(identity(a), before);
}

TEST_F(FileTest, MovesItsDescriptor) {
  auto first = File::open(put("a", "aaaa"));
  auto second = File::open(put("b", "bbbb"));
  ASSERT_TRUE(first && second);
  File moved = std::move(*first);
  EXPECT_EQ(first->descriptor(), -1);
  moved = std::move(*second);
  std::array<uint8_t, 4> out{};
  ASSERT_TRUE(moved.read_exact(0, out));
  EXPECT_EQ(out[0], 'b');
}

TEST_F(FileTest, ReadsWholeFilesUpToALimit) {
  const std::string path = put("f", "text");
  EXPECT_EQ(*read_whole_file(path, 4), "text");
  EXPECT_EQ(read_whole_file(path, 3).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(*read_whole_file(put("empty", ""), 0), "");
}

TEST_F(FileTest, ANewFileAppearsWholeOrNotAtAll) {
  const std::string path = folder_ + "/new";
  {
    auto file = NewFile::create(path, Overwrite::kRefuse);
    ASSERT_TRUE(file) << file.error().message;
    ASSERT_TRUE(file->append(bytes_of("first ")));
    EXPECT_FALSE(fs::exists(path));
  }
  EXPECT_EQ(entries(), 0U);
  auto file = NewFile::create(path, Overwrite::kRefuse);
  ASSERT_TRUE(file);
  ASSERT_TRUE(file->append(bytes_of("first ")));
  NewFile moved = std::move(*file);
  ASSERT_TRUE(moved.append(bytes_of("second")));
  EXPECT_EQ(moved.size(), 12U);
  ASSERT_TRUE(moved.commit());
  EXPECT_FALSE(moved.commit());
  EXPECT_FALSE(moved.append(bytes_of("third")));
  EXPECT_EQ(text_of(path), "first second");
  EXPECT_EQ(entries(), 1U);
}

TEST_F(FileTest, ANewFileReplacesOnlyWhenAsked) {
  const std::string path = put("f", "old");
  const auto refused = NewFile::create(path, Overwrite::kRefuse);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, AllOf(HasSubstr(path), HasSubstr("exists already")));
  EXPECT_FALSE(NewFile::create(folder_, Overwrite::kReplace));
  EXPECT_EQ(NewFile::create(folder_ + "/absent/f", Overwrite::kReplace).error().code, ErrorCode::kNotFound);
  auto file = NewFile::create(path, Overwrite::kReplace);
  ASSERT_TRUE(file);
  ASSERT_TRUE(file->append(bytes_of("new")));
  EXPECT_EQ(text_of(path), "old");
  ASSERT_TRUE(file->commit());
  EXPECT_EQ(text_of(path), "new");
  EXPECT_EQ(entries(), 1U);
}

TEST_F(FileTest, AFailedWriteLeavesNothingBehind) {
  // A limit on file sizes fails writes as a full disk does.
  const std::string path = folder_ + "/large";
  auto file = NewFile::create(path, Overwrite::kRefuse);
  ASSERT_TRUE(file);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{4096, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::vector<uint8_t> data(10'000, 7);
  const Status status = file->append(data);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kIo);
  EXPECT_THAT(status.error().message, AllOf(HasSubstr(path), HasSubstr("byte 4096")));
  EXPECT_EQ(entries(), 0U);
  EXPECT_FALSE(file->append(data));
  EXPECT_FALSE(file->commit());
}

}  // namespace
}  // namespace mlxf::platform
