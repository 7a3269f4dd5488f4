#include "model/guess_gate.h"

#include <gtest/gtest.h>

namespace mlxf::model {
namespace {

// Layers of the first `count` for which the gate was open, a layer taking a millisecond.
uint32_t open_layers(uint32_t count, double used_share, double stall_share) {
  GuessGate gate;
  uint32_t open = 0;
  for (uint32_t layer = 0; layer < count; ++layer) {
    const double seconds = layer * 1e-3;
    open += gate.open({4 * uint64_t{layer}, static_cast<uint64_t>(4 * layer * used_share),
                       stall_share * seconds, seconds})
                ? 1
                : 0;
  }
  return open;
}

TEST(GuessGate, StaysOpenWhileGuessesPay) {
  EXPECT_EQ(open_layers(20000, 0.7, 0.2), 20000u) << "the disk has time for wrong ones";
  EXPECT_EQ(open_layers(20000, 0.95, 0.8), 20000u) << "it has none, and hardly any are wrong";
}

TEST(GuessGate, ClosesForAWhileWhereTheyDoNotPay) {
  for (const auto& [used, stall] : {std::pair{0.4, 0.2}, {0.7, 0.8}, {0.97, 0.02}}) {
    EXPECT_EQ(open_layers(256 + 4096, used, stall), 255u);
    EXPECT_EQ(open_layers(2 * 256 + 4096, used, stall), 2 * 255u) << "tries again";
    EXPECT_EQ(open_layers(3 * 256 + 3 * 4096, used, stall), 3 * 255u) << "after twice as long";
  }
  // For ever longer, but not for ever.
  EXPECT_NEAR(open_layers(1'000'000, 0.7, 0.8), 255.0 * 1e6 / (256 + 16 * 4096), 255 * 6);
}

}  // namespace
}  // namespace mlxf::model
