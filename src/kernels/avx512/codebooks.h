// The tables that turn nibbles to codes, and the scales that are powers of two.
// Everything here has internal linkage: each object file carries its own copy, so that none built with AVX-512 can be
// picked for a program that runs on a machine without. Pure functions over borrowed memory; any thread.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/avx512/columns.h"

namespace mlxf::kernels::avx512 {
namespace {

// Codes by nibble.
[[maybe_unused]] constexpr int8_t kIdentity[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
// The values of e2m1 doubled, plus 12.
[[maybe_unused]] constexpr int8_t kE2m1[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};
// The codebook of IQ4_NL and IQ4_XS, plus 128.
[[maybe_unused]] constexpr uint8_t kIq4[16] = {1,   24,  45,  63,  79,  93,  106, 118,
                                               129, 141, 153, 166, 181, 197, 217, 241};

// For vpshufb, and as well for vpermb, which looks at six bits of an index: any two may stand above a nibble.
[[maybe_unused]] inline __m512i load_table(const void* table) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(static_cast<const __m128i*>(table)));
}

// A byte of each row, in dwords.
[[maybe_unused]] inline __m512i load_bytes(const Rows& rows, uint64_t offset) {
  alignas(16) uint8_t all[kPanelRows];
  for (uint32_t r = 0; r < kPanelRows; ++r) all[r] = rows.at[r][offset];
  return _mm512_cvtepu8_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(all)));
}

// Half of the power of two that an E8M0 byte (in dwords) names: 2^(byte - 128).
[[maybe_unused]] inline __m512 half_e8m0(__m512i exponents) {
  // Exponents below 2 are denormal: 2^-127 and 2^-128. 255 is NaN.
  const __m512i normal = _mm512_slli_epi32(_mm512_sub_epi32(exponents, _mm512_set1_epi32(1)), 23);
  const __m512i denormal = _mm512_sllv_epi32(_mm512_set1_epi32(0x00200000), exponents);
  const __mmask16 small = _mm512_cmplt_epi32_mask(exponents, _mm512_set1_epi32(2));
  const __mmask16 nan = _mm512_cmpeq_epi32_mask(exponents, _mm512_set1_epi32(255));
  const __m512i value = _mm512_mask_blend_epi32(small, normal, denormal);
  return _mm512_castsi512_ps(_mm512_mask_blend_epi32(nan, value, _mm512_set1_epi32(0x7fc00000)));
}

}  // namespace
}  // namespace mlxf::kernels::avx512
