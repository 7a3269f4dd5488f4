// What the one-token products share: they take four rows at a time, which share the loads of x and end in the four
// lanes of one vector.
// Everything here has internal linkage: each object file carries its own copy, so that none built with AVX2 can be
// picked for a program that runs on a machine without. Pure functions; any thread.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "tensor/matrix.h"

namespace mlxf::kernels::avx2 {
namespace {

// The row pointers of a group of four; past the end the last row repeats.
[[maybe_unused]] inline void four_rows(const MatrixView& w, uint32_t row, uint32_t count,
                                       const uint8_t* rows[4]) {
  for (uint32_t r = 0; r < 4; ++r) rows[r] = w.data + (row + (r < count ? r : count - 1)) * w.row_bytes;
}

// Four neighbouring rows are one run of memory, and the four after them the next. While BYTES of each row at `offset`
// are in use, ask for the same share of the next run, line after line. A core follows one ascending stream of requests
// at the memory's speed; asking in each of the four rows in turn reached 60-70 % of it (Zen 3, Q4_K, rows of 1152
// bytes: 15.3 against 9.5 GB/s of 15.6; docs/measurements/2026-11-speed.md). Weights are used once a token: not worth
// a place in L2.
template <uint32_t BYTES>
[[maybe_unused]] inline void prefetch_next_rows(const uint8_t* first_row, uint64_t row_bytes,
                                                uint64_t offset) {
  const uint8_t* next = first_row + 4 * (row_bytes + offset);
#pragma GCC unroll 16
  for (uint32_t i = 0; i < (4 * BYTES + 63) / 64; ++i)
    _mm_prefetch(reinterpret_cast<const char*>(next + i * 64), _MM_HINT_NTA);
}

// Makes the compiler finish `value` here: GCC 12 otherwise delays the additions and spills all their terms.
[[maybe_unused]] inline void keep(__m256i& value) { __asm__("" : "+x"(value)); }

// Selects word j of each 128-bit half for all its lanes.
alignas(32) constexpr uint8_t kSpreadWord[8][32] = {
#define MLXF_SPREAD(a, b) \
  { a, b, a, b, a, b, a, b, a, b, a, b, a, b, a, b, a, b, a, b, a, b, a, b, a, b, a, b, a, b, a, b }
    MLXF_SPREAD(0, 1), MLXF_SPREAD(2, 3),   MLXF_SPREAD(4, 5),   MLXF_SPREAD(6, 7),
    MLXF_SPREAD(8, 9), MLXF_SPREAD(10, 11), MLXF_SPREAD(12, 13), MLXF_SPREAD(14, 15),
#undef MLXF_SPREAD
};

[[maybe_unused]] inline __m256i spread_word(__m256i words, uint32_t j) {
  return _mm256_shuffle_epi8(words, _mm256_load_si256(reinterpret_cast<const __m256i*>(kSpreadWord[j])));
}

// The 16-bit floats at four places. Put together in a general register: that leaves the shuffling pipes alone.
[[maybe_unused]] inline __m128 load_f16x4(const uint8_t* const at[4]) {
  uint64_t all = 0;
  for (uint32_t r = 0; r < 4; ++r) {
    uint16_t half;
    __builtin_memcpy(&half, at[r], 2);
    all |= uint64_t{half} << (16 * r);
  }
  return _mm_cvtph_ps(_mm_cvtsi64_si128(static_cast<long long>(all)));
}

// The pairs of 16-bit floats at four places.
struct FloatPairs {
  __m128 first;
  __m128 second;
};

[[maybe_unused]] inline FloatPairs load_f16_pairs(const uint8_t* const at[4]) {
  int32_t heads[4];
  for (uint32_t r = 0; r < 4; ++r) __builtin_memcpy(&heads[r], at[r], 4);
  const __m256 both = _mm256_cvtph_ps(_mm_setr_epi32(heads[0], heads[1], heads[2], heads[3]));
  const __m128 low = _mm256_castps256_ps128(both), high = _mm256_extractf128_ps(both, 1);
  return {_mm_shuffle_ps(low, high, 0x88), _mm_shuffle_ps(low, high, 0xdd)};
}

// Sums of pairs of 32 codes with 32 signed bytes, i16: at most 2 * 128 * 127 for signed codes, which are multiplied as
// |w| * (x with w's sign); unsigned ones must stay below 129.
template <bool SIGNED>
[[maybe_unused]] inline __m256i pair_sums(__m256i w, __m256i x) {
  if constexpr (SIGNED)
    return _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
  else
    return _mm256_maddubs_epi16(w, x);
}

}  // namespace
}  // namespace mlxf::kernels::avx2
