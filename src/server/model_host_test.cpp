#include "server/model_host.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "server/test_model_host.h"

namespace mlxf::server {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::ElementsAre;
using testing::HasSubstr;
using State = ModelHost::State;

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
  EXPECT_EQ(host().loaded().at(0).facts.name, "first");
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
  host().keep_for({}, milliseconds(0));
  go_on_.push(1);
  ASSERT_TRUE(answers->wait(kPatience)->has_value());
  const auto line = told_.wait(kPatience);
  ASSERT_TRUE(line);
  EXPECT_THAT(*line, HasSubstr("unloaded slow"));
}

TEST_F(ModelHostTest, WhoLeftMeanwhileTakesNoPlaceInTheQueue) {
  options_.serving.scheduler.parallel = 2;
  options_.serving.scheduler.queue_max = 2;
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
  host().release("", into(done));
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
  const auto refused = switch_to("none");
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
  EXPECT_EQ(host().next_name(), "");
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
  EXPECT_EQ(host().resolve("")->name, "slow");
  EXPECT_EQ(host().resolve("first")->name, "first") << "it may come back";
  const Answers answers = ask(2);
  EXPECT_FALSE(answers->poll());
  go_on_.push(1);
  EXPECT_EQ(wait(done)->previous, "first");
  for (int i = 0; i < 2; ++i) EXPECT_EQ((**answers->wait(kPatience))->name, "slow");
}

TEST_F(ModelHostTest, OnlySoManyMayWaitForAModel) {
  options_.serving.scheduler.queue_max = 1;  // Besides the 2 that may run.
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
  host().keep_for({}, milliseconds(0));  // There is nothing to be kept, or not.
  {
    const auto held = ready();
    ASSERT_TRUE(held);
    host().keep_for({}, milliseconds(0));
    EXPECT_EQ(host().state(), State::kReady) << "not while it is used";
    EXPECT_EQ(host().expires_in(), milliseconds(0));
  }
  EXPECT_TRUE(told_.wait(kPatience));
  ASSERT_TRUE(ready());
  EXPECT_EQ(host().expires_in(), kForever) << "as the server says, once it is loaded again";
  const Model look = host().find_model();
  host().keep_for({}, seconds(100));
  EXPECT_GT(host().expires_in(), seconds(50));
  EXPECT_LE(host().expires_in(), seconds(100));
  host().keep_for({}, milliseconds(0));
  EXPECT_TRUE(comes_to(State::kUnloaded)) << "a look is no use";
  EXPECT_EQ(look->name, "first") << "and what is looked at stays";
}

TEST_F(ModelHostTest, ARequestLoadsTheModelThatItNamesBesideTheOther) {
  start();
  const auto first = ready();
  const auto second = ready("second");
  ASSERT_TRUE(first && second);
  EXPECT_EQ((*second)->name, "second");
  EXPECT_THAT(loaded(), ElementsAre("first", "second"));
  EXPECT_EQ(host().name(), "first") << "the main one stays";
  EXPECT_EQ((*ready())->name, "first");
  EXPECT_EQ(told_.wait(kPatience), "loaded second");
  engine::Ticket one = endless(*first, 30), other = endless(*second, 30);  // Both at once.
  EXPECT_TRUE(std::holds_alternative<engine::Finished>(*last_event(one)));
  EXPECT_TRUE(std::holds_alternative<engine::Finished>(*last_event(other)));
  EXPECT_EQ(loads_, 2);
}

TEST_F(ModelHostTest, NamesThatMeanNoModelAreNotFound) {
  start();
  EXPECT_EQ(host().resolve("local")->name, "first");
  EXPECT_TRUE(host().resolve("")->local);
  EXPECT_FALSE(host().resolve("first:latest")->local);
  EXPECT_EQ(host().resolve("first:latest")->name, "first");
  EXPECT_EQ(ready("none").error().code, ErrorCode::kNotFound);
  EXPECT_EQ(ready("broken").error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(loaded(), ElementsAre()) << "nothing was let go of or loaded for them";
  EXPECT_EQ(host().state(), State::kUnloaded);
}

TEST_F(ModelHostTest, OnlyTheMainModelWhereNamesChooseNone) {
  options_.by_name = false;
  start();
  EXPECT_EQ(host().resolve("second").error().code, ErrorCode::kNotFound);
  EXPECT_EQ(host().servable().size(), 1u);
  ASSERT_TRUE(ready());
  ASSERT_TRUE(switch_to("second")) << "whoever runs the server may";
  EXPECT_EQ(host().resolve("first").error().code, ErrorCode::kNotFound);
  EXPECT_EQ(ready("first").error().code, ErrorCode::kNotFound) << "resolved before the switch";
  EXPECT_THAT(loaded(), ElementsAre("second"));
}

TEST_F(ModelHostTest, OneModelAtATimeIsSwitchedByNames) {
  options_.models_max = 1;
  start();
  ASSERT_TRUE(ready());
  ASSERT_TRUE(ready("second"));
  EXPECT_THAT(loaded(), ElementsAre("second"));
  EXPECT_EQ((*ready())->name, "second") << "the loaded one, not to load another for no name";
  ASSERT_TRUE(ready("first"));
  EXPECT_THAT(loaded(), ElementsAre("first"));
  EXPECT_EQ(told_.poll(), "unloaded first to make room for second");
}

TEST_F(ModelHostTest, AModelInUseIsNeverTakenFromItsRequests) {
  options_.models_max = 1;
  options_.drain_wait = milliseconds(0);  // Only those who run the server end answers.
  start();
  auto held = ready();
  ASSERT_TRUE(held);
  const Answers second = ask_for("second");
  EXPECT_FALSE(second->wait(milliseconds(50))) << "somebody uses the first";
  const Answers later = ask_for("first");  // Waits its turn, so that the second one does not wait for ever.
  EXPECT_FALSE(later->wait(milliseconds(20)));
  engine::Ticket ticket = endless(*held, 40);
  held = Model();
  const auto end = last_event(ticket);
  ASSERT_TRUE(end && std::holds_alternative<engine::Finished>(*end));
  EXPECT_EQ(std::get<engine::Finished>(*end).usage.generated_tokens, 40u);
  {
    const auto got = second->wait(kPatience);
    ASSERT_TRUE(got && *got);
    EXPECT_EQ((**got)->name, "second");
  }
  EXPECT_EQ((**later->wait(kPatience))->name, "first");
}

TEST_F(ModelHostTest, NobodyIsUnloadedForThoseWhoLeft) {
  options_.models_max = 1;
  start();
  auto held = ready();
  ASSERT_TRUE(held);
  auto asker = std::make_shared<int>(0);
  host().when_ready(
      {"second", false}, [](const Result<Model>&) {}, asker);
  asker.reset();
  held = Model();
  ASSERT_TRUE(ready());
  EXPECT_THAT(loaded(), ElementsAre("first"));
}

TEST_F(ModelHostTest, ASwitchToAModelThatWasToLeaveKeepsIt) {
  options_.models_max = 2;
  start();
  ASSERT_TRUE(ready());
  const auto held = ready("second");
  auto main = ready();
  const Answers third = ask_for("third");
  EXPECT_FALSE(third->wait(milliseconds(50))) << "both are in use";
  const Answers again = ask_for("second");  // Waits: it is to leave.
  EXPECT_FALSE(again->poll());
  const auto done = std::make_shared<Done>(1);
  host().switch_to("second", into(done));
  EXPECT_FALSE(done->wait(milliseconds(20))) << "the one before is in use";
  main = Model();
  EXPECT_TRUE(wait(done));
  EXPECT_EQ((**again->wait(kPatience))->name, "second");
  EXPECT_EQ((**third->wait(kPatience))->name, "third");
  EXPECT_THAT(loaded(), ElementsAre("second", "third"));
}

TEST_F(ModelHostTest, TheIdleOneThatWasUsedLongestAgoMakesRoom) {
  options_.models_max = 2;
  start();
  ASSERT_TRUE(ready());
  settle();
  ASSERT_TRUE(ready("second"));
  settle();
  ASSERT_TRUE(ready());
  ASSERT_TRUE(ready("third"));
  EXPECT_THAT(loaded(), ElementsAre("first", "third"));
  settle();
  {
    const auto held = ready();  // In use, and used longest ago in a moment.
    ASSERT_TRUE(ready("third"));
    ASSERT_TRUE(ready("second"));
    EXPECT_THAT(loaded(), ElementsAre("first", "second"));
  }
}

TEST_F(ModelHostTest, ABudgetThatIsTooSmallIsSaidInNumbers) {
  constexpr uint64_t kMib = 1 << 20;
  options_.budget = [] { return Result<uint64_t>(uint64_t{4096} * kMib); };
  needs_["third"] = {uint64_t{8192} * kMib, uint64_t{9000} * kMib};
  start();
  ASSERT_TRUE(ready());
  const auto refused = ready("third");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kOutOfBudget);
  EXPECT_THAT(refused.error().message, HasSubstr("the model third needs 8"));
  EXPECT_THAT(refused.error().message, HasSubstr("the budget is 4 GiB: raise --memory-budget"));
  EXPECT_THAT(loaded(), ElementsAre("first")) << "nobody goes for what cannot come";
}

TEST_F(ModelHostTest, EachModelIsKeptForAsLongAsItsRequestsSay) {
  start();
  ASSERT_TRUE(ready());
  {
    const auto held = ready("second");
    host().keep_for({"second", false}, milliseconds(0));
    EXPECT_THAT(loaded(), ElementsAre("first", "second")) << "not while it is used";
  }
  EXPECT_EQ(told_.wait(kPatience), "loaded second");
  EXPECT_EQ(told_.wait(kPatience), "unloaded second, which nobody uses");
  EXPECT_THAT(loaded(), ElementsAre("first"));
  ASSERT_TRUE(ready("second"));
  host().keep_for({"second", false}, seconds(100));
  const auto all = host().loaded();
  EXPECT_EQ(all.at(0).expires_in, kForever);
  EXPECT_LE(all.at(1).expires_in, seconds(100));
}

TEST_F(ModelHostTest, ReleasesOneOfSeveralAndThenAll) {
  start();
  ASSERT_TRUE(ready());
  ASSERT_TRUE(ready("second"));
  EXPECT_TRUE(release("second")->was_loaded);
  EXPECT_THAT(loaded(), ElementsAre("first"));
  EXPECT_FALSE(release("second")->was_loaded);
  ASSERT_TRUE(ready("second"));
  EXPECT_TRUE(release()->was_loaded);
  EXPECT_THAT(loaded(), ElementsAre());
}

TEST_F(ModelHostTest, ASwitchTakesAModelThatIsThereAlready) {
  start();
  ASSERT_TRUE(ready());
  ASSERT_TRUE(ready("second"));
  ASSERT_TRUE(switch_to("second"));
  EXPECT_EQ(loads_, 2);
  EXPECT_EQ(host().name(), "second");
  EXPECT_THAT(loaded(), ElementsAre("second"));
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
          auto model = i == 2 ? ready() : ready(round % 3 == 0 ? "third" : "second");
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
  host().release("", into(waiting));
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
