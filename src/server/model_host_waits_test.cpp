// What waits for a model while others come, stay and leave: races that a client sees as a wrong model or a long wait.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/model_host.h"
#include "server/test_model_host.h"

namespace mlxf::server {
namespace {

using std::chrono::milliseconds;
using testing::ElementsAre;
using State = ModelHost::State;

// Who named no model waits for whatever comes: not for the one before, which would be loaded again for it.
TEST_F(ModelHostTest, WhoWaitedForNoModelInParticularGetsTheOneSwitchedTo) {
  options_.by_name = false;  // Where the one before may not even be named any more.
  start();
  auto held = ready();
  ASSERT_TRUE(held);
  const auto released = std::make_shared<Done>(1), switched = std::make_shared<Done>(1);
  host().release("", into(released));
  ASSERT_TRUE(comes_to(State::kUnloaded)) << "it waits for who holds it";
  const Answers waiting = ask();
  host().switch_to("second", into(switched));
  held = Model();
  EXPECT_TRUE(wait(released));
  ASSERT_TRUE(wait(switched));
  const auto got = waiting->wait(kPatience);
  ASSERT_TRUE(got && *got) << got->error().message;
  EXPECT_EQ((**got)->name, "second");
  EXPECT_EQ(loads_, 2) << "first, second";
}

TEST_F(ModelHostTest, WhoWaitedForNoModelInParticularGetsOneThatIsThereAlready) {
  start();
  auto held = ready();
  ASSERT_TRUE(ready("second"));
  const auto released = std::make_shared<Done>(1), switched = std::make_shared<Done>(1);
  host().release("first", into(released));
  while (loaded() != std::vector<std::string>{"second"}) std::this_thread::yield();
  const Answers waiting = ask_for("first");
  const Answers local = ask();
  host().switch_to("second", into(switched));
  held = Model();
  ASSERT_TRUE(wait(switched));
  EXPECT_EQ((**local->wait(kPatience))->name, "second");
  EXPECT_EQ((**waiting->wait(kPatience))->name, "first") << "named";
}

// What its headers promise may be less than it takes: then it waits for models in use, as if that had been known.
TEST_F(ModelHostTest, WhatTakesMoreThanItsHeadersSayWaitsForAModelInUse) {
  constexpr uint64_t kGib = uint64_t{1} << 30;
  options_.budget = [] { return Result<uint64_t>(4 * kGib); };
  ModelSource first = source("first");
  first.open = [](uint64_t) { return open_oracle("models/classics-moe-4bit", 4 * kGib); };
  tight_ = {"second"};
  needs_["second"] = {1 << 20, 2 << 20};
  start_with(std::move(first));
  auto held = ready();
  ASSERT_TRUE(held);
  ASSERT_GT(host().loaded().at(0).claim_bytes, 0u);
  const Answers second = ask_for("second");
  const auto early = second->wait(milliseconds(100));
  EXPECT_FALSE(early) << "somebody uses the first: " << (*early ? "loaded" : early->error().message);
  held = Model();
  const auto got = second->wait(kPatience);
  ASSERT_TRUE(got && *got) << got->error().message;
  EXPECT_EQ((**got)->name, "second");
}

// Whom nobody waits for any more makes no room either.
TEST_F(ModelHostTest, AModelThatWasToMakeRoomStaysWhenWhoAskedHasLeft) {
  options_.models_max = 1;
  start();
  const auto held = ready();
  ASSERT_TRUE(held);
  auto asker = std::make_shared<int>(0);
  host().when_ready(
      {"second", false}, [](const Result<Model>&) {}, asker);
  // Once it is to leave, others wait.
  Answers waiting;
  for (bool waits = false; !waits; waits = !waiting->wait(milliseconds(20))) waiting = ask_for("first");
  asker.reset();
  const Answers next = ask_for("first");
  const auto got = next->wait(kPatience);
  ASSERT_TRUE(got && *got) << "the first is still there, and nobody wants its place";
  EXPECT_EQ((**got)->name, "first");
  EXPECT_TRUE(waiting->wait(kPatience)->has_value());
  EXPECT_EQ(loads_, 1);
  EXPECT_THAT(loaded(), ElementsAre("first"));
}

// Nobody is made to wait for a model that would answer nothing.
TEST_F(ModelHostTest, WhoWaitsWhenTheServerDrainsIsToldAtOnce) {
  options_.models_max = 1;
  start();
  const auto held = ready();  // An answer under way.
  ASSERT_TRUE(held);
  const Answers second = ask_for("second");
  EXPECT_FALSE(second->wait(milliseconds(20)));
  host().drain();
  const auto refused = second->wait(kPatience);
  ASSERT_TRUE(refused) << "it waits for the first";
  ASSERT_FALSE(*refused);
  EXPECT_EQ(refused->error().code, ErrorCode::kUnavailable);
  EXPECT_EQ(loads_, 1);
}

}  // namespace
}  // namespace mlxf::server
