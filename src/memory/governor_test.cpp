#include "memory/governor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "memory/budget.h"

namespace mlxf::memory {
namespace {

using platform::MemoryReading;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;
using Cause = Decision::Cause;

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kGiB = uint64_t{1} << 30;

// ---- One decision after the other, by hand: a host of 40 GiB, of which 4 GiB are to be left to others. ----------

class GovernorTest : public ::testing::Test {
 protected:
  // Asks with slots as large as the last target and `others` bytes in use by other programs.
  Decision ask(uint64_t others, nanoseconds now) {
    MemoryReading reading;
    reading.total_bytes = kTotal;
    reading.available_bytes = kTotal - std::min(kTotal, others + slots_);
    if (limit_ != 0) {
      reading.limit_bytes = limit_;
      reading.limit_room_bytes = limit_ - std::min(limit_, group_others_ + slots_);
    }
    reading.host_stalls.known = reading.group_stalls.known = true;
    reading.host_stalls.some_total_us = host_stalls_us_;
    reading.group_stalls.some_total_us = group_stalls_us_;
    reading.pressure = pressure_;
    const Decision decision = governor_.decide(reading, {slots_, other_holdings_}, now);
    slots_ = decision.slot_bytes;
    return decision;
  }
  // Asks every 100 ms until `end`; how often the target changed.
  int ask_until(uint64_t others, nanoseconds from, nanoseconds end) {
    int changes = 0;
    for (nanoseconds now = from; now < end; now += milliseconds(100)) {
      const uint64_t before = slots_;
      changes += ask(others, now).slot_bytes != before;
    }
    return changes;
  }

  static constexpr uint64_t kTotal = 40 * kGiB;
  Governor governor_{GovernorOptions{.budget_bytes = 20 * kGiB, .floor_bytes = 300 * kMiB}};
  uint64_t slots_ = 0;
  uint64_t limit_ = 0;
  uint64_t group_others_ = 0;
  uint64_t other_holdings_ = 0;
  uint64_t host_stalls_us_ = 0;
  uint64_t group_stalls_us_ = 0;
  platform::MemoryPressure pressure_ = platform::MemoryPressure::kNormal;
};

TEST_F(GovernorTest, StartsAtTheBudgetLessOtherHoldings) {
  other_holdings_ = 2 * kGiB;
  const Decision decision = ask(5 * kGiB, seconds(7));
  EXPECT_EQ(decision.slot_bytes, 18 * kGiB);
  EXPECT_EQ(decision.cause, Cause::kStart);
}

TEST_F(GovernorTest, StartsWithWhatLeavesMostOfTheReserve) {
  EXPECT_EQ(ask(30 * kGiB, seconds(0)).slot_bytes, 7 * kGiB);
}

// Slots that could not be filled are no target: a shrink begins with what is there.
TEST(GovernorOfFewSlots, AimsNeverAboveWhatIsOfUse) {
  constexpr uint64_t kMost = 3 * kGiB + 5;
  Governor governor({.budget_bytes = 20 * kGiB, .floor_bytes = 300 * kMiB, .most_bytes = kMost});
  uint64_t slots = kMost;
  const auto ask = [&](uint64_t available, nanoseconds now) {
    platform::MemoryReading reading;
    reading.total_bytes = 40 * kGiB;
    reading.available_bytes = available;
    return slots = governor.decide(reading, {slots, 0}, now).slot_bytes;
  };
  EXPECT_EQ(ask(20 * kGiB, seconds(0)), kMost);
  for (int second = 1; second < 300; ++second) EXPECT_EQ(ask(20 * kGiB, seconds(second)), kMost);
  EXPECT_EQ(ask(kGiB / 2, seconds(300)),
            2240 * kMiB);  // Three quarters of half of what there is are left then.
  for (int second = 301; second < 400; ++second) (void)ask(20 * kGiB, seconds(second));
  EXPECT_EQ(slots, kMost);
}

TEST_F(GovernorTest, HoldsWhileNothingChanges) {
  (void)ask(10 * kGiB, seconds(0));
  EXPECT_EQ(ask_until(10 * kGiB, milliseconds(100), seconds(600)), 0);
  EXPECT_EQ(slots_, 20 * kGiB);
}

TEST_F(GovernorTest, ShrinksByTheShortageWithinASecondAndOnce) {
  (void)ask(10 * kGiB, seconds(0));
  (void)ask(10 * kGiB, seconds(5));
  EXPECT_EQ(ask(17 * kGiB, milliseconds(5100)).cause, Cause::kHold);  // 3 GiB are left, more than half of 4.
  const Decision decision = ask(19 * kGiB, milliseconds(5200));       // 1 GiB.
  EXPECT_EQ(decision.cause, Cause::kLow);
  EXPECT_EQ(decision.slot_bytes, 18 * kGiB);  // 3 GiB are left.
  EXPECT_EQ(ask_until(19 * kGiB, milliseconds(5300), seconds(900)), 0);
}

TEST_F(GovernorTest, StepsAtMostOnceASecond) {
  (void)ask(10 * kGiB, seconds(0));
  EXPECT_EQ(ask(25 * kGiB, milliseconds(999)).cause, Cause::kHold);
  EXPECT_EQ(ask(25 * kGiB, milliseconds(1000)).cause, Cause::kLow);
  EXPECT_EQ(ask(30 * kGiB, milliseconds(1999)).cause, Cause::kHold);
  EXPECT_EQ(ask(30 * kGiB, milliseconds(2000)).cause, Cause::kLow);
}

TEST_F(GovernorTest, NeverBelowTheFloor) {
  (void)ask(10 * kGiB, seconds(0));
  (void)ask_until(40 * kGiB, seconds(2), seconds(20));  // 3 GiB a step, then 3/8 of what is there.
  EXPECT_EQ(slots_, 300 * kMiB);
  other_holdings_ = 30 * kGiB;  // More than the budget.
  EXPECT_EQ(ask(40 * kGiB, seconds(24)).slot_bytes, 300 * kMiB);
  EXPECT_EQ(ask(0, seconds(25)).slot_bytes, 300 * kMiB);
}

TEST_F(GovernorTest, GrowsBackInStepsAfterACalmWait) {
  (void)ask(10 * kGiB, seconds(0));
  (void)ask(20 * kGiB, seconds(1));
  EXPECT_EQ(slots_, 17 * kGiB);
  EXPECT_EQ(ask_until(10 * kGiB, milliseconds(1100), milliseconds(5900)), 0);
  EXPECT_EQ(ask_until(10 * kGiB, milliseconds(5900), milliseconds(6500)), 1);
  EXPECT_EQ(slots_, 17 * kGiB + 20 * kGiB / 16);
  EXPECT_EQ(ask_until(10 * kGiB, milliseconds(6500), seconds(60)), 2);
  EXPECT_EQ(slots_, 20 * kGiB);
}

TEST_F(GovernorTest, GrowsOnlyToWhatTheWorstMomentOfTheCalmAllowed) {
  (void)ask(10 * kGiB, seconds(0));
  (void)ask(20 * kGiB, seconds(1));
  (void)ask(18 * kGiB, seconds(2));  // 18 GiB would leave the reserve.
  (void)ask_until(10 * kGiB, milliseconds(2100), seconds(11));
  EXPECT_EQ(slots_, 18 * kGiB);
  (void)ask_until(10 * kGiB, seconds(11), seconds(30));  // The next wait has no such moment.
  EXPECT_EQ(slots_, 20 * kGiB);
}

TEST_F(GovernorTest, TimeThatNobodySawIsNoCalm) {
  (void)ask(10 * kGiB, seconds(0));
  (void)ask(20 * kGiB, seconds(1));
  EXPECT_EQ(ask(10 * kGiB, seconds(1000)).cause, Cause::kHold);
  EXPECT_EQ(ask(10 * kGiB, seconds(2000)).cause, Cause::kHold);
  EXPECT_EQ(ask(10 * kGiB, seconds(3000)).cause, Cause::kCalm);
}

TEST_F(GovernorTest, OtherHoldingsPushTheSlotsAtOnceAndByWholeChunks) {
  (void)ask(10 * kGiB, seconds(0));
  other_holdings_ = 1;
  EXPECT_EQ(ask(10 * kGiB, milliseconds(1)).slot_bytes, 20 * kGiB - 64 * kMiB);
  other_holdings_ = 64 * kMiB;
  EXPECT_EQ(ask(10 * kGiB, milliseconds(2)).cause, Cause::kHold);
  other_holdings_ = 64 * kMiB + 1;
  EXPECT_EQ(ask(10 * kGiB, milliseconds(3)).cause, Cause::kCeiling);
  EXPECT_EQ(slots_, 20 * kGiB - 128 * kMiB);
  other_holdings_ = 0;
  EXPECT_EQ(ask_until(10 * kGiB, milliseconds(4), milliseconds(4900)), 0);
  EXPECT_EQ(ask_until(10 * kGiB, milliseconds(4900), seconds(20)), 1);
  EXPECT_EQ(slots_, 20 * kGiB);
}

TEST_F(GovernorTest, AGroupsLimitCountsWithItsOwnReserve) {
  limit_ = 33 * kGiB / 2;  // Reserve: a thirty-third, 512 MiB.
  EXPECT_EQ(ask(10 * kGiB, seconds(0)).slot_bytes, 33 * kGiB / 2 - 384 * kMiB);
  group_others_ = 200 * kMiB;
  EXPECT_EQ(ask(10 * kGiB, seconds(2)).cause, Cause::kLow);
  EXPECT_EQ(slots_, 33 * kGiB / 2 - 384 * kMiB - 256 * kMiB);  // To whole chunks of 64 MiB.
}

TEST_F(GovernorTest, StallsOfOurGroupShrinkEvenWithMemoryLeft) {
  (void)ask(5 * kGiB, seconds(0));
  group_stalls_us_ = 50000;  // 5 % of a second: nobody notices.
  EXPECT_EQ(ask(5 * kGiB, seconds(1)).cause, Cause::kHold);
  group_stalls_us_ += 500000;
  const Decision decision = ask(5 * kGiB, seconds(2));
  EXPECT_EQ(decision.cause, Cause::kStalls);
  EXPECT_EQ(decision.slot_bytes, 18 * kGiB);  // Half of the reserve of 4 GiB.
  EXPECT_EQ(ask(5 * kGiB, seconds(3)).cause, Cause::kHold);
}

TEST_F(GovernorTest, StallsOfTheHostShrinkOnlyWhenMemoryIsTight) {
  (void)ask(5 * kGiB, seconds(0));
  host_stalls_us_ = 900000;
  EXPECT_EQ(ask(5 * kGiB, seconds(1)).cause, Cause::kHold);  // Somebody else against a limit of their own.
  host_stalls_us_ += 900000;
  EXPECT_EQ(ask(13 * kGiB, seconds(2)).cause, Cause::kStalls);  // 7 GiB left: above R, below 2 R.
}

TEST_F(GovernorTest, StallTotalsThatRestartAreNoStalls) {
  group_stalls_us_ = 900000000;
  (void)ask(5 * kGiB, seconds(0));
  group_stalls_us_ = 5;
  EXPECT_EQ(ask(5 * kGiB, seconds(1)).cause, Cause::kHold);
}

TEST_F(GovernorTest, PressureLevelsStandForStalls) {
  (void)ask(5 * kGiB, seconds(0));
  pressure_ = platform::MemoryPressure::kWarning;
  EXPECT_EQ(ask(5 * kGiB, seconds(1)).cause, Cause::kHold);
  EXPECT_EQ(ask(13 * kGiB, seconds(2)).slot_bytes, 19 * kGiB);
  pressure_ = platform::MemoryPressure::kCritical;
  EXPECT_EQ(ask(5 * kGiB, seconds(3)).slot_bytes, 15 * kGiB);
}

TEST_F(GovernorTest, AShrinkAfterAGrowthDoublesTheWaitAndQuietHalvesIt) {
  (void)ask(10 * kGiB, seconds(0));
  (void)ask(20 * kGiB, seconds(1));
  EXPECT_EQ(governor_.calm_wait(), seconds(5));
  (void)ask_until(10 * kGiB, seconds(2), seconds(20));
  EXPECT_EQ(slots_, 20 * kGiB);
  (void)ask(20 * kGiB, seconds(30));
  EXPECT_EQ(slots_, 17 * kGiB);
  EXPECT_EQ(governor_.calm_wait(), seconds(10));
  EXPECT_EQ(ask_until(10 * kGiB, milliseconds(30100), milliseconds(39500)), 0);
  EXPECT_EQ(ask_until(10 * kGiB, milliseconds(39500), seconds(45)), 3);
  (void)ask_until(10 * kGiB, seconds(45), seconds(345));
  EXPECT_EQ(governor_.calm_wait(), seconds(10));
  (void)ask_until(10 * kGiB, seconds(345), seconds(355));
  EXPECT_EQ(governor_.calm_wait(), seconds(5));
}

// ---- Random worlds ----------------------------------------------------------------------------------------------

// Other programs, the kernel's counters, and slots that follow the target as real ones do: given up within a token or
// two, filled at the disk's pace. Faults injected: readings that wobble, tokens of up to 400 ms, pinned slots.
struct World {
  uint64_t total = 0;
  uint64_t limit = platform::kNoMemoryLimit;
  uint64_t budget = 0;
  uint64_t floor = 0;
  uint64_t other_holdings = 0;
  uint64_t fill_bytes_per_s = 0;
  uint64_t wobble = 0;  // Of the reading, either way.
  milliseconds token_max{0};
  bool pins = false;
  std::function<uint64_t(double)> others;  // Bytes of other programs at a time in seconds; outside our group.
  double seconds_long = 0;
};

struct Outcome {
  int reversals = 0;       // Changes of direction; giving way to other holdings included.
  int late_reversals = 0;  // Those in the second half.
  uint64_t target = 0;
  MemoryReading last;
  std::string fault;  // The first broken promise.
};

uint64_t between(std::mt19937_64& random, uint64_t low, uint64_t high) {
  return low + random() % (std::max(low, high) - low + 1);
}

class Simulation {
 public:
  Simulation(World world, std::mt19937_64& random)
      : world_(std::move(world)),
        random_(random),
        governor_(GovernorOptions{.budget_bytes = world_.budget, .floor_bytes = world_.floor}) {}

  Outcome run() {
    for (nanoseconds now{0}; std::chrono::duration<double>(now).count() < world_.seconds_long;) {
      step(now);
      if (!out_.fault.empty()) break;
      const auto token = milliseconds(between(random_, 5, static_cast<uint64_t>(world_.token_max.count())));
      fill(token);
      now += token;
    }
    out_.target = governor_.target();
    return out_;
  }

 private:
  [[nodiscard]] MemoryReading observe(double at) {
    MemoryReading reading;
    reading.total_bytes = world_.total;
    const uint64_t used = world_.others(at) + slots_ + world_.other_holdings;
    const uint64_t free = world_.total - std::min(world_.total, used);
    const uint64_t noise = world_.wobble == 0 ? 0 : between(random_, 0, 2 * world_.wobble);
    reading.available_bytes = std::min(world_.total, free + noise - std::min(free + noise, world_.wobble));
    if (world_.limit != platform::kNoMemoryLimit) {
      reading.limit_bytes = world_.limit;
      reading.limit_room_bytes = world_.limit - std::min(world_.limit, slots_ + world_.other_holdings);
    }
    return reading;
  }

  // Whether others are left less than half of what they are to have, restated from the contract.
  [[nodiscard]] bool is_low(const MemoryReading& reading) const {
    const Reserves reserves = reserves_for(reading, slots_ + world_.other_holdings);
    return reading.available_bytes < reserves.host_bytes / 2 ||
           reading.limit_room_bytes < reserves.group_bytes / 2;
  }

  void step(nanoseconds now) {
    const double at = std::chrono::duration<double>(now).count();
    const MemoryReading reading = observe(at);
    const uint64_t before = governor_.target();
    const uint64_t slots = slots_;
    const bool low = is_low(reading);
    const Decision decision = governor_.decide(reading, {slots_, world_.other_holdings}, now);
    const uint64_t target = decision.slot_bytes;
    out_.last = reading;
    const uint64_t ceiling = world_.budget - std::min(world_.budget, world_.other_holdings);
    if (target < world_.floor) blame("below the floor", at);
    if (target > std::max(world_.floor, ceiling)) blame("above the budget", at);
    const bool changed = decision.cause != Cause::kStart && target != before;
    if (changed && now - changed_at_ < seconds(1)) blame("two steps within a second", at);
    if (changed && decision.cause == Cause::kCalm && low) blame("grew while others had too little", at);
    if (changed) {
      const int direction = target > before ? 1 : -1;
      out_.reversals += direction_ != 0 && direction != direction_;
      out_.late_reversals += direction_ != 0 && direction != direction_ && at > world_.seconds_long / 2;
      direction_ = direction;
    }
    if (changed || decision.cause == Cause::kStart) changed_at_ = now;
    // Slots beyond the target are given up within a token, or with pins within a few.
    if (slots_ > target && !(world_.pins && random_() % 4 == 0)) slots_ = target;
    if (!low || slots <= world_.floor || target < slots)
      low_since_ = now + world_.token_max;
    else if (now - low_since_ > seconds(1))
      blame("others had too little for over a second", at);
  }

  void fill(milliseconds token) {
    const uint64_t come = world_.fill_bytes_per_s * static_cast<uint64_t>(token.count()) / 1000;
    if (slots_ < governor_.target()) slots_ = std::min(governor_.target(), slots_ + come);
  }

  void blame(const std::string& what, double at) {
    if (out_.fault.empty())
      out_.fault = what + " at " + std::to_string(at) + " s: target " + size_text(governor_.target()) +
                   ", slots " + size_text(slots_) + ", available " + size_text(out_.last.available_bytes);
  }

  World world_;
  std::mt19937_64& random_;
  Governor governor_;
  Outcome out_;
  uint64_t slots_ = 0;
  int direction_ = 0;
  nanoseconds changed_at_{0};
  nanoseconds low_since_{0};
};

World random_world(std::mt19937_64& random) {
  World world;
  world.total = between(random, 4 * kGiB, 128 * kGiB);
  world.budget = between(random, kGiB, world.total);
  world.floor = between(random, 0, 512 * kMiB);
  world.other_holdings = between(random, 0, kGiB / 2);
  world.fill_bytes_per_s = between(random, 500 * kMiB, 8 * kGiB);
  world.token_max = milliseconds(between(random, 20, 400));
  world.pins = random() % 2 == 0;
  if (random() % 3 == 0) world.limit = between(random, 2 * kGiB, world.total);
  return world;
}

// MLXF_SEED=n replays one scenario; otherwise they are 1, 2, …
void for_seeds(int count, const std::function<void(std::mt19937_64&)>& scenario) {
  const char* only = std::getenv("MLXF_SEED");
  const uint64_t first = only != nullptr ? std::strtoull(only, nullptr, 10) : 1;
  const uint64_t last = only != nullptr ? first : static_cast<uint64_t>(count);
  for (uint64_t seed = first; seed <= last && !::testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE("replay with MLXF_SEED=" + std::to_string(seed));
    std::mt19937_64 random(seed);
    scenario(random);
  }
}

TEST(GovernorWorlds, ConstantLoadIsNeverFollowedToAndFro) {
  for_seeds(3000, [](std::mt19937_64& random) {
    World world = random_world(random);
    const uint64_t others = between(random, 0, world.total);
    world.others = [others](double) { return others; };
    world.wobble = kGiB / 16;
    world.seconds_long = 60;
    const Outcome outcome = Simulation(world, random).run();
    EXPECT_EQ(outcome.fault, "");
    // At most one: the start was too much, or too little.
    EXPECT_LE(outcome.reversals, 1);
    EXPECT_EQ(outcome.late_reversals, 0);
  });
}

TEST(GovernorWorlds, GivesWayToOneProgramAndComesBack) {
  for_seeds(3000, [](std::mt19937_64& random) {
    World world = random_world(random);
    const uint64_t base = between(random, 0, world.total / 2);
    const uint64_t more = between(random, 0, world.total - base);
    const double from = static_cast<double>(between(random, 0, 20));
    const double until = from + static_cast<double>(between(random, 1, 30));
    world.others = [=](double at) { return base + (at >= from && at < until ? more : 0); };
    world.seconds_long = 110;
    const Outcome outcome = Simulation(world, random).run();
    EXPECT_EQ(outcome.fault, "");
    EXPECT_LE(outcome.reversals, 3);  // Grew, gave way, grew back.
    // Back to what leaves the reserve, to within the margin that hysteresis needs.
    const Reserves reserves = reserves_for(outcome.last, outcome.target + world.other_holdings);
    const uint64_t ceiling = world.budget - std::min(world.budget, world.other_holdings);
    const uint64_t most =
        world.total - base - std::min(world.total - base, world.other_holdings + reserves.host_bytes);
    const uint64_t group = world.limit - std::min(world.limit, world.other_holdings + reserves.group_bytes);
    const uint64_t could = std::min({ceiling, most, group});
    const uint64_t slack = std::max(reserves.host_bytes, reserves.group_bytes) / 4 + 128 * kMiB;
    EXPECT_GE(outcome.target + slack, could) << size_text(outcome.target) << " of " << size_text(could);
  });
}

TEST(GovernorWorlds, ProgramsThatComeAndGoAreFollowedEverMoreSlowly) {
  for_seeds(2000, [](std::mt19937_64& random) {
    World world = random_world(random);
    const uint64_t base = between(random, 0, world.total / 2);
    const uint64_t more = between(random, 0, world.total - base);
    const double period = static_cast<double>(between(random, 2, 60));
    const double share = static_cast<double>(between(random, 10, 90)) / 100;
    world.others = [=](double at) {
      return base + (at / period - std::floor(at / period) < share ? more : 0);
    };
    world.seconds_long = 600;
    const Outcome outcome = Simulation(world, random).run();
    EXPECT_EQ(outcome.fault, "");
    // The calm wait doubles with every growth that is taken back: after at most four (5, 10, 20, 40 s) it outlasts
    // any quiet of up to 54 s, and then only one more is tried every 320 s. A try is two reversals.
    EXPECT_LE(outcome.reversals, 2 * (4 + 600 / 320) + 1);
    EXPECT_LE(outcome.late_reversals, 5);
  });
}

TEST(GovernorWorlds, RandomProgramsNeverSufferForLong) {
  for_seeds(2000, [](std::mt19937_64& random) {
    World world = random_world(random);
    // A random walk with jumps, looked up by the second and joined by lines: ramps of many GiB a second included.
    std::vector<uint64_t> walk{between(random, 0, world.total)};
    for (int i = 0; i < 130; ++i) {
      const uint64_t now = walk.back();
      const uint64_t small = between(random, 0, kGiB / 2);
      const bool jump = random() % 8 == 0;
      const uint64_t down = now - std::min(now, small);
      walk.push_back(jump ? between(random, 0, world.total)
                          : std::min(world.total, random() % 2 == 0 ? now + small : down));
    }
    world.others = [walk](double at) {
      const auto i = static_cast<size_t>(at);
      const double part = at - std::floor(at);
      return static_cast<uint64_t>(static_cast<double>(walk[i]) * (1 - part) +
                                   static_cast<double>(walk[i + 1]) * part);
    };
    world.wobble = kGiB / 32;
    world.seconds_long = 120;
    const Outcome outcome = Simulation(world, random).run();
    EXPECT_EQ(outcome.fault, "");
  });
}

}  // namespace
}  // namespace mlxf::memory
