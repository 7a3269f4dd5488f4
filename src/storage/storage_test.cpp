#include "storage/storage.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <random>

#include "storage/open_storage.h"
#include "storage/test_file.h"

namespace mlxf::storage {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr uint64_t kMiB = uint64_t{1} << 20;

struct Case {
  Backend backend = Backend::kPread;
  uint32_t depth = 8;
  uint64_t piece_bytes = kMiB;
};

std::string case_name(const ::testing::TestParamInfo<Case>& info) {
  return std::string(backend_name(info.param.backend)) + "_depth" + std::to_string(info.param.depth) +
         "_piece" + std::to_string(info.param.piece_bytes >> 10) + "K";
}

class BackendTest : public ::testing::TestWithParam<Case> {
 protected:
  // Null when the kernel refuses the backend.
  [[nodiscard]] static std::unique_ptr<Storage> make() {
    StorageOptions options;
    options.backend = GetParam().backend;
    options.queue.depth = GetParam().depth;
    options.queue.piece_bytes = GetParam().piece_bytes;
    auto storage = open_storage(options);
    if (storage) return *std::move(storage);
    EXPECT_EQ(storage.error().code, ErrorCode::kUnsupported) << storage.error().message;
    std::fprintf(stderr, "SKIPPED: %s\n", storage.error().message.c_str());
    return nullptr;
  }
};

#define MAKE_OR_SKIP(storage)  \
  const auto storage = make(); \
  if (storage == nullptr) GTEST_SKIP() << "the kernel refuses this backend"

TEST_P(BackendTest, ReadsRandomExtents) {
  const TestFile file(5 * kMiB + 1234);
  MAKE_OR_SKIP(storage);
  const auto id = storage->open(file.path());
  ASSERT_TRUE(id) << id.error().message;
  EXPECT_EQ(storage->file_bytes(*id), file.bytes());
  std::mt19937_64 random(7);
  for (int round = 0; round < 40; ++round) {
    const uint64_t offset = random() % file.bytes();
    const uint64_t length =
        1 + random() % std::min<uint64_t>(file.bytes() - offset, round % 2 == 0 ? 3 * kMiB : 9000);
    const ReadMemory memory(offset, length);
    const auto payload = storage->read(memory.request(*id, offset, length));
    ASSERT_TRUE(payload) << payload.error().message;
    ASSERT_EQ(payload->size(), length);
    ASSERT_EQ(first_difference(*payload, offset), length) << offset << " " << length;
    ASSERT_TRUE(memory.guard_intact()) << offset << " " << length;
  }
  const StorageStats stats = storage->stats();
  EXPECT_EQ(stats.reads, 40U);
  EXPECT_EQ(stats.in_flight, 0U);
  EXPECT_EQ(stats.queued, 0U);
  EXPECT_GE(stats.device_bytes, stats.bytes);
  EXPECT_LE(stats.in_flight_max, GetParam().depth);
}

TEST_P(BackendTest, ReadsTheTailOfFilesOfEveryEnd) {
  for (const uint64_t bytes :
       {uint64_t{1}, uint64_t{511}, uint64_t{512}, uint64_t{513}, uint64_t{4095}, uint64_t{4096},
        uint64_t{4097}, kMiB - 1, kMiB, kMiB + 1, 2 * kMiB + 4096 + 17}) {
    const TestFile file(bytes);
    MAKE_OR_SKIP(storage);
    const auto id = storage->open(file.path());
    ASSERT_TRUE(id) << id.error().message;
    for (const uint64_t length :
         {uint64_t{1}, std::min<uint64_t>(bytes, 100), std::min(bytes, kMiB), bytes}) {
      const uint64_t offset = bytes - length;
      const ReadMemory memory(offset, length);
      const auto payload = storage->read(memory.request(*id, offset, length));
      ASSERT_TRUE(payload) << payload.error().message;
      EXPECT_EQ(first_difference(*payload, offset), length) << bytes << " " << length;
      EXPECT_TRUE(memory.guard_intact()) << bytes << " " << length;
    }
  }
}

TEST_P(BackendTest, KeepsManyReadsInFlight) {
  const TestFile file(8 * kMiB);
  MAKE_OR_SKIP(storage);
  const auto id = storage->open(file.path());
  ASSERT_TRUE(id) << id.error().message;
  std::mt19937_64 random(11);
  std::vector<ReadMemory> memories;
  std::vector<ReadRequest> requests;
  for (int i = 0; i < 300; ++i) {
    const uint64_t offset = random() % (file.bytes() - 1);
    const uint64_t length = 1 + random() % std::min<uint64_t>(file.bytes() - offset, 200'000);
    memories.emplace_back(offset, length);
    requests.push_back(memories.back().request(*id, offset, length));
    if (i % 3 == 0) requests.back().priority = Priority::kLookahead;
  }
  std::vector<Ticket> tickets(requests.size());
  const Status submitted = storage->submit(requests, tickets);
  ASSERT_TRUE(submitted) << submitted.error().message;
  std::vector<Ticket> open = tickets;
  while (!open.empty()) {
    const auto done = storage->wait_any(open);
    ASSERT_TRUE(done && done->status);
    const auto at =
        static_cast<size_t>(std::find(tickets.begin(), tickets.end(), done->ticket) - tickets.begin());
    ASSERT_LT(at, tickets.size());
    EXPECT_EQ(first_difference(done->payload, requests[at].offset), requests[at].length) << at;
    EXPECT_TRUE(memories[at].guard_intact());
    open.erase(std::find(open.begin(), open.end(), done->ticket));
  }
  EXPECT_EQ(storage->stats().in_flight_max, GetParam().depth);
}

TEST_P(BackendTest, MayBeDestroyedWithReadsInFlight) {
  const TestFile file(8 * kMiB);
  for (int round = 0; round < 5; ++round) {
    std::vector<ReadMemory> memories;
    memories.reserve(32);
    for (int i = 0; i < 32; ++i) memories.emplace_back(0, 2 * kMiB);
    MAKE_OR_SKIP(storage);
    const auto id = storage->open(file.path());
    ASSERT_TRUE(id) << id.error().message;
    for (const ReadMemory& memory : memories) {
      const ReadRequest request = memory.request(*id, 100, 2 * kMiB - 200);
      Ticket ticket;
      ASSERT_TRUE(storage->submit({&request, 1}, {&ticket, 1}));
    }
  }  // The storage goes first; under AddressSanitizer a late write into `memories` would show.
}

TEST_P(BackendTest, PollsWithoutBlockingAndWaitsWithADeadline) {
  const TestFile file(4 * kMiB);
  MAKE_OR_SKIP(storage);
  const auto id = storage->open(file.path());
  ASSERT_TRUE(id) << id.error().message;
  const ReadMemory memory(0, file.bytes());
  const ReadRequest request = memory.request(*id, 0, file.bytes());
  Ticket ticket;
  ASSERT_TRUE(storage->submit({&request, 1}, {&ticket, 1}));
  std::optional<Completion> done = storage->wait(ticket, Clock::now());  // Both outcomes are right.
  while (!done) done = storage->poll(ticket);
  ASSERT_TRUE(done->status);
  EXPECT_EQ(first_difference(done->payload, 0), file.bytes());
}

TEST_P(BackendTest, SeesATruncatedFile) {
  const TestFile file(3 * kMiB);
  MAKE_OR_SKIP(storage);
  const auto id = storage->open(file.path());
  ASSERT_TRUE(id) << id.error().message;
  ASSERT_TRUE(storage->check_identity(*id));
  fs::resize_file(file.path(), kMiB + 700);
  const ReadMemory memory(0, file.bytes());
  const auto beyond = storage->read(memory.request(*id, kMiB, kMiB));
  ASSERT_FALSE(beyond);
  EXPECT_EQ(beyond.error().code, ErrorCode::kChanged);
  EXPECT_THAT(beyond.error().message,
              AllOf(HasSubstr(file.path()), HasSubstr("1048576 bytes at byte 1048576")));
  const auto before = storage->read(memory.request(*id, 0, kMiB));
  ASSERT_TRUE(before) << before.error().message;
  EXPECT_EQ(first_difference(*before, 0), kMiB);
  EXPECT_EQ(storage->check_identity(*id).error().code, ErrorCode::kChanged);
}

INSTANTIATE_TEST_SUITE_P(
    All, BackendTest,
    ::testing::Values(Case{Backend::kIoUring, 1, kMiB}, Case{Backend::kIoUring, 16, kMiB},
                      Case{Backend::kIoUring, 16, 64 << 10}, Case{Backend::kPread, 1, kMiB},
                      Case{Backend::kPread, 8, 256 << 10}, Case{Backend::kBuffered, 8, kMiB},
                      Case{Backend::kBuffered, 3, 4096}),
    case_name);

std::unique_ptr<Storage> pread_storage(QueueOptions queue = {}) {
  StorageOptions options;
  options.backend = Backend::kPread;
  options.queue = queue;
  return *open_storage(options);
}

TEST(StorageTest, ChoosesABackendAndSaysWhich) {
  const auto storage = open_storage({});
  ASSERT_TRUE(storage) << storage.error().message;
  EXPECT_THAT((*storage)->description(), ::testing::AnyOf(HasSubstr("io_uring"), HasSubstr("pread")));
  for (const Backend backend : {Backend::kAuto, Backend::kIoUring, Backend::kPread, Backend::kBuffered})
    EXPECT_EQ(*parse_backend(backend_name(backend)), backend);
  EXPECT_EQ(parse_backend("mmap").error().code, ErrorCode::kInvalidArgument);
}

TEST(StorageTest, RefusesWhatCannotBeRead) {
  const TestFile file(10000);
  const auto storage = pread_storage({.requests_max = 2});
  EXPECT_EQ(storage->open(file.sibling("absent")).error().code, ErrorCode::kNotFound);
  const FileId id = *storage->open(file.path());
  const ReadMemory memory(0, 10000);
  for (const auto& [offset, length] : {std::pair<uint64_t, uint64_t>{0, 0},
                                       {0, 10001},
                                       {10000, 1},
                                       {9999, 2},
                                       {UINT64_MAX, 1},
                                       {1, UINT64_MAX}}) {
    const auto result = storage->read(memory.request(id, offset, length));
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, ErrorCode::kInvalidArgument);
    EXPECT_THAT(result.error().message, HasSubstr(file.path()));
  }
  ReadRequest unaligned = memory.request(id, 0, 100);
  unaligned.into += 64;
  EXPECT_EQ(storage->read(unaligned).error().code, ErrorCode::kInvalidArgument);
  ReadRequest small = memory.request(id, 4000, 200);  // Spans two blocks.
  small.capacity = 4096;
  EXPECT_THAT(storage->read(small).error().message, HasSubstr("needs room for 8192"));
  const std::vector<ReadRequest> three(3, memory.request(id, 0, 100));
  std::vector<Ticket> tickets(3);
  EXPECT_EQ(storage->submit(three, tickets).error().code, ErrorCode::kUnavailable);
  EXPECT_EQ(storage->stats().reads, 0U);
}

TEST(StorageTest, SeesWhatHappenedToAFile) {
  const TestFile file(10000);
  const auto storage = pread_storage();
  const FileId id = *storage->open(file.path());
  ASSERT_TRUE(storage->check_identity(id));
  const auto told = [&] {
    const Status status = storage->check_identity(id);
    EXPECT_FALSE(status);
    EXPECT_EQ(status.error().code, ErrorCode::kChanged);
    return status.error().message;
  };
  fs::rename(file.path(), file.sibling("moved"));
  EXPECT_THAT(told(), AllOf(HasSubstr(file.path()), HasSubstr("removed")));
  TestFile::write(file.path(), 10000);
  EXPECT_THAT(told(), HasSubstr("replaced"));
  fs::rename(file.sibling("moved"), file.path());

  const auto other = pread_storage();
  const FileId again = *other->open(file.path());
  ASSERT_TRUE(other->check_identity(again));
  const auto modified = fs::last_write_time(file.path());
  TestFile::write(file.path(), 10000);
  fs::last_write_time(file.path(), modified);  // Only the inode's time tells.
  const Status status = other->check_identity(again);
  ASSERT_FALSE(status);
  EXPECT_THAT(status.error().message, HasSubstr("written to"));
}

}  // namespace
}  // namespace mlxf::storage
