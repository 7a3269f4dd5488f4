#include "base/bounded_queue.h"

#include <gtest/gtest.h>

#include <memory>
#include <thread>
#include <vector>

namespace mlxf {
namespace {

using std::chrono::seconds;

TEST(BoundedQueue, KeepsTheOrderAndItsBound) {
  BoundedQueue<int> queue(2);
  EXPECT_TRUE(queue.push(1));
  EXPECT_TRUE(queue.push(2));
  EXPECT_TRUE(queue.full());
  EXPECT_FALSE(queue.push(3));
  EXPECT_EQ(queue.poll(), 1);
  EXPECT_EQ(queue.poll(), 2);
  EXPECT_EQ(queue.poll(), std::nullopt);
}

TEST(BoundedQueue, AnEndFitsIntoAFullQueue) {
  BoundedQueue<std::unique_ptr<int>> queue(1);
  EXPECT_TRUE(queue.push(std::make_unique<int>(1)));
  queue.push_last(std::make_unique<int>(2));
  EXPECT_FALSE(queue.push(std::make_unique<int>(3)));
  EXPECT_EQ(**queue.wait(seconds(0)), 1);
  EXPECT_EQ(**queue.wait(seconds(60)), 2);
  EXPECT_EQ(queue.wait(seconds(60)), std::nullopt) << "closed: nothing to wait for";
}

TEST(BoundedQueue, WaitsForAnotherThread) {
  BoundedQueue<int> queue(4);
  std::thread producer([&] {
    for (int i = 0; i < 1000;)
      if (queue.push(i)) ++i;
    queue.close();
  });
  std::vector<int> seen;
  while (const auto value = queue.wait(seconds(60))) seen.push_back(*value);
  producer.join();
  ASSERT_EQ(seen.size(), 1000u);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(seen[static_cast<size_t>(i)], i);
}

}  // namespace
}  // namespace mlxf
