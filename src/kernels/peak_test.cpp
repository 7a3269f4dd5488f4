// The peak loops of every instruction set that this machine has: they run, count their operations and take
// the time that those need.
#include "kernels/peak.h"

#include <gtest/gtest.h>

#include <ctime>

#include "kernels/kernel_table.h"

namespace mlxf::kernels {
namespace {

// Of this thread, so that other programs do not count.
double cpu_seconds(PeakFn run, uint64_t rounds) {
  timespec start{}, end{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &start);
  static_cast<void>(run(rounds));
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end);
  return static_cast<double>(end.tv_sec - start.tv_sec) +
         1e-9 * static_cast<double>(end.tv_nsec - start.tv_nsec);
}

TEST(PeakTest, LoopsCountTheirOperationsAndDoThem) {
  const KernelSet& set = available_kernels();
  for (uint32_t i = 0; i < set.count; ++i) {
    const PeakLoops loops = peak_loops(set.tables[i]->isa);
    EXPECT_STREQ(loops.isa, set.tables[i]->isa);
    EXPECT_STRNE(loops.int8_instruction, "");
    for (const PeakFn run : {loops.int8, loops.f32}) {
      const uint64_t one = run(1);
      EXPECT_GT(one, 0u);
      EXPECT_EQ(run(1000), 1000 * one);
      // A loop whose work was optimised away would claim far more than any processor does: 10^13 per second.
      const uint64_t rounds = 20'000'000 / one + 1;
      EXPECT_GT(cpu_seconds(run, rounds), static_cast<double>(rounds * one) / 1e13) << loops.isa;
    }
  }
}

}  // namespace
}  // namespace mlxf::kernels
