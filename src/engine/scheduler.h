// Scheduler: many generations at once over one set of weights.
//
// One thread, `engine`, owns the Engine from start to stop. Each of its steps is one forward pass over a token of every
// sequence that is decoding and, beside them, the next piece of prompts that are not yet read (chunked prefill), so the
// weights are read once for all. What a request gets depends on the request alone, bit for bit: neighbours, order,
// chunks and reused caches change only when it gets it.
//
// Others submit requests and read events from the tickets that they get. Waiting requests are admitted in turn among
// users (API keys) and in order within a user, when a place among `parallel` and room for keys and values are there. A
// prompt that begins as a running one of the same user does shares the pages of that beginning; while that is still
// being computed it waits and lets others go first, rather than have it computed twice.
// Where layers forget, sequences are marked as their prompts are read, so that later prompts need not begin anew.
// Room is taken as sequences grow; when it runs out, kept prefixes go first, then the youngest sequence goes back to
// the queue and later reads its tokens again. A request that could never fit is refused at submit(). With a folder for
// them, kept prefixes are written there as they leave, and read back where that is quicker than computing; whoever
// waits for that disk leaves steps out, and the others go on.
//
// Thread-safe: Scheduler, Ticket (each ticket by one thread at a time). `on_event` is called by the engine's thread,
// under no lock: it must not block. A reader that does not read pauses its own sequence once its queue is full.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "base/bounded_queue.h"
#include "base/metrics.h"
#include "base/mutex.h"
#include "base/result.h"
#include "engine/engine.h"
#include "engine/generation.h"
#include "engine/prefix_store.h"
#include "engine/turns.h"
#include "memory/ledger.h"

namespace mlxf::engine {

struct SchedulerOptions {
  uint32_t parallel = 4;     // Sequences that run at once.
  uint32_t queue_max = 256;  // Requests that wait.
  uint32_t context_max = 0;  // Tokens of one request, prompt and answer. REQUIRES: at least 2.
  uint64_t kv_bytes =
      0;  // For keys and values, kept prefixes included; 0: what `parallel` full contexts take.
  uint64_t prefix_bytes = UINT64_MAX;  // Of them, for kept prefixes at most.
  // They are written there before they have to go, too, once they were not used for so long and nothing runs.
  std::chrono::milliseconds prefix_settle{10'000};
  PrefixFolder* prefix_folder = nullptr;  // Where they go from there; null: nowhere. Outlives the scheduler.
  // While others decode: the part of the time that reading prompts may take, and tokens of a prompt per step where all
  // weights are in memory. Streamed weights are read once per step, so there steps take as much as the model allows.
  double prefill_share = 0.5;
  uint32_t prefill_tokens = 64;
  uint32_t event_max = 256;  // Events of one request that wait to be read.
  Turns* turns = nullptr;    // Taken with other schedulers of this process; null: it is alone. Outlives it.
};

// What a request cost.
struct Usage {
  uint32_t prompt_tokens = 0;
  uint32_t cached_tokens =
      0;  // Of the prompt, found in caches: kept ones, in memory or on the disk, or shared ones.
  uint32_t generated_tokens = 0;
  double queue_seconds = 0.0;
  double prompt_seconds = 0.0;    // From admission to the first token.
  double generate_seconds = 0.0;  // From the first token to the last.
};

struct Finished {
  FinishReason reason = FinishReason::kStop;
  std::string stop_string;
  Usage usage;
  // The model's state behind the prompt's last token, of length 1 (L2); empty unless it was asked for.
  std::vector<float> embedding = {};
};

// Tokens, then exactly one Finished or Error.
using Event = std::variant<GeneratedToken, Finished, Error>;

struct Submission {
  GenerateRequest request;
  std::string user;                     // Shares kept caches and its turn in the queue with itself only.
  std::function<void()> on_event = {};  // Something new can be read from the ticket.
  bool every_event =
      true;  // Or only when many tokens wait to be read, and at the end: waking a reader costs time.
  bool embed = false;  // No answer is generated: Finished::embedding is what is wanted of the prompt.
  std::shared_ptr<const void> keeps = {};  // Let go of, by the engine's thread, once the request has ended.
};

// What a ticket says between events.
struct Progress {
  enum class Stage : uint8_t { kQueued, kReading, kWriting, kEnded } stage = Stage::kQueued;
  uint32_t position = 0;     // kQueued: requests whose turn comes before its own.
  uint32_t prompt_done = 0;  // kReading: tokens of the prompt that are read, cached ones included.
};

class Wakeup;  // Wakes the engine's thread; internal.

class Ticket {
 public:
  Ticket() = default;
  Ticket(Ticket&&) noexcept = default;
  Ticket& operator=(Ticket&& other) noexcept;
  ~Ticket() { cancel(); }

  // The next event, or nothing when there is none now.
  [[nodiscard]] std::optional<Event> poll();
  [[nodiscard]] std::optional<Event> wait(std::chrono::nanoseconds timeout);
  // Ends the request within a token, or within a layer of a prompt's chunk. Events that follow are of no interest.
  void cancel();
  [[nodiscard]] Progress progress() const;
  [[nodiscard]] bool valid() const { return channel_ != nullptr; }

  struct Channel;  // What both sides share; internal.

 private:
  friend class Scheduler;
  explicit Ticket(std::shared_ptr<Channel> channel) : channel_(std::move(channel)) {}
  std::shared_ptr<Channel> channel_;  // Shared with the engine's thread: internally synchronised.
};

struct SchedulerStatus {
  uint32_t running = 0;
  uint32_t waiting = 0;
  // Of each sequence in full, and how much of that is charged more than once, for pages that are shared.
  memory::LedgerSnapshot kv;
  uint64_t kv_doubled_bytes = 0;
  uint64_t prefix_entries = 0;
  std::string last_error;  // Of the last forward pass; empty when it succeeded.
  bool streams = false;
  weights::RecordCacheStats weights;  // Of streamed weights.
  uint64_t weight_cache_bytes = 0;
};

class Scheduler {
 public:
  // Starts the thread. `engine`, `tokenizer` (null: no text) and `metrics` outlive this; nobody else uses the engine.
  Scheduler(Engine& engine, const text::Tokenizer* tokenizer, const SchedulerOptions& options,
            Metrics& metrics);
  ~Scheduler();  // stop()
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // kInvalidArgument as check_request() says; kOutOfBudget, with the numbers, when its keys and values could never fit;
  // kUnavailable when the queue is full or after drain().
  [[nodiscard]] Result<Ticket> submit(Submission submission);

  // Refuses what comes from now on.
  void drain();
  [[nodiscard]] bool draining() const;
  // True once nothing waits or runs; false when `timeout` passed first.
  [[nodiscard]] bool wait_idle(std::chrono::nanoseconds timeout);
  // drain(), ends what is left with kUnavailable, and joins the thread. `why` begins the messages that say so. Not to
  // be called from on_event.
  void stop(const std::string& why = "the server was shut down");

  [[nodiscard]] SchedulerStatus status() const;
  [[nodiscard]] const SchedulerOptions& options() const { return options_; }

 private:
  using Clock = std::chrono::steady_clock;
  struct Task;
  using TaskList = std::vector<std::unique_ptr<Task>>;
  struct Row {
    Task* task;
    uint32_t tokens;
  };

  void run();
  void collect();
  void drop_cancelled();
  void admit();
  // kAwaits: it will share what a running task computes, and others may go first. kNoRoom: not for it now.
  enum class Admission : uint8_t { kAdmitted, kAwaits, kNoRoom };
  [[nodiscard]] Admission admit_task(size_t index);
  // Running tasks whose tokens begin as a prompt does.
  struct Running {
    Task* task = nullptr;    // That holds most of them now,
    uint32_t tokens = 0;     // and how many.
    Task* reader = nullptr;  // That will hold more, and how many.
    uint32_t later_tokens = 0;
    uint32_t common = 0;  // The most that any has in common with it, ever.
  };
  [[nodiscard]] Running find_running(const Task& task) const;
  [[nodiscard]] bool still_awaits(Task& task);
  [[nodiscard]] static bool awaitable(const Task& task);
  // Room for `bytes`, and a sequence with what is found of the task's beginning. Null: not now.
  [[nodiscard]] std::unique_ptr<kv::Sequence> sequence_for(const std::optional<PrefixStore::Match>& kept,
                                                           const Running& running, uint64_t bytes);
  [[nodiscard]] std::unique_ptr<kv::Sequence> kept_sequence(const PrefixStore::Match& kept, uint64_t bytes);
  // Charges the sequence with `bytes` and its marks, or without any.
  [[nodiscard]] Result<memory::Reservation> charge(kv::Sequence& sequence, uint64_t bytes);
  // Whether `bytes` fit beside what is kept there, if all else goes.
  [[nodiscard]] bool room_for_both(const PrefixStore::Match& kept, uint64_t bytes) const;
  // The task runs from now on, with a sequence or while one is being read for it.
  void start_task(size_t index);
  void give_sequence(Task& task, std::unique_ptr<kv::Sequence> sequence);
  enum class Restore : uint8_t { kBegun, kLater, kNo };
  [[nodiscard]] Restore restore_task(size_t index, uint32_t wanted, uint32_t kept_tokens);
  void collect_restored();
  [[nodiscard]] std::unique_ptr<PrefixShelf> make_shelf();
  // Indices of waiting_ in the order in which they will be admitted.
  [[nodiscard]] std::vector<size_t> turns() const;
  [[nodiscard]] bool step();
  void choose_rows();
  [[nodiscard]] uint32_t prompt_budget(uint32_t decoding) const;
  [[nodiscard]] bool make_room(Task& task, uint32_t rows);
  // Marks the places in the next `tokens` of a prompt that later prompts may go back to, where layers forget.
  void mark_prompt(Task& task, uint32_t tokens);
  void mark(Task& task, uint32_t position);
  // Gives up all marks of what runs; false: there were none.
  [[nodiscard]] bool drop_marks();
  void preempt_youngest();
  void run_rows();
  [[nodiscard]] Status forward(std::span<const Row> rows);
  void finish_row(const Row& row, std::span<const float> logits);
  void push_token(Task& task, GeneratedToken token);
  void end(Task& task, Event last);
  void remove_ended();
  void publish();
  [[nodiscard]] bool interrupted() const;

  Engine& engine_;
  const text::Tokenizer* const tokenizer_;
  const SchedulerOptions options_;
  const uint32_t context_fits_;  // Of context_max, what kv_bytes has room for.
  const uint64_t ahead_bytes_;   // That kept prefixes leave free where they are written as they leave.
  memory::Ledger ledger_;
  const std::shared_ptr<Wakeup> wakeup_;  // Tickets may outlive this.

  // Metrics: internally synchronised.
  Counter& prompt_tokens_;
  Counter& cached_tokens_;
  Counter& generated_tokens_;
  Counter& preemptions_;
  Counter& ended_stop_;
  Counter& ended_length_;
  Counter& ended_cancelled_;
  Counter& ended_error_;
  Histogram& queue_seconds_;
  Histogram& first_token_seconds_;
  Histogram& inter_token_seconds_;
  Histogram& batch_rows_;

  mutable Mutex mutex_;
  TaskList inbox_ MLXF_GUARDED_BY(mutex_);
  uint64_t arrivals_ MLXF_GUARDED_BY(mutex_) = 0;
  uint32_t waiting_count_ MLXF_GUARDED_BY(mutex_) = 0;
  bool draining_ MLXF_GUARDED_BY(mutex_) = false;
  std::string stopped_why_ MLXF_GUARDED_BY(mutex_);  // Empty until stop().
  SchedulerStatus status_ MLXF_GUARDED_BY(mutex_);
  uint32_t outstanding_ MLXF_GUARDED_BY(mutex_) = 0;  // Submitted and not ended.
  CondVar idle_;                                      // outstanding_ became 0.
  std::atomic<bool> stopping_{false};                 // Set by stop(), read by the engine's thread; seq_cst.

  // The engine's thread only.
  std::unique_ptr<PrefixShelf> shelf_;  // Null: nothing is kept on the disk.
  PrefixStore prefixes_;
  TaskList waiting_;  // By arrival.
  TaskList running_;  // In order of admission.
  std::vector<Row> rows_;
  std::vector<model::Chunk> chunks_;
  std::vector<float> logits_;          // [parallel, vocab]
  double decode_debt_seconds_ = 0.0;   // Time that decoding sequences are owed for prompts read beside them.
  double prompt_token_seconds_ = 0.0;  // What reading a token of a prompt takes, lately; 0: none was read.
  uint64_t restores_ = 0;              // Tickets of reads from the folder.
  std::string last_error_;
  Clock::time_point failed_at_;
  const bool forgets_;      // Some layer of the model does.
  bool discarded_ = false;  // The last pass was given up.
  Turns::Turn turn_;

  std::thread thread_;
};

}  // namespace mlxf::engine
