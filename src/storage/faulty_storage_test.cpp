// What Storage's queue promises, over a device whose faults and delays are drawn from a seed.
#include "storage/faulty_storage.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <random>

#include "storage/test_file.h"

namespace mlxf::storage {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint64_t kBlock = Storage::kAlign;
constexpr uint64_t kFileBytes = 64 * kBlock + 777;

// Pieces of four blocks, so that small reads have several.
constexpr QueueOptions kSmallPieces{.depth = 4, .lookahead_depth = 2, .piece_bytes = 4 * kBlock};

struct Reads {
  std::vector<ReadMemory> memories;
  std::vector<ReadRequest> requests;
  std::vector<Ticket> tickets;

  void add(FileId file, uint64_t offset, uint64_t length, Priority priority = Priority::kDemand) {
    memories.emplace_back(offset, length);
    requests.push_back(memories.back().request(file, offset, length));
    requests.back().priority = priority;
  }
  void submit(Storage& storage) {
    tickets.resize(requests.size());
    const Status status = storage.submit(requests, tickets);
    ASSERT_TRUE(status) << status.error().message;
  }
};

class FaultyStorageTest : public ::testing::Test {
 protected:
  void make(const FaultPlan& plan, const QueueOptions& options = kSmallPieces) {
    faulty_.reset();
    reads_ = {};
    faulty_ = std::make_unique<FaultyStorage>(plan, options);
    const auto id = storage().open(file_.path());
    ASSERT_TRUE(id) << id.error().message;
    id_ = *id;
  }
  [[nodiscard]] Storage& storage() { return faulty_->storage(); }
  void add(uint64_t offset, uint64_t length, Priority priority = Priority::kDemand) {
    reads_.add(id_, offset, length, priority);
  }
  void add_random(std::mt19937_64& random, int count) {
    for (int i = 0; i < count; ++i) {
      const uint64_t offset = random() % kFileBytes;
      const uint64_t length = 1 + random() % std::min<uint64_t>(kFileBytes - offset, 20 * kBlock);
      add(offset, length, random() % 3 == 0 ? Priority::kLookahead : Priority::kDemand);
    }
  }
  // True if the read succeeded with the right bytes; false if it failed with an error that says where.
  bool right_or_failed(const Completion& done) {
    const auto at =
        std::find(reads_.tickets.begin(), reads_.tickets.end(), done.ticket) - reads_.tickets.begin();
    const ReadRequest& request = reads_.requests[static_cast<size_t>(at)];
    EXPECT_TRUE(reads_.memories[static_cast<size_t>(at)].guard_intact());
    if (!done.status) {
      EXPECT_THAT(
          done.status.error().message,
          AllOf(HasSubstr(file_.path()), HasSubstr(std::to_string(request.length) + " bytes at byte " +
                                                   std::to_string(request.offset))));
      return false;
    }
    EXPECT_EQ(done.payload.size(), request.length);
    EXPECT_EQ(first_difference(done.payload, request.offset), request.length);
    return true;
  }
  std::vector<uint64_t> started_offsets() const {
    std::vector<uint64_t> offsets;
    for (const DeviceRead& read : faulty_->started()) offsets.push_back(read.offset / kBlock);
    return offsets;
  }

  const TestFile file_{kFileBytes};
  Reads reads_;  // Outlives the storage.
  FileId id_;
  std::unique_ptr<FaultyStorage> faulty_;
};

TEST_F(FaultyStorageTest, DeliversRightBytesThroughEveryPassingFault) {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    FaultPlan plan{.seed = seed, .interrupted_per_mille = 150, .short_per_mille = 300};
    plan.ticks_max = static_cast<uint32_t>(seed % 9);
    plan.refuse_direct = seed % 5 == 0;
    make(plan, {.depth = 1 + static_cast<uint32_t>(seed % 7), .piece_bytes = kBlock << (seed % 4)});
    add_random(random, 40);
    reads_.submit(storage());
    std::vector<Ticket> open = reads_.tickets;
    while (!open.empty()) {
      const auto done =
          random() % 2 == 0 ? storage().wait_any(open) : storage().wait(open[random() % open.size()]);
      ASSERT_TRUE(done);
      ASSERT_TRUE(right_or_failed(*done));
      open.erase(std::find(open.begin(), open.end(), done->ticket));
    }
    const StorageStats stats = storage().stats();
    EXPECT_GT(stats.retries, 0U);
    EXPECT_EQ(stats.failed, 0U);
    if (plan.refuse_direct) {
      EXPECT_GT(stats.through_cache, 0U);
    }
    EXPECT_LE(stats.in_flight_max, 1 + seed % 7);
    EXPECT_EQ(stats.in_flight + stats.queued, 0U);
  }
}

TEST_F(FaultyStorageTest, FailsExactlyTheReadThatTheDiskFailed) {
  uint64_t reads_in_all = 1;
  for (uint64_t k = 1; k <= reads_in_all; ++k) {
    SCOPED_TRACE("the read " + std::to_string(k));
    make({.error_at = k, .ticks_max = 3});
    std::mt19937_64 random(3);
    add_random(random, 12);
    reads_.submit(storage());
    int failures = 0;
    for (const Ticket ticket : reads_.tickets) {
      const auto done = storage().wait(ticket);
      ASSERT_TRUE(done);
      if (right_or_failed(*done)) continue;
      ++failures;
      EXPECT_EQ(done->status.error().code, ErrorCode::kIo);
      EXPECT_THAT(done->status.error().message, HasSubstr("Input/output error"));
      EXPECT_TRUE(done->payload.empty());
    }
    EXPECT_EQ(failures, 1);
    EXPECT_EQ(storage().stats().failed, 1U);
    if (k == 1) reads_in_all = faulty_->started().size();  // At least as many as when a request stops early.
  }
  EXPECT_GT(reads_in_all, 12U);
}

TEST_F(FaultyStorageTest, SurvivesADiskThatFailsOften) {
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    make({.seed = seed,
          .error_per_mille = 200,
          .interrupted_per_mille = 200,
          .short_per_mille = 200,
          .ticks_max = 6});
    add_random(random, 40);
    reads_.submit(storage());
    int right = 0;
    for (const Ticket ticket : reads_.tickets)
      if (right_or_failed(*storage().wait(ticket))) ++right;
    EXPECT_GT(right, 0);
    EXPECT_LT(right, 40);
    EXPECT_EQ(storage().stats().in_flight + storage().stats().queued, 0U);
  }
}

TEST_F(FaultyStorageTest, GivesUpOnADeviceThatNeverGetsOn) {
  make({.interrupted_per_mille = 1000});
  const ReadMemory memory(0, 100);
  const auto result = storage().read(memory.request(id_, 0, 100));
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ErrorCode::kIo);
  EXPECT_THAT(result.error().message, HasSubstr("Interrupted"));
}

TEST_F(FaultyStorageTest, ReportsAFileThatEndsEarly) {
  make({.files_end_at = 10 * kBlock + 5});
  const ReadMemory memory(0, kFileBytes);
  const auto whole = storage().read(memory.request(id_, 0, 10 * kBlock + 5));
  ASSERT_TRUE(whole) << whole.error().message;
  const auto beyond = storage().read(memory.request(id_, 100, 10 * kBlock));
  ASSERT_FALSE(beyond);
  EXPECT_EQ(beyond.error().code, ErrorCode::kIo);
  EXPECT_THAT(beyond.error().message, HasSubstr("the file ends at byte " + std::to_string(10 * kBlock + 5)));
}

TEST_F(FaultyStorageTest, ReadsThroughTheCacheWhereDirectReadsAreRefused) {
  make({.refuse_direct = true});
  const ReadMemory memory(5, 9 * kBlock);
  const auto payload = storage().read(memory.request(id_, 5, 9 * kBlock));
  ASSERT_TRUE(payload) << payload.error().message;
  EXPECT_EQ(first_difference(*payload, 5), 9 * kBlock);
  EXPECT_EQ(storage().stats().through_cache, 3U);  // Each of its three pieces once.
}

TEST_F(FaultyStorageTest, ServesDemandBeforeLookahead) {
  make({.ticks_max = 0}, {.depth = 1, .piece_bytes = 4 * kBlock});
  add(0, 12 * kBlock, Priority::kLookahead);  // Blocks 0 to 11, three pieces.
  add(20 * kBlock, kBlock, Priority::kLookahead);
  add(40 * kBlock, 8 * kBlock);
  add(30 * kBlock, kBlock);
  reads_.submit(storage());
  for (const Ticket ticket : {reads_.tickets[2], reads_.tickets[3], reads_.tickets[0], reads_.tickets[1]})
    ASSERT_TRUE(right_or_failed(*storage().wait(ticket)));
  // All four were known before the first piece began.
  EXPECT_THAT(started_offsets(), ElementsAre(40, 44, 30, 0, 4, 8, 20));
}

TEST_F(FaultyStorageTest, LeavesRoomForDemandWhileGuessesFly) {
  make({.ticks_max = 5}, {.depth = 4, .lookahead_depth = 2, .piece_bytes = kBlock});
  for (uint64_t i = 0; i < 8; ++i) add(i * kBlock, kBlock, Priority::kLookahead);
  reads_.submit(storage());
  EXPECT_EQ(storage().stats().in_flight, 2U);
  const ReadMemory memory(30 * kBlock, 2 * kBlock);
  const ReadRequest urgent = memory.request(id_, 30 * kBlock, 2 * kBlock);
  Ticket ticket;
  ASSERT_TRUE(storage().submit({&urgent, 1}, {&ticket, 1}));
  EXPECT_EQ(storage().stats().in_flight, 4U);
  EXPECT_THAT(started_offsets(), ElementsAre(0, 1, 30, 31));
  ASSERT_TRUE(storage().wait(ticket)->status);
  for (const Ticket guess : reads_.tickets) ASSERT_TRUE(right_or_failed(*storage().wait(guess)));
}

TEST_F(FaultyStorageTest, WaitingForAGuessMakesItUrgent) {
  make({.ticks_max = 0}, {.depth = 1, .piece_bytes = kBlock});
  for (uint64_t i = 0; i < 5; ++i) add(i * kBlock, kBlock, Priority::kLookahead);
  reads_.submit(storage());
  ASSERT_TRUE(right_or_failed(*storage().wait(reads_.tickets[3])));
  EXPECT_EQ(started_offsets()[1], 3U);
  storage().promote(reads_.tickets[4]);
  for (const size_t i : {4, 0, 1, 2}) ASSERT_TRUE(right_or_failed(*storage().wait(reads_.tickets[i])));
  EXPECT_THAT(storage().stats().promoted, ::testing::Ge(2U));
  const auto offsets = started_offsets();
  EXPECT_LT(std::find(offsets.begin(), offsets.end(), 4U), std::find(offsets.begin(), offsets.end(), 2U));
}

TEST_F(FaultyStorageTest, CancelsWhatHasNotBegun) {
  make({.ticks_max = 4}, {.depth = 2, .piece_bytes = kBlock});
  add(0, 5 * kBlock);
  add(10 * kBlock, 3 * kBlock);
  add(20 * kBlock, 2 * kBlock);
  reads_.submit(storage());
  storage().cancel(reads_.tickets[0]);  // Two of its five pieces are at the device.
  storage().cancel(reads_.tickets[1]);
  EXPECT_FALSE(storage().poll(reads_.tickets[0])) << "its memory is still being written";
  for (const size_t i : {1, 0}) {
    const auto done = storage().wait(reads_.tickets[i]);
    ASSERT_TRUE(done);
    EXPECT_EQ(done->status.error().code, ErrorCode::kCancelled);
  }
  ASSERT_TRUE(right_or_failed(*storage().wait(reads_.tickets[2])));
  EXPECT_THAT(started_offsets(), ElementsAre(0, 1, 20, 21));
  EXPECT_EQ(storage().stats().cancelled, 2U);

  const ReadMemory memory(0, kBlock);
  const ReadRequest begun = memory.request(id_, 0, kBlock);
  Ticket ticket;
  ASSERT_TRUE(storage().submit({&begun, 1}, {&ticket, 1}));
  storage().cancel(ticket);  // Too late: all of it is at the device.
  EXPECT_TRUE(storage().wait(ticket)->status);
}

TEST_F(FaultyStorageTest, DropsGuessesWhoseTimeIsOver) {
  make({}, {.depth = 1, .piece_bytes = kBlock});
  add(0, 3 * kBlock);
  add(10 * kBlock, kBlock, Priority::kLookahead);
  add(20 * kBlock, kBlock, Priority::kLookahead);
  reads_.requests[1].expires = TimePoint::min() + Clock::duration(1);
  reads_.submit(storage());
  const auto done = [&] {  // Waiting would promote it.
    for (;;)
      if (auto completion = storage().poll(reads_.tickets[1])) return *std::move(completion);
  }();
  EXPECT_EQ(done.status.error().code, ErrorCode::kDeadline);
  for (const size_t i : {0, 2}) ASSERT_TRUE(right_or_failed(*storage().wait(reads_.tickets[i])));
  EXPECT_THAT(started_offsets(), ElementsAre(0, 1, 2, 20));
  EXPECT_EQ(storage().stats().expired, 1U);
}

TEST_F(FaultyStorageTest, AWaitThatIsOverLeavesTheReadGoingOn) {
  make({.seed = 5, .ticks_max = 1000});
  add(0, 4 * kBlock);
  reads_.submit(storage());
  EXPECT_FALSE(storage().wait(reads_.tickets[0], Clock::now()));
  EXPECT_FALSE(storage().poll(reads_.tickets[0]));
  ASSERT_TRUE(right_or_failed(*storage().wait(reads_.tickets[0])));
}

TEST_F(FaultyStorageTest, CompletesInTheDevicesOrder) {
  make({.seed = 2, .ticks_max = 50}, {.depth = 16, .piece_bytes = 4 * kBlock});
  for (uint64_t i = 0; i < 16; ++i) add(i * 4 * kBlock, 4 * kBlock);
  reads_.submit(storage());
  std::vector<Ticket> order;
  std::vector<Ticket> open = reads_.tickets;
  while (!open.empty()) {
    const auto done = storage().wait_any(open);
    ASSERT_TRUE(done && right_or_failed(*done));
    order.push_back(done->ticket);
    open.erase(std::find(open.begin(), open.end(), done->ticket));
  }
  EXPECT_NE(order, reads_.tickets);
}

TEST_F(FaultyStorageTest, IsTheSameRunForTheSameSeed) {
  const auto run = [&](uint64_t seed) {
    make({.seed = seed,
          .error_per_mille = 50,
          .interrupted_per_mille = 100,
          .short_per_mille = 200,
          .ticks_max = 8});
    std::mt19937_64 random(1);
    add_random(random, 30);
    reads_.submit(storage());
    for (const Ticket ticket : reads_.tickets) static_cast<void>(storage().wait(ticket));
    return started_offsets();
  };
  EXPECT_EQ(run(9), run(9));
  EXPECT_NE(run(9), run(10));
}

TEST_F(FaultyStorageTest, UnclaimedTicketsAreBounded) {
  make({}, {.depth = 2, .piece_bytes = kBlock, .requests_max = 3});
  for (uint64_t i = 0; i < 3; ++i) add(i * kBlock, 10);
  reads_.submit(storage());
  Ticket ticket;
  EXPECT_EQ(storage().submit({reads_.requests.data(), 1}, {&ticket, 1}).error().code,
            ErrorCode::kUnavailable);
  ASSERT_TRUE(right_or_failed(*storage().wait(reads_.tickets[1])));
  ASSERT_TRUE(storage().submit({reads_.requests.data(), 1}, {&ticket, 1}));
  EXPECT_EQ(ticket.slot, reads_.tickets[1].slot);
  EXPECT_NE(ticket, reads_.tickets[1]);  // The old ticket cannot claim the new read.
  for (const Ticket open : {reads_.tickets[0], reads_.tickets[2], ticket})
    ASSERT_TRUE(storage().wait(open)->status);
}

TEST(StorageQueue, TheDepthCanBeChangedWhileReadsWait) {
  const TestFile file(kFileBytes);
  FaultyStorage faulty({.ticks_max = 4}, kSmallPieces);
  Storage& storage = faulty.storage();
  const auto id = storage.open(file.path());
  ASSERT_TRUE(id);
  for (const uint32_t depth : {1u, 3u, 100u}) {
    storage.set_depth(depth);
    EXPECT_EQ(storage.depth(), std::min(depth, kSmallPieces.depth));
    Reads reads;
    reads.memories.reserve(12);
    for (uint64_t i = 0; i < 12; ++i) reads.add(*id, i * kBlock, kBlock);
    reads.submit(storage);
    for (const Ticket ticket : reads.tickets) {
      EXPECT_LE(storage.stats().in_flight, storage.depth());
      ASSERT_TRUE(storage.wait(ticket)->status);
    }
  }
}

TEST(StorageQueue, AGuessBeginsOnlyWhileNoDemandIsAtTheDevice) {
  const TestFile file(kFileBytes);
  FaultyStorage faulty({.ticks_max = 4}, {.depth = 16, .lookahead_depth = 2});
  Storage& storage = faulty.storage();
  const auto id = storage.open(file.path());
  ASSERT_TRUE(id);
  std::deque<ReadMemory> memories;
  const auto submit = [&](uint64_t offset, Priority priority) {
    memories.emplace_back(offset, 4096);
    ReadRequest request = memories.back().request(*id, offset, 4096);
    request.priority = priority;
    Ticket ticket;
    EXPECT_TRUE(storage.submit({&request, 1}, {&ticket, 1}));
    return ticket;
  };
  const auto begun = [&] { return faulty.started().size(); };
  const Ticket demand = submit(0, Priority::kDemand);
  std::vector<Ticket> guesses;
  for (uint64_t i = 1; i <= 4; ++i) guesses.push_back(submit(i * 4096, Priority::kGuess));
  EXPECT_EQ(begun(), 1u);
  const Ticket ahead = submit(5 * 4096, Priority::kLookahead);
  EXPECT_EQ(begun(), 2u) << "look-ahead goes beside a demand";
  ASSERT_TRUE(storage.wait(demand)->status);
  storage.advance();
  EXPECT_LE(begun(), 4u) << "no more than lookahead_depth at a time";
  EXPECT_GE(begun(), 3u) << "the device is idle enough for a guess";
  // One that is needed after all is a demand.
  ASSERT_TRUE(storage.wait(guesses.back())->status);
  guesses.pop_back();
  ASSERT_TRUE(storage.wait(ahead)->status);
  for (const Ticket ticket : guesses) storage.cancel(ticket);
  for (const Ticket ticket : guesses) (void)storage.wait(ticket);
  EXPECT_EQ(storage.stats().in_flight, 0u);
  EXPECT_EQ(storage.stats().queued, 0u);
}

}  // namespace
}  // namespace mlxf::storage
