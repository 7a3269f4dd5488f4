// Peak rates of AVX-512 on zmm registers, 16 independent accumulators, which cover the latency of 4 to 5 cycles on two
// full-width pipes. int8: vpdpbusd, 64 products each. f32: vfmadd231ps, 16 lanes each. Expected: two instructions per
// cycle where there are two pipes, one on Zen 4, whose pipes are half as wide.
//
// zmm30 and zmm31 hold the factors; they are finite and not denormal, which would be slower on some processors. The
// f32 accumulators start at zero and may grow to infinity, which costs nothing.
#include <cstdint>

#include "kernels/peak.h"

namespace mlxf::kernels {
namespace {

constexpr uint64_t kInt8PerRound = 16 * 64 * 2;
constexpr uint64_t kFloatPerRound = 16 * 16 * 2;
constexpr uint32_t kCodes = 0x05030703;  // Four codes.
constexpr float kFactor = 0.75f;

}  // namespace

#define MLXF_DOT(accumulator) "vpdpbusd %%zmm31, %%zmm30, %%zmm" accumulator "\n\t"
#define MLXF_FMA(accumulator) "vfmadd231ps %%zmm31, %%zmm30, %%zmm" accumulator "\n\t"
#define MLXF_ZERO(accumulator) "vpxord %%zmm" accumulator ", %%zmm" accumulator ", %%zmm" accumulator "\n\t"
// Version 14 never settles on a layout for this list.
// clang-format off
#define MLXF_ALL(DO)                                        \
  DO("0") DO("1") DO("2") DO("3") DO("4") DO("5") DO("6")   \
  DO("7") DO("8") DO("9") DO("10") DO("11") DO("12")        \
  DO("13") DO("14") DO("15")
// clang-format on
#define MLXF_REGISTERS                                                                                       \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", \
      "xmm13", "xmm14", "xmm15", "xmm30", "xmm31", "cc"

uint64_t avx512_int8_peak(uint64_t rounds) {
  uint64_t left = rounds;
  // clang-format off
  __asm__ volatile("vpbroadcastd %1, %%zmm30\n\t"
                   "vpbroadcastd %1, %%zmm31\n\t"
                   ".p2align 5\n"
                   "1:\n\t"
                   MLXF_ALL(MLXF_DOT)
                   "dec %0\n\t"
                   "jnz 1b\n\t"
                   "vzeroupper"
                   : "+r"(left)
                   : "m"(kCodes)
                   : MLXF_REGISTERS);
  // clang-format on
  return rounds * kInt8PerRound;
}

uint64_t avx512_f32_peak(uint64_t rounds) {
  uint64_t left = rounds;
  // clang-format off
  __asm__ volatile("vbroadcastss %1, %%zmm30\n\t"
                   "vbroadcastss %1, %%zmm31\n\t"
                   MLXF_ALL(MLXF_ZERO)
                   ".p2align 5\n"
                   "1:\n\t"
                   MLXF_ALL(MLXF_FMA)
                   "dec %0\n\t"
                   "jnz 1b\n\t"
                   "vzeroupper"
                   : "+r"(left)
                   : "m"(kFactor)
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
