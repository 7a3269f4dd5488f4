#include "engine/prefix_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <numeric>

namespace mlxf::engine {
namespace {

namespace fs = std::filesystem;

constexpr kv::PageShape kPlain{1, 16, 16, 0};
constexpr kv::PageShape kSliding{1, 16, 16, 50};
constexpr kv::LatentShape kLatent{16};
constexpr kv::RecurrentShape kRecurrent{7};
constexpr uint32_t kTokens = 200;

// One file of a sequence of one layer of each kind, or of all together.
class PrefixFile : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "/prefix_file." + std::to_string(getpid());
    fs::create_directories(folder_);
    path_ = folder_ + "/one.prefix";
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::unique_ptr<kv::Sequence> make(std::span<const kv::LayerShape> shapes) {
    return std::make_unique<kv::Sequence>(pool_, shapes, 4096);
  }
  std::unique_ptr<kv::Sequence> filled(std::span<const kv::LayerShape> shapes, uint32_t tokens = kTokens) {
    auto sequence = make(shapes);
    EXPECT_TRUE(sequence->reserve(tokens));
    for (uint32_t layer = 0; layer < shapes.size(); ++layer)
      if (std::holds_alternative<kv::RecurrentShape>(shapes[layer]))
        (void)sequence->recurrent(layer).begin(tokens);
    sequence->advance(tokens);
    uint32_t value = 1;
    for (const std::span<uint8_t> part : sequence->contents())
      for (uint8_t& byte : part) byte = static_cast<uint8_t>((value = value * 1664525u + 1013904223u) >> 24);
    return sequence;
  }
  static PrefixHead head_of(kv::Sequence& sequence) {
    PrefixHead head;
    head.maker = "a test";
    for (size_t i = 0; i < head.scope.size(); ++i) head.scope[i] = static_cast<uint8_t>(i * 3);
    head.tokens.resize(sequence.length());
    std::iota(head.tokens.begin(), head.tokens.end(), -5);
    head.geometry = sequence.geometry();
    head.layout = sequence.layout();
    head.cuts = cuts_of(sequence);
    for (const std::span<uint8_t> part : sequence.contents()) head.payload_bytes += part.size();
    return head;
  }
  Status write(const PrefixHead& head, kv::Sequence& sequence) const {
    ASSIGN_OR_RETURN(platform::NewFile file, platform::NewFile::create(path_, platform::Overwrite::kReplace,
                                                                       platform::Readers::kOwner));
    RETURN_IF_ERROR(write_prefix(file, head, sequence.contents()));
    return file.commit();
  }
  // The sequence in the file at path_.
  Result<std::unique_ptr<kv::Sequence>> read(std::span<const kv::LayerShape> shapes) {
    ASSIGN_OR_RETURN(const platform::File file, platform::File::open(path_));
    ASSIGN_OR_RETURN(const PrefixHead head, read_head(file));
    auto sequence = make(shapes);
    if (head.geometry != sequence->geometry()) return fail(ErrorCode::kCorrupt, "another geometry");
    RETURN_IF_ERROR(sequence->restore(static_cast<uint32_t>(head.tokens.size()), head.layout));
    RETURN_IF_ERROR(reader_.read(file, head, sequence->contents()));
    return sequence;
  }
  std::vector<uint8_t> file_bytes() const {
    std::ifstream in(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  }
  void set_file_bytes(std::span<const uint8_t> bytes) const {
    std::ofstream out(path_, std::ios::binary | std::ios::trunc);
    out.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  }
  static std::vector<uint8_t> bytes_of(kv::Sequence& sequence) {
    std::vector<uint8_t> all;
    for (const std::span<uint8_t> part : sequence.contents()) all.insert(all.end(), part.begin(), part.end());
    return all;
  }

  std::string folder_, path_;
  kv::PagePool pool_;
  ContentsReader reader_ = ContentsReader::make(storage::Backend::kAuto).value();
};

TEST_F(PrefixFile, BringsEveryKindOfCacheBack) {
  const std::vector<std::vector<kv::LayerShape>> models = {
      {kPlain},
      {kSliding},
      {kLatent},
      {kRecurrent, kPlain},
      {kSliding, kv::NoShape{}, kLatent, kRecurrent, kPlain}};
  for (const auto& shapes : models) {
    const auto original = filled(shapes);
    const PrefixHead head = head_of(*original);
    ASSERT_TRUE(write(head, *original));
    EXPECT_EQ(fs::file_size(path_), prefix_file_bytes(head));
    EXPECT_EQ(fs::status(path_).permissions(), fs::perms::owner_read | fs::perms::owner_write);
    const auto file = platform::File::open(path_);
    EXPECT_EQ(read_head(*file).value(), head);
    const auto copy = read(shapes);
    ASSERT_TRUE(copy) << copy.error().message;
    EXPECT_EQ(bytes_of(**copy), bytes_of(*original));
    for (uint32_t length = 0; length <= kTokens; ++length)
      ASSERT_EQ((*copy)->truncatable(length), head.reach(length)) << length;
  }
}

TEST_F(PrefixFile, IsLongerThanAChunkAndAHeadThanARead) {
  const std::vector<kv::LayerShape> shapes = {kv::PageShape{16, 64, 64, 0}};  // A page is 256 KiB.
  const auto original = filled(shapes, 4000);
  PrefixHead head = head_of(*original);
  head.maker.assign(200'000, 'x');
  ASSERT_GT(head.payload_bytes, 14 * kPrefixChunkBytes);  // Twice what is read at a time.
  ASSERT_TRUE(write(head, *original));
  for (const storage::Backend backend :
       {storage::Backend::kPread, storage::Backend::kBuffered, storage::Backend::kAuto}) {
    reader_ = ContentsReader::make(backend).value();
    const auto copy = read(shapes);
    ASSERT_TRUE(copy) << copy.error().message;
    EXPECT_EQ(bytes_of(**copy), bytes_of(*original));
  }
  // A fault in the last chunk is found, too.
  std::vector<uint8_t> bytes = file_bytes();
  bytes[bytes.size() - 100] ^= 1;
  set_file_bytes(bytes);
  EXPECT_FALSE(read(shapes));
}

TEST_F(PrefixFile, WritingEndsBetweenPartsWhenItIsNotWanted) {
  const std::vector<kv::LayerShape> shapes = {kPlain};
  const auto original = filled(shapes);
  auto file = platform::NewFile::create(path_, platform::Overwrite::kReplace, platform::Readers::kOwner);
  ASSERT_TRUE(file);
  int parts = 0;
  const Status status =
      write_prefix(*file, head_of(*original), original->contents(), [&] { return ++parts < 3; });
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kCancelled);
  EXPECT_EQ(parts, 3);
}

TEST_F(PrefixFile, IsReadWhileItsTimesAreSetAndNotWhenItIsReplaced) {
  const std::vector<kv::LayerShape> shapes = {kv::PageShape{16, 64, 64, 0}};  // 2 MiB.
  const auto original = filled(shapes, 500);
  const PrefixHead head = head_of(*original);
  ASSERT_TRUE(write(head, *original));
  const auto file = platform::File::open(path_);
  fs::last_write_time(path_, fs::last_write_time(path_) + std::chrono::hours(1));
  const auto copy = make(shapes);
  ASSERT_TRUE(copy->restore(500, head.layout));
  EXPECT_TRUE(reader_.read(*file, head, copy->contents()));
  EXPECT_EQ(bytes_of(*copy), bytes_of(*original));
  ASSERT_TRUE(write(head, *original));
  EXPECT_EQ(reader_.read(*file, head, copy->contents()).error().code, ErrorCode::kCorrupt);
}

// As a program of another page size would write it.
TEST_F(PrefixFile, RefusesContentsOfAnotherSize) {
  const std::vector<kv::LayerShape> shapes = {kPlain};
  const auto original = filled(shapes);
  for (const int more : {-1, 1}) {
    PrefixHead head = head_of(*original);
    head.payload_bytes += more;
    std::vector<uint8_t> bytes(head.payload_bytes);
    const std::span<uint8_t> part(bytes);
    auto file = platform::NewFile::create(path_, platform::Overwrite::kReplace, platform::Readers::kOwner);
    ASSERT_TRUE(file);
    ASSERT_TRUE(write_prefix(*file, head, {&part, 1}));
    ASSERT_TRUE(file->commit());
    const auto copy = read(shapes);
    ASSERT_FALSE(copy);
    EXPECT_EQ(copy.error().code, ErrorCode::kCorrupt) << copy.error().message;
  }
}

TEST_F(PrefixFile, RefusesEveryFlippedByte) {
  const std::vector<kv::LayerShape> shapes = {kRecurrent, kv::PageShape{1, 16, 16, 20}};
  const auto original = filled(shapes, 70);
  ASSERT_TRUE(write(head_of(*original), *original));
  const std::vector<uint8_t> good = file_bytes();
  ASSERT_TRUE(read(shapes));
  // In place: as many new files would take minutes.
  std::fstream file(path_, std::ios::binary | std::ios::in | std::ios::out);
  const auto put = [&](size_t i, uint8_t byte) {
    file.seekp(static_cast<std::streamoff>(i));
    file.put(static_cast<char>(byte)).flush();
  };
  for (size_t i = 0; i < good.size(); ++i) {
    put(i, static_cast<uint8_t>(good[i] ^ 1 << i % 8));
    const auto copy = read(shapes);
    ASSERT_FALSE(copy) << "byte " << i << " of " << good.size();
    ASSERT_EQ(copy.error().code, ErrorCode::kCorrupt) << "byte " << i << ": " << copy.error().message;
    put(i, good[i]);
  }
  EXPECT_TRUE(read(shapes));
}

TEST_F(PrefixFile, RefusesEveryOtherLength) {
  const std::vector<kv::LayerShape> shapes = {kLatent};
  const auto original = filled(shapes, 20);
  ASSERT_TRUE(write(head_of(*original), *original));
  std::vector<uint8_t> bytes = file_bytes();
  bytes.push_back(0);
  set_file_bytes(bytes);
  EXPECT_FALSE(read(shapes));
  fs::resize_file(path_, bytes.size() - 1);
  EXPECT_TRUE(read(shapes));
  for (size_t length = bytes.size() - 1; length-- > 0;) {
    fs::resize_file(path_, length);
    const auto copy = read(shapes);
    ASSERT_FALSE(copy) << length;
    ASSERT_EQ(copy.error().code, ErrorCode::kCorrupt) << length << ": " << copy.error().message;
  }
}

// Heads whose checksum is right, as only a hostile or a mistaken writer makes them.
TEST_F(PrefixFile, RefusesHeadsThatContradictThemselves) {
  const std::vector<kv::LayerShape> shapes = {kPlain};
  const auto sequence = filled(shapes, 20);
  const PrefixHead good = head_of(*sequence);
  const auto parsed = [](const PrefixHead& head) {
    return parse_head(encode_head(head), prefix_file_bytes(head));
  };
  ASSERT_TRUE(parsed(good));
  for (const std::vector<CutRange>& cuts :
       {std::vector<CutRange>{}, {{0, 20}}, {{1, 19}}, {{1, 21}}, {{5, 4}, {6, 20}}, {{1, 10}, {10, 20}}}) {
    PrefixHead bad = good;
    bad.cuts = cuts;
    EXPECT_FALSE(parsed(bad));
  }
  EXPECT_FALSE(parse_head(encode_head(good), prefix_file_bytes(good) - 1));
  for (const uint64_t payload : {uint64_t{0}, UINT64_MAX, UINT64_MAX - 100, uint64_t{1} << 63}) {
    PrefixHead bad = good;
    bad.payload_bytes = payload;
    EXPECT_FALSE(parse_head(encode_head(bad), prefix_file_bytes(good)));
  }
}

}  // namespace
}  // namespace mlxf::engine
