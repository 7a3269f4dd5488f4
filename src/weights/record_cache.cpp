#include "weights/record_cache.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <map>
#include <numeric>
#include <string>
#include <utility>

#include "base/check.h"
#include "platform/huge_memory.h"
#include "weights/slot_sizes.h"
#include "weights/transpose.h"

namespace mlxf::weights {
namespace {

constexpr uint32_t kFloorSlots = 2;
// A guess that was not needed this many passes after it was made is a record like any other: dense layers are read two
// layers ahead.
constexpr uint64_t kGuessPasses = 2;
// Reads under way beyond which none is begun ahead: the storage's queue has room for demands then.
constexpr size_t kReadingsMax = 2048;
// Looks at all slots for one victim, after which a heap of all is made: that takes as long as some looks, and a token's
// pass seldom misses more.
constexpr uint32_t kLooksMax = 8;
// Reads asked for at a time while warming up.
constexpr size_t kWarmReadings = 64;

}  // namespace

struct RecordCache::Slot {
  enum class State : uint8_t { kEmpty, kReading, kReady };
  uint8_t* memory = nullptr;
  Pool* pool = nullptr;
  State state = State::kEmpty;
  bool pinned = false;      // Needed by the pass.
  bool look_ahead = false;  // Read ahead and not needed yet.
  bool guess = false;       // Its read began as look-ahead.
  bool kept = false;        // Not to be evicted just now.
  bool failed = false;
  bool touched = false;     // Ever read into.
  uint64_t guessed_in = 0;  // The pass of the look-ahead.
  uint64_t swept_in = 0;    // The last pass of a sweep that brought or used it; 0: needed by others, too.
  uint32_t record = 0;
  uint32_t missing = 0;               // Extents not yet read,
  uint64_t arrived = 0;               // and bytes of those that were.
  std::vector<const uint8_t*> bases;  // Where each extent's payload begins.
  std::vector<MatrixView> matrices;
};

struct RecordCache::Pool {
  uint64_t slot_bytes = 0;
  uint64_t whole_bytes = 0;  // Slots for all its records.
  uint64_t chunk_bytes = 0;
  struct Chunk {
    platform::HugeMemory memory;
    std::vector<std::unique_ptr<Slot>> slots;
  };
  std::vector<Chunk> chunks;
  std::vector<Slot*> empty;
  uint64_t to_warm = 0;  // By warm().
  // What may leave, as a heap with the first to leave on top: found in one look at all slots for all that a pass needs,
  // since thousands of slots take longer to look at than a read takes to begin. Some may have left since; none that
  // became one is missing while it is `victims_known`.
  struct Victim {
    Slot* slot;
    uint32_t record;
    uint32_t place;  // In the order of the slots.
    uint64_t swept;  // 0: by the key. The latest leaves first.
    double key;      // The least leaves first.
    [[nodiscard]] bool operator<(const Victim& other) const {
      if (swept != other.swept) return swept < other.swept;
      if (swept == 0 && key != other.key) return key > other.key;
      return place > other.place;
    }
  };
  std::vector<Victim> victims;
  bool victims_known = false;
  uint32_t looks = 0;  // At all slots for one victim each, since they were known last.
  [[nodiscard]] uint64_t slots_per_chunk() const { return chunk_bytes / slot_bytes; }
  [[nodiscard]] uint64_t bytes() const { return chunks.size() * chunk_bytes; }
  [[nodiscard]] uint64_t slots() const { return chunks.size() * slots_per_chunk(); }
  [[nodiscard]] uint64_t floor_chunks() const {
    return (kFloorSlots + slots_per_chunk() - 1) / slots_per_chunk();
  }
  [[nodiscard]] uint64_t most_chunks() const {
    const uint64_t slots = (whole_bytes + slot_bytes - 1) / slot_bytes;
    return (slots + slots_per_chunk() - 1) / slots_per_chunk();
  }
};

uint64_t RecordCache::floor_bytes(std::span<const Record> records, bool equal_slots, uint64_t granule_bytes) {
  uint64_t total = 0;
  for (const auto& [size, slot] : slot_sizes(records, equal_slots))
    total += rounded(kFloorSlots * slot, granule_bytes);
  return total;
}

uint64_t RecordCache::slot_bytes(const Record& record, uint64_t granule_bytes) {
  return rounded(span_of(record), granule_bytes);
}

uint64_t RecordCache::whole_bytes(std::span<const Record> records) {
  const auto slots = slot_sizes(records, false);
  uint64_t total = 0;
  for (const Record& record : records) total += slots.at(record.bytes());
  return total;
}

RecordCache::RecordCache(storage::Storage& storage, std::vector<storage::FileId> files,
                         std::vector<Record> records, const Options& options)
    : storage_(storage),
      granule_(options.granule_bytes),
      rows_(options.rows),
      pool_(options.pool),
      files_(std::move(files)),
      records_(std::move(records)),
      eviction_(options.policy,
                options.layer_of.empty() ? std::vector<uint32_t>(records_.size(), 0) : options.layer_of),
      slot_of_(records_.size(), nullptr),
      uses_(records_.size(), 0),
      guess_slots_(options.guess_slots) {
  make_pools(options.equal_slots);
  uint64_t largest = 0;
  for (const Record& record : records_) largest = std::max(largest, record.transpose_bytes());
  transposed_.resize(largest);
}

RecordCache::~RecordCache() { abandon(); }

void RecordCache::make_pools(bool equal_slots) {
  std::map<uint64_t, uint32_t> index;
  for (const auto& [size, slot] : slot_sizes(records_, equal_slots)) {
    index[size] = static_cast<uint32_t>(pools_.size());
    pools_.push_back(std::make_unique<Pool>());
    pools_.back()->slot_bytes = slot;
  }
  for (const Record& record : records_) {
    pool_of_.push_back(index.at(equal_slots ? 0 : record.bytes()));
    pools_[pool_of_.back()]->whole_bytes += pools_[pool_of_.back()]->slot_bytes;
  }
}

Result<std::unique_ptr<RecordCache>> RecordCache::make(storage::Storage& storage,
                                                       std::vector<storage::FileId> files,
                                                       std::vector<Record> records, const Options& options) {
  const uint64_t floor = floor_bytes(records, options.equal_slots, options.granule_bytes);
  if (options.bytes < floor)
    return fail(ErrorCode::kOutOfBudget, "streaming needs room for " + std::to_string(floor >> 20) +
                                             " MiB of weights at least, but only " +
                                             std::to_string(options.bytes >> 20) + " MiB are left for them");
  std::unique_ptr<RecordCache> cache(new RecordCache(storage, std::move(files), std::move(records), options));
  uint64_t whole = 0;
  for (const auto& pool : cache->pools_) whole += pool->whole_bytes;
  for (const auto& pool : cache->pools_) {
    const auto share =
        static_cast<uint64_t>(static_cast<double>(options.bytes) *
                              (static_cast<double>(pool->whole_bytes) / static_cast<double>(whole)));
    pool->chunk_bytes = choose_chunk(pool->slot_bytes, std::min(share, pool->whole_bytes), cache->granule_);
  }
  if (cache->set_bytes(options.bytes) > options.bytes) {
    // Shares rounded to chunks do not fit: the smallest chunks do.
    for (const auto& pool : cache->pools_) {
      cache->shrink(*pool, 0);
      pool->chunks.clear();
      pool->empty.clear();
      pool->chunk_bytes = rounded(kFloorSlots * pool->slot_bytes, cache->granule_);
    }
    cache->arena_bytes_ = 0;
    cache->set_bytes(options.bytes);
  }
  for (const auto& pool : cache->pools_)
    if (pool->chunks.empty())
      return fail(ErrorCode::kOutOfBudget, "the system has no memory left for the weights that are streamed");
  return cache;
}

uint64_t RecordCache::touched_bytes() const {
  uint64_t total = 0;
  for (const auto& pool : pools_)
    for (const Pool::Chunk& chunk : pool->chunks)
      for (const auto& slot : chunk.slots) total += slot->touched ? pool->slot_bytes : 0;
  return total;
}

uint64_t RecordCache::chunk_bytes() const {
  uint64_t largest = 0;
  for (const auto& pool : pools_) largest = std::max(largest, pool->chunk_bytes);
  return largest;
}

// Every pool gets its floor first, the rest goes by what the pools' records take together; what that leaves over, for
// less than a chunk fits a share, goes to the first pools that can use it.
uint64_t RecordCache::set_bytes(uint64_t bytes) {
  CHECK(waiting_.empty() && outstanding_ == 0 && ready_.empty());
  uint64_t whole = 0, floor = 0;
  std::vector<uint64_t> chunks;
  for (const auto& pool : pools_) {
    whole += pool->whole_bytes;
    chunks.push_back(std::min(pool->floor_chunks(), pool->most_chunks()));
    floor += chunks.back() * pool->chunk_bytes;
  }
  const uint64_t spare = bytes > floor ? bytes - floor : 0;
  uint64_t left = spare;
  const auto give = [&](size_t i, uint64_t share) {
    const uint64_t more = std::min(share / pools_[i]->chunk_bytes, pools_[i]->most_chunks() - chunks[i]);
    chunks[i] += more;
    left -= more * pools_[i]->chunk_bytes;
  };
  for (size_t i = 0; i < pools_.size(); ++i) {
    const double part = static_cast<double>(pools_[i]->whole_bytes) / static_cast<double>(whole);
    give(i, std::min(left, static_cast<uint64_t>(static_cast<double>(spare) * part)));
  }
  for (size_t i = 0; i < pools_.size(); ++i) give(i, left);
  for (size_t i = 0; i < pools_.size(); ++i) shrink(*pools_[i], chunks[i]);
  arena_bytes_ = 0;
  for (size_t i = 0; i < pools_.size(); ++i) {
    // A system that gives no more leaves the pool at what it has.
    if (!grow(*pools_[i], chunks[i]) && pools_[i]->chunks.empty()) break;
    arena_bytes_ += pools_[i]->bytes();
  }
  uint64_t slots = 0;
  for (const auto& pool : pools_) slots += pool->slots();
  eviction_.set_slots(slots);
  return arena_bytes_;
}

uint64_t RecordCache::slots_for(uint32_t record) const { return pools_[pool_of_[record]]->slots(); }

Status RecordCache::grow(Pool& pool, uint64_t chunks) {
  while (pool.chunks.size() < chunks) {
    Pool::Chunk chunk;
    ASSIGN_OR_RETURN(chunk.memory, platform::HugeMemory::allocate(pool.chunk_bytes));
    for (uint64_t i = 0; i < pool.slots_per_chunk(); ++i) {
      auto slot = std::make_unique<Slot>();
      slot->memory = chunk.memory.data() + i * pool.slot_bytes;
      slot->pool = &pool;
      pool.empty.push_back(slot.get());
      chunk.slots.push_back(std::move(slot));
    }
    pool.chunks.push_back(std::move(chunk));
  }
  pool.victims.reserve(pool.slots());
  return {};
}

// What the last chunks hold is forgotten; reads into them are waited for.
void RecordCache::shrink(Pool& pool, uint64_t chunks) {
  if (pool.chunks.size() <= chunks) return;
  unpin_batch();
  pool.victims_known = false;
  pool.victims.clear();
  while (!readings_.empty()) {
    const storage::Completion done = *storage_.wait(readings_.back().ticket);
    (void)claim(readings_.size() - 1, done);  // Only look-ahead is left between passes.
  }
  while (pool.chunks.size() > chunks) {
    for (const auto& slot : pool.chunks.back().slots) {
      if (slot->state != Slot::State::kEmpty) empty(*slot);
      pool.empty.erase(std::find(pool.empty.begin(), pool.empty.end(), slot.get()));
    }
    pool.chunks.pop_back();
  }
}

void RecordCache::forget_guess(const Slot& slot) {
  const auto found = std::find(guesses_.begin(), guesses_.end(), &slot);
  if (found != guesses_.end()) guesses_.erase(found);
}

void RecordCache::empty(Slot& slot) {
  forget_guess(slot);
  slot_of_[slot.record] = nullptr;
  eviction_.leave(slot.record);
  slot.state = Slot::State::kEmpty;
  slot.pinned = slot.look_ahead = slot.guess = slot.failed = false;
  slot.pool->empty.push_back(&slot);
}

RecordCache::Slot* RecordCache::look_for_victim(const Pool& pool) const {
  Slot* least = nullptr;
  Slot* latest = nullptr;
  double key = std::numeric_limits<double>::infinity();
  for (const Pool::Chunk& chunk : pool.chunks)
    for (const auto& slot : chunk.slots) {
      if (!may_leave(*slot)) continue;
      if (sweep_ && slot->swept_in > (latest == nullptr ? 0 : latest->swept_in)) latest = slot.get();
      if (const double k = eviction_.key(slot->record); k < key) {
        key = k;
        least = slot.get();
      }
    }
  return latest != nullptr ? latest : least;
}

bool RecordCache::may_leave(const Slot& slot) const {
  return slot.state == Slot::State::kReady && !slot.pinned && !slot.kept &&
         (!slot.look_ahead || pass_ - slot.guessed_in > kGuessPasses);
}

void RecordCache::find_victims(Pool& pool) const {
  pool.victims.clear();
  uint32_t place = 0;
  for (const Pool::Chunk& chunk : pool.chunks)
    for (const auto& slot : chunk.slots) {
      ++place;
      if (!may_leave(*slot)) continue;
      pool.victims.push_back(
          {slot.get(), slot->record, place, sweep_ ? slot->swept_in : 0, eviction_.key(slot->record)});
    }
  std::make_heap(pool.victims.begin(), pool.victims.end());
  pool.victims_known = true;
}

// Keys change with the pass, and slots become ready or are no longer in use.
void RecordCache::forget_victims() {
  for (const auto& pool : pools_) {
    pool->victims_known = false;
    pool->looks = 0;
  }
}

// The ready, unpinned slot whose record is kept least, by the policy or by a sweep; null: none.
RecordCache::Slot* RecordCache::victim(Pool& pool) const {
  if (!pool.victims_known && pool.looks < kLooksMax) {
    ++pool.looks;
    return look_for_victim(pool);
  }
  if (!pool.victims_known) find_victims(pool);
  std::vector<Pool::Victim>& victims = pool.victims;
  while (!victims.empty()) {
    const Slot& slot = *victims.front().slot;
    if (slot.state == Slot::State::kReady && !slot.pinned && !slot.kept &&
        slot.record == victims.front().record)
      return victims.front().slot;
    std::pop_heap(victims.begin(), victims.end());
    victims.pop_back();
  }
  return nullptr;
}

RecordCache::Slot* RecordCache::free_slot(Pool& pool, bool evict) {
  if (pool.empty.empty() && evict) {
    Slot* least = victim(pool);
    // A guess that nobody needed goes last: it was read, and its time may come.
    if (least == nullptr)
      for (const Pool::Chunk& chunk : pool.chunks)
        for (const auto& slot : chunk.slots)
          if (slot->state == Slot::State::kReady && !slot->pinned) least = slot.get();
    if (least != nullptr) empty(*least);
  }
  if (pool.empty.empty()) return nullptr;
  Slot* slot = pool.empty.back();
  pool.empty.pop_back();
  return slot;
}

Status RecordCache::read_into(Slot& slot, uint32_t record, storage::Priority priority) {
  const Record& r = records_[record];
  std::vector<storage::ReadRequest>& reads = requests_;
  std::vector<storage::Ticket>& tickets = tickets_;
  reads.assign(r.extents.size(), {});
  tickets.resize(r.extents.size());
  slot.bases.resize(r.extents.size());
  uint8_t* memory = slot.memory;
  for (size_t i = 0; i < r.extents.size(); ++i) {
    reads[i].file = files_[r.extents[i].file];
    reads[i].offset = r.extents[i].offset;
    reads[i].length = r.extents[i].bytes;
    reads[i].into = memory;
    reads[i].capacity = storage::Storage::span_bytes(r.extents[i].offset, r.extents[i].bytes);
    reads[i].priority = priority;
    memory += reads[i].capacity;
  }
  Status status = storage_.submit(reads, tickets);
  if (!status) {
    slot.pool->empty.push_back(&slot);
    return status;
  }
  for (size_t i = 0; i < tickets.size(); ++i)
    readings_.push_back({tickets[i], &slot, static_cast<uint32_t>(i)});
  slot.record = record;
  slot.touched = true;
  slot.swept_in = sweep_ ? pass_ : 0;
  slot.state = Slot::State::kReading;
  slot.missing = static_cast<uint32_t>(tickets.size());
  slot.arrived = 0;
  slot_of_[record] = &slot;
  eviction_.enter(record);
  stats_.read_bytes += r.bytes();
  return {};
}

// An error is that of a demanded read. A guess that failed is forgotten, or read again if the pass came to need it.
Status RecordCache::claim(size_t index, const storage::Completion& done) {
  const Reading reading = readings_[index];
  readings_[index] = readings_.back();
  readings_.pop_back();
  Slot& slot = *reading.slot;
  --slot.missing;
  if (done.status) {
    slot.bases[reading.extent] = done.payload.data();
    slot.arrived += done.payload.size();
  } else {
    slot.failed = true;
    failed_record_ = slot.record;
  }
  const bool failed = slot.failed, guess = slot.guess, needed = slot.pinned;
  if (failed && guess && !needed && slot.missing == 0) {
    // Dropped before it was needed: none of it was read, or a part in vain.
    const bool began =
        slot.arrived != 0 && std::find(guesses_.begin(), guesses_.end(), &slot) != guesses_.end();
    stats_.guesses += began ? 1 : 0;
    stats_.prefetched -= began ? 0 : 1;
    stats_.read_bytes -= records_[slot.record].bytes() - slot.arrived;
  }
  const uint32_t failed_record = slot.record;
  if (failed && slot.missing == 0) {
    if (needed) --outstanding_;
    empty(slot);
    if (needed && guess) waiting_.push_back(failed_record);
  }
  if (failed) return guess ? Status() : done.status;
  if (slot.missing != 0) return {};
  transpose_parts(slot);
  const Record& record = records_[slot.record];
  slot.matrices.clear();
  for (const RecordMatrix& matrix : record.matrices) {
    MatrixView view = matrix.layout;
    const auto address = [&](const RecordPart& part) -> const uint8_t* {
      return part.extent == UINT32_MAX ? nullptr : slot.bases[part.extent] + part.at;
    };
    view.data = address(matrix.data);
    view.scales = address(matrix.scales);
    view.biases = address(matrix.biases);
    slot.matrices.push_back(view);
  }
  if (rows_ == Rows::kInt8) convert(slot);
  slot.state = Slot::State::kReady;
  if (!slot.pinned) forget_victims();
  // A guess that was under way when the pass began for which it was made.
  if (slot.guessed_in != pass_ && std::find(guesses_.begin(), guesses_.end(), &slot) != guesses_.end())
    ++stats_.guesses;
  if (slot.pinned) {
    --outstanding_;
    ready_.push_back(&slot);
  }
  return {};
}

// In the slot itself, which is larger than the result; what a reader gets is what a resident matrix would be.
void RecordCache::convert(Slot& slot) {
  const std::vector<RecordMatrix>& stored = records_[slot.record].matrices;
  pool_->parallel_for(static_cast<uint32_t>(stored.size()), [&](uint32_t i, uint32_t) {
    if (stored[i].becomes_int8()) slot.matrices[i] = convert_in_place(slot.matrices[i]);
  });
}

// Turns what is stored the other way round, where it lies in the slot.
void RecordCache::transpose_parts(Slot& slot) {
  for (const RecordTranspose& part : records_[slot.record].transposes) {
    uint8_t* place = slot.memory + (slot.bases[part.extent] - slot.memory) + part.at;
    transpose_in_place(*pool_, place, part.rows, part.cols, part.element_bytes, transposed_.data());
  }
}

// Takes up every read that is complete, without waiting.
Status RecordCache::claim_finished() {
  storage_.advance();
  Status result;
  for (size_t i = readings_.size(); i-- > 0;) {
    const auto done = storage_.poll(readings_[i].ticket);
    if (!done) continue;
    const Status status = claim(i, *done);
    if (!status && result) result = status;
  }
  return result;
}

Status RecordCache::wait_for_one() {
  tickets_.clear();
  for (const Reading& reading : readings_)
    if (reading.slot->pinned) tickets_.push_back(reading.ticket);
  // Only look-ahead is being read: it holds the slots that the pass waits for.
  if (tickets_.empty())
    for (const Reading& reading : readings_) tickets_.push_back(reading.ticket);
  CHECK(!tickets_.empty());
  const auto start = std::chrono::steady_clock::now();
  const storage::Completion done = *storage_.wait_any(tickets_);
  stats_.stall_seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  size_t index = 0;
  while (!(readings_[index].ticket == done.ticket)) ++index;
  RETURN_IF_ERROR(claim(index, done));
  return claim_finished();
}

void RecordCache::unpin_batch() {
  for (Slot* slot : batch_) slot->pinned = false;
  if (!batch_.empty()) forget_victims();
  batch_.clear();
  batch_records_.clear();
}

// Begins reads for as many of the waiting records as there are slots.
Status RecordCache::start_waiting() {
  while (!waiting_.empty()) {
    const uint32_t record = waiting_.back();
    Slot* slot = free_slot(*pools_[pool_of_[record]], true);
    if (slot == nullptr) return {};
    if (Status status = read_into(*slot, record, storage::Priority::kDemand); !status) {
      // A full queue takes more once some of ours are claimed.
      if (status.error().code == ErrorCode::kUnavailable && !readings_.empty()) return {};
      failed_record_ = record;
      return status;
    }
    slot->pinned = true;
    ++outstanding_;
    waiting_.pop_back();
  }
  return {};
}

Status RecordCache::begin(std::span<const uint32_t> records, bool sweep) {
  CHECK(waiting_.empty() && outstanding_ == 0 && ready_.empty());
  unpin_batch();
  RETURN_IF_ERROR(claim_finished());
  ++pass_;
  forget_victims();
  sweep_ = sweep;
  eviction_.begin_pass(records);
  for (const uint32_t record : records) {
    ++uses_[record];
    const uint64_t bytes = records_[record].bytes();
    ++stats_.needed;
    stats_.needed_bytes += bytes;
    Slot* slot = slot_of_[record];
    if (slot == nullptr) {
      ++stats_.misses;
      stats_.miss_bytes += bytes;
      waiting_.push_back(record);
      continue;
    }
    if (slot->look_ahead) ++stats_.prefetch_used;
    if (const auto guess = std::find(guesses_.begin(), guesses_.end(), slot); guess != guesses_.end()) {
      ++stats_.guesses;
      ++stats_.guesses_used;
      guesses_.erase(guess);
    }
    slot->look_ahead = false;
    slot->pinned = true;
    if (slot->swept_in != 0) slot->swept_in = sweep ? pass_ : 0;
    if (slot->state == Slot::State::kReady) {
      ++stats_.hits;
      stats_.hit_bytes += bytes;
      ready_.push_back(slot);
    } else {
      ++stats_.late;
      stats_.late_bytes += bytes;
      ++outstanding_;
      for (const Reading& reading : readings_)
        if (reading.slot == slot) storage_.promote(reading.ticket);
    }
  }
  end_guesses();
  std::reverse(waiting_.begin(), waiting_.end());
  Status status = start_waiting();
  if (!status) abandon();
  return status;
}

Result<std::span<const ReadyRecord>> RecordCache::next() {
  unpin_batch();
  // In this order: what was claimed may be a slot to read into, and a wait needs something that is being read.
  Status status = claim_finished();
  if (status) status = start_waiting();
  while (status && ready_.empty() && (outstanding_ > 0 || !waiting_.empty())) {
    status = wait_for_one();
    if (status) status = start_waiting();
  }
  if (!status) {
    abandon();
    return tl::unexpected<Error>(status.error());
  }
  CHECK(!ready_.empty() || waiting_.empty());
  batch_.swap(ready_);
  for (Slot* slot : batch_) batch_records_.push_back({slot->record, slot->matrices});
  return std::span<const ReadyRecord>(batch_records_);
}

void RecordCache::release() {
  CHECK(waiting_.empty() && outstanding_ == 0 && ready_.empty());
  unpin_batch();
}

void RecordCache::prefetch(std::span<const uint32_t> records, bool evict_hot) {
  if (!waiting_.empty()) return;  // The pass needs every slot itself.
  const auto keep = [&](bool kept) {
    for (const uint32_t record : records)
      if (slot_of_[record] != nullptr) slot_of_[record]->kept = kept;
    forget_victims();
  };
  keep(true);
  for (const uint32_t record : records) {
    if (slot_of_[record] != nullptr) continue;
    if (readings_.size() >= kReadingsMax) break;
    Pool& pool = *pools_[pool_of_[record]];
    Slot* slot = free_slot(pool, evict_hot && victim(pool) != nullptr);
    if (slot == nullptr) continue;
    if (!read_into(*slot, record, storage::Priority::kLookahead)) break;
    slot->look_ahead = slot->guess = true;
    slot->guessed_in = pass_;
    ++stats_.prefetched;
  }
  keep(false);
}

// The pass for which they were made has begun without needing them: what has not begun is dropped.
void RecordCache::end_guesses() {
  for (Slot* slot : guesses_) {
    if (slot->guessed_in + 1 != pass_) continue;
    if (slot->state == Slot::State::kReady) {
      ++stats_.guesses;
      continue;
    }
    for (const Reading& reading : readings_)
      if (reading.slot == slot) storage_.cancel(reading.ticket);
  }
}

void RecordCache::guess(std::span<const uint32_t> records) {
  if (!waiting_.empty()) return;  // The pass needs every slot itself.
  for (const uint32_t record : records) {
    if (slot_of_[record] != nullptr || readings_.size() >= kReadingsMax) continue;
    Pool& pool = *pools_[pool_of_[record]];
    // The slot of a guess that came to nothing, or a few taken from what the policy keeps least.
    const auto old = std::find_if(guesses_.begin(), guesses_.end(), [&](const Slot* slot) {
      return slot->pool == &pool && slot->state == Slot::State::kReady && slot->guessed_in != pass_;
    });
    if (old != guesses_.end()) empty(**old);
    if (guesses_.size() >= guess_slots_) continue;
    Slot* slot = free_slot(pool, victim(pool) != nullptr);
    if (slot == nullptr) continue;
    if (!read_into(*slot, record, storage::Priority::kGuess)) return;
    slot->look_ahead = slot->guess = true;
    slot->guessed_in = pass_;
    guesses_.push_back(slot);
    ++stats_.prefetched;
  }
}

Status RecordCache::warm(std::span<const uint64_t> counts, const Progress& progress) {
  CHECK(counts.size() == records_.size());
  std::vector<uint32_t> hot(records_.size());
  std::iota(hot.begin(), hot.end(), 0);
  std::erase_if(hot, [&](uint32_t record) { return counts[record] == 0; });
  std::sort(hot.begin(), hot.end(),
            [&](uint32_t a, uint32_t b) { return counts[a] != counts[b] ? counts[a] > counts[b] : a < b; });
  std::erase_if(hot, [&](uint32_t record) {
    Pool& pool = *pools_[pool_of_[record]];
    return slot_of_[record] != nullptr || pool.to_warm >= pool.empty.size() || (++pool.to_warm, false);
  });
  for (const auto& pool : pools_) pool->to_warm = 0;
  // The hottest last: every policy keeps what was needed last.
  for (size_t i = hot.size(); i-- > 0;) eviction_.touch(hot[i]);
  for (size_t begun = 0; begun < hot.size() || !readings_.empty();) {
    while (begun < hot.size() && readings_.size() < kWarmReadings) {
      Slot* slot = free_slot(*pools_[pool_of_[hot[begun]]], false);
      CHECK(slot != nullptr);
      RETURN_IF_ERROR(read_into(*slot, hot[begun++], storage::Priority::kDemand));
      slot->guess = true;  // A failure is forgotten.
    }
    tickets_.clear();
    for (const Reading& reading : readings_) tickets_.push_back(reading.ticket);
    const storage::Completion done = *storage_.wait_any(tickets_);
    size_t index = 0;
    while (!(readings_[index].ticket == done.ticket)) ++index;
    RETURN_IF_ERROR(claim(index, done));
    if (progress) progress(begun - std::min(begun, readings_.size()), hot.size());
  }
  if (progress && !hot.empty()) progress(hot.size(), hot.size());
  return {};
}

// Ends the pass: all reads are waited for, nothing is pinned.
void RecordCache::abandon() {
  const uint32_t failed = failed_record_;  // Not those that are cancelled now.
  for (const Reading& reading : readings_) storage_.cancel(reading.ticket);
  while (!readings_.empty()) (void)claim(readings_.size() - 1, *storage_.wait(readings_.back().ticket));
  failed_record_ = failed;
  waiting_.clear();
  for (Slot* slot : ready_) slot->pinned = false;
  forget_victims();
  ready_.clear();
  unpin_batch();
  CHECK(outstanding_ == 0);
}

}  // namespace mlxf::weights
