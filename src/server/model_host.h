// ModelHost: the models that are served: loaded by the requests that name them, let go of, loaded again, and exchanged.
//
// One of them is the main one: it is what "local", or no name, means, and what switch_to() exchanges. Others are loaded
// because a request names them. As many stay loaded as fit the one memory budget and `models_max`; model_room.h says
// which go when there is no room. Models that a request waits for are loaded in the order in which they were asked for.
//
// One thread, `keeper`, loads and unloads, one thing after the other, so that requests are answered, or held with
// heartbeats, meanwhile. A model is let go of once no request needs it; where it must go (release, reload, a switch)
// requests under way get `drain_wait` to end; to make room for a request it is never taken from another one. A model
// that cannot be loaded by a switch leaves the place to the one before.
//
// Thread-safe: ModelHost; load(), drain() and stop() are for one thread. What it hands out is counted (model_uses.h).
// Callbacks of when_ready() run on the caller's thread when the model is there, on that of drain() where that refuses
// them, others on the keeper's; they must not block.
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
#include "engine/turns.h"
#include "memory/ledger.h"
#include "server/model_room.h"
#include "server/model_uses.h"
#include "server/served_model.h"

namespace mlxf::server {

struct ModelHostOptions {
  ModelSource model;    // The first main one.
  FindModel find = {};  // Another one by its name; any thread. Unset: there are no others.
  // What a name that a client gives comes to, without reading models: the name that `find` takes and that is said.
  // Unset: itself.
  std::function<Result<std::string>(const std::string& asked)> resolve = {};  // Any thread.
  std::function<std::vector<api::OllamaModel>()> list = {};  // That `find` knows; any thread.
  bool by_name = true;      // A request that names another model has it loaded.
  uint32_t models_max = 3;  // Loaded at once.
  // Of the whole process, now; 0: none. The keeper's thread. Unset: none.
  std::function<Result<uint64_t>()> budget = {};
  ServingOptions serving;
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
    std::string previous;  // The main model's name before; of a release by name, that name.
    bool was_loaded = false;
  };
  using Done = std::function<void(const Result<Change>&)>;

  ModelHost(ModelHostOptions options, Metrics& metrics);
  ~ModelHost() { stop(); }
  ModelHost(const ModelHost&) = delete;
  ModelHost& operator=(const ModelHost&) = delete;

  // Loads the main model on the calling thread. REQUIRES: before anything else.
  [[nodiscard]] Status load() MLXF_EXCLUDES(mutex_);

  // The model that a request means.
  struct Wanted {
    std::string name;  // As it is called here.
    bool local =
        true;  // It named none, or "local": the main one or, where that is not loaded but others are, the one
               // of those that was used last.
  };
  // kNotFound for what is none, or where only the main one may be named; kInvalidArgument says why it is none.
  [[nodiscard]] Result<Wanted> resolve(const std::string& asked) const MLXF_EXCLUDES(mutex_);
  // Calls back once the model is there, or with why it is not; loads it if nobody has. After a failure the next call
  // tries again. kUnavailable when too many wait already, or after drain(); whoever left meanwhile is not counted: who
  // asks for an `asker` that has expired may never be called. False if the call back was made at once.
  using Asker = std::optional<std::weak_ptr<const void>>;
  bool when_ready(const Wanted& wanted, const Ready& ready, const Asker& asker = std::nullopt)
      MLXF_EXCLUDES(mutex_);
  bool when_ready(const Ready& ready, const Asker& asker = std::nullopt) MLXF_EXCLUDES(mutex_) {
    return when_ready(Wanted{}, ready, asker);
  }

  // Lets go of the model of that name, or of all (empty); the next request loads it again.
  void release(std::string name, Done done) MLXF_EXCLUDES(mutex_);
  // Lets go of the main one and loads it, as its files are now.
  void reload(Done done) MLXF_EXCLUDES(mutex_);
  // The model of that name is the main one from now on, and loaded; the one before is let go of first. On failure that
  // one is served again.
  void switch_to(std::string name, Done done) MLXF_EXCLUDES(mutex_);
  // For how long a model that is loaded, or being loaded, is kept once nobody uses it, until it is loaded again. 0: not
  // at all.
  void keep_for(const Wanted& wanted, std::chrono::milliseconds time) MLXF_EXCLUDES(mutex_);

  // Of the model that "local" means.
  [[nodiscard]] State state() const MLXF_EXCLUDES(mutex_);
  // For a look: null while it is not there.
  [[nodiscard]] std::shared_ptr<ServedModel> find_model() const MLXF_EXCLUDES(mutex_);
  // How long it still stays if nobody uses it; kForever, or nothing if it is not loaded.
  [[nodiscard]] std::optional<std::chrono::milliseconds> expires_in() const MLXF_EXCLUDES(mutex_);

  [[nodiscard]] std::string name() const MLXF_EXCLUDES(mutex_);       // Of the main one.
  [[nodiscard]] std::string next_name() const MLXF_EXCLUDES(mutex_);  // In a switch; empty: there is none.

  struct Loaded {
    api::OllamaModel facts;
    std::shared_ptr<ServedModel> model;  // For a look.
    std::chrono::milliseconds expires_in = kForever;
    bool busy = false;
    uint64_t claim_bytes = 0;  // Of the budget; 0: there is none.
  };
  // The main one first, then by name.
  [[nodiscard]] std::vector<Loaded> loaded() const MLXF_EXCLUDES(mutex_);
  // All that could be asked for: the main one first, then by name; with by_name off that one alone.
  [[nodiscard]] std::vector<api::OllamaModel> servable() const MLXF_EXCLUDES(mutex_);
  [[nodiscard]] bool by_name() const { return options_.by_name; }
  // Names that switch_to() takes besides the main one's.
  [[nodiscard]] std::vector<std::string> others() const MLXF_EXCLUDES(mutex_);
  // Of one that is not loaded, from its files, which are read for that.
  [[nodiscard]] Result<api::OllamaModel> facts_of(const Wanted& wanted) const MLXF_EXCLUDES(mutex_);
  // The budget as it was when a model was loaded last, and what loaded models may come to take of it.
  [[nodiscard]] memory::LedgerSnapshot claims() const { return claims_.snapshot(); }
  // Where kept prefixes go from memory; null: nowhere.
  [[nodiscard]] const engine::PrefixFolder* prefix_folder() const {
    return options_.serving.scheduler.prefix_folder;
  }

  // Refuses further requests, here and in the schedulers, and those that wait for a model to be loaded.
  void drain() MLXF_EXCLUDES(mutex_);
  [[nodiscard]] bool draining() const MLXF_EXCLUDES(mutex_);
  // drain(), ends what runs, and joins the threads.
  void stop() MLXF_EXCLUDES(mutex_);

 private:
  using Clock = ModelUses::Clock;
  using Opened = Result<std::shared_ptr<ServedModel>>;
  struct Wish {
    enum class Kind : uint8_t { kRelease, kReload, kSwitch } kind;
    std::string name;
    Done done;
  };
  struct Waiting {
    Ready ready;
    Asker asker;
    uint64_t number = 0;  // By arrival.
    bool local = true;
  };
  // A model that is loaded or wanted, or the main one. Guarded by mutex_, but for `source`, which the keeper sets,
  // under it, and may read without. Only the keeper removes places.
  struct Place {
    ModelSource source;
    bool found = false;  // `source` is more than a name.
    State state = State::kUnloaded;
    std::shared_ptr<ModelUses> uses;     // Shared with what was handed out.
    std::shared_ptr<ServedModel> model;  // Shared with requests in flight, counted.
    bool leaving = false;                // It is handed out no more, and goes once it is idle.
    std::string room_for;                // To make room for the model of that name.
    Clock::time_point used;              // Handed out last.
    std::chrono::milliseconds keep_alive = kForever;
    std::optional<std::chrono::milliseconds> keep_next;  // What was said while it was being loaded.
    std::optional<ModelNeed> need;                       // While it is wanted.
    std::vector<Waiting> waiting;
    memory::Reservation claim;
    [[nodiscard]] bool ready() const { return model != nullptr && !leaving; }
    [[nodiscard]] Clock::time_point last_used() const;
    [[nodiscard]] std::optional<std::chrono::milliseconds> expires_in() const;
  };

  // Places. Null: there is none.
  [[nodiscard]] Place* find_place(const std::string& name) const MLXF_REQUIRES(mutex_);
  Place& make_place(const std::string& name) MLXF_REQUIRES(mutex_);
  [[nodiscard]] Place& main_place() const MLXF_REQUIRES(mutex_);
  [[nodiscard]] Place& local_place() const MLXF_REQUIRES(mutex_);
  void remove_unused() MLXF_EXCLUDES(mutex_);

  // Requests.
  [[nodiscard]] size_t waiting_count() const MLXF_REQUIRES(mutex_);
  // Moves those whose asker has expired to `left`; false: nobody has.
  [[nodiscard]] bool drop_who_left(std::vector<Waiting>& left) MLXF_REQUIRES(mutex_);

  // Moves those who named no model.
  static void move_local(Place& from, Place& to);

  // The keeper's thread.
  void keep() MLXF_EXCLUDES(mutex_);
  // False: there is nothing to do until `until`, or a ring.
  [[nodiscard]] bool work(std::optional<Clock::time_point>& until) MLXF_EXCLUDES(mutex_);
  void forget_who_left() MLXF_EXCLUDES(mutex_);
  [[nodiscard]] Place* next_to_free(std::optional<Clock::time_point>& until) MLXF_REQUIRES(mutex_);
  [[nodiscard]] Place* next_to_load() const MLXF_REQUIRES(mutex_);
  void grant(const Wish& wish) MLXF_EXCLUDES(mutex_);
  void give_up() MLXF_EXCLUDES(mutex_);
  void ask(Wish wish) MLXF_EXCLUDES(mutex_);

  [[nodiscard]] Result<Change> release_now(const std::string& name) MLXF_EXCLUDES(mutex_);
  [[nodiscard]] Result<Change> reload_now() MLXF_EXCLUDES(mutex_);
  [[nodiscard]] Result<Change> switch_now(const std::string& name) MLXF_EXCLUDES(mutex_);
  void switch_failed(Place& wanted, Place& before, bool was_loaded, Error& error) MLXF_EXCLUDES(mutex_);
  [[nodiscard]] Result<ModelSource> source_named(const std::string& name) const MLXF_EXCLUDES(mutex_);

  // Loads what a request waits for. False: a model that is in use has to go first.
  [[nodiscard]] bool load_wanted(Place& place) MLXF_EXCLUDES(mutex_);
  // Makes room and opens. Requests that use what is in the way are waited for; whom `end_others` allows to, for
  // drain_wait at most, and then ended; else nothing is returned.
  [[nodiscard]] std::optional<Opened> open(Place& place, bool end_others) MLXF_EXCLUDES(mutex_);
  // What is to be done for `place`; whom that concerns is marked as leaving.
  [[nodiscard]] RoomStep::Kind step_for(Place& place, Place*& other) MLXF_EXCLUDES(mutex_);
  // After a refusal by the budget. False: there is none, or it has no other model in it.
  [[nodiscard]] bool needs_more(Place& place) MLXF_EXCLUDES(mutex_);
  [[nodiscard]] Opened open_now(Place& place) MLXF_EXCLUDES(mutex_);
  // Takes the model out, for the state that follows, and lets go of it. False: there was none.
  bool unload(Place& place, State next, const std::string& why) MLXF_EXCLUDES(mutex_);
  void let_go(std::shared_ptr<ServedModel> model, ModelUses& uses, const std::string& why)
      MLXF_EXCLUDES(mutex_);
  void stay(Place& place) MLXF_EXCLUDES(mutex_);
  // Serves what was opened, or says to all who wait why not.
  Status install(Place& place, Opened opened) MLXF_EXCLUDES(mutex_);
  [[nodiscard]] bool stopping() const MLXF_EXCLUDES(mutex_);
  void tell(const std::string& line) const;

  const ModelHostOptions options_;
  Metrics& metrics_;
  const uint64_t base_bytes_;             // The process without models.
  const std::shared_ptr<Doorbell> bell_;  // Shared with what was handed out.
  engine::Turns turns_;                   // Of the models' schedulers.
  memory::Ledger claims_;                 // Of the models, by their plans.
  mutable Mutex mutex_;
  std::vector<std::unique_ptr<Place>> places_ MLXF_GUARDED_BY(mutex_);
  std::string main_ MLXF_GUARDED_BY(mutex_);
  std::string next_ MLXF_GUARDED_BY(mutex_);  // The main one to be, in a switch.
  uint64_t arrivals_ MLXF_GUARDED_BY(mutex_) = 0;
  bool draining_ MLXF_GUARDED_BY(mutex_) = false;
  bool stopping_ MLXF_GUARDED_BY(mutex_) = false;
  std::deque<Wish> wishes_ MLXF_GUARDED_BY(mutex_);
  std::thread keeper_;  // Last: it uses the others.
};

// Whether a request for `asked` means the model that is called `name`: by its name, "local", or not said.
[[nodiscard]] bool names_model(const std::string& asked, const std::string& name);

}  // namespace mlxf::server
