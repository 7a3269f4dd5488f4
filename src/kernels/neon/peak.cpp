// Peak rates of NEON. int8: sdot, 16 products each. f32: fmla, 4 lanes each. Both into 24 independent accumulators,
// which cover the latency of 4 cycles on four pipes.
//
// v30 and v31 hold the factors; they are finite and not denormal. The f32 accumulators start at zero and may grow to
// infinity, which costs nothing.
#include <cstdint>

#include "kernels/peak.h"

namespace mlxf::kernels {
namespace {

constexpr uint64_t kInt8PerRound = 24 * 16 * 2;
constexpr uint64_t kFloatPerRound = 24 * 4 * 2;
constexpr uint32_t kCodes = 0x05030703;    // Four codes.
constexpr uint32_t kFactor = 0x3f400000u;  // 0.75f

}  // namespace

#define MLXF_DOT(accumulator) "sdot v" accumulator ".4s, v30.16b, v31.16b\n\t"
#define MLXF_FMA(accumulator) "fmla v" accumulator ".4s, v30.4s, v31.4s\n\t"
#define MLXF_ZERO(accumulator) "movi v" accumulator ".4s, #0\n\t"
// clang-format off
#define MLXF_ALL(DO)                                                                     \
  DO("0") DO("1") DO("2") DO("3") DO("4") DO("5") DO("6") DO("7") DO("8") DO("9")        \
  DO("10") DO("11") DO("12") DO("13") DO("14") DO("15") DO("16") DO("17") DO("18")       \
  DO("19") DO("20") DO("21") DO("22") DO("23")
// clang-format on
#define MLXF_REGISTERS                                                                                  \
  "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13", "v14", "v15", \
      "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v30", "v31", "cc"

uint64_t neon_int8_peak(uint64_t rounds) {
  uint64_t left = rounds;
  // clang-format off
  __asm__ volatile("dup v30.4s, %w1\n\t"
                   "dup v31.4s, %w1\n\t"
                   MLXF_ALL(MLXF_ZERO)
                   ".p2align 5\n"
                   "1:\n\t"
                   MLXF_ALL(MLXF_DOT)
                   "subs %0, %0, #1\n\t"
                   "b.ne 1b"
                   : "+r"(left)
                   : "r"(kCodes)
                   : MLXF_REGISTERS);
  // clang-format on
  return rounds * kInt8PerRound;
}

uint64_t neon_f32_peak(uint64_t rounds) {
  uint64_t left = rounds;
  // clang-format off
  __asm__ volatile("dup v30.4s, %w1\n\t"
                   "dup v31.4s, %w1\n\t"
                   MLXF_ALL(MLXF_ZERO)
                   ".p2align 5\n"
                   "1:\n\t"
                   MLXF_ALL(MLXF_FMA)
                   "subs %0, %0, #1\n\t"
                   "b.ne 1b"
                   : "+r"(left)
                   : "r"(kFactor)
                   : MLXF_REGISTERS);
  // clang-format on
  return rounds * kFloatPerRound;
}

#undef MLXF_DOT
#undef MLXF_FMA
#undef MLXF_ZERO
#undef MLXF_ALL
#undef MLXF_REGISTERS

}  // namespace mlxf::kernels
