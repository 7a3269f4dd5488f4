// RecordCache: the records that are in memory, in slots of a bounded arena, and the reads that bring in the others.
//
// One pass over some records (the experts that a layer's tokens chose; the next dense layer) goes:
//     begin(records);                        // hits are pinned, absent ones are read, as many as there are slots
//     while (!(batch = next())->empty())     // what is ready: hits at once, then reads in order of arrival
//       compute with batch;                  // its views are valid until the following next() or begin()
// Absent records are read once each, straight from the files into huge-page slots, and used where they arrived; more
// records than slots pass through in waves. prefetch() begins reads of what is needed soon, in slots that nobody needs
// now; guess() what may be needed, while the disk is idle and in a few slots of its own. One that fails is read again
// once it is needed. Which record leaves is decided by Eviction; pinned records
// never leave.
//
// The arena consists of chunks that are mapped and unmapped whole, so that set_bytes() really gives memory back.
// Records of one size share a pool of equal slots. Owned by the model; one thread, the engine's. After an error the
// pass is over, every read has been claimed, and the next begin() works.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "compute/thread_pool.h"
#include "formats/manifest.h"
#include "storage/storage.h"
#include "weights/eviction.h"
#include "weights/int8_rows.h"
#include "weights/record.h"

namespace mlxf::weights {

struct RecordCacheStats {
  uint64_t needed = 0;         // Records asked for by passes,
  uint64_t hits = 0;           // of them in memory,
  uint64_t late = 0;           // being read ahead when they were needed,
  uint64_t misses = 0;         // neither.
  uint64_t prefetched = 0;     // Reads begun ahead,
  uint64_t prefetch_used = 0;  // of them needed later.
  uint64_t guesses = 0;        // Guesses that were read or being read when their pass came,
  uint64_t guesses_used = 0;   // of them needed by it.
  uint64_t needed_bytes = 0;   // Weights, without widening: the sum of the next three.
  uint64_t hit_bytes = 0;
  uint64_t late_bytes = 0;
  uint64_t miss_bytes = 0;
  uint64_t read_bytes = 0;     // From the SSD, look-ahead included.
  double stall_seconds = 0.0;  // Blocked, waiting for reads.
};

// One record of a batch: its matrices, in the order of Record::matrices.
struct ReadyRecord {
  uint32_t record = 0;
  std::span<const MatrixView> matrices;
};

class RecordCache {
 public:
  // Chunks are multiples of a huge page. Tests take less, so that models of a few hundred KiB are streamed: a multiple
  // of storage::Storage::kAlign; the memory really taken is then more than bytes() says.
  static constexpr uint64_t kGranuleBytes = uint64_t{2} << 20;
  struct Options {
    uint64_t bytes = 0;  // Of the arena.
    Policy policy = Policy::kLfu;
    uint32_t guess_slots = 0;  // That records may hold which were guessed and not needed.
    bool equal_slots = false;  // One pool for records of every size: for layers in turn.
    // kInt8: records are converted in their slots once they are complete.
    Rows rows = Rows::kAsStored;
    compute::ThreadPool* pool = nullptr;  // For that and for transposing; null where neither happens.
    uint64_t granule_bytes = kGranuleBytes;
    std::vector<uint32_t> layer_of = {};  // Of each record, for policies that look at it; empty: one layer.
  };
  // The smallest arena that can work: two slots of each size, so that one can be read while the other is used.
  [[nodiscard]] static uint64_t floor_bytes(std::span<const Record> records, bool equal_slots,
                                            uint64_t granule_bytes = kGranuleBytes);
  // A slot of its own for `record`, as the system maps it.
  [[nodiscard]] static uint64_t slot_bytes(const Record& record, uint64_t granule_bytes = kGranuleBytes);
  // What all records together would take, in slots by size.
  [[nodiscard]] static uint64_t whole_bytes(std::span<const Record> records);

  // `files` are the manifest's, opened in `storage`, which outlives this. kOutOfBudget below floor_bytes().
  [[nodiscard]] static Result<std::unique_ptr<RecordCache>> make(storage::Storage& storage,
                                                                 std::vector<storage::FileId> files,
                                                                 std::vector<Record> records,
                                                                 const Options& options);
  ~RecordCache();
  RecordCache(const RecordCache&) = delete;
  RecordCache& operator=(const RecordCache&) = delete;

  // Begins a pass over distinct records. A `sweep` is one of a row of passes that need nearly all records in turn, as a
  // long prompt's do: what it brings in leaves first, the latest before the others, so that the records that were hot
  // before stay, and the next sweep finds as many as the cache holds.
  [[nodiscard]] Status begin(std::span<const uint32_t> records, bool sweep = false);
  // The next records that are ready, at least one; none once all of the pass were given.
  [[nodiscard]] Result<std::span<const ReadyRecord>> next();
  // The last batch's views are not used any more: its slots may be read into before the pass that follows. REQUIRES: no
  // record of the pass is left.
  void release();
  // Records that will surely be needed soon, in that order. Begins as many reads as slots allow that hold nothing
  // needed now or fetched ahead; `evict_hot` allows those that hold records the policy would keep.
  void prefetch(std::span<const uint32_t> records, bool evict_hot);
  // Records that the next pass may need. Read only while nothing else is; once that pass has
  // begun, those that it does not need are given up, and their slots go to the next guesses.
  void guess(std::span<const uint32_t> records);
  // Before the first pass: reads the records with the largest counts, as many as there are slots for, and tells the
  // policy which are hot. One count for each record; 0: never used. A read that fails is left to whoever needs it.
  using Progress = std::function<void(uint64_t done, uint64_t total)>;
  [[nodiscard]] Status warm(std::span<const uint64_t> counts, const Progress& progress);
  // How often each record was needed.
  [[nodiscard]] std::span<const uint32_t> uses() const { return uses_; }
  // The record whose read failed, after an error of begin() or next().
  [[nodiscard]] uint32_t failed_record() const { return failed_record_; }
  // Lets the storage go on: takes up what is read and begins what waits. Call often while computing.
  void advance() { storage_.advance(); }

  // Changes the arena's size at a border between passes, by whole chunks and to two slots of each size at least.
  // Returns the new size, which is above `bytes` only at that least. Growing maps as much as the system gives.
  uint64_t set_bytes(uint64_t bytes);
  [[nodiscard]] uint64_t bytes() const { return arena_bytes_; }
  // How many records can be in memory, of those of the size of `record`.
  [[nodiscard]] uint64_t slots_for(uint32_t record) const;
  // Of the arena, the slots that were ever read into: what the system has really given.
  [[nodiscard]] uint64_t touched_bytes() const;
  [[nodiscard]] uint64_t chunk_bytes() const;
  [[nodiscard]] const RecordCacheStats& stats() const { return stats_; }
  [[nodiscard]] std::span<const Record> records() const { return records_; }

 private:
  struct Slot;
  struct Pool;
  struct Reading {
    storage::Ticket ticket;
    Slot* slot;
    uint32_t extent;
  };
  RecordCache(storage::Storage& storage, std::vector<storage::FileId> files, std::vector<Record> records,
              const Options& options);

  void make_pools(bool equal_slots);
  [[nodiscard]] Status grow(Pool& pool, uint64_t chunks);
  void shrink(Pool& pool, uint64_t chunks);
  void unpin_batch();
  [[nodiscard]] Slot* free_slot(Pool& pool, bool evict);
  [[nodiscard]] bool may_leave(const Slot& slot) const;
  [[nodiscard]] Slot* look_for_victim(const Pool& pool) const;
  void find_victims(Pool& pool) const;
  void forget_victims();
  [[nodiscard]] Slot* victim(Pool& pool) const;
  void empty(Slot& slot);
  [[nodiscard]] Status read_into(Slot& slot, uint32_t record, storage::Priority priority);
  [[nodiscard]] Status start_waiting();
  [[nodiscard]] Status claim(size_t reading, const storage::Completion& completion);
  void convert(Slot& slot);
  void end_guesses();
  void forget_guess(const Slot& slot);
  [[nodiscard]] Status claim_finished();
  [[nodiscard]] Status wait_for_one();
  void abandon();
  void transpose_parts(Slot& slot);

  storage::Storage& storage_;
  const uint64_t granule_;
  const Rows rows_;
  compute::ThreadPool* const pool_;
  std::vector<storage::FileId> files_;
  std::vector<Record> records_;
  Eviction eviction_;
  std::vector<std::unique_ptr<Pool>> pools_;
  std::vector<uint32_t> pool_of_;  // By record.
  std::vector<Slot*> slot_of_;     // By record; null: absent.
  std::vector<uint32_t> uses_;     // By record.
  uint64_t arena_bytes_ = 0;
  uint64_t pass_ = 0;
  bool sweep_ = false;  // The pass is one of a sweep.
  uint32_t failed_record_ = 0;

  std::vector<uint32_t> waiting_;  // Of this pass, not yet being read; next at the back.
  uint32_t outstanding_ = 0;       // Of this pass, being read.
  std::vector<Reading> readings_;  // Tickets that are not yet claimed, of passes and look-ahead alike.
  std::vector<storage::ReadRequest> requests_;  // Reused by read_into(),
  std::vector<storage::Ticket> tickets_;        // and by wait_for_one().
  std::vector<Slot*> ready_;                    // Of this pass, complete, not yet given.
  std::vector<Slot*> batch_;
  std::vector<Slot*> guesses_;  // Slots of guesses that were not needed so far.
  const uint32_t guess_slots_;
  std::vector<ReadyRecord> batch_records_;
  std::vector<uint8_t> transposed_;  // As large as the largest transposition of a record, if there are any.
  RecordCacheStats stats_;
};

}  // namespace mlxf::weights
