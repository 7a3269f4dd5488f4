#include "engine/turns.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "base/bounded_queue.h"

namespace mlxf::engine {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(Turns, OneAloneNeverWaits) {
  Turns turns;
  Turns::Turn turn(&turns);
  for (int step = 0; step < 3; ++step) {
    turn.begin();
    turn.border();
  }
  turn.end();
  EXPECT_EQ(turns.waiting(), 0u);
  Turns::Turn alone(nullptr);
  alone.begin();
  alone.border();
  alone.end();
}

TEST(Turns, OneAtATimeAndEachGetsOn) {
  Turns turns{seconds(600)};
  std::atomic<int> inside{0}, most{0};
  std::vector<std::thread> threads;
  threads.reserve(3);
  for (int i = 0; i < 3; ++i)
    threads.emplace_back([&] {
      Turns::Turn turn(&turns);
      for (int step = 0; step < 200; ++step) {
        turn.begin();
        const int now = ++inside;
        int seen = most;
        while (now > seen && !most.compare_exchange_weak(seen, now)) continue;
        --inside;
        turn.border();
        if (step % 3 == 0) turn.end();
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(most, 1);
  EXPECT_EQ(turns.waiting(), 0u);
}

TEST(Turns, ALongTurnIsSharedAtItsBorders) {
  Turns turns{seconds(600)};
  Turns::Turn long_one(&turns);
  long_one.begin();
  BoundedQueue<int> got(1), go_on(1);
  std::thread other([&] {
    Turns::Turn turn(&turns);
    turn.begin();
    got.push(1);
    (void)go_on.wait(seconds(600));
    turn.end();
  });
  const auto given_up = std::chrono::steady_clock::now() + seconds(600);
  go_on.push(1);
  while (!got.poll() && std::chrono::steady_clock::now() < given_up) long_one.border();
  EXPECT_LT(std::chrono::steady_clock::now(), given_up);
  other.join();
}

TEST(Turns, WhoWaitsTooLongGoesOnBeside) {
  Turns turns{milliseconds(5)};
  Turns::Turn stuck(&turns), other(&turns);
  stuck.begin();
  other.begin();
  other.border();
  other.end();
  stuck.end();
  other.begin();
  EXPECT_EQ(turns.waiting(), 0u);
}

}  // namespace
}  // namespace mlxf::engine
