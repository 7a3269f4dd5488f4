// ModelHostTest: a ModelHost over a small model under several names, for the tests of its loads, changes and waits.
//
// Of tests alone. "broken" cannot be opened, the loading of "slow" waits for the test. Callbacks come from the host's
// threads; what they fill is shared with them.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/bounded_queue.h"
#include "server/model_host.h"

namespace mlxf::server {

constexpr std::chrono::seconds kPatience(120);

// `memory_budget` as of EngineOptions: without one it claims nothing.
inline Result<std::unique_ptr<engine::Engine>> open_oracle(const std::string& folder,
                                                           uint64_t memory_budget = 0) {
  engine::EngineOptions options;
  options.threads = 1;
  options.memory_budget = memory_budget;
  options.with_tokenizer = true;
  options.with_grammars = true;
  return engine::Engine::open(MLXF_SOURCE_DIR "/" + folder, options);
}

// Three names for one small model, one for a model that cannot be opened, and one whose loading waits for the test.
class ModelHostTest : public testing::Test {
 protected:
  using Model = std::shared_ptr<ServedModel>;

  ModelSource source(const std::string& name) {
    ModelSource source;
    source.name = name;
    source.facts.format = "safetensors";
    if (needs_.count(name) != 0) source.need = [this, name] { return Result<ModelNeed>(needs_[name]); };
    source.open = [this, name](uint64_t held_bytes_min) -> Result<std::unique_ptr<engine::Engine>> {
      ++loads_;
      if (tight_.count(name) != 0 && held_bytes_min != 0)
        return fail(ErrorCode::kOutOfBudget, "it takes more than that");
      if (name == "slow") {
        loading_.push(1);
        (void)go_on_.wait(kPatience);
      }
      if (name == "broken" || broken_.count(name) != 0)
        return fail(ErrorCode::kInvalidArgument, "the header makes no sense");
      return open_oracle("models/classics-moe-4bit");
    };
    return source;
  }
  void start() { start_with(source("first")); }
  void start_with(ModelSource first) {
    options_.model = std::move(first);
    options_.find = [this](const std::string& name) -> Result<ModelSource> {
      if (name != "second" && name != "third" && name != "broken" && name != "slow")
        return fail(ErrorCode::kNotFound, "there is no model " + name);
      return source(name);
    };
    options_.list = [] {
      std::vector<api::OllamaModel> models(3);
      models[0].name = models[2].name = "second";
      models[1].name = "first";
      return models;
    };
    options_.serving.context_tokens = 512;
    options_.serving.scheduler.parallel = 2;
    options_.log = [this](const std::string& line) { told_.push(line); };
    host_ = std::make_unique<ModelHost>(options_, metrics_);
  }
  ModelHost& host() { return *host_; }

  // Shared with the host's thread, which may still be within push() when the answer has been read.
  using Answers = std::shared_ptr<BoundedQueue<Result<Model>>>;
  Answers ask(int count = 1) {
    auto answers = std::make_shared<BoundedQueue<Result<Model>>>(16);
    for (int i = 0; i < count; ++i)
      host().when_ready([answers](const Result<Model>& model) { answers->push(model); });
    return answers;
  }
  Answers ask_for(const std::string& name, int count = 1) {
    auto answers = std::make_shared<BoundedQueue<Result<Model>>>(16);
    for (int i = 0; i < count; ++i)
      host().when_ready({name, false}, [answers](const Result<Model>& model) { answers->push(model); });
    return answers;
  }
  Result<Model> ready(const std::string& name) {
    const Answers answers = ask_for(name);
    auto answer = answers->wait(kPatience);
    return answer ? std::move(*answer) : Result<Model>(fail(ErrorCode::kDeadline, "nobody answered"));
  }
  std::vector<std::string> loaded() {
    std::vector<std::string> names;
    for (const ModelHost::Loaded& one : host().loaded()) names.push_back(one.facts.name);
    return names;
  }
  // Until nobody holds a model: the host lets go of what it answered with a moment after the answer is there.
  void settle() {
    const auto until = std::chrono::steady_clock::now() + kPatience;
    const auto busy = [&] {
      const auto all = host().loaded();
      return std::any_of(all.begin(), all.end(), [](const ModelHost::Loaded& one) { return one.busy; });
    };
    while (busy() && std::chrono::steady_clock::now() < until) std::this_thread::yield();
  }
  // What is answered once it is; the handle counts as a request under way.
  Result<Model> ready() {
    const Answers answers = ask();
    auto answer = answers->wait(kPatience);
    return answer ? std::move(*answer) : Result<Model>(fail(ErrorCode::kDeadline, "nobody answered"));
  }
  using Done = BoundedQueue<Result<ModelHost::Change>>;
  static ModelHost::Done into(const std::shared_ptr<Done>& done) {
    return [done](const Result<ModelHost::Change>& change) { done->push(change); };
  }
  static Result<ModelHost::Change> wait(const std::shared_ptr<Done>& done) {
    auto change = done->wait(kPatience);
    return change ? std::move(*change) : Result<ModelHost::Change>(fail(ErrorCode::kDeadline, "no end"));
  }
  Result<ModelHost::Change> switch_to(const std::string& name) {
    const auto done = std::make_shared<Done>(1);
    host().switch_to(name, into(done));
    return wait(done);
  }
  Result<ModelHost::Change> release(const std::string& name = "") {
    const auto done = std::make_shared<Done>(1);
    host().release(name, into(done));
    return wait(done);
  }
  bool comes_to(ModelHost::State state) {
    BoundedQueue<int> nothing(1);
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (host().state() != state)
      if ((void)nothing.wait(std::chrono::milliseconds(2)); std::chrono::steady_clock::now() > deadline)
        return false;
    return true;
  }
  // A generation that ends only when it is ended, as the server submits them.
  static engine::Ticket endless(const Model& model, uint32_t tokens = 400) {
    engine::Submission submission;
    submission.request.prompt = {5, 6, 7};
    submission.request.max_tokens = tokens;
    submission.request.ignore_end = true;
    submission.keeps = model;
    auto ticket = model->scheduler->submit(std::move(submission));
    EXPECT_TRUE(ticket) << ticket.error().message;
    return ticket ? std::move(*ticket) : engine::Ticket();
  }
  // The event that ends it; tokens that were written before are read over.
  static std::optional<engine::Event> last_event(engine::Ticket& ticket) {
    while (auto event = ticket.wait(kPatience))
      if (!std::holds_alternative<engine::GeneratedToken>(*event)) return event;
    return std::nullopt;
  }

  Metrics metrics_;
  ModelHostOptions options_;
  std::atomic<int> loads_{0};
  std::set<std::string> broken_;            // Changed between loads only.
  std::map<std::string, ModelNeed> needs_;  // Likewise.
  std::set<std::string> tight_;  // Likewise: there is room for them alone only, whatever they need.
  BoundedQueue<int> loading_{8}, go_on_{8};
  BoundedQueue<std::string> told_{64};
  std::unique_ptr<ModelHost> host_;  // Last: it uses the others.
};

}  // namespace mlxf::server
