#include "platform/random_bytes.h"

#include <gtest/gtest.h>

#include <array>

namespace mlxf::platform {
namespace {

TEST(RandomBytes, AreOthersEachTime) {
  std::array<uint8_t, 32> first{}, second{};
  ASSERT_TRUE(fill_random(first));
  ASSERT_TRUE(fill_random(second));
  EXPECT_NE(first, second);
  std::array<uint8_t, 300> long_one{};
  EXPECT_FALSE(fill_random(long_one)) << "more than the system gives at once";
}

}  // namespace
}  // namespace mlxf::platform
