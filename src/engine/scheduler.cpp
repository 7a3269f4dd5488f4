#include "engine/scheduler.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/prompt_mark.h"
#include "engine/scheduler_task.h"
#include "memory/budget.h"

namespace mlxf::engine {
namespace {

constexpr std::chrono::milliseconds kIdleWait(500);
constexpr uint32_t kMarkDistance = 512;          // In a prompt, where layers forget.
constexpr std::chrono::seconds kErrorLasts(30);  // In health, while nobody asks for anything.

SchedulerOptions completed(SchedulerOptions options, const model::Model& model) {
  // A step holds every decoding sequence and a piece of a prompt.
  options.parallel = std::clamp<uint32_t>(options.parallel, 1, std::max(1u, model.chunk_tokens() / 2));
  if (options.kv_bytes == 0) options.kv_bytes = options.parallel * model.sequence_bytes(options.context_max);
  return options;
}

// The most positions, at most `context_max`, whose keys and values take no more than `bytes`.
uint32_t positions_within(const model::Model& model, uint32_t context_max, uint64_t bytes) {
  uint32_t fits = 0, beyond = context_max + 1;
  while (beyond - fits > 1) {
    const uint32_t middle = fits + (beyond - fits) / 2;
    (model.sequence_bytes(middle) <= bytes ? fits : beyond) = middle;
  }
  return fits;
}

}  // namespace

Usage Scheduler::Task::usage() const {
  Usage usage;
  usage.prompt_tokens = static_cast<uint32_t>(submission.request.prompt.size());
  usage.cached_tokens = cached_tokens;
  if (admitted == Clock::time_point()) return usage;
  usage.queue_seconds = seconds_between(submitted, admitted);
  if (generation != nullptr) usage.generated_tokens = static_cast<uint32_t>(generation->tokens().size());
  if (first_token == Clock::time_point()) return usage;
  usage.prompt_seconds = seconds_between(admitted, first_token);
  usage.generate_seconds = seconds_between(first_token, last_token);
  return usage;
}

Scheduler::Scheduler(Engine& engine, const text::Tokenizer* tokenizer, const SchedulerOptions& options,
                     Metrics& metrics)
    : engine_(engine),
      tokenizer_(tokenizer),
      options_(completed(options, engine.model())),
      context_fits_(positions_within(engine.model(), options_.context_max, options_.kv_bytes)),
      ahead_bytes_(
          std::min(options_.kv_bytes / 8, options_.parallel * engine.model().sequence_bytes(kGrowPositions))),
      ledger_(options_.kv_bytes),
      wakeup_(std::make_shared<Wakeup>()),
      prompt_tokens_(
          metrics.counter("mlx_flash_prompt_tokens_total", "Tokens of prompts, cached ones included.")),
      cached_tokens_(metrics.counter("mlx_flash_cached_tokens_total",
                                     "Tokens of prompts that were found in kept or shared caches.")),
      generated_tokens_(metrics.counter("mlx_flash_tokens_generated_total", "Tokens generated.")),
      preemptions_(metrics.counter("mlx_flash_preemptions_total",
                                   "Running requests sent back to the queue for want of memory.")),
      ended_stop_(metrics.counter("mlx_flash_generations_total", "Generations ended, by reason.",
                                  {{"reason", "stop"}})),
      ended_length_(metrics.counter("mlx_flash_generations_total", "", {{"reason", "length"}})),
      ended_cancelled_(metrics.counter("mlx_flash_generations_total", "", {{"reason", "cancelled"}})),
      ended_error_(metrics.counter("mlx_flash_generations_total", "", {{"reason", "error"}})),
      queue_seconds_(metrics.histogram("mlx_flash_queue_seconds", "From arrival to admission.",
                                       Metrics::seconds_buckets())),
      first_token_seconds_(metrics.histogram("mlx_flash_ttft_seconds", "From arrival to the first token.",
                                             Metrics::seconds_buckets())),
      inter_token_seconds_(metrics.histogram(
          "mlx_flash_inter_token_seconds", "Between two tokens of one answer.", Metrics::seconds_buckets())),
      batch_rows_(metrics.histogram("mlx_flash_batch_rows", "Tokens per forward pass.",
                                    {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096})),
      shelf_(make_shelf()),
      prefixes_(ledger_, std::min(options_.prefix_bytes, options_.kv_bytes), shelf_.get(),
                [&model = engine.model()] { return model.doubled_bytes(); }),
      logits_(uint64_t{options_.parallel} * engine.model().spec().vocab),
      forgets_(engine.model().make_sequence(options_.context_max)->forgets()),
      turn_(options_.turns) {
  thread_ = std::thread([this] { run(); });
}

Scheduler::~Scheduler() { stop(); }

Result<Ticket> Scheduler::submit(Submission submission) {
  const GenerateRequest& request = submission.request;
  RETURN_IF_ERROR(check_request(request, engine_.model().spec().vocab, options_.context_max));
  if (request.prompt.size() >= context_fits_) {
    const auto positions = static_cast<uint32_t>(request.prompt.size() + 1);
    return fail(ErrorCode::kOutOfBudget,
                "the prompt's " + std::to_string(request.prompt.size()) + " tokens need " +
                    memory::size_text(engine_.model().sequence_bytes(positions)) +
                    " for keys and values, but there is room for " + memory::size_text(options_.kv_bytes) +
                    " (" + std::to_string(context_fits_) +
                    " tokens): shorten the prompt or raise the memory budget");
  }
  auto task = std::make_unique<Task>();
  task->tokens = request.prompt;
  task->submission = std::move(submission);
  task->channel = std::make_shared<Ticket::Channel>(options_.event_max, wakeup_);
  task->submitted = Clock::now();
  Ticket ticket(task->channel);
  {
    const MutexLock lock(mutex_);
    if (draining_)
      return fail(ErrorCode::kUnavailable, stopped_why_.empty()
                                               ? "the server is shutting down and takes no new requests"
                                               : stopped_why_ + " before the request could begin");
    // Who will run with the next step is counted as waiting too, until the engine's thread comes to it.
    if (waiting_count_ >= options_.queue_max && outstanding_ >= options_.queue_max + options_.parallel)
      return fail(ErrorCode::kUnavailable,
                  "the queue is full: " + std::to_string(waiting_count_) + " requests are waiting");
    task->arrival = arrivals_++;
    task->channel->position.store(waiting_count_++, std::memory_order_relaxed);
    ++outstanding_;
    inbox_.push_back(std::move(task));
  }
  wakeup_->wake();
  return ticket;
}

void Scheduler::drain() {
  const MutexLock lock(mutex_);
  draining_ = true;
}

bool Scheduler::draining() const {
  const MutexLock lock(mutex_);
  return draining_;
}

bool Scheduler::wait_idle(std::chrono::nanoseconds timeout) {
  const auto deadline = Clock::now() + timeout;
  const MutexLock lock(mutex_);
  while (outstanding_ != 0) {
    const auto left = deadline - Clock::now();
    if (left.count() <= 0) return false;
    idle_.wait_for(mutex_, left);
  }
  return true;
}

void Scheduler::stop(const std::string& why) {
  {
    const MutexLock lock(mutex_);
    draining_ = true;
    if (stopped_why_.empty()) stopped_why_ = why;
  }
  stopping_ = true;
  wakeup_->wake();
  if (thread_.joinable()) thread_.join();
}

SchedulerStatus Scheduler::status() const {
  const MutexLock lock(mutex_);
  SchedulerStatus status = status_;
  status.waiting = waiting_count_;
  status.kv = ledger_.snapshot();
  status.kv.budget_bytes = options_.kv_bytes;
  return status;
}

void Scheduler::run() {
  engine_.model().interrupt_when([this] {
    turn_.border();
    return interrupted();
  });
  while (!stopping_) {
    collect();
    collect_restored();
    drop_cancelled();
    prefixes_.settle();
    admit();
    // So that those that grow seldom wait for a write.
    if (shelf_ != nullptr && !running_.empty()) (void)prefixes_.make_room(ahead_bytes_);
    if (shelf_ != nullptr) shelf_->set_working(!running_.empty() || !waiting_.empty());
    if (!step()) {
      turn_.end();
      if (running_.empty() && waiting_.empty())
        prefixes_.write_behind(FileTime::clock::now() - options_.prefix_settle, prompt_token_seconds_);
      // Nothing says that it is still so, and who asks for health first sends nothing that could find out.
      if (!last_error_.empty() && Clock::now() - failed_at_ > kErrorLasts) last_error_.clear();
      wakeup_->wait(kIdleWait);
    }
    publish();
  }
  turn_.end();
  collect();
  Error ended{ErrorCode::kUnavailable, " before the answer was complete"};
  {
    const MutexLock lock(mutex_);
    ended.message.insert(0, stopped_why_);
  }
  for (TaskList* list : {&waiting_, &running_})
    for (const auto& task : *list) end(*task, ended);
  remove_ended();
  publish();
  engine_.model().interrupt_when({});
  prefixes_.clear();
  shelf_.reset();  // By the thread that made what is handed over.
}

std::unique_ptr<PrefixShelf> Scheduler::make_shelf() {
  if (options_.prefix_folder == nullptr) return nullptr;
  return options_.prefix_folder->attach(engine_.cache_maker(),
                                        engine_.model().make_sequence(options_.context_max)->geometry(),
                                        [wakeup = wakeup_] { wakeup->wake(); });
}

void Scheduler::collect() {
  const MutexLock lock(mutex_);
  for (auto& task : inbox_) waiting_.push_back(std::move(task));
  inbox_.clear();
}

void Scheduler::drop_cancelled() {
  for (TaskList* list : {&waiting_, &running_})
    for (const auto& task : *list)
      if (task->channel->cancelled) end(*task, Finished{FinishReason::kCancelled, {}, task->usage()});
  remove_ended();
}

uint32_t Scheduler::prompt_budget(uint32_t decoding) const {
  const model::Model& model = engine_.model();
  if (decoding == 0) return model.chunk_tokens();
  if (decode_debt_seconds_ > 0.0) return 0;
  const uint32_t room = model.chunk_tokens() - decoding;
  return engine_.model().weight_cache() != nullptr ? room : std::min(room, options_.prefill_tokens);
}

// The next step's rows: a token of each decoding sequence, and pieces of prompts, oldest first.
void Scheduler::choose_rows() {
  rows_.clear();
  uint32_t decoding = 0;
  for (const auto& task : running_) {
    task->waits = task->paused();  // Once: a reader in between would add a row that nothing has room for.
    decoding += task->missing() == 1 && !task->waits ? 1 : 0;
  }
  uint32_t budget = prompt_budget(decoding);
  // Making room takes it from the youngest, so nothing that was chosen is lost.
  for (size_t i = 0; i < running_.size(); ++i) {
    Task& task = *running_[i];
    if (task.waits) continue;
    uint32_t tokens = task.missing();
    if (tokens > 1) {
      // Exactly to where others wait: a layer that forgets could not go back there.
      if (task.stop_at > task.length()) tokens = std::min(tokens, task.stop_at - task.length());
      tokens = std::min(tokens, budget);
      budget -= tokens;
    }
    if (tokens == 0 || !make_room(task, tokens)) continue;
    mark_prompt(task, tokens);
    rows_.push_back({&task, tokens});
  }
}

void Scheduler::mark_prompt(Task& task, uint32_t tokens) {
  const uint32_t length = task.sequence->length();
  const auto prompt = static_cast<uint32_t>(task.submission.request.prompt.size());
  if (length >= prompt || task.submission.embed || !forgets_) return;
  const uint32_t end = std::min(length + tokens, prompt);
  for (uint32_t at = (length / kMarkDistance + 1) * kMarkDistance; at <= end; at += kMarkDistance)
    mark(task, at);
  for (const uint32_t at : {task.fork / kv::kStateBlock * kv::kStateBlock, prompt_mark(prompt)})
    if (at > length && at <= end) mark(task, at);
}

// Marks take as much as the rest of the sequence at most.
void Scheduler::mark(Task& task, uint32_t position) {
  kv::Sequence& sequence = *task.sequence;
  const uint64_t before = sequence.marked_bytes(), bytes = sequence.mark_bytes({&position, 1});
  if (before + bytes > engine_.model().sequence_bytes(position)) return;
  const uint64_t wanted = task.reservation.bytes() + bytes;
  if (!task.reservation.resize(wanted) &&
      (prefixes_.make_room(bytes) != PrefixStore::Room::kNow || !task.reservation.resize(wanted)))
    return;
  if (!sequence.mark(position)) (void)task.reservation.resize(wanted - bytes);
}

bool Scheduler::drop_marks() {
  bool dropped = false;
  for (const auto& task : running_) {
    if (task->sequence == nullptr || task->sequence->marks().empty()) continue;
    const uint64_t bytes = task->sequence->marked_bytes();
    task->sequence->unmark_all();
    (void)task->reservation.resize(task->reservation.bytes() - bytes);
    dropped = true;
  }
  return dropped;
}

// False: `task` has to wait, or itself had to give way.
bool Scheduler::make_room(Task& task, uint32_t rows) {
  const model::Model& model = engine_.model();
  const uint32_t positions = task.sequence->length() + rows;
  const uint64_t needed = model.sequence_bytes(positions);
  uint64_t marked = task.sequence->marked_bytes();
  if (needed + marked <= task.reservation.bytes()) return true;
  const uint64_t ahead =
      std::max(needed, model.sequence_bytes(std::min(task.limit(), positions + kGrowPositions)));
  while (!task.reservation.resize(ahead + marked) && !task.reservation.resize(needed + marked)) {
    const PrefixStore::Room room = prefixes_.make_room(needed + marked - task.reservation.bytes());
    if (room == PrefixStore::Room::kNow) continue;
    if (room == PrefixStore::Room::kNone && drop_marks()) {
      marked = 0;
      if (needed <= task.reservation.bytes()) return true;
      continue;
    }
    // What is with the disk comes back; it leaves this step out.
    if (room == PrefixStore::Room::kLater || (shelf_ != nullptr && shelf_->reading())) return false;
    const bool itself = running_.back().get() == &task;
    preempt_youngest();
    if (itself) return false;
  }
  return true;
}

void Scheduler::preempt_youngest() {
  std::unique_ptr<Task> task = std::move(running_.back());
  running_.pop_back();
  preemptions_.add();
  task->reservation.release();
  const std::span<const TokenId> held = std::span(task->tokens).first(task->sequence->length());
  prefixes_.keep(task->submission.user, held, std::move(task->sequence));
  prefixes_.settle();
  task->set_stage(Progress::Stage::kQueued);
  const auto place = std::find_if(waiting_.begin(), waiting_.end(),
                                  [&](const auto& other) { return other->arrival > task->arrival; });
  waiting_.insert(place, std::move(task));
  const MutexLock lock(mutex_);
  ++waiting_count_;
}

// False: there was nothing to do.
bool Scheduler::step() {
  choose_rows();
  if (rows_.empty()) return false;
  uint32_t total = 0;
  for (const Row& row : rows_) total += row.tokens;
  const bool reads = total > rows_.size();
  const bool decodes =
      std::any_of(rows_.begin(), rows_.end(), [](const Row& row) { return row.tokens == 1; });
  batch_rows_.observe(total);
  turn_.begin();
  const auto start = Clock::now();
  run_rows();
  remove_ended();
  const double seconds = seconds_between(start, Clock::now());
  if (reads && !discarded_) {
    const double now = seconds / total;
    prompt_token_seconds_ = prompt_token_seconds_ == 0.0 ? now : 0.75 * prompt_token_seconds_ + 0.25 * now;
  }
  if (!decodes) {
    decode_debt_seconds_ = 0.0;
  } else if (reads) {
    decode_debt_seconds_ = seconds * (1.0 - options_.prefill_share) / options_.prefill_share;
  } else {
    decode_debt_seconds_ -= seconds;
  }
  return true;
}

Status Scheduler::forward(std::span<const Row> rows) {
  chunks_.clear();
  for (const Row& row : rows) {
    const std::span<const TokenId> tokens(row.task->tokens);
    chunks_.push_back({row.task->sequence.get(), tokens.subspan(row.task->sequence->length(), row.tokens),
                       false, row.task->submission.embed ? row.task->state.data() : nullptr});
  }
  engine_.adapt_memory();
  engine_.spare_drive();
  return engine_.model().forward(chunks_, logits_.data());
}

void Scheduler::run_rows() {
  const uint64_t vocab = engine_.model().spec().vocab;
  const Status together = forward(rows_);
  discarded_ = !together && together.error().code == ErrorCode::kCancelled;
  if (together) {
    last_error_.clear();
    const float* logits = logits_.data();
    for (const Row& row : rows_) {
      finish_row(row, {logits, vocab});
      if (!row.task->submission.embed) logits += vocab;
    }
    return;
  }
  if (together.error().code == ErrorCode::kCancelled) return;
  // What one cannot have (a record that cannot be read) the others may not even need.
  for (const Row& row : rows_) {
    const Status alone = rows_.size() == 1 ? together : forward({&row, 1});
    if (alone) {
      finish_row(row, {logits_.data(), vocab});
    } else if (alone.error().code != ErrorCode::kCancelled) {
      last_error_ = alone.error().message;
      failed_at_ = Clock::now();
      end(*row.task, alone.error());
    }
  }
}

void Scheduler::finish_row(const Row& row, std::span<const float> logits) {
  Task& task = *row.task;
  const auto answered = static_cast<uint32_t>(task.submission.request.prompt.size());
  task.channel->prompt_done.store(std::min(task.sequence->length(), answered), std::memory_order_relaxed);
  if (task.missing() != 0) return;
  if (task.submission.embed) {
    double squares = 0;
    for (const float value : task.state) squares += double{value} * value;
    const auto scale = static_cast<float>(squares > 0 ? 1 / std::sqrt(squares) : 0);
    for (float& value : task.state) value *= scale;
    task.first_token = task.last_token = Clock::now();
    end(task, Finished{FinishReason::kStop, {}, task.usage(), std::move(task.state)});
    return;
  }
  auto generated = task.generation->next(logits);
  if (!generated) {
    end(task, generated.error());
    return;
  }
  push_token(task, std::move(*generated));
  if (task.generation->done())
    end(task, Finished{task.generation->finish(), task.generation->stop_string(), task.usage()});
}

void Scheduler::push_token(Task& task, GeneratedToken token) {
  const auto now = Clock::now();
  if (task.first_token == Clock::time_point()) {
    task.first_token = now;
    task.set_stage(Progress::Stage::kWriting);
    first_token_seconds_.observe(seconds_between(task.submitted, now));
  } else {
    inter_token_seconds_.observe(seconds_between(task.last_token, now));
  }
  task.last_token = now;
  if (token.id >= 0) {
    task.tokens.push_back(token.id);
    generated_tokens_.add();
  } else if (token.text.empty()) {
    return;
  }
  // There is room: who has none was left out of the step.
  (void)task.channel->events.push(std::move(token));
  const Submission& submission = task.submission;
  if (submission.on_event &&
      (submission.every_event || task.channel->events.size() * 2 >= options_.event_max))
    submission.on_event();
}

void Scheduler::end(Task& task, Event last) {
  if (task.ended) return;
  task.ended = true;
  if (const auto* finished = std::get_if<Finished>(&last)) {
    (finished->reason == FinishReason::kStop     ? ended_stop_
     : finished->reason == FinishReason::kLength ? ended_length_
                                                 : ended_cancelled_)
        .add();
  } else {
    ended_error_.add();
  }
  task.set_stage(Progress::Stage::kEnded);
  task.channel->events.push_last(std::move(last));
  if (task.submission.on_event) task.submission.on_event();
}

void Scheduler::remove_ended() {
  uint32_t waited = 0, ended = 0;
  for (TaskList* list : {&waiting_, &running_}) {
    for (auto& task : *list) {
      if (!task->ended) continue;
      ++ended;
      if (list == &waiting_) ++waited;
      task->reservation.release();
      if (task->sequence != nullptr) {
        const std::span<const TokenId> held = std::span(task->tokens).first(task->sequence->length());
        // A text to embed comes once.
        if (!task->submission.embed) prefixes_.keep(task->submission.user, held, std::move(task->sequence));
      }
      task.reset();
    }
    list->erase(std::remove(list->begin(), list->end(), nullptr), list->end());
  }
  if (ended == 0) return;
  publish();  // First: who waits for idle and then asks must not hear of what has ended.
  const MutexLock lock(mutex_);
  waiting_count_ -= waited;
  outstanding_ -= ended;
  if (outstanding_ == 0) idle_.notify_all();
}

void Scheduler::publish() {
  SchedulerStatus status;
  status.running = static_cast<uint32_t>(running_.size());
  status.prefix_entries = prefixes_.entries();
  status.last_error = last_error_;
  status.kv_doubled_bytes = engine_.model().doubled_bytes();
  if (const weights::RecordCache* cache = engine_.model().weight_cache(); cache != nullptr) {
    status.streams = true;
    status.weights = cache->stats();
    status.weight_cache_bytes = cache->bytes();
  }
  const MutexLock lock(mutex_);
  status_ = std::move(status);
}

// Whether the step that runs is not worth ending. A single token always is.
bool Scheduler::interrupted() const {
  if (stopping_) return true;
  bool wanted = false;
  for (const Row& row : rows_) {
    const bool cancelled = row.task->channel->cancelled;
    // Not twice in a row: what the others lost by the last one must get on.
    if (cancelled && row.tokens > 1 && !discarded_) return true;
    wanted = wanted || !cancelled;
  }
  return !wanted;
}

}  // namespace mlxf::engine
