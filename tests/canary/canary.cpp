// Programs that must fail: each argument names a fault that the harness or a sanitizer has to notice. ctest runs them
// with WILL_FAIL, so a canary that ends well turns the run red: it would mean that failures no longer show.
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>

#include <gtest/gtest.h>

namespace {

TEST(Canary, Fails) { EXPECT_EQ(1, 2) << "This failure is wanted."; }

int read_past_the_end(int index) {
  const std::unique_ptr<int[]> values(new int[4]());
  return values[static_cast<size_t>(index)];
}

int overflow_an_int(int x) { return x + INT32_MAX; }

int race() {
  int shared = 0;
  std::thread other([&shared] { shared++; });
  shared++;
  other.join();
  return shared;
}

}  // namespace

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  const std::string fault = argc > 1 ? argv[1] : "";
  // argc keeps the compiler from knowing the values.
  if (fault == "address") return read_past_the_end(argc + 2) == 12345 ? 2 : 0;
  if (fault == "undefined") return overflow_an_int(argc) == 12345 ? 2 : 0;
  if (fault == "thread") return race() == 12345 ? 2 : 0;
  return RUN_ALL_TESTS();
}
