// What RecordCache promises, over a file of known content and a device whose faults and delays are drawn from a seed.
//
// Every byte of every record that is handed out is compared with the file, twice: when it arrives, and after the
// look-ahead that runs while its batch is current (a device double poisons what it begins to overwrite).
#include "weights/record_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <numeric>
#include <random>
#include <set>

#include "storage/faulty_storage.h"
#include "storage/test_file.h"

namespace mlxf::weights {
namespace {

using storage::FaultPlan;
using storage::FaultyStorage;
using storage::QueueOptions;
using testing::HasSubstr;

constexpr uint64_t kGranule = storage::Storage::kAlign;

// Records of one class have the same parts at the same distances, so that they share slots.
struct RecordClass {
  std::vector<uint64_t> parts;
  uint64_t gap;  // Between the parts.
};
const RecordClass kOneExtent{{4000}, 0};
const RecordClass kThreeExtents{{2500, 2500, 2500}, 6000};
const RecordClass kJoined{{9000, 300}, 100};

// Two files, the records in them and a cache over both.
class Bench {
 public:
  explicit Bench(const std::vector<std::pair<RecordClass, uint32_t>>& classes, uint32_t seed = 1) {
    std::vector<const RecordClass*> order;
    for (const auto& [kind, count] : classes) order.insert(order.end(), count, &kind);
    std::mt19937 random(seed);
    std::shuffle(order.begin(), order.end(), random);
    uint64_t at[2] = {17, 5};
    for (const RecordClass* kind : order) {
      const auto file = static_cast<uint32_t>(random() % 2);
      std::vector<RecordSlice> slices;
      for (const uint64_t bytes : kind->parts) {
        tensors_.push_back({"t", DType::kF32, {}, file, at[file], bytes});
        at[file] += bytes + kind->gap;
        RecordSlice slice;
        slice.stored.layout.rows = slice.rows = 1;
        slice.stored.layout.row_bytes = bytes;
        slice.stored.data = &tensors_.back();
        slices.push_back(slice);
      }
      at[file] += 1000 + random() % 7000;
      first_part_.push_back(tensors_.size() - slices.size());
      records_.push_back(make_record(slices));
    }
    storage::TestFile::write(file_.sibling("0"), at[0]);
    storage::TestFile::write(file_.sibling("1"), at[1]);
  }

  void open(const RecordCache::Options& options, const FaultPlan& plan = {}, const QueueOptions& queue = {}) {
    cache_.reset();
    faulty_ = std::make_unique<FaultyStorage>(plan, queue);
    std::vector<storage::FileId> files;
    for (const char* name : {"0", "1"}) files.push_back(*faulty_->storage().open(file_.sibling(name)));
    RecordCache::Options wanted = options;
    wanted.granule_bytes = kGranule;
    auto made = RecordCache::make(faulty_->storage(), files, records_, wanted);
    ASSERT_TRUE(made) << made.error().message;
    cache_ = std::move(*made);
  }

  [[nodiscard]] uint64_t floor(bool equal_slots = false) const {
    return RecordCache::floor_bytes(records_, equal_slots, kGranule);
  }
  [[nodiscard]] uint64_t whole() const { return RecordCache::whole_bytes(records_); }
  [[nodiscard]] uint32_t count() const { return static_cast<uint32_t>(records_.size()); }
  [[nodiscard]] RecordCache& cache() { return *cache_; }
  [[nodiscard]] FaultyStorage& faulty() { return *faulty_; }
  [[nodiscard]] const std::vector<Record>& records() const { return records_; }
  [[nodiscard]] std::string path(const char* name) const { return file_.sibling(name); }

  void expect_content(const ReadyRecord& ready) const {
    ASSERT_EQ(ready.matrices.size(), records_[ready.record].matrices.size());
    for (size_t m = 0; m < ready.matrices.size(); ++m) {
      const formats::TensorEntry& tensor = tensors_[first_part_[ready.record] + m];
      ASSERT_EQ(storage::first_difference({ready.matrices[m].data, tensor.bytes}, tensor.offset),
                tensor.bytes)
          << "record " << ready.record << " matrix " << m;
    }
  }

  // A whole pass. `between` runs while each batch is current.
  template <typename Between>
  Status pass(const std::vector<uint32_t>& wanted, const Between& between) {
    RETURN_IF_ERROR(cache_->begin(wanted));
    std::set<uint32_t> missing(wanted.begin(), wanted.end());
    while (true) {
      ASSIGN_OR_RETURN(const auto batch, cache_->next());
      if (batch.empty()) break;
      for (const ReadyRecord& ready : batch) {
        EXPECT_EQ(missing.erase(ready.record), 1u) << "record " << ready.record << " twice or not asked for";
        expect_content(ready);
      }
      between();
      for (const ReadyRecord& ready : batch) expect_content(ready);
    }
    EXPECT_TRUE(missing.empty()) << missing.size() << " records never came, such as " << *missing.begin();
    return {};
  }
  Status pass(const std::vector<uint32_t>& wanted) {
    return pass(wanted, [] {});
  }

 private:
  storage::TestFile file_{1};
  std::deque<formats::TensorEntry> tensors_;  // Addresses are stable.
  std::vector<size_t> first_part_;            // By record, into tensors_.
  std::vector<Record> records_;
  std::unique_ptr<FaultyStorage> faulty_;
  std::unique_ptr<RecordCache> cache_;
};

std::vector<uint32_t> choose(std::mt19937& random, uint32_t of, uint32_t count) {
  std::vector<uint32_t> all(of);
  std::iota(all.begin(), all.end(), 0);
  std::shuffle(all.begin(), all.end(), random);
  all.resize(std::min(of, count));
  return all;
}

std::string message_of(const Status& status) { return status ? "" : status.error().message; }

void expect_consistent(const RecordCacheStats& s) {
  EXPECT_EQ(s.needed, s.hits + s.late + s.misses);
  EXPECT_LE(s.prefetch_used, s.prefetched);
  EXPECT_LE(s.guesses_used, s.guesses);
  EXPECT_LE(s.hit_bytes, s.needed_bytes);
}

TEST(RecordCache, RefusesLessThanItsFloorAndWorksWithExactlyThat) {
  Bench bench({{kOneExtent, 9}, {kThreeExtents, 9}, {kJoined, 9}});
  storage::FaultyStorage faulty({});
  const auto made = RecordCache::make(faulty.storage(), {}, bench.records(),
                                      {.bytes = bench.floor() - 1, .granule_bytes = kGranule});
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code, ErrorCode::kOutOfBudget);
  bench.open({.bytes = bench.floor()});
  EXPECT_LE(bench.cache().bytes(), bench.floor());
  std::vector<uint32_t> all(bench.count());
  std::iota(all.begin(), all.end(), 0);
  EXPECT_EQ(message_of(bench.pass(all)), "");
}

TEST(RecordCache, NeverTakesMoreThanItWasGiven) {
  // One small record beside many large ones: its share is less than what it must have.
  Bench bench({{kOneExtent, 1}, {kThreeExtents, 2}, {kJoined, 60}});
  for (uint64_t bytes = bench.floor(); bytes < bench.whole() + 10 * kGranule; bytes += kGranule) {
    bench.open({.bytes = bytes});
    ASSERT_LE(bench.cache().bytes(), bytes);
    for (const uint64_t other : {bench.floor(), bytes / 2, bytes, bench.whole()}) {
      const uint64_t least = bench.cache().set_bytes(0);
      ASSERT_LE(bench.cache().set_bytes(other), std::max(other, least)) << "from " << bytes;
    }
  }
}

TEST(RecordCache, GivesEveryRecordItsBytesWhateverTheSizeAndOrder) {
  for (uint32_t seed = 1; seed <= 15; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    Bench bench({{kOneExtent, 12}, {kThreeExtents, 12}, {kJoined, 8}}, seed);
    RecordCache::Options options;
    options.policy = random() % 2 == 0 ? Policy::kLfu : Policy::kLru;
    options.equal_slots = random() % 3 == 0;
    options.guess_slots = static_cast<uint32_t>(random() % 6);
    const uint64_t floor = bench.floor(options.equal_slots);
    const auto size = [&] { return floor + random() % (bench.whole() + floor); };
    options.bytes = random() % 4 == 0 ? floor : size();
    bench.open(options,
               {.seed = seed,
                .interrupted_per_mille = 50,
                .short_per_mille = 100,
                .ticks_max = static_cast<uint32_t>(random() % 6)},
               {.depth = 4, .piece_bytes = kGranule});
    for (int step = 0; step < 30; ++step) {
      const auto wanted = choose(random, bench.count(), 1 + static_cast<uint32_t>(random() % bench.count()));
      const Status status = bench.pass(wanted, [&] {
        if (random() % 2 == 0) bench.cache().prefetch(choose(random, bench.count(), 5), random() % 2 == 0);
        if (random() % 2 == 0) bench.cache().guess(choose(random, bench.count(), 5));
        bench.cache().advance();
      });
      ASSERT_EQ(message_of(status), "");
      if (HasFatalFailure() || HasNonfatalFailure()) return;
      if (random() % 3 == 0) bench.cache().prefetch(choose(random, bench.count(), 9), random() % 2 == 0);
      if (random() % 4 == 0) {
        const uint64_t bytes = random() % 3 == 0 ? floor : size();
        bench.cache().set_bytes(bytes);
      }
      expect_consistent(bench.cache().stats());
    }
  }
}

TEST(RecordCache, ReadsWhatIsAbsentOnceAndNothingThatIsThere) {
  for (const bool equal_slots : {false, true}) {
    Bench bench({{kOneExtent, 6}, {kThreeExtents, 6}});
    bench.open({.bytes = 4 * bench.whole(), .equal_slots = equal_slots});
    std::vector<uint32_t> all(bench.count());
    std::iota(all.begin(), all.end(), 0);
    uint64_t bytes = 0, extents = 0;
    for (const Record& record : bench.records()) bytes += record.bytes(), extents += record.extents.size();
    for (int pass = 0; pass < 3; ++pass) ASSERT_EQ(message_of(bench.pass(all)), "");
    const RecordCacheStats& stats = bench.cache().stats();
    EXPECT_EQ(stats.misses, all.size());
    EXPECT_EQ(stats.hits, 2 * all.size());
    EXPECT_EQ(stats.read_bytes, bytes);
    EXPECT_EQ(stats.needed_bytes, 3 * bytes);
    EXPECT_EQ(stats.hit_bytes, 2 * bytes);
    EXPECT_EQ(bench.faulty().storage().stats().reads, extents);
  }
}

TEST(RecordCache, CountsReadsAsMissesAndLookAhead) {
  Bench bench({{kThreeExtents, 16}});
  const uint64_t each = bench.records()[0].bytes();
  bench.open({.bytes = bench.floor() * 3}, {.ticks_max = 5});
  std::mt19937 random(3);
  for (int step = 0; step < 50; ++step) {
    ASSERT_EQ(message_of(bench.pass(choose(random, bench.count(), 3))), "");
    bench.cache().prefetch(choose(random, bench.count(), 4), step % 2 == 0);
  }
  const RecordCacheStats& stats = bench.cache().stats();
  expect_consistent(stats);
  EXPECT_GT(stats.prefetch_used, 0u);
  EXPECT_EQ(stats.read_bytes, (stats.misses + stats.prefetched) * each);
}

TEST(RecordCache, LruAndLfuKeepWhatTheirNamesSay) {
  // Three slots. Record 0 is asked for often, then 1 and 2 once each, then 3: LRU lets 0 go, LFU 1.
  for (const Policy policy : {Policy::kLru, Policy::kLfu}) {
    Bench bench({{kOneExtent, 4}});
    bench.open({.bytes = bench.whole() / 4 * 3, .policy = policy});
    for (const uint32_t record : {0, 0, 0, 1, 2, 3}) ASSERT_EQ(message_of(bench.pass({record})), "");
    const uint64_t misses = bench.cache().stats().misses;
    EXPECT_EQ(misses, 4u);
    ASSERT_EQ(message_of(bench.pass({0})), "");
    EXPECT_EQ(bench.cache().stats().misses, policy == Policy::kLru ? misses + 1 : misses);
  }
}

TEST(RecordCache, LookAheadDoesNotEvictWhatItIsToBringIn) {
  // Four slots hold 0..3; looking ahead at 2..5 may replace 0 and 1 only.
  Bench bench({{kOneExtent, 8}});
  bench.open({.bytes = bench.whole() / 2, .policy = Policy::kLru});
  for (const uint32_t record : {2, 3, 0, 1}) ASSERT_EQ(message_of(bench.pass({record})), "");
  bench.cache().prefetch(std::vector<uint32_t>{2, 3, 4, 5}, true);
  ASSERT_EQ(message_of(bench.pass({2, 3, 4, 5})), "");
  EXPECT_EQ(bench.cache().stats().misses, 4u) << "2 and 3 were evicted to read 4 and 5";
  EXPECT_EQ(bench.cache().stats().prefetch_used, 2u);
}

TEST(RecordCache, TheSlotOfAReleasedBatchIsReadInto) {
  for (const bool released : {false, true}) {
    Bench bench({{kOneExtent, 4}});
    bench.open({.bytes = bench.floor(true), .policy = Policy::kLru, .equal_slots = true});
    const auto prefetched = [&] { return bench.cache().stats().prefetched; };
    ASSERT_TRUE(bench.cache().begin(std::vector<uint32_t>{0}));
    ASSERT_EQ(bench.cache().next()->size(), 1u);
    bench.cache().prefetch(std::vector<uint32_t>{1, 2}, true);
    EXPECT_EQ(prefetched(), 1u) << "the batch is in use";
    if (released) bench.cache().release();
    bench.cache().prefetch(std::vector<uint32_t>{1, 2}, true);
    EXPECT_EQ(prefetched(), released ? 2u : 1u);
    for (const uint32_t record : {1, 2}) ASSERT_EQ(message_of(bench.pass({record})), "");
    EXPECT_EQ(bench.cache().stats().misses, released ? 1u : 2u);
  }
}

TEST(RecordCache, LookAheadThatNobodyNeededMakesRoom) {
  Bench bench({{kOneExtent, 8}});
  bench.open({.bytes = bench.whole() / 2, .policy = Policy::kLru});
  bench.cache().prefetch(std::vector<uint32_t>{4, 5}, true);
  for (int round = 0; round < 2; ++round)
    for (const uint32_t record : {0, 1, 2, 3}) ASSERT_EQ(message_of(bench.pass({record})), "");
  EXPECT_EQ(bench.cache().stats().misses, 4u);
}

TEST(RecordCache, WarmsUpWithTheHottestThatFit) {
  for (const Policy policy : {Policy::kLru, Policy::kLfu}) {
    Bench bench({{kOneExtent, 8}});
    bench.open({.bytes = bench.whole() / 2, .policy = policy}, {.ticks_max = 3});
    uint64_t last = 0;
    ASSERT_EQ(message_of(bench.cache().warm(std::vector<uint64_t>{5, 0, 9, 0, 1, 7, 0, 3},
                                            [&](uint64_t done, uint64_t total) {
                                              EXPECT_EQ(total, 4u);
                                              last = done;
                                            })),
              "");
    EXPECT_EQ(last, 4u);
    ASSERT_EQ(message_of(bench.pass({2, 5, 0, 7})), "");
    EXPECT_EQ(bench.cache().stats().hits, 4u);
    EXPECT_EQ(bench.cache().uses()[2], 1u);
    // The least hot of them leaves first.
    bench.open({.bytes = bench.whole() / 2, .policy = policy});
    ASSERT_TRUE(bench.cache().warm(std::vector<uint64_t>{5, 0, 9, 0, 1, 7, 0, 3}, {}));
    ASSERT_EQ(message_of(bench.pass({4})), "");
    ASSERT_EQ(message_of(bench.pass({2, 5, 0})), "");
    EXPECT_EQ(bench.cache().stats().hits, 3u);
  }
}

TEST(RecordCache, WarmingUpForgivesAReadThatFails) {
  for (uint64_t k = 1; k <= 6; ++k) {
    Bench bench({{kThreeExtents, 4}});
    bench.open({.bytes = bench.whole()}, {.error_at = k, .ticks_max = 2});
    ASSERT_EQ(message_of(bench.cache().warm(std::vector<uint64_t>{1, 2, 3, 4}, {})), "");
    ASSERT_EQ(message_of(bench.pass({0, 1, 2, 3})), "");
    EXPECT_EQ(bench.cache().stats().hits, 3u);
  }
}

// Four slots, all of them hot, one of which guesses may have.
TEST(RecordCache, GuessesCostNoMoreSlotsThanTheyMayAndPayWhenTheyAreRight) {
  Bench bench({{kOneExtent, 12}});
  bench.open({.bytes = bench.whole() / 3, .guess_slots = 1});
  const std::vector<uint32_t> hot = {0, 1, 2, 3};
  for (int i = 0; i < 3; ++i) ASSERT_EQ(message_of(bench.pass(hot)), "");
  // Wrong ones, over and over.
  for (int i = 0; i < 5; ++i)
    ASSERT_EQ(message_of(bench.pass({1},
                                    [&] {
                                      bench.cache().guess(std::vector<uint32_t>{4, 5, 6, 7});
                                    })),
              "");
  uint64_t misses = bench.cache().stats().misses;
  EXPECT_EQ(bench.cache().stats().guesses_used, 0u);
  EXPECT_GE(bench.cache().stats().guesses, 1u);
  ASSERT_EQ(message_of(bench.pass(hot)), "");
  EXPECT_LE(bench.cache().stats().misses, misses + 1);
  // A right one.
  ASSERT_EQ(message_of(bench.pass({1}, [&] { bench.cache().guess(std::vector<uint32_t>{9}); })), "");
  misses = bench.cache().stats().misses;
  ASSERT_EQ(message_of(bench.pass({9})), "");
  EXPECT_EQ(bench.cache().stats().misses, misses);
  EXPECT_EQ(bench.cache().stats().guesses_used, 1u);
  expect_consistent(bench.cache().stats());
}

TEST(RecordCache, GuessesThatHaveNotBegunAreDroppedByTheNextPass) {
  Bench bench({{kOneExtent, 12}});
  bench.open({.bytes = bench.whole(), .guess_slots = 8}, {.ticks_max = 3},
             {.depth = 4, .lookahead_depth = 1});
  ASSERT_TRUE(bench.cache().begin(std::vector<uint32_t>{0, 1, 2}));
  bench.cache().guess(std::vector<uint32_t>{3, 4, 5, 6, 7, 8, 9, 10});
  for (uint32_t given = 0; given < 3;) given += static_cast<uint32_t>(bench.cache().next()->size());
  ASSERT_TRUE(bench.cache().begin(std::vector<uint32_t>{0}));
  const uint64_t begun = bench.faulty().started().size();
  EXPECT_LT(begun, 3u + 8u);
  ASSERT_TRUE(bench.cache().next());
  for (int i = 0; i < 3; ++i) ASSERT_EQ(message_of(bench.pass({0})), "");
  EXPECT_EQ(bench.faulty().started().size(), begun) << "a guess was read after its time";
  EXPECT_EQ(bench.cache().stats().guesses, begun - 3);
  EXPECT_EQ(bench.cache().stats().guesses_used, 0u);
  EXPECT_EQ(bench.cache().stats().prefetched, begun - 3);
  // And what was dropped can be read as ever.
  ASSERT_EQ(message_of(bench.pass({3, 4, 5, 6, 7, 8, 9, 10})), "");
}

// Long prompts need everything in turn: they find again what the cache holds of it, and what answers need stays.
TEST(RecordCache, ASweepLeavesMostOfTheCacheAlone) {
  constexpr uint32_t kLayers = 6, kExperts = 4, kSlots = 14;
  Bench bench({{kOneExtent, kLayers * kExperts}});
  for (const bool look_ahead : {false, true}) {
    bench.open({.bytes = bench.whole() / (kLayers * kExperts) * kSlots}, {.ticks_max = 3});
    const auto layer = [](uint32_t index) {
      std::vector<uint32_t> records(kExperts);
      std::iota(records.begin(), records.end(), index * kExperts);
      return records;
    };
    const auto hits_of = [&](const auto& passes) {
      const uint64_t before = bench.cache().stats().hits + bench.cache().stats().late;
      const uint64_t ahead = bench.cache().stats().prefetch_used;
      passes();
      const RecordCacheStats now = bench.cache().stats();
      return now.hits + now.late - before - (now.prefetch_used - ahead);
    };
    const auto sweep = [&] {
      for (uint32_t index = 0; index < kLayers; ++index) {
        ASSERT_TRUE(bench.cache().begin(layer(index), true));
        for (uint32_t given = 0; given < kExperts;) {
          const auto batch = bench.cache().next();
          ASSERT_TRUE(batch) << batch.error().message;
          given += static_cast<uint32_t>(batch->size());
          if (look_ahead && index + 1 < kLayers) bench.cache().prefetch(layer(index + 1), true);
        }
      }
    };
    // From a cold cache: the second finds what fits beside two layers in work.
    sweep();
    EXPECT_GE(hits_of(sweep), kSlots - 2 * kExperts);
    // One expert of each layer is needed again and again, before and after another.
    const auto answer = [&] {
      for (uint32_t index = 0; index < kLayers; ++index)
        ASSERT_EQ(message_of(bench.pass({index * kExperts + 1})), "");
    };
    for (int token = 0; token < 20; ++token) answer();
    EXPECT_EQ(hits_of(answer), kLayers);
    sweep();
    EXPECT_EQ(hits_of(answer), kLayers);
    expect_consistent(bench.cache().stats());
  }
}

// Look-ahead may hold every slot when a pass needs one, finished or not.
TEST(RecordCache, APassGetsTheSlotsOfLookAhead) {
  Bench bench({{kThreeExtents, 12}});
  for (const uint32_t ticks : {0U, 1U, 2U, 4U, 8U})
    for (uint64_t seed = 1; seed <= 10; ++seed) {
      bench.open({.bytes = bench.floor()}, {.seed = seed, .ticks_max = ticks});
      bench.cache().prefetch(std::vector<uint32_t>{0, 1, 2, 3, 4}, true);
      ASSERT_EQ(message_of(bench.pass({7, 8, 9, 10, 11})), "");
    }
}

// ---- faults ----

// Every read of a run fails once in turn: the pass ends with an error that says where, and the next one works.
TEST(RecordCache, AnErrorAtAnyReadEndsThePassAndTheNextOneWorks) {
  for (const uint32_t ticks : {0U, 7U}) {
    uint64_t failed_passes = 0;
    for (uint64_t k = 1;; ++k) {
      SCOPED_TRACE("read " + std::to_string(k) + " fails, delays up to " + std::to_string(ticks));
      Bench bench({{kOneExtent, 8}, {kThreeExtents, 8}}, 5);
      bench.open({.bytes = bench.floor() * 2}, {.seed = k, .error_at = k, .ticks_max = ticks});
      std::mt19937 random(11);
      for (int step = 0; step < 12; ++step) {
        const auto wanted = choose(random, bench.count(), 6);
        const auto ahead = choose(random, bench.count(), 5);
        const Status status = bench.pass(wanted, [&] { bench.cache().prefetch(ahead, true); });
        if (!status) {
          ++failed_passes;
          EXPECT_EQ(status.error().code, ErrorCode::kIo);
          EXPECT_THAT(status.error().message, HasSubstr(bench.path("")));
          EXPECT_THAT(status.error().message, HasSubstr("at byte"));
          ASSERT_EQ(message_of(bench.pass(wanted)), "") << "after an error";
        }
        if (HasFailure()) return;
        expect_consistent(bench.cache().stats());
      }
      if (bench.faulty().started().size() < k) break;
    }
    EXPECT_GT(failed_passes, 20u);
  }
}

TEST(RecordCache, SurvivesAStormOfErrors) {
  for (uint32_t seed = 1; seed <= 12; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    Bench bench({{kOneExtent, 10}, {kThreeExtents, 10}, {kJoined, 5}}, seed);
    bench.open({.bytes = bench.floor() + random() % bench.whole()},
               {.seed = seed,
                .error_per_mille = 60,
                .interrupted_per_mille = 60,
                .short_per_mille = 60,
                .ticks_max = static_cast<uint32_t>(random() % 9)},
               {.depth = 3, .piece_bytes = kGranule});
    for (int step = 0; step < 30; ++step) {
      const Status status = bench.pass(choose(random, bench.count(), 9), [&] {
        bench.cache().prefetch(choose(random, bench.count(), 4), random() % 2 == 0);
      });
      if (!status) {
        EXPECT_EQ(status.error().code, ErrorCode::kIo) << message_of(status);
      }
      if (random() % 5 == 0) bench.cache().set_bytes(bench.floor() + random() % bench.whole());
      if (HasFailure()) return;
    }
    bench.faulty().set_plan({});
    ASSERT_EQ(message_of(bench.pass(choose(random, bench.count(), bench.count()))), "");
  }
}

// A look-ahead is a guess: that it fails costs a second read and nothing else.
TEST(RecordCache, AFailedLookAheadIsReadAgainWhenItIsNeeded) {
  Bench bench({{kThreeExtents, 4}});
  for (const uint32_t ticks : {0U, 1U, 2U, 3U, 5U, 9U})
    for (uint64_t seed = 1; seed <= 10; ++seed)
      for (uint64_t k = 1; k <= 3; ++k) {
        SCOPED_TRACE("ticks " + std::to_string(ticks) + " seed " + std::to_string(seed) + " read " +
                     std::to_string(k));
        bench.open({.bytes = bench.whole()}, {.seed = seed, .error_at = k, .ticks_max = ticks});
        bench.cache().prefetch(std::vector<uint32_t>{2}, true);
        ASSERT_EQ(message_of(bench.pass({2, 1})), "");
        if (HasFailure()) return;
      }
}

// A queue that takes fewer reads than the slots could hold: the rest waits for its turn.
TEST(RecordCache, WaitsWhenTheStorageTakesNoMoreReads) {
  Bench bench({{kThreeExtents, 12}});
  bench.open({.bytes = bench.whole()}, {.ticks_max = 3}, {.requests_max = 7});
  std::vector<uint32_t> all(bench.count());
  std::iota(all.begin(), all.end(), 0);
  EXPECT_EQ(message_of(bench.pass(all)), "");
  EXPECT_EQ(bench.cache().stats().misses, all.size());
  bench.cache().set_bytes(bench.floor());
  bench.cache().prefetch(std::vector<uint32_t>{0, 1, 2, 3, 4}, true);
  EXPECT_EQ(message_of(bench.pass({7, 8, 9, 10, 11})), "");
}

TEST(RecordCache, AFileThatShrinksIsAnErrorAndNeverACrash) {
  Bench bench({{kOneExtent, 20}});
  bench.open({.bytes = bench.floor()});
  std::vector<uint32_t> all(bench.count());
  std::iota(all.begin(), all.end(), 0);
  ASSERT_EQ(message_of(bench.pass(all)), "");
  for (const char* name : {"0", "1"}) std::filesystem::resize_file(bench.path(name), 100);
  const Status status = bench.pass(all);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kChanged);
}

TEST(RecordCache, IsDestroyedWithReadsUnderWayAndAfterHalfAPass) {
  Bench bench({{kThreeExtents, 10}});
  bench.open({.bytes = bench.whole()}, {.ticks_max = 9});
  bench.cache().prefetch(std::vector<uint32_t>{4, 5, 6}, true);
  ASSERT_TRUE(bench.cache().begin(std::vector<uint32_t>{0, 1, 2, 4}));
  ASSERT_FALSE(bench.cache().next()->empty());
}

}  // namespace
}  // namespace mlxf::weights
