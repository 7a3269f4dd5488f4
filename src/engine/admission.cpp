#include <algorithm>
#include <map>
#include <utility>

#include "engine/scheduler_task.h"

namespace mlxf::engine {
namespace {

// So many tokens more are worth waiting for while another task computes them: what a step takes beside decoding.
constexpr uint32_t kAwaitedTokensMin = 64;

}  // namespace

// A user's n-th waiting request comes after the first n - 1 of every other user; what a user has running counts too.
std::vector<size_t> Scheduler::turns() const {
  std::map<std::string, uint32_t> taken;
  for (const auto& task : running_) ++taken[task->submission.user];
  std::vector<uint32_t> turn;
  std::vector<size_t> order;
  for (size_t i = 0; i < waiting_.size(); ++i) {
    turn.push_back(taken[waiting_[i]->submission.user]++);
    order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return turn[a] < turn[b]; });
  return order;
}

// Who waits for what another task computes lets others go first; who has no room does not, or the large would never get
// theirs.
void Scheduler::admit() {
  for (const auto& task : running_) task->stop_at = 0;
  bool again = !waiting_.empty();
  std::vector<size_t> order;
  while (again) {
    order = turns();
    again = false;
    if (running_.size() >= options_.parallel) break;
    for (const size_t index : order) {
      const Admission admission = admit_task(index);
      if (admission == Admission::kAwaits) continue;
      again = admission == Admission::kAdmitted;
      break;
    }
  }
  for (uint32_t i = 0; i < order.size(); ++i)
    waiting_[order[i]]->channel->position.store(i, std::memory_order_relaxed);
}

Scheduler::Admission Scheduler::admit_task(size_t index) {
  Task& task = *waiting_[index];
  if (still_awaits(task)) return Admission::kAwaits;
  const auto wanted =
      static_cast<uint32_t>(std::min<uint64_t>(task.tokens.size() + kGrowPositions, context_fits_));
  const uint64_t bytes = engine_.model().sequence_bytes(wanted);
  std::optional<PrefixStore::Match> kept = prefixes_.find(task.submission.user, task.tokens);
  // It goes to the disk for this one, and may come back from there.
  if (kept && kept->part == PrefixStore::Part::kLess && shelf_ != nullptr && !room_for_both(*kept, bytes))
    kept.reset();
  const Running running = find_running(task);
  // Before what it has in common with others may have to go.
  if (forgets_) task.fork = std::max(prefixes_.common(task.submission.user, task.tokens), running.common);
  const uint32_t found = std::max(kept ? kept->tokens : 0, running.tokens);
  if (bytes - engine_.model().lasting_bytes(found) > ledger_.room() + prefixes_.charged_bytes())
    return Admission::kNoRoom;
  const bool awaits = running.later_tokens >= found + kAwaitedTokensMin;
  const Restore restore = restore_task(index, wanted, awaits ? running.later_tokens : found);
  if (restore != Restore::kNo) return restore == Restore::kBegun ? Admission::kAdmitted : Admission::kNoRoom;
  if (awaits) {
    task.awaits = running.reader->arrival;
    task.awaited_tokens = running.later_tokens;
    return still_awaits(task) ? Admission::kAwaits : Admission::kNoRoom;
  }
  std::unique_ptr<kv::Sequence> sequence = sequence_for(kept, running, bytes);
  if (sequence == nullptr) return Admission::kNoRoom;
  Result<memory::Reservation> reservation = charge(*sequence, bytes);
  if (!reservation) {
    const std::span<const TokenId> held = std::span(task.tokens).first(sequence->length());
    prefixes_.keep(task.submission.user, held, std::move(sequence));
    return Admission::kNoRoom;
  }
  task.reservation = std::move(*reservation);
  start_task(index);
  give_sequence(*running_.back(), std::move(sequence));
  return Admission::kAdmitted;
}

Scheduler::Running Scheduler::find_running(const Task& task) const {
  Running best;
  const std::span<const TokenId> wanted = std::span(task.tokens).first(task.tokens.size() - 1);
  for (const auto& other : running_) {
    if (other->submission.user != task.submission.user) continue;
    const uint32_t common = common_tokens(other->tokens, wanted);
    const uint32_t length = other->length();
    best.common = std::max(best.common, common);
    // Between two passes a sequence holds all of its positions in every layer.
    const uint32_t reach = length != 0 ? other->sequence->truncatable(std::min(common, length)) : 0;
    if (reach >= PrefixStore::kCommonTokensMin && reach > best.tokens) {
      best.task = other.get();
      best.tokens = reach;
    }
    if (common >= length + kAwaitedTokensMin && common > best.later_tokens && awaitable(*other)) {
      best.reader = other.get();
      best.later_tokens = common;
    }
  }
  return best;
}

// It reads on, whatever becomes of those that wait for it.
bool Scheduler::awaitable(const Task& task) {
  return task.reads() && !task.ended && !task.channel->cancelled && !task.paused();
}

// Whether what the task waits for is still to come. Looks at one task alone, so that many may wait long.
bool Scheduler::still_awaits(Task& task) {
  if (!task.awaits) return false;
  for (const auto& other : running_) {
    if (other->arrival != *task.awaits) continue;
    if (other->length() >= task.awaited_tokens || !awaitable(*other)) break;
    if (other->sequence != nullptr && other->sequence->forgets() &&
        (other->stop_at == 0 || other->stop_at > task.awaited_tokens))
      other->stop_at = task.awaited_tokens;
    return true;
  }
  task.awaits.reset();
  return false;
}

std::unique_ptr<kv::Sequence> Scheduler::sequence_for(const std::optional<PrefixStore::Match>& kept,
                                                      const Running& running, uint64_t bytes) {
  const bool whole = kept && kept->part == PrefixStore::Part::kAll;
  if (kept && (kept->tokens > running.tokens || (kept->tokens == running.tokens && whole)))
    return kept_sequence(*kept, bytes);
  const uint64_t shared = engine_.model().lasting_bytes(running.tokens);
  if (prefixes_.make_room(bytes - shared) != PrefixStore::Room::kNow) return nullptr;
  std::unique_ptr<kv::Sequence> sequence = engine_.model().make_sequence(options_.context_max);
  // Without memory for that it is computed.
  if (running.task != nullptr) (void)sequence->share(*running.task->sequence, running.tokens);
  return sequence;
}

Result<memory::Reservation> Scheduler::charge(kv::Sequence& sequence, uint64_t bytes) {
  prefixes_.settle();
  const uint64_t marked = sequence.marked_bytes();
  Result<memory::Reservation> reservation = ledger_.reserve(memory::Tag::kKv, bytes + marked);
  if (reservation) return reservation;
  sequence.unmark_all();
  // What was cut off a sequence that was kept may have been shared, and was no room then.
  (void)prefixes_.make_room(bytes);
  return ledger_.reserve(memory::Tag::kKv, bytes);
}

bool Scheduler::room_for_both(const PrefixStore::Match& kept, uint64_t bytes) const {
  const uint64_t own = bytes - engine_.model().lasting_bytes(kept.tokens);
  return own + kept.bytes <= ledger_.room() + prefixes_.charged_bytes();
}

// What the prompt leaves before its end stays where there is room for both. Nothing else goes for that if the prompt
// can have most of it alone; and what it can have less than half of goes for it only where it would have to go anyway.
std::unique_ptr<kv::Sequence> Scheduler::kept_sequence(const PrefixStore::Match& kept, uint64_t bytes) {
  using Part = PrefixStore::Part;
  const uint64_t own = bytes - engine_.model().lasting_bytes(kept.tokens);
  const bool at_once = own + (shelf_ != nullptr ? ahead_bytes_ : 0) <= ledger_.room();
  if (kept.part == Part::kLess ? room_for_both(kept, bytes) : kept.part == Part::kMost && at_once) {
    if (prefixes_.make_room(own, kept) != PrefixStore::Room::kNow) return nullptr;
    std::unique_ptr<kv::Sequence> sequence = engine_.model().make_sequence(options_.context_max);
    (void)prefixes_.share(kept, *sequence);  // Without memory for that it is computed.
    return sequence;
  }
  if (prefixes_.withheld(kept)) return nullptr;
  if (prefixes_.make_room(bytes - std::min(kept.bytes, bytes), kept) != PrefixStore::Room::kNow)
    return nullptr;
  return prefixes_.take(kept);
}

void Scheduler::start_task(size_t index) {
  Task& task = *waiting_[index];
  const GenerateRequest& request = task.submission.request;
  if (task.admitted == Clock::time_point()) {
    task.admitted = Clock::now();
    if (task.submission.embed) {
      task.state.resize(engine_.model().spec().hidden);
    } else {
      task.generation =
          std::make_unique<Generation>(request, tokenizer_, engine_.model().spec().vocab, context_fits_);
    }
    queue_seconds_.observe(seconds_between(task.submitted, task.admitted));
    prompt_tokens_.add(request.prompt.size());
  }
  task.set_stage(Progress::Stage::kReading);
  running_.push_back(std::move(waiting_[index]));
  waiting_.erase(waiting_.begin() + static_cast<ptrdiff_t>(index));
  const MutexLock lock(mutex_);
  --waiting_count_;
}

void Scheduler::give_sequence(Task& task, std::unique_ptr<kv::Sequence> sequence) {
  task.sequence = std::move(sequence);
  task.channel->prompt_done.store(task.sequence->length(), std::memory_order_relaxed);
  if (task.counted_cached) return;  // It goes on after it had to give way.
  task.counted_cached = true;
  task.cached_tokens = task.sequence->length();
  cached_tokens_.add(task.cached_tokens);
}

// Begins to read the task's sequence from the folder, where that takes less time than to compute what it has more than
// the one in memory.
Scheduler::Restore Scheduler::restore_task(size_t index, uint32_t wanted, uint32_t kept_tokens) {
  Task& task = *waiting_[index];
  if (shelf_ == nullptr || task.unrestorable) return Restore::kNo;
  const std::optional<PrefixShelf::Match> match = shelf_->find(task.submission.user, task.tokens);
  if (!match || match->tokens < kept_tokens + PrefixStore::kCommonTokensMin) return Restore::kNo;
  const double gained = prompt_token_seconds_ * (match->tokens - kept_tokens);
  if (gained != 0.0 && gained < match->seconds) return Restore::kNo;
  std::unique_ptr<kv::Sequence> sequence = engine_.model().make_sequence(options_.context_max);
  std::span<const uint32_t> layout(match->layout);
  const std::optional<kv::Marks> marks = kv::Sequence::marks_of(layout);
  const uint64_t bytes = engine_.model().sequence_bytes(std::max(wanted, match->length)) +
                         (marks ? sequence->mark_bytes(marks->all()) : 0);
  if (bytes > ledger_.room() + prefixes_.charged_bytes()) return Restore::kNo;
  if (prefixes_.make_room(bytes) != PrefixStore::Room::kNow) return Restore::kLater;
  Result<memory::Reservation> reservation = ledger_.reserve(memory::Tag::kKv, bytes);
  // Its memory is only mapped here: whoever reads into it touches it.
  const Status fits = reservation ? sequence->restore(match->length, match->layout) : Status();
  if (!fits && fits.error().code == ErrorCode::kCorrupt) shelf_->refuse(*match, fits.error());
  if (!reservation || !fits) {
    task.unrestorable = true;
    wakeup_->wake();
    return Restore::kLater;  // As one that is computed: room was made at the cost of what was found before.
  }
  task.restores = ++restores_;
  task.restored_tokens = match->tokens;
  start_task(index);
  shelf_->read(*match, restores_, std::move(sequence), std::move(*reservation));
  return Restore::kBegun;
}

void Scheduler::collect_restored() {
  if (shelf_ == nullptr) return;
  for (PrefixShelf::Restored& restored : shelf_->collect()) {
    const auto found = std::find_if(running_.begin(), running_.end(),
                                    [&](const auto& one) { return one->restores == restored.ticket; });
    if (found == running_.end()) continue;  // Cancelled.
    Task& task = **found;
    task.restores = 0;
    task.reservation = std::move(restored.charge);
    if (restored.sequence == nullptr || !restored.sequence->truncate(task.restored_tokens))
      restored.sequence = engine_.model().make_sequence(options_.context_max);
    // The file may have gone on for long behind what is common.
    const uint64_t needed = engine_.model().sequence_bytes(std::min(
                                task.limit(), static_cast<uint32_t>(task.tokens.size()) + kGrowPositions)) +
                            restored.sequence->marked_bytes();
    if (needed < task.reservation.bytes()) (void)task.reservation.resize(needed);
    give_sequence(task, std::move(restored.sequence));
  }
}

}  // namespace mlxf::engine
