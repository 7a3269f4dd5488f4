#include "server/model_host.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "memory/budget.h"
#include "platform/process.h"

namespace mlxf::server {

namespace {

constexpr size_t kWishesMax = 16;
// For those who still hold a model whose scheduler has stopped: they let go as soon as they see it.
constexpr std::chrono::seconds kHolderWait(10);

// "name:latest" is Ollama's way to write "name".
std::string without_tag(const std::string& name) {
  constexpr std::string_view kLatest = ":latest";
  return name.size() > kLatest.size() && name.ends_with(kLatest)
             ? name.substr(0, name.size() - kLatest.size())
             : name;
}

bool means_local(const std::string& asked) {
  const std::string plain = without_tag(asked);
  return plain.empty() || plain == "local";
}

// Whatever is wrong with a model that was found, it is no mistake in the request.
Error load_failure(const std::string& name, const Error& why) {
  Error error = why.within("the model " + name + " could not be loaded");
  if (error.code == ErrorCode::kInvalidArgument || error.code == ErrorCode::kNotFound)
    error.code = ErrorCode::kCorrupt;
  return error;
}

tl::unexpected<Error> shutting_down() {
  return fail(ErrorCode::kUnavailable, "the server is shutting down and takes no new requests");
}

tl::unexpected<Error> too_small(const std::string& name, const ModelNeed& need, uint64_t budget_bytes,
                                uint64_t base_bytes) {
  return fail(ErrorCode::kOutOfBudget,
              "the model " + name + " needs " + memory::size_text(need.floor_bytes + base_bytes) +
                  " of memory at least, and the budget is " + memory::size_text(budget_bytes) +
                  ": raise --memory-budget, or take a smaller model");
}

}  // namespace

bool names_model(const std::string& asked, const std::string& name) {
  return means_local(asked) || without_tag(asked) == name || asked == name;
}

ModelHost::Clock::time_point ModelHost::Place::last_used() const {
  return std::max(used, uses->counts().idle_since);
}

ModelHost::ModelHost(ModelHostOptions options, Metrics& metrics)
    : options_(std::move(options)),
      metrics_(metrics),
      base_bytes_(platform::own_memory_bytes()),
      bell_(std::make_shared<Doorbell>()),
      claims_(0),
      main_(options_.model.name) {
  {
    const MutexLock lock(mutex_);
    Place& place = make_place(main_);
    place.source = options_.model;
    place.found = true;
  }
  keeper_ = std::thread([this] { keep(); });
}

ModelHost::Place* ModelHost::find_place(const std::string& name) const {
  for (const auto& place : places_)
    if (place->source.name == name) return place.get();
  return nullptr;
}

ModelHost::Place& ModelHost::make_place(const std::string& name) {
  if (Place* there = find_place(name)) return *there;
  auto place = std::make_unique<Place>();
  place->source.name = name;
  place->uses = std::make_shared<ModelUses>(bell_);
  place->keep_alive = options_.keep_alive;
  places_.push_back(std::move(place));
  return *places_.back();
}

ModelHost::Place& ModelHost::main_place() const { return *find_place(main_); }

ModelHost::Place& ModelHost::local_place() const {
  if (Place* next = next_.empty() ? nullptr : find_place(next_)) return *next;
  Place& main = main_place();
  if (main.ready() || main.state == State::kLoading) return main;
  Place* last = nullptr;
  for (const auto& place : places_)
    if (place->ready() && (last == nullptr || place->last_used() > last->last_used())) last = place.get();
  return last != nullptr ? *last : main;
}

void ModelHost::remove_unused() {
  std::vector<std::unique_ptr<Place>> removed;  // Destroyed without the lock.
  const MutexLock lock(mutex_);
  const std::string main = main_, next = next_;
  const auto unused = std::stable_partition(places_.begin(), places_.end(), [&](const auto& place) {
    return place->model != nullptr || !place->waiting.empty() || place->source.name == main ||
           place->source.name == next;
  });
  removed.assign(std::make_move_iterator(unused), std::make_move_iterator(places_.end()));
  places_.erase(unused, places_.end());
}

Status ModelHost::load() {
  Place* place = nullptr;
  {
    const MutexLock lock(mutex_);
    place = &main_place();
    place->state = State::kLoading;
  }
  Status loaded = install(*place, *open(*place, true));
  bell_->ring();  // The keeper minds how long it stays.
  return loaded;
}

Result<ModelHost::Wanted> ModelHost::resolve(const std::string& asked) const {
  {
    const MutexLock lock(mutex_);
    const Place& local = local_place();
    if (means_local(asked)) return Wanted{local.source.name, true};
    // Where names choose nothing, a model that is on its way out is none.
    for (const auto& place : places_)
      if ((options_.by_name || place.get() == &local) && names_model(asked, place->source.name))
        return Wanted{place->source.name, false};
  }
  const auto nothing = [&] { return fail(ErrorCode::kNotFound, "there is no model " + asked); };
  if (!options_.by_name || !options_.find) return nothing();
  if (names_model(asked, options_.model.name)) return Wanted{options_.model.name, false};
  if (!options_.resolve) return Wanted{without_tag(asked), false};
  ASSIGN_OR_RETURN(std::string name, options_.resolve(asked));
  return Wanted{std::move(name), false};
}

bool ModelHost::when_ready(const Wanted& wanted, const Ready& ready, const Asker& asker) {
  Opened answer;
  const engine::SchedulerOptions& scheduler = options_.serving.scheduler;
  const size_t waiting_max = scheduler.parallel + scheduler.queue_max;
  std::vector<Waiting> left;  // Let go of without the lock.
  {
    const MutexLock lock(mutex_);
    Place* place = wanted.local ? &local_place() : find_place(wanted.name);
    if (draining_) {
      answer = shutting_down();
    } else if (place != nullptr && place->ready()) {
      place->used = Clock::now();
      answer = place->uses->hand_out(place->model, ModelUses::Kind::kWork);
    } else if (waiting_count() >= waiting_max && !drop_who_left(left)) {
      answer = fail(ErrorCode::kUnavailable,
                    std::to_string(waiting_max) + " requests are waiting for the model to be loaded already");
    } else {
      if (place == nullptr) place = &make_place(wanted.name);
      place->waiting.push_back({ready, asker, ++arrivals_, wanted.local});
      place->state = State::kLoading;
    }
  }
  if (!answer || *answer != nullptr) {
    ready(answer);
    return false;
  }
  bell_->ring();
  return true;
}

size_t ModelHost::waiting_count() const {
  size_t count = 0;
  for (const auto& place : places_) count += place->waiting.size();
  return count;
}

bool ModelHost::drop_who_left(std::vector<Waiting>& left) {
  for (const auto& place : places_) {
    std::vector<Waiting>& waiting = place->waiting;
    const auto gone = std::stable_partition(waiting.begin(), waiting.end(), [](const Waiting& one) {
      return !one.asker || !one.asker->expired();
    });
    left.insert(left.end(), std::make_move_iterator(gone), std::make_move_iterator(waiting.end()));
    waiting.erase(gone, waiting.end());
  }
  return !left.empty();
}

void ModelHost::release(std::string name, Done done) {
  ask({Wish::Kind::kRelease, std::move(name), std::move(done)});
}
void ModelHost::reload(Done done) { ask({Wish::Kind::kReload, "", std::move(done)}); }
void ModelHost::switch_to(std::string name, Done done) {
  ask({Wish::Kind::kSwitch, std::move(name), std::move(done)});
}

void ModelHost::ask(Wish wish) {
  const Done done = wish.done;
  std::optional<Error> refused;
  {
    const MutexLock lock(mutex_);
    if (draining_) {
      refused = shutting_down().value();
    } else if (wishes_.size() >= kWishesMax) {
      refused = Error{ErrorCode::kUnavailable, "too many changes of the model are waiting already"};
    } else {
      wishes_.push_back(std::move(wish));
    }
  }
  if (refused) return done(tl::unexpected<Error>(*refused));
  bell_->ring();
}

void ModelHost::keep_for(const Wanted& wanted, std::chrono::milliseconds time) {
  {
    const MutexLock lock(mutex_);
    Place* place = wanted.local ? &local_place() : find_place(wanted.name);
    if (place == nullptr) return;
    if (!place->ready()) {
      if (place->state == State::kLoading) place->keep_next = time;
      return;
    }
    place->keep_alive = time;
    std::optional<Clock::time_point> until;
    (void)next_to_free(until);  // What is not to be kept is not handed out from now on.
  }
  bell_->ring();
}

void ModelHost::keep() {
  while (!stopping()) {
    std::optional<Clock::time_point> until;
    if (!work(until)) bell_->wait(until);
  }
  give_up();
}

bool ModelHost::work(std::optional<Clock::time_point>& until) {
  Place *to_free = nullptr, *to_load = nullptr;
  std::optional<Wish> wish;
  std::string room_for;
  forget_who_left();
  {
    const MutexLock lock(mutex_);
    to_free = next_to_free(until);
    if (to_free != nullptr) {
      room_for = to_free->room_for;
    } else if (!wishes_.empty()) {
      wish = std::move(wishes_.front());
      wishes_.pop_front();
    } else {
      to_load = next_to_load();
    }
  }
  bool worked = true;
  if (to_free != nullptr) {
    const std::string name = to_free->source.name;
    if (unload(*to_free, State::kUnloaded, "the model was unloaded"))
      tell("unloaded " + name + (room_for.empty() ? ", which nobody uses" : " to make room for " + room_for));
  } else if (wish) {
    grant(*wish);
  } else {
    worked = to_load != nullptr && load_wanted(*to_load);
  }
  remove_unused();
  return worked;
}

// Clients leave. What they asked for is not loaded, and who was to make room for it stays.
void ModelHost::forget_who_left() {
  std::vector<Waiting> left;  // Let go of without the lock.
  std::vector<Place*> stays;
  {
    const MutexLock lock(mutex_);
    if (arrivals_ == 0) return;  // load() may be under way.
    (void)drop_who_left(left);
    for (const auto& place : places_)
      if (place->model == nullptr && place->waiting.empty() && place->state == State::kLoading) {
        place->state = State::kUnloaded;
        place->need.reset();
      }
    for (const auto& place : places_) {
      if (!place->leaving || place->room_for.empty()) continue;
      const Place* const wanted = find_place(place->room_for);
      if (wanted == nullptr || wanted->waiting.empty()) stays.push_back(place.get());
    }
  }
  for (Place* place : stays) stay(*place);
}

// One that is leaving, or whose time has come, and that nobody uses; it is marked as leaving.
ModelHost::Place* ModelHost::next_to_free(std::optional<Clock::time_point>& until) {
  const auto now = Clock::now();
  for (const auto& place : places_) {
    if (place->model == nullptr) continue;
    const ModelUses::Counts counts = place->uses->counts();
    if (counts.work != 0) continue;  // Its last use rings.
    if (!place->leaving) {
      if (place->keep_alive == kForever) continue;
      const auto due = counts.idle_since + place->keep_alive;
      if (now < due) {
        until = until ? std::min(*until, due) : due;
        continue;
      }
      place->leaving = true;
      place->state = State::kUnloaded;
    }
    return place.get();
  }
  return nullptr;
}

ModelHost::Place* ModelHost::next_to_load() const {
  Place* first = nullptr;
  for (const auto& place : places_)
    if (place->model == nullptr && !place->waiting.empty() &&
        (first == nullptr || place->waiting.front().number < first->waiting.front().number))
      first = place.get();
  return first;
}

void ModelHost::grant(const Wish& wish) {
  switch (wish.kind) {
    case Wish::Kind::kRelease:
      return wish.done(release_now(wish.name));
    case Wish::Kind::kReload:
      return wish.done(reload_now());
    case Wish::Kind::kSwitch:
      return wish.done(switch_now(wish.name));
  }
}

Result<ModelHost::Change> ModelHost::release_now(const std::string& name) {
  Change change{name.empty() ? this->name() : name, false};
  std::vector<Place*> places;
  {
    const MutexLock lock(mutex_);
    for (const auto& place : places_)
      if (name.empty() || place->source.name == name) places.push_back(place.get());
  }
  // Who asks meanwhile waits, and has it loaded again.
  for (Place* place : places)
    if (unload(*place, State::kUnloaded, "the model was unloaded")) {
      change.was_loaded = true;
      tell("unloaded " + place->source.name);
    }
  return change;
}

Result<ModelHost::Change> ModelHost::reload_now() {
  Place* place = nullptr;
  {
    const MutexLock lock(mutex_);
    place = &main_place();
  }
  Change change{place->source.name, false};
  change.was_loaded = unload(*place, State::kLoading, "the model was loaded again");
  Opened opened = stopping() ? Opened(shutting_down()) : *open(*place, true);
  if (const Status loaded = install(*place, std::move(opened)); !loaded)
    return tl::unexpected<Error>(load_failure(change.previous, loaded.error()));
  tell("loaded " + change.previous + " again");
  return change;
}

Result<ModelSource> ModelHost::source_named(const std::string& name) const {
  {
    const MutexLock lock(mutex_);
    if (names_model(name, main_)) return main_place().source;
    for (const auto& place : places_)
      if (place->found && names_model(name, place->source.name)) return place->source;
  }
  if (names_model(name, options_.model.name)) return options_.model;
  return find_source(options_.find, name);
}

Result<ModelHost::Change> ModelHost::switch_now(const std::string& name) {
  ASSIGN_OR_RETURN(const ModelSource source, source_named(name));
  Place *wanted = nullptr, *before = nullptr;
  Change change;
  bool there = false;
  {
    const MutexLock lock(mutex_);
    before = &main_place();
    wanted = &make_place(source.name);
    there = wanted->model != nullptr;
    change = {main_, before->model != nullptr};
    if (!there) {
      wanted->source = source;
      wanted->found = true;
      wanted->state = State::kLoading;
    }
    next_ = wanted == before && there ? "" : source.name;
    if (wanted != before) move_local(*before, *wanted);  // They wait for the model that comes.
  }
  if (next_name().empty()) {
    stay(*wanted);
    return change;
  }
  if (wanted != before)
    (void)unload(*before, State::kUnloaded, "the server switched to the model " + source.name);
  Status loaded;
  if (!there) {
    Opened opened = stopping() ? Opened(shutting_down()) : *open(*wanted, true);
    if (!opened && wanted != before) {
      Error error = load_failure(source.name, opened.error());
      switch_failed(*wanted, *before, change.was_loaded, error);
      return tl::unexpected<Error>(error);
    }
    loaded = install(*wanted, std::move(opened));
  } else if (wanted != before) {
    stay(*wanted);
  }
  {
    const MutexLock lock(mutex_);
    main_ = source.name;
    next_.clear();
  }
  if (!loaded) return tl::unexpected<Error>(load_failure(source.name, loaded.error()));
  if (wanted != before) tell("switched from " + change.previous + " to " + source.name);
  return change;
}

// Who waits for no model in particular, from one place to the other; by arrival.
void ModelHost::move_local(Place& from, Place& to) {
  const auto local = std::stable_partition(from.waiting.begin(), from.waiting.end(),
                                           [](const Waiting& one) { return !one.local; });
  to.waiting.insert(to.waiting.end(), std::make_move_iterator(local),
                    std::make_move_iterator(from.waiting.end()));
  from.waiting.erase(local, from.waiting.end());
  std::sort(to.waiting.begin(), to.waiting.end(),
            [](const Waiting& a, const Waiting& b) { return a.number < b.number; });
}

// The main one before is served again, to those who named none as well.
void ModelHost::switch_failed(Place& wanted, Place& before, bool was_loaded, Error& error) {
  tell(error.message);
  bool wants = was_loaded;
  {
    const MutexLock lock(mutex_);
    next_.clear();
    move_local(wanted, before);
    wants = (wants || !before.waiting.empty()) && !stopping_;
    if (wants) before.state = State::kLoading;
  }
  (void)install(wanted, tl::unexpected<Error>(error));
  if (!wants) return;
  if (const Status back = install(before, *open(before, true)); !back)
    error.message += "; nor could " + before.source.name + ", the one before: " + back.error().message;
}

// A loaded one does not leave, if it was to: whoever waits for it gets it.
void ModelHost::stay(Place& place) {
  Opened model;
  {
    const MutexLock lock(mutex_);
    if (!place.leaving && place.waiting.empty()) return;
    place.leaving = false;
    place.room_for.clear();
    if (!place.keep_next) place.keep_next = place.keep_alive;
    model = place.model;
  }
  (void)install(place, std::move(model));
}

bool ModelHost::load_wanted(Place& place) {
  const bool other = place.source.name != name();
  if (other && !options_.by_name) {  // It was the main one when it was asked for.
    (void)install(place, fail(ErrorCode::kNotFound, "there is no such model"));
    return true;
  }
  if (!place.found) {
    auto source = find_source(options_.find, place.source.name);
    if (!source) {
      (void)install(place, tl::unexpected<Error>(source.error()));
      return true;
    }
    const MutexLock lock(mutex_);
    source->name = place.source.name;
    place.source = std::move(*source);
    place.found = true;
  }
  std::optional<Opened> opened = open(place, false);
  if (!opened) return false;
  const bool good = opened->has_value();
  (void)install(place, std::move(*opened));  // Whoever waits is told.
  if (good && other) tell("loaded " + place.source.name);
  return true;
}

std::optional<ModelHost::Opened> ModelHost::open(Place& place, bool end_others) {
  if (!place.need) {
    auto need = need_of(place.source);
    if (!need) return Opened(tl::unexpected<Error>(need.error()));
    place.need = *need;
  }
  while (true) {
    if (stopping()) return Opened(shutting_down());
    Result<uint64_t> budget = options_.budget ? options_.budget() : uint64_t{0};
    if (!budget) return Opened(tl::unexpected<Error>(budget.error()));
    claims_.set_budget(*budget);
    Place* other = nullptr;
    const RoomStep::Kind step = step_for(place, other);
    if (step == RoomStep::Kind::kRefuse)
      return Opened(too_small(place.source.name, *place.need, *budget, base_bytes_));
    if (step == RoomStep::Kind::kAwait && !end_others) return std::nullopt;
    if (step == RoomStep::Kind::kLoad) {
      Opened opened = open_now(place);
      if (opened || opened.error().code != ErrorCode::kOutOfBudget) return opened;
      if (needs_more(place)) continue;  // As if its headers had said so.
      const MutexLock lock(mutex_);
      for (const auto& one : places_)
        if (one->ready() && one->uses->counts().work == 0) other = one.get();
      if (other == nullptr) return opened;
      other->leaving = true;
    }
    const std::string name = other->source.name;
    if (unload(*other, State::kUnloaded, "room was made for the model " + place.source.name))
      tell("unloaded " + name + " to make room for " + place.source.name);
  }
}

// What was measured in headers is not all that it takes: more than there is now. What else could go goes, or is waited
// for, before it is refused. False: nothing could, or there is no budget that would say so.
bool ModelHost::needs_more(Place& place) {
  const MutexLock lock(mutex_);
  uint64_t held = 0;
  for (const auto& one : places_)
    if (one->model != nullptr) held += one->claim.bytes();
  if (held == 0 || claims_.budget() == 0) return false;
  const uint64_t taken = base_bytes_ + held, budget = claims_.budget();
  ModelNeed& need = *place.need;
  need.floor_bytes = std::max(need.floor_bytes, budget - std::min(budget, taken) + 1);
  need.whole_bytes = std::max(need.whole_bytes, need.floor_bytes);
  return true;
}

RoomStep::Kind ModelHost::step_for(Place& place, Place*& other) {
  const MutexLock lock(mutex_);
  std::vector<HeldModel> held;
  std::vector<Place*> of_held;
  for (const auto& one : places_) {
    if (one->model == nullptr) continue;
    held.push_back({one->claim.bytes(), one->uses->counts().work != 0, one->leaving, one->last_used()});
    of_held.push_back(one.get());
  }
  const RoomStep step =
      next_step(*place.need, {claims_.budget(), base_bytes_, std::max(1u, options_.models_max)}, held);
  if (step.kind == RoomStep::Kind::kUnload || step.kind == RoomStep::Kind::kAwait) {
    other = of_held[step.model];
    other->leaving = true;  // Nobody gets it from now on: whoever wants it waits until it is loaded again.
    other->room_for = place.source.name;
  }
  return step.kind;
}

ModelHost::Opened ModelHost::open_now(Place& place) {
  ServingOptions options = options_.serving;
  uint64_t held_min = 0;
  {
    const MutexLock lock(mutex_);
    for (const auto& one : places_)
      if (one->model != nullptr) held_min += one->claim.bytes();
  }
  if (held_min != 0) held_min += base_bytes_;
  options.scheduler.turns = &turns_;
  Opened opened = open_served(place.source, options, held_min, metrics_);
  if (!opened) platform::return_free_memory();
  return opened;
}

bool ModelHost::unload(Place& place, State next, const std::string& why) {
  std::shared_ptr<ServedModel> model;
  {
    const MutexLock lock(mutex_);
    place.state = place.waiting.empty() ? next : State::kLoading;
    place.leaving = false;
    place.room_for.clear();
    model = std::exchange(place.model, nullptr);
  }
  if (model == nullptr) return false;
  let_go(std::move(model), *place.uses, why);
  const MutexLock lock(mutex_);
  place.claim.release();
  return true;
}

void ModelHost::let_go(std::shared_ptr<ServedModel> model, ModelUses& uses, const std::string& why) {
  const auto deadline = Clock::now() + options_.drain_wait;
  while (!stopping() && uses.counts().work != 0 && Clock::now() < deadline) bell_->wait(deadline);
  model->scheduler->stop(why);  // Here, so that whoever holds the model last joins no thread.
  const auto last = Clock::now() + kHolderWait;
  while (!stopping() && uses.counts().all != 0 && Clock::now() < last) bell_->wait(last);
  model.reset();
  platform::return_free_memory();
}

Status ModelHost::install(Place& place, Opened opened) {
  std::vector<Waiting> waiting;
  std::vector<Opened> answers;
  Status status = opened ? Status() : Status(tl::unexpected<Error>(opened.error()));
  {
    const MutexLock lock(mutex_);
    place.state = opened ? State::kReady : State::kFailed;
    place.need.reset();
    if (opened) {
      place.claim = claims_.hold(memory::Tag::kWeights, (*opened)->engine->claimed_bytes());
      place.model = std::move(*opened);
      place.keep_alive = std::exchange(place.keep_next, std::nullopt).value_or(options_.keep_alive);
      place.used = Clock::now();
      place.uses->touch();
      if (draining_) place.model->scheduler->drain();
    }
    waiting.swap(place.waiting);
    answers.reserve(waiting.size());
    for (size_t i = 0; i < waiting.size(); ++i) {
      if (status) {
        answers.emplace_back(place.uses->hand_out(place.model, ModelUses::Kind::kWork));
      } else {
        answers.emplace_back(tl::unexpected<Error>(status.error()));
      }
    }
  }
  for (size_t i = 0; i < waiting.size(); ++i) {
    waiting[i].ready(answers[i]);
    answers[i] = Opened();  // Whose it is now decides how long it is used.
  }
  return status;
}

void ModelHost::give_up() {
  std::deque<Wish> wishes;
  {
    const MutexLock lock(mutex_);
    wishes.swap(wishes_);
  }
  for (const Wish& wish : wishes) wish.done(shutting_down());
}

void ModelHost::tell(const std::string& line) const {
  if (options_.log) options_.log(line);
}

bool ModelHost::draining() const {
  const MutexLock lock(mutex_);
  return draining_;
}

bool ModelHost::stopping() const {
  const MutexLock lock(mutex_);
  return stopping_;
}

void ModelHost::drain() {
  std::vector<Waiting> waiting;
  {
    const MutexLock lock(mutex_);
    draining_ = true;
    for (const auto& place : places_) {
      if (place->model != nullptr) place->model->scheduler->drain();
      waiting.insert(waiting.end(), std::make_move_iterator(place->waiting.begin()),
                     std::make_move_iterator(place->waiting.end()));
      place->waiting.clear();
    }
  }
  bell_->ring();  // Nothing is loaded or unloaded for them.
  for (const Waiting& one : waiting) one.ready(shutting_down());
}

void ModelHost::stop() {
  drain();
  {
    const MutexLock lock(mutex_);
    stopping_ = true;
  }
  bell_->ring();
  if (keeper_.joinable()) keeper_.join();
  for (const Loaded& one : loaded()) one.model->scheduler->stop();
}

}  // namespace mlxf::server
