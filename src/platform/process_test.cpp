#include "platform/process.h"

#include <gtest/gtest.h>

#include <vector>

#include "platform/huge_memory.h"

namespace mlxf::platform {
namespace {

TEST(Process, HasProcessors) { EXPECT_GE(usable_processors(), 1u); }

TEST(Process, KnowsItsProgram) {
  EXPECT_EQ(program_identity(), program_identity());
#ifdef __linux__
  EXPECT_NE(program_identity(), "");
#endif
}

TEST(Process, PeakMemoryGrowsWithWhatIsTouched) {
  const uint64_t before = peak_resident_bytes();
  // More than the peak so far, because earlier tests may have freed what made it.
  std::vector<char> block(before + (uint64_t{64} << 20));
  // Volatile, because a compiler may otherwise leave out memory that nothing reads.
  volatile char* bytes = block.data();
  for (uint64_t i = 0; i < block.size(); i += 4096) bytes[i] = 1;
  EXPECT_GE(peak_resident_bytes(), block.size());
}

TEST(Process, OwnMemoryCountsWhatItHoldsNow) {
  const uint64_t before = own_memory_bytes();
  {
    // Mapped, not from the heap: AddressSanitizer keeps freed heap blocks for a while.
    const auto block = HugeMemory::allocate(uint64_t{64} << 20);
    ASSERT_TRUE(block) << block.error().message;
    volatile uint8_t* bytes = block->data();
    for (uint64_t i = 0; i < block->bytes(); i += 4096) bytes[i] = 1;
    EXPECT_GE(own_memory_bytes(), before + block->bytes() / 2);
  }
  EXPECT_LT(own_memory_bytes(), before + (uint64_t{32} << 20));
}

}  // namespace
}  // namespace mlxf::platform
