#include "platform/machine.h"

#include <gtest/gtest.h>

#include <cstring>

#include "platform/huge_memory.h"

namespace mlxf::platform {
namespace {

TEST(Machine, SaysWhatItIs) {
  EXPECT_NE(system_name().find(' '), std::string::npos);
  EXPECT_GE(load_average(), 0);
}

TEST(Machine, HugePagesAreCountedWhereTheSystemGivesThem) {
  const std::string mode = huge_page_mode();
  if (mode != "always" && mode != "madvise") GTEST_SKIP() << "SKIPPED: no transparent huge pages here";
  const uint64_t before = huge_page_bytes();
  const auto memory = HugeMemory::allocate(uint64_t{64} << 20);
  ASSERT_TRUE(memory);
  std::memset(memory->data(), 1, memory->bytes());
  EXPECT_GT(huge_page_bytes(), before);  // Not all of it: memory may be fragmented.
}

}  // namespace
}  // namespace mlxf::platform
