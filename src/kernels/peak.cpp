#include "kernels/peak.h"

#include <algorithm>
#include <cstring>

namespace mlxf::kernels {
namespace {

constexpr uint64_t kElements = 1024;

// Any machine: what the compiler makes of a plain loop.
uint64_t portable_int8(uint64_t rounds) {
  int8_t x[kElements];
  int8_t w[kElements];
  std::memset(x, 3, sizeof x);
  std::memset(w, 5, sizeof w);
  for (uint64_t round = 0; round < rounds; ++round) {
    int32_t sum = 0;
    for (uint64_t i = 0; i < kElements; ++i) sum += int32_t{x[i]} * int32_t{w[i]};
    // The sum and the arrays are used where the compiler cannot see how, so every round is done.
    __asm__ volatile("" : : "r"(sum), "r"(x), "r"(w) : "memory");
  }
  return rounds * kElements * 2;
}

// Partial sums per lane, because a compiler may not reorder one sum of floats.
uint64_t portable_f32(uint64_t rounds) {
  constexpr uint64_t kLanes = 32;
  float x[kElements];
  float w[kElements];
  std::fill(x, x + kElements, 0.5f);
  std::fill(w, w + kElements, 0.25f);
  for (uint64_t round = 0; round < rounds; ++round) {
    float sums[kLanes] = {};
    for (uint64_t i = 0; i < kElements; i += kLanes)
      for (uint64_t lane = 0; lane < kLanes; ++lane) sums[lane] += x[i + lane] * w[i + lane];
    __asm__ volatile("" : : "r"(sums), "r"(x), "r"(w) : "memory");
  }
  return rounds * kElements * 2;
}

}  // namespace

PeakLoops peak_loops(const char* isa) {
#if defined(__x86_64__)
  if (std::strcmp(isa, "amx") == 0) return {"amx", "tdpbusd tmm", amx_int8_peak, avx512_f32_peak};
  if (std::strcmp(isa, "avx512") == 0) return {"avx512", "vpdpbusd zmm", avx512_int8_peak, avx512_f32_peak};
  if (std::strcmp(isa, "avx2") == 0)
    return {"avx2", "vpmaddubsw + vpmaddwd + vpaddd ymm", avx2_int8_peak, avx2_f32_peak};
#elif defined(__aarch64__)
  if (std::strcmp(isa, "neon") == 0) return {"neon", "sdot", neon_int8_peak, neon_f32_peak};
#endif
  return {isa, "portable", portable_int8, portable_f32};
}

}  // namespace mlxf::kernels
