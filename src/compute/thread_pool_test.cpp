#include "compute/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace mlxf::compute {
namespace {

TEST(ThreadPool, RunsEveryChunkExactlyOnce) {
  for (uint32_t threads : {1u, 2u, 3u, 8u}) {
    ThreadPool pool(threads);
    for (uint32_t chunks : {0u, 1u, 2u, 7u, 1000u}) {
      std::vector<std::atomic<int>> counts(chunks);
      pool.parallel_for(chunks, [&](uint32_t chunk, uint32_t worker) {
        ASSERT_LT(worker, threads);
        counts[chunk].fetch_add(1);
      });
      for (const auto& count : counts) EXPECT_EQ(count.load(), 1);
    }
  }
}

TEST(ThreadPool, WritesOfChunksAreVisibleAfterTheCall) {
  ThreadPool pool(4);
  std::vector<int> values(64);  // Plain ints: a missing barrier is a data race that TSan reports.
  for (int round = 1; round <= 20000; ++round) {
    pool.parallel_for(64, [&](uint32_t chunk, uint32_t) { values[chunk] += 1; });
    ASSERT_EQ(values[static_cast<size_t>(round) % 64], round);
  }
}

TEST(ThreadPool, SleepingWorkersWakeUp) {
  ThreadPool pool(2);
  for (int round = 0; round < 20; ++round) {
    // Longer than the spin, so the worker has gone to sleep.
    const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(1);
    while (std::chrono::steady_clock::now() < until) {
    }
    std::atomic<uint32_t> sum{0};
    pool.parallel_for(100, [&](uint32_t chunk, uint32_t) { sum.fetch_add(chunk); });
    EXPECT_EQ(sum.load(), 4950u);
  }
}

TEST(ThreadPool, TheOwnerLooksAfterOtherThingsBetweenItsChunks) {
  for (const uint32_t threads : {1u, 3u})
    for (const uint32_t chunks : {1u, 1000u}) {
      ThreadPool pool(threads);
      const auto owner = std::this_thread::get_id();
      uint32_t calls = 0, own_chunks = 0;
      pool.set_between(&calls, [&] {
        EXPECT_EQ(std::this_thread::get_id(), owner);
        EXPECT_EQ(++calls, own_chunks);
      });
      pool.parallel_for(chunks, [&](uint32_t, uint32_t worker) {
        if (worker == 0) ++own_chunks;
      });
      EXPECT_EQ(calls, own_chunks);
      EXPECT_TRUE(threads > 1 || calls == chunks);
      pool.end_between(&calls);
      pool.parallel_for(chunks, [](uint32_t, uint32_t) {});
      EXPECT_EQ(calls, own_chunks);
    }
}

TEST(ThreadPool, WhoSetNothingEndsNothing) {
  ThreadPool pool(1);
  uint32_t first = 0, second = 0;
  pool.set_between(&first, [&] { ++first; });
  pool.set_between(&second, [&] { ++second; });
  pool.end_between(&first);
  pool.parallel_for(1, [](uint32_t, uint32_t) {});
  EXPECT_EQ(first, 0u);
  EXPECT_EQ(second, 1u);
  pool.end_between(&second);
  pool.parallel_for(1, [](uint32_t, uint32_t) {});
  EXPECT_EQ(second, 1u);
}

TEST(ThreadPool, ManyPoolsComeAndGo) {
  for (int i = 0; i < 200; ++i) {
    ThreadPool pool(3);
    std::atomic<int> count{0};
    pool.parallel_for(5, [&](uint32_t, uint32_t) { count.fetch_add(1); });
    EXPECT_EQ(count.load(), 5);
  }
}

}  // namespace
}  // namespace mlxf::compute
