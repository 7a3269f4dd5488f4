#include "server/model_host.h"

#include <algorithm>
#include <exception>
#include <iterator>
#include <utility>

#include "engine/sampling_defaults.h"
#include "platform/process.h"

namespace mlxf::server {

namespace {

constexpr uint64_t kNormalisedShare =
    4;  // Normalising a text (NFC, blanks) may make it shorter, not to less than this.
constexpr size_t kWishesMax = 16;
// For those who still hold a model whose scheduler has stopped: they let go as soon as they see it.
constexpr std::chrono::seconds kHolderWait(10);

uint64_t longest_token(const text::Tokenizer& tokenizer) {
  uint64_t longest = 1;
  for (uint32_t id = 0; id < tokenizer.vocab_size(); ++id)
    longest = std::max<uint64_t>(longest, tokenizer.token_bytes(static_cast<TokenId>(id)).size());
  return longest;
}

// "name:latest" is Ollama's way to write "name".
std::string without_tag(const std::string& name) {
  constexpr std::string_view kLatest = ":latest";
  return name.size() > kLatest.size() && name.ends_with(kLatest)
             ? name.substr(0, name.size() - kLatest.size())
             : name;
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

}  // namespace

bool names_model(const std::string& asked, const std::string& name) {
  const std::string plain = without_tag(asked);
  return plain.empty() || plain == "local" || plain == name || asked == name;
}

bool may_mean(const std::string& asked, const ModelHost::Names& names) {
  return names_model(asked, names.now) || (!names.next.empty() && names_model(asked, names.next));
}

ModelHost::ModelHost(ModelHostOptions options, Metrics& metrics)
    : options_(std::move(options)),
      metrics_(metrics),
      uses_(std::make_shared<ModelUses>()),
      source_(options_.model),
      keep_alive_(options_.keep_alive) {
  keeper_ = std::thread([this] { keep(); });
}

ModelHost::Opened ModelHost::open(const ModelSource& source) const {
  try {
    return open_now(source);
  } catch (const std::exception&
               problem) {  // No memory or no thread to be had: this load's end, not the server's.
    return fail(ErrorCode::kInternal, problem.what());
  }
}

ModelHost::Opened ModelHost::open_now(const ModelSource& source) const {
  auto served = std::make_shared<ServedModel>();
  served->name = source.name;
  ASSIGN_OR_RETURN(served->engine, source.open());
  const formats::ModelManifest& manifest = served->engine->manifest();
  served->tokenizer = served->engine->tokenizer();
  served->grammars = served->engine->grammars();
  if (!source.chat_template.empty()) {
    const auto spelled = [&](std::optional<TokenId> id) {
      return id ? served->tokenizer->token_text(*id) : std::string();
    };
    ASSIGN_OR_RETURN(served->chat,
                     text::parse_chat_template(source.chat_template, spelled(served->tokenizer->bos()),
                                               spelled(served->tokenizer->eos())));
  } else if (auto chat = text::load_chat_template(manifest); chat) {
    served->chat = std::move(*chat);
  } else if (chat.error().code != ErrorCode::kNotFound) {
    return tl::unexpected<Error>(chat.error());
  }
  if (served->chat) {
    served->answers = text::detect_answer_format(served->chat->source());
    served->turns = text::find_turn_rules(*served->chat);
    for (const std::string& spelling : text::marker_spellings(served->answers)) {
      const auto id = served->tokenizer->find_token(spelling);
      if (id && served->tokenizer->traits(*id).special) served->marker_tokens.push_back(*id);
    }
  }
  ASSIGN_OR_RETURN(served->defaults, engine::default_sampling(manifest));
  const model::Model& model = served->engine->model();
  const uint32_t most = model.spec().context_max != 0 ? model.spec().context_max : 1u << 20;
  served->context_tokens =
      std::max(2u, options_.context_tokens == 0 ? most : std::min(most, options_.context_tokens));
  served->prompt_bytes_max =
      uint64_t{served->context_tokens} * kNormalisedShare * longest_token(*served->tokenizer);
  engine::SchedulerOptions scheduler = options_.scheduler;
  scheduler.context_max = served->context_tokens;
  if (options_.neighbour_tokens != 0)
    scheduler.kv_bytes = model.sequence_bytes(served->context_tokens) +
                         (scheduler.parallel - 1) * model.sequence_bytes(std::min(served->context_tokens,
                                                                                  options_.neighbour_tokens));
  served->scheduler =
      std::make_unique<engine::Scheduler>(*served->engine, &*served->tokenizer, scheduler, metrics_);
  return served;
}

Status ModelHost::load() {
  const ModelSource first = source();
  Status loaded = install(first, open(first));
  uses_->ring();  // The keeper minds how long it stays.
  return loaded;
}

bool ModelHost::when_ready(const Ready& ready, const Asker& asker) {
  Opened answer;
  const size_t waiting_max = options_.scheduler.parallel + options_.scheduler.queue_max;
  std::vector<Waiting> left;  // Let go of without the lock.
  {
    const MutexLock lock(mutex_);
    if (draining_) {
      answer = shutting_down();
    } else if (model_ != nullptr) {
      answer = uses_->hand_out(model_, ModelUses::Kind::kWork);
    } else if (waiting_.size() >= waiting_max && !drop_who_left(left)) {
      answer = fail(ErrorCode::kUnavailable, std::to_string(waiting_.size()) +
                                                 " requests are waiting for the model to be loaded already");
    } else {
      waiting_.push_back({ready, asker});
      state_ = State::kLoading;
    }
  }
  if (!answer || *answer != nullptr) {
    ready(answer);
    return false;
  }
  uses_->ring();
  return true;
}

bool ModelHost::drop_who_left(std::vector<Waiting>& left) {
  const auto gone = std::stable_partition(waiting_.begin(), waiting_.end(), [](const Waiting& one) {
    return !one.asker || !one.asker->expired();
  });
  left.assign(std::make_move_iterator(gone), std::make_move_iterator(waiting_.end()));
  waiting_.erase(gone, waiting_.end());
  return !left.empty();
}

void ModelHost::release(Done done) { ask({Wish::Kind::kRelease, "", std::move(done)}); }
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
  uses_->ring();
}

void ModelHost::keep_for(std::chrono::milliseconds time) {
  {
    const MutexLock lock(mutex_);
    if (model_ == nullptr) {
      if (state_ == State::kLoading) keep_next_ = time;
      return;
    }
    keep_alive_ = time;
    (void)expire_if_due();
  }
  uses_->ring();
}

bool ModelHost::expire_if_due() {
  if (model_ == nullptr || leaving_ != nullptr || keep_alive_ == kForever) return false;
  const ModelUses::Counts counts = uses_->counts();
  if (counts.work != 0 || Clock::now() < counts.idle_since + keep_alive_) return false;
  leaving_ = std::exchange(model_, nullptr);
  state_ = State::kUnloaded;
  return true;
}

void ModelHost::keep() {
  while (!stopping()) {
    std::optional<Wish> wish;
    std::optional<Clock::time_point> until;
    {
      const MutexLock lock(mutex_);
      wish = next_wish(until);
    }
    if (wish) {
      grant(*wish);
    } else {
      uses_->wait(until);
    }
  }
  give_up();
}

std::optional<ModelHost::Wish> ModelHost::next_wish(std::optional<Clock::time_point>& until) {
  if (leaving_ != nullptr || expire_if_due()) return Wish{Wish::Kind::kFree, "", {}};
  if (!wishes_.empty()) {
    Wish wish = std::move(wishes_.front());
    wishes_.pop_front();
    return wish;
  }
  if (model_ == nullptr && !waiting_.empty()) return Wish{Wish::Kind::kLoad, "", {}};
  // While it is used, its last use rings.
  const ModelUses::Counts counts = uses_->counts();
  if (model_ != nullptr && counts.work == 0 && keep_alive_ != kForever)
    until = counts.idle_since + keep_alive_;
  return std::nullopt;
}

void ModelHost::grant(const Wish& wish) {
  switch (wish.kind) {
    case Wish::Kind::kFree: {
      std::shared_ptr<ServedModel> model;
      {
        const MutexLock lock(mutex_);
        model = std::exchange(leaving_, nullptr);
      }
      const std::string name = model->name;
      let_go(std::move(model), "the model was unloaded");
      return tell("unloaded " + name + ", which nobody uses");
    }
    case Wish::Kind::kLoad: {
      const ModelSource now = source();
      (void)install(now, open(now));  // Whoever waits is told.
      return;
    }
    case Wish::Kind::kRelease:
      return wish.done(release_now());
    case Wish::Kind::kReload:
      return wish.done(reload_now());
    case Wish::Kind::kSwitch:
      return wish.done(switch_now(wish.name));
  }
}

Result<ModelHost::Change> ModelHost::release_now() {
  Change change{name(), false};
  // Who asks meanwhile waits, and has it loaded again.
  if (std::shared_ptr<ServedModel> model = take(State::kUnloaded); model != nullptr) {
    change.was_loaded = true;
    let_go(std::move(model), "the model was unloaded");
    tell("unloaded " + change.previous);
  }
  return change;
}

Result<ModelHost::Change> ModelHost::reload_now() {
  const ModelSource now = source();
  Change change{now.name, false};
  if (std::shared_ptr<ServedModel> model = take(State::kLoading); model != nullptr) {
    change.was_loaded = true;
    let_go(std::move(model), "the model was loaded again");
  }
  if (stopping()) return shutting_down();
  if (const Status loaded = install(now, open(now)); !loaded)
    return tl::unexpected<Error>(load_failure(now.name, loaded.error()));
  tell("loaded " + now.name + " again");
  return change;
}

Result<ModelSource> ModelHost::find_source(const std::string& name) const {
  if (names_model(name, this->name())) return source();
  if (names_model(name, options_.model.name)) return options_.model;
  if (!options_.find) return fail(ErrorCode::kNotFound, "this server has no other models");
  try {
    return options_.find(name);
  } catch (const std::exception& problem) {  // As in open().
    return fail(ErrorCode::kInternal, problem.what());
  }
}

Result<ModelHost::Change> ModelHost::switch_now(const std::string& name) {
  const ModelSource before = source();
  ASSIGN_OR_RETURN(const ModelSource wanted, find_source(name));
  Change change{before.name, find_model() != nullptr};
  const bool same = wanted.name == before.name;
  if (same && change.was_loaded) return change;
  {
    const MutexLock lock(mutex_);
    next_name_ = wanted.name;
  }
  if (std::shared_ptr<ServedModel> model = take(State::kLoading); model != nullptr)
    let_go(std::move(model), "the server switched to the model " + wanted.name);
  Opened opened = stopping() ? Opened(shutting_down()) : open(wanted);
  if (opened || same) {
    if (const Status loaded = install(wanted, std::move(opened)); !loaded)
      return tl::unexpected<Error>(load_failure(wanted.name, loaded.error()));
    if (!same) tell("switched from " + before.name + " to " + wanted.name);
    return change;
  }
  Error error = load_failure(wanted.name, opened.error());
  tell(error.message);
  if (stopping()) return tl::unexpected<Error>(error);
  bool wants = change.was_loaded;
  {
    const MutexLock lock(mutex_);
    next_name_.clear();
    wants = wants || !waiting_.empty();
    if (!wants) state_ = State::kUnloaded;
  }
  if (wants)
    if (const Status back = install(before, open(before)); !back)
      error.message += "; nor could " + before.name + ", the one before: " + back.error().message;
  return tl::unexpected<Error>(error);
}

std::shared_ptr<ServedModel> ModelHost::take(State next) {
  const MutexLock lock(mutex_);
  state_ = waiting_.empty() ? next : State::kLoading;
  return std::exchange(model_ != nullptr ? model_ : leaving_, nullptr);
}

void ModelHost::let_go(std::shared_ptr<ServedModel> model, const std::string& why) {
  const auto deadline = Clock::now() + options_.drain_wait;
  while (!stopping() && uses_->counts().work != 0 && Clock::now() < deadline) uses_->wait(deadline);
  model->scheduler->stop(why);  // Here, so that whoever holds the model last joins no thread.
  const auto last = Clock::now() + kHolderWait;
  while (!stopping() && uses_->counts().all != 0 && Clock::now() < last) uses_->wait(last);
  model.reset();
  platform::return_free_memory();
}

Status ModelHost::install(const ModelSource& source, Opened opened) {
  std::vector<Waiting> waiting;
  std::vector<Opened> answers;
  Status status = opened ? Status() : Status(tl::unexpected<Error>(opened.error()));
  {
    const MutexLock lock(mutex_);
    source_ = source;
    next_name_.clear();
    state_ = opened ? State::kReady : State::kFailed;
    if (opened) {
      model_ = std::move(*opened);
      keep_alive_ = std::exchange(keep_next_, std::nullopt).value_or(options_.keep_alive);
      uses_->touch();
      if (draining_) model_->scheduler->drain();
    }
    waiting.swap(waiting_);
    answers.reserve(waiting.size());
    for (size_t i = 0; i < waiting.size(); ++i) {
      if (status) {
        answers.emplace_back(uses_->hand_out(model_, ModelUses::Kind::kWork));
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
  std::vector<Waiting> waiting;
  std::deque<Wish> wishes;
  {
    const MutexLock lock(mutex_);
    waiting.swap(waiting_);
    wishes.swap(wishes_);
  }
  for (const Waiting& one : waiting) one.ready(shutting_down());
  for (const Wish& wish : wishes) wish.done(shutting_down());
}

ModelHost::State ModelHost::state() const {
  const MutexLock lock(mutex_);
  return state_;
}

std::shared_ptr<ServedModel> ModelHost::find_model() const {
  const MutexLock lock(mutex_);
  return uses_->hand_out(model_, ModelUses::Kind::kLook);
}

std::string ModelHost::name() const {
  const MutexLock lock(mutex_);
  return source_.name;
}

ModelHost::Names ModelHost::names() const {
  const MutexLock lock(mutex_);
  return {source_.name, next_name_};
}

api::OllamaModel ModelHost::facts() const {
  const MutexLock lock(mutex_);
  api::OllamaModel facts = source_.facts;
  facts.name = source_.name;
  return facts;
}

ModelSource ModelHost::source() const {
  const MutexLock lock(mutex_);
  return source_;
}

std::optional<std::chrono::milliseconds> ModelHost::expires_in() const {
  const MutexLock lock(mutex_);
  if (model_ == nullptr) return std::nullopt;
  if (keep_alive_ == kForever) return kForever;
  const ModelUses::Counts counts = uses_->counts();
  if (counts.work != 0) return keep_alive_;
  const auto left = counts.idle_since + keep_alive_ - Clock::now();
  return std::max(std::chrono::milliseconds(0), std::chrono::duration_cast<std::chrono::milliseconds>(left));
}

std::vector<std::string> ModelHost::others() const {
  std::vector<std::string> names = options_.list ? options_.list() : std::vector<std::string>();
  names.push_back(options_.model.name);
  const std::string served = name();
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  names.erase(std::remove(names.begin(), names.end(), served), names.end());
  return names;
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
  const MutexLock lock(mutex_);
  draining_ = true;
  if (model_ != nullptr) model_->scheduler->drain();
}

void ModelHost::stop() {
  drain();
  {
    const MutexLock lock(mutex_);
    stopping_ = true;
  }
  uses_->ring();
  if (keeper_.joinable()) keeper_.join();
  if (const std::shared_ptr<ServedModel> model = find_model()) model->scheduler->stop();
}

}  // namespace mlxf::server
