// Peak rates of AVX2. int8: vpmaddubsw, vpmaddwd and vpaddd, 32 products, into 8 independent accumulators; expected
// 1.5 cycles per 32 products on two vector pipes. f32: vfmadd231ps, 8 lanes, into 12 accumulators, which cover the
// latency of 4 to 5 cycles on two pipes.
//
// ymm14 and ymm15 hold the factors; they are finite and not denormal, which would be slower on some processors. The
// f32 accumulators start at zero and may grow to infinity, which costs nothing.
#include <cstdint>

#include "kernels/peak.h"

namespace mlxf::kernels {
namespace {

constexpr uint64_t kInt8PerRound = 8 * 32 * 2;
constexpr uint64_t kFloatPerRound = 12 * 8 * 2;
constexpr uint32_t kCodes = 0x05030703;  // Four codes.
constexpr float kFactor = 0.75f;

}  // namespace

#define MLXF_DOT(accumulator, product)                \
  "vpmaddubsw %%ymm15, %%ymm14, %%ymm" product        \
  "\n\t"                                              \
  "vpmaddwd %%ymm15, %%ymm" product ", %%ymm" product \
  "\n\t"                                              \
  "vpaddd %%ymm" product ", %%ymm" accumulator ", %%ymm" accumulator "\n\t"
#define MLXF_FMA(accumulator) "vfmadd231ps %%ymm15, %%ymm14, %%ymm" accumulator "\n\t"
#define MLXF_ZERO(accumulator) "vxorps %%ymm" accumulator ", %%ymm" accumulator ", %%ymm" accumulator "\n\t"
#define MLXF_REGISTERS                                                                                       \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", \
      "xmm13", "xmm14", "xmm15", "cc"

uint64_t avx2_int8_peak(uint64_t rounds) {
  uint64_t left = rounds;
  // clang-format off
  __asm__ volatile("vpbroadcastd %1, %%ymm14\n\t"
                   "vpbroadcastd %1, %%ymm15\n\t"
                   ".p2align 5\n"
                   "1:\n\t"
                   MLXF_DOT("0", "8") MLXF_DOT("1", "9") MLXF_DOT("2", "10") MLXF_DOT("3", "11")
                   MLXF_DOT("4", "12") MLXF_DOT("5", "13") MLXF_DOT("6", "8") MLXF_DOT("7", "9")
                   "dec %0\n\t"
                   "jnz 1b\n\t"
                   "vzeroupper"
                   : "+r"(left)
                   : "m"(kCodes)
                   : MLXF_REGISTERS);
  // clang-format on
  return rounds * kInt8PerRound;
}

uint64_t avx2_f32_peak(uint64_t rounds) {
  uint64_t left = rounds;
  // clang-format off
  __asm__ volatile("vbroadcastss %1, %%ymm14\n\t"
                   "vbroadcastss %1, %%ymm15\n\t"
                   MLXF_ZERO("0") MLXF_ZERO("1") MLXF_ZERO("2") MLXF_ZERO("3") MLXF_ZERO("4") MLXF_ZERO("5")
                   MLXF_ZERO("6") MLXF_ZERO("7") MLXF_ZERO("8") MLXF_ZERO("9") MLXF_ZERO("10") MLXF_ZERO("11")
                   ".p2align 5\n"
                   "1:\n\t"
                   MLXF_FMA("0") MLXF_FMA("1") MLXF_FMA("2") MLXF_FMA("3") MLXF_FMA("4") MLXF_FMA("5")
                   MLXF_FMA("6") MLXF_FMA("7") MLXF_FMA("8") MLXF_FMA("9") MLXF_FMA("10") MLXF_FMA("11")
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
#undef MLXF_REGISTERS

}  // namespace mlxf::kernels
