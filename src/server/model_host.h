// ModelHost: the model that is served: loaded before or by the first request, let go of, loaded again, and exchanged
// for another one.
//
// One thread, `keeper`, does all of that, one thing after the other, so that requests are answered, or held with
// heartbeats, meanwhile. A model is let go of once no request needs it; where it must go (release, reload, a switch)
// requests under way get `drain_wait` to end. New ones wait for the model that comes. A model that cannot be loaded
// leaves the place to the one before. There is never memory for two: the old one is gone before the new one is read.
//
// Thread-safe: ModelHost; start and stop() are for one thread. What it hands out is counted (model_uses.h). Callbacks
// of when_ready() run on the caller's thread when the model is there, others on the keeper's; they must not block.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "api/ollama.h"
#include "base/duration.h"
#include "base/metrics.h"
#include "base/mutex.h"
#include "base/result.h"
#include "decode/sampler.h"
#include "engine/engine.h"
#include "engine/scheduler.h"
#include "server/model_uses.h"
#include "text/answer_format.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"
#include "text/turn_rules.h"

namespace mlxf::server {

// Immutable once loaded, but for the scheduler, which is thread-safe.
struct ServedModel {
  std::string name;
  std::unique_ptr<engine::Engine> engine;  // The scheduler's thread's; constant facts may be read.
  std::optional<text::Tokenizer> tokenizer;
  std::optional<text::ChatTemplate> chat;
  text::AnswerFormat answers;          // As the chat template tells it.
  text::TurnRules turns;               // As it follows them.
  std::vector<TokenId> marker_tokens;  // Special tokens that the format needs to see.
  std::optional<text::GrammarCompiler> grammars;
  decode::SamplingParams defaults;
  uint32_t context_tokens = 0;                   // Of one request.
  uint64_t prompt_bytes_max = 0;                 // A longer text cannot be so few tokens.
  std::unique_ptr<engine::Scheduler> scheduler;  // Last: its thread uses the others.
};

// A model that can be served, and how to open it.
struct ModelSource {
  std::string name;             // As clients call it.
  api::OllamaModel facts = {};  // Of its files; what depends on serving it is filled in elsewhere.
  std::string chat_template;    // Jinja source instead of the model's own; empty: the model's.
  std::function<Result<std::unique_ptr<engine::Engine>>()> open;  // With a tokenizer and grammars.
};

struct ModelHostOptions {
  ModelSource model;  // The first.
  // Another one by its name, which comes from a client: kInvalidArgument for what is none, kNotFound, or why it cannot
  // be served. Called by the keeper. Unset: there are no others.
  std::function<Result<ModelSource>(const std::string& name)> find = {};
  std::function<std::vector<std::string>()> list = {};  // Names that `find` knows; any thread.
  uint32_t context_tokens = 0;                          // Wanted of one request; 0: the model's.
  engine::SchedulerOptions scheduler;
  // Room for keys and values is that of one whole context and of this many tokens for each further parallel request;
  // 0: of `parallel` whole contexts.
  uint32_t neighbour_tokens = 0;
  std::chrono::milliseconds keep_alive = kForever;  // A model that nobody used for so long is let go of.
  std::chrono::milliseconds drain_wait{30'000};     // For requests under way, when a model must go.
  std::function<void(const std::string& line)> log = {};  // What became of a model; the keeper's thread.
};

class ModelHost {
 public:
  enum class State : uint8_t { kUnloaded, kLoading, kReady, kFailed };
  using Ready = std::function<void(const Result<std::shared_ptr<ServedModel>>&)>;
  // What a change came to.
  struct Change {
    std::string previous;  // The model's name before.
    bool was_loaded = false;
  };
  using Done = std::function<void(const Result<Change>&)>;

  ModelHost(ModelHostOptions options, Metrics& metrics);
  ~ModelHost() { stop(); }
  ModelHost(const ModelHost&) = delete;
  ModelHost& operator=(const ModelHost&) = delete;

  // Loads on the calling thread. REQUIRES: before anything else.
  [[nodiscard]] Status load() MLXF_EXCLUDES(mutex_);
  // Calls back once the model is there, or with why it is not; loads it if nobody has. After a failure the next call
  // tries again. kUnavailable when too many wait already, or after drain(); whoever left meanwhile is not counted: who
  // asks for an `asker` that has expired may never be called. False if the call back was made at once.
  using Asker = std::optional<std::weak_ptr<const void>>;
  bool when_ready(const Ready& ready, const Asker& asker = std::nullopt) MLXF_EXCLUDES(mutex_);

  // Lets go of the model; the next request loads it again.
  void release(Done done) MLXF_EXCLUDES(mutex_);
  // Lets go of it and loads it, as its files are now.
  void reload(Done done) MLXF_EXCLUDES(mutex_);
  // Serves the model of that name from now on, and loads it. On failure the one before is served again.
  void switch_to(std::string name, Done done) MLXF_EXCLUDES(mutex_);
  // For how long the model that is loaded, or being loaded, is kept once nobody uses it, until it is loaded again.
  // 0: not at all.
  void keep_for(std::chrono::milliseconds time) MLXF_EXCLUDES(mutex_);

  [[nodiscard]] State state() const MLXF_EXCLUDES(mutex_);
  // For a look: null while it is not there.
  [[nodiscard]] std::shared_ptr<ServedModel> find_model() const MLXF_EXCLUDES(mutex_);
  [[nodiscard]] std::string name() const MLXF_EXCLUDES(mutex_);
  [[nodiscard]] api::OllamaModel facts() const MLXF_EXCLUDES(mutex_);  // With the name.
  struct Names {
    std::string now;
    std::string next;  // Of the model that is being switched to; empty: none is.
  };
  [[nodiscard]] Names names() const MLXF_EXCLUDES(mutex_);
  // How long the loaded model still stays if nobody uses it; kForever, or nothing if none is loaded.
  [[nodiscard]] std::optional<std::chrono::milliseconds> expires_in() const MLXF_EXCLUDES(mutex_);
  // Where kept prefixes go from memory; null: nowhere.
  [[nodiscard]] const engine::PrefixFolder* prefix_folder() const { return options_.scheduler.prefix_folder; }
  // Names that switch_to() takes besides the served one's.
  [[nodiscard]] std::vector<std::string> others() const MLXF_EXCLUDES(mutex_);

  // Refuses further requests, here and in the scheduler.
  void drain() MLXF_EXCLUDES(mutex_);
  [[nodiscard]] bool draining() const MLXF_EXCLUDES(mutex_);
  // drain(), ends what runs, and joins the threads.
  void stop() MLXF_EXCLUDES(mutex_);

 private:
  using Clock = ModelUses::Clock;
  using Opened = Result<std::shared_ptr<ServedModel>>;
  struct Wish {
    enum class Kind : uint8_t { kFree, kLoad, kRelease, kReload, kSwitch } kind;
    std::string name;  // Of kSwitch.
    Done done;
  };
  struct Waiting {
    Ready ready;
    Asker asker;
  };
  [[nodiscard]] Opened open(const ModelSource& source) const;
  [[nodiscard]] Opened open_now(const ModelSource& source) const;
  // Moves those whose asker has expired to `left`; false: nobody has.
  [[nodiscard]] bool drop_who_left(std::vector<Waiting>& left) MLXF_REQUIRES(mutex_);

  void keep() MLXF_EXCLUDES(mutex_);
  [[nodiscard]] std::optional<Wish> next_wish(std::optional<Clock::time_point>& until) MLXF_REQUIRES(mutex_);
  void grant(const Wish& wish) MLXF_EXCLUDES(mutex_);
  void give_up() MLXF_EXCLUDES(mutex_);
  void ask(Wish wish) MLXF_EXCLUDES(mutex_);
  [[nodiscard]] bool expire_if_due() MLXF_REQUIRES(mutex_);

  [[nodiscard]] Result<Change> release_now() MLXF_EXCLUDES(mutex_);
  [[nodiscard]] Result<Change> reload_now() MLXF_EXCLUDES(mutex_);
  [[nodiscard]] Result<Change> switch_now(const std::string& name) MLXF_EXCLUDES(mutex_);
  [[nodiscard]] Result<ModelSource> find_source(const std::string& name) const MLXF_EXCLUDES(mutex_);
  // Takes the model out, for the state that follows; null if there is none. Of model_ and leaving_ one is null.
  [[nodiscard]] std::shared_ptr<ServedModel> take(State next) MLXF_EXCLUDES(mutex_);
  void let_go(std::shared_ptr<ServedModel> model, const std::string& why) MLXF_EXCLUDES(mutex_);
  // Serves what was opened from `source`, or says to all who wait why not.
  [[nodiscard]] Status install(const ModelSource& source, Opened opened) MLXF_EXCLUDES(mutex_);
  [[nodiscard]] ModelSource source() const MLXF_EXCLUDES(mutex_);
  [[nodiscard]] bool stopping() const MLXF_EXCLUDES(mutex_);
  void tell(const std::string& line) const;

  const ModelHostOptions options_;
  Metrics& metrics_;
  const std::shared_ptr<ModelUses> uses_;  // Shared with what was handed out.
  mutable Mutex mutex_;
  ModelSource source_ MLXF_GUARDED_BY(mutex_);
  std::string next_name_ MLXF_GUARDED_BY(mutex_);
  State state_ MLXF_GUARDED_BY(mutex_) = State::kUnloaded;
  bool draining_ MLXF_GUARDED_BY(mutex_) = false;
  bool stopping_ MLXF_GUARDED_BY(mutex_) = false;
  std::chrono::milliseconds keep_alive_ MLXF_GUARDED_BY(mutex_);
  // What was said while the model was being loaded.
  std::optional<std::chrono::milliseconds> keep_next_ MLXF_GUARDED_BY(mutex_);
  std::shared_ptr<ServedModel> model_ MLXF_GUARDED_BY(mutex_);    // Shared with requests in flight, counted.
  std::shared_ptr<ServedModel> leaving_ MLXF_GUARDED_BY(mutex_);  // Expired; the keeper frees it.
  std::vector<Waiting> waiting_ MLXF_GUARDED_BY(mutex_);
  std::deque<Wish> wishes_ MLXF_GUARDED_BY(mutex_);
  std::thread keeper_;  // Last: it uses the others.
};

// Whether a request for `asked` means the model that is served as `name`: by its name, "local", or not said.
[[nodiscard]] bool names_model(const std::string& asked, const std::string& name);
// The same of the model that is served now or, in a switch, next.
[[nodiscard]] bool may_mean(const std::string& asked, const ModelHost::Names& names);

}  // namespace mlxf::server
