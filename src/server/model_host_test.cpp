#include "server/model_host.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <set>

#include "base/bounded_queue.h"

namespace mlxf::server {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::ElementsAre;
using testing::HasSubstr;
using State = ModelHost::State;

constexpr seconds kPatience(120);

Result<std::unique_ptr<engine::Engine>> open_oracle(const std::string& folder) {
  engine::EngineOptions options;
  options.threads = 1;
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
    source.open = [this, name]() -> Result<std::unique_ptr<engine::Engine>> {
      ++loads_;
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
      if (name != "second" && name != "broken" && name != "slow")
        return fail(ErrorCode::kNotFound, "there is no model " + name);
      return source(name);
    };
    options_.list = [] { return std::vector<std::string>{"second", "first", "second"}; };
    options_.context_tokens = 512;
    options_.scheduler.parallel = 2;
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
  Result<ModelHost::Change> release() {
    const auto done = std::make_shared<Done>(1);
    host().release(into(done));
    return wait(done);
  }
  bool comes_to(State state) {
    BoundedQueue<int> nothing(1);
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (host().state() != state)
      if ((void)nothing.wait(milliseconds(2)); std::chrono::steady_clock::now() > deadline) return false;
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
  std::set<std::string> broken_;  // Changed between loads only.
  BoundedQueue<int> loading_{8}, go_on_{8};
  BoundedQueue<std::string> told_{64};
  std::unique_ptr<ModelHost> host_;  // Last: it uses the others.
};

TEST_F(ModelHostTest, LoadsWithTheFirstRequestAndOnceForAll) {
  start();
  EXPECT_EQ(host().state(), State::kUnloaded);
  EXPECT_EQ(host().find_model(), nullptr);
  EXPECT_FALSE(host().expires_in());
  const Answers answers = ask(8);
  for (int i = 0; i < 8; ++i) EXPECT_TRUE(answers->wait(kPatience)->has_value());
  EXPECT_EQ(loads_, 1);
  EXPECT_EQ(host().state(), State::kReady);
  EXPECT_EQ(host().expires_in(), kForever);
  EXPECT_EQ(host().find_model()->name, "first");
  EXPECT_EQ(host().facts().name, "first");
  EXPECT_THAT(host().others(), ElementsAre("second"));
}

TEST_F(ModelHostTest, ReleasesTheModelAndLoadsItAgain) {
  start();
  ASSERT_TRUE(ready());
  const auto released = release();
  ASSERT_TRUE(released) << released.error().message;
  EXPECT_TRUE(released->was_loaded);
  EXPECT_EQ(host().state(), State::kUnloaded);
  EXPECT_EQ(host().find_model(), nullptr);
  EXPECT_FALSE(release()->was_loaded) << "there is none";
  EXPECT_TRUE(ready());
  EXPECT_EQ(loads_, 2);
}

TEST_F(ModelHostTest, UnloadsWhatWasLoadedBeforeAnybodyAsked) {
  options_.keep_alive = milliseconds(20);
  start();
  ASSERT_TRUE(host().load());
  const auto line = told_.wait(kPatience);  // No look at the host, which would wake its thread.
  ASSERT_TRUE(line);
  EXPECT_THAT(*line, HasSubstr("unloaded first"));
}

TEST_F(ModelHostTest, TheTimeThatIsSaidWhileItLoadsHolds) {
  start_with(source("slow"));
  const Answers answers = ask();
  ASSERT_TRUE(loading_.wait(kPatience));
  host().keep_for(milliseconds(0));
  go_on_.push(1);
  ASSERT_TRUE(answers->wait(kPatience)->has_value());
  const auto line = told_.wait(kPatience);
  ASSERT_TRUE(line);
  EXPECT_THAT(*line, HasSubstr("unloaded slow"));
}

TEST_F(ModelHostTest, WhoLeftMeanwhileTakesNoPlaceInTheQueue) {
  options_.scheduler.parallel = 2;
  options_.scheduler.queue_max = 2;
  start_with(source("slow"));
  auto asker = std::make_shared<int>(0);
  const auto answers = std::make_shared<BoundedQueue<Result<Model>>>(16);
  const auto take = [answers](const Result<Model>& model) { answers->push(model); };
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(host().when_ready(take, asker));
  EXPECT_FALSE(host().when_ready(take, asker)) << "all places are taken";
  const auto refused = answers->wait(kPatience);
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->error().code, ErrorCode::kUnavailable);
  asker.reset();
  const auto stays = std::make_shared<int>(1);
  EXPECT_TRUE(host().when_ready(take, stays));
  ASSERT_TRUE(loading_.wait(kPatience));
  go_on_.push(1);
  EXPECT_TRUE(answers->wait(kPatience)->has_value());
  EXPECT_FALSE(host().when_ready(take, stays)) << "it is there: called at once";
}

TEST_F(ModelHostTest, CountersOutliveTheModelThatCounted) {
  start();
  for (int i = 0; i < 2; ++i) {
    engine::Ticket ticket = endless(*ready(), 3);
    ASSERT_TRUE(last_event(ticket));
    ASSERT_TRUE(release());
  }
  EXPECT_THAT(metrics_.expose(), HasSubstr("\nmlx_flash_tokens_generated_total 6\n"));
  EXPECT_THAT(metrics_.expose(), HasSubstr("\nmlx_flash_ttft_seconds_count 2\n"));
}

TEST_F(ModelHostTest, WaitsForRequestsUnderWayAndHoldsNewOnes) {
  start();
  auto held = ready();
  ASSERT_TRUE(held);
  const auto done = std::make_shared<Done>(1);
  host().release(into(done));
  ASSERT_TRUE(comes_to(State::kUnloaded));
  const Answers later = ask();
  EXPECT_FALSE(done->wait(milliseconds(50))) << "somebody uses the model";
  EXPECT_FALSE(later->poll());
  engine::Ticket ticket = endless(*held, 20);  // What it was handed out for.
  held = Model();
  const auto end = last_event(ticket);
  ASSERT_TRUE(end);
  EXPECT_EQ(std::get<engine::Finished>(*end).usage.generated_tokens, 20u);
  EXPECT_TRUE(wait(done)->was_loaded);
  EXPECT_TRUE(later->wait(kPatience)->has_value());
  EXPECT_EQ(loads_, 2);
}

TEST_F(ModelHostTest, EndsRequestsThatTakeLongerThanTheyMay) {
  options_.drain_wait = milliseconds(0);
  start();
  engine::Ticket ticket = endless(*ready());
  ASSERT_TRUE(switch_to("second"));
  const auto end = last_event(ticket);
  ASSERT_TRUE(end);
  const auto& error = std::get<Error>(*end);
  EXPECT_EQ(error.code, ErrorCode::kUnavailable);
  EXPECT_EQ(error.message, "the server switched to the model second before the answer was complete");
}

TEST_F(ModelHostTest, SwitchesToAModelByName) {
  start();
  ASSERT_TRUE(ready());
  const auto switched = switch_to("second");
  ASSERT_TRUE(switched) << switched.error().message;
  EXPECT_EQ(switched->previous, "first");
  EXPECT_EQ(host().name(), "second");
  EXPECT_EQ((*ready())->name, "second");
  EXPECT_THAT(host().others(), ElementsAre("first"));
  EXPECT_TRUE(switch_to("second:latest")) << "it is served";
  EXPECT_TRUE(switch_to("local"));
  EXPECT_EQ(loads_, 2);
  ASSERT_TRUE(switch_to("first")) << "the one it was started with, wherever that lies";
  EXPECT_EQ(host().name(), "first");
  EXPECT_EQ(told_.poll(), "switched from first to second");
}

TEST_F(ModelHostTest, AnUnknownModelDisturbsNobody) {
  start();
  engine::Ticket ticket = endless(*ready(), 60);
  const auto refused = switch_to("third");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kNotFound);
  EXPECT_EQ(host().state(), State::kReady);
  EXPECT_TRUE(std::holds_alternative<engine::Finished>(*last_event(ticket)));
  EXPECT_EQ(loads_, 1);
}

TEST_F(ModelHostTest, ABrokenModelLeavesThePlaceToTheOneBefore) {
  start();
  ASSERT_TRUE(ready());
  const auto refused = switch_to("broken");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kCorrupt) << "not the client's mistake";
  EXPECT_THAT(refused.error().message, HasSubstr("the model broken could not be loaded: the header"));
  EXPECT_EQ(host().name(), "first");
  EXPECT_EQ(host().names().next, "");
  EXPECT_EQ(host().state(), State::kReady);
  EXPECT_EQ((*ready())->name, "first");
  EXPECT_EQ(loads_, 3);
}

TEST_F(ModelHostTest, ABrokenModelIsNoReasonToLoadWhatNobodyAskedFor) {
  start();
  ASSERT_FALSE(switch_to("broken"));
  EXPECT_EQ(host().state(), State::kUnloaded);
  EXPECT_EQ(loads_, 1);
}

TEST_F(ModelHostTest, WhenNeitherCanBeLoadedTheNextRequestTriesAgain) {
  start();
  ASSERT_TRUE(ready());
  broken_ = {"first"};
  const auto refused = switch_to("broken");
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("nor could first, the one before"));
  EXPECT_EQ(host().state(), State::kFailed);
  EXPECT_FALSE(ready());
  broken_ = {};
  EXPECT_EQ((*ready())->name, "first");
}

TEST_F(ModelHostTest, RequestsThatComeDuringASwitchGetTheNewModel) {
  start();
  ASSERT_TRUE(ready());
  const auto done = std::make_shared<Done>(1);
  host().switch_to("slow", into(done));
  ASSERT_TRUE(loading_.wait(kPatience));
  EXPECT_EQ(host().state(), State::kLoading);
  EXPECT_EQ(host().find_model(), nullptr) << "there is never memory for two";
  EXPECT_TRUE(may_mean("first", host().names())) << "it may come back";
  EXPECT_TRUE(may_mean("slow", host().names()));
  EXPECT_FALSE(may_mean("second", host().names()));
  const Answers answers = ask(2);
  EXPECT_FALSE(answers->poll());
  go_on_.push(1);
  EXPECT_EQ(wait(done)->previous, "first");
  for (int i = 0; i < 2; ++i) EXPECT_EQ((**answers->wait(kPatience))->name, "slow");
}

TEST_F(ModelHostTest, OnlySoManyMayWaitForAModel) {
  options_.scheduler.queue_max = 1;  // Besides the 2 that may run.
  start();
  host().switch_to("slow", into(std::make_shared<Done>(1)));
  ASSERT_TRUE(loading_.wait(kPatience));
  const Answers answers = ask(4);
  const auto refused = answers->poll();
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->error().code, ErrorCode::kUnavailable);
  EXPECT_FALSE(host().draining());
  go_on_.push(1);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(answers->wait(kPatience)->has_value());
}

TEST_F(ModelHostTest, ReloadsWhatTheFilesHoldNow) {
  start();
  ASSERT_TRUE(ready());
  const auto reload = [&] {
    const auto done = std::make_shared<Done>(1);
    host().reload(into(done));
    return wait(done);
  };
  ASSERT_TRUE(reload());
  EXPECT_EQ(loads_, 2);
  broken_ = {"first"};
  const auto refused = reload();
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kCorrupt);
  EXPECT_EQ(host().state(), State::kFailed);
  broken_ = {};
  EXPECT_TRUE(ready());
}

TEST_F(ModelHostTest, WhatNobodyUsesIsLetGoOf) {
  options_.keep_alive = milliseconds(20);
  start();
  {
    const auto held = ready();
    ASSERT_TRUE(held);
    EXPECT_EQ(host().expires_in(), milliseconds(20));
    EXPECT_FALSE(told_.wait(milliseconds(100))) << "somebody uses it";
  }
  EXPECT_EQ(told_.wait(kPatience), "unloaded first, which nobody uses");
  EXPECT_EQ(host().state(), State::kUnloaded);
  engine::Ticket ticket = endless(*ready(), 100);
  ASSERT_TRUE(last_event(ticket)) << "a generation is a use";
  EXPECT_EQ(told_.wait(kPatience), "unloaded first, which nobody uses");
  EXPECT_EQ(loads_, 2);
}

TEST_F(ModelHostTest, ARequestSaysHowLongItsModelIsKept) {
  start();
  host().keep_for(milliseconds(0));  // There is nothing to be kept, or not.
  {
    const auto held = ready();
    ASSERT_TRUE(held);
    host().keep_for(milliseconds(0));
    EXPECT_EQ(host().state(), State::kReady) << "not while it is used";
    EXPECT_EQ(host().expires_in(), milliseconds(0));
  }
  EXPECT_TRUE(told_.wait(kPatience));
  ASSERT_TRUE(ready());
  EXPECT_EQ(host().expires_in(), kForever) << "as the server says, once it is loaded again";
  const Model look = host().find_model();
  host().keep_for(seconds(100));
  EXPECT_GT(host().expires_in(), seconds(50));
  EXPECT_LE(host().expires_in(), seconds(100));
  host().keep_for(milliseconds(0));
  EXPECT_TRUE(comes_to(State::kUnloaded)) << "a look is no use";
  EXPECT_EQ(look->name, "first") << "and what is looked at stays";
}

TEST_F(ModelHostTest, ManyAsTheyComeAndGo) {
  options_.keep_alive = milliseconds(1);
  start();
  std::atomic<int> answered{0};
  std::vector<std::thread> clients;
  clients.reserve(4);
  for (int i = 0; i < 4; ++i)
    clients.emplace_back([&, i] {
      for (int round = 0; round < 6; ++round) {
        if (i == 0) {
          (void)switch_to(round % 2 == 0 ? "second" : "first");
        } else if (i == 1) {
          (void)release();
        } else {
          auto model = ready();
          ASSERT_TRUE(model) << model.error().message;
          engine::Ticket ticket = endless(*model, 4);
          model = Model();
          const auto end = last_event(ticket);
          ASSERT_TRUE(end && std::holds_alternative<engine::Finished>(*end));
          ++answered;
        }
      }
    });
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(answered, 12);
}

TEST_F(ModelHostTest, TheEndRefusesWhatWaits) {
  start();
  const auto changing = std::make_shared<Done>(1), waiting = std::make_shared<Done>(1);
  host().switch_to("slow", into(changing));
  ASSERT_TRUE(loading_.wait(kPatience));
  host().release(into(waiting));
  const Answers answers = ask();
  host().drain();
  EXPECT_EQ(ask()->poll()->error().code, ErrorCode::kUnavailable);
  EXPECT_EQ(switch_to("second").error().code, ErrorCode::kUnavailable);
  std::thread stopping([&] { host().stop(); });
  go_on_.push(1);
  stopping.join();
  EXPECT_TRUE(wait(changing)) << "what had begun";
  EXPECT_TRUE(answers->poll()) << "got a model, whose scheduler takes nothing any more";
  const auto refused = wait(waiting);
  EXPECT_TRUE(refused || refused.error().code == ErrorCode::kUnavailable);
}

}  // namespace
}  // namespace mlxf::server
