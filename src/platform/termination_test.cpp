#include "platform/termination.h"

#include <gtest/gtest.h>

#include <csignal>

namespace mlxf::platform {
namespace {

TEST(TerminationSignals, CountEachSignal) {
  const auto signals = TerminationSignals::watch();
  ASSERT_TRUE(signals) << signals.error().message;
  EXPECT_FALSE(signals->wait(std::chrono::milliseconds(0)));
  ask_to_terminate();
  std::raise(SIGINT);
  EXPECT_TRUE(signals->wait(std::chrono::seconds(60)));
  EXPECT_TRUE(signals->wait(std::chrono::seconds(60)));
  EXPECT_FALSE(signals->wait(std::chrono::milliseconds(0)));
}

}  // namespace
}  // namespace mlxf::platform
