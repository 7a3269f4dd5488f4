// Horizontal sums of sixteen vectors at once, one per row.
// Everything here has internal linkage: each object file carries its own copy, so that none built with AVX-512 can be
// picked for a program that runs on a machine without. Pure functions; any thread.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace mlxf::kernels::avx512 {
namespace {

// Each vector's 16 lanes are GROUPS runs of equal length; sums[g] has the sum of run g of v[r] in lane r.
template <uint32_t GROUPS>
[[maybe_unused]] inline void reduce16(const __m512i v[16], __m512i sums[GROUPS]) {
  __m512i u[4];  // Lane 4 q + r of u[i]: the sum of 128-bit lane q of v[4 i + r].
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512i* a = v + 4 * i;
    const __m512i t0 = _mm512_add_epi32(_mm512_unpacklo_epi32(a[0], a[1]), _mm512_unpackhi_epi32(a[0], a[1]));
    const __m512i t1 = _mm512_add_epi32(_mm512_unpacklo_epi32(a[2], a[3]), _mm512_unpackhi_epi32(a[2], a[3]));
    u[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(t0, t1), _mm512_unpackhi_epi64(t0, t1));
  }
  const __m512i even01 = _mm512_shuffle_i32x4(u[0], u[1], 0x88),
                odd01 = _mm512_shuffle_i32x4(u[0], u[1], 0xdd);
  const __m512i even23 = _mm512_shuffle_i32x4(u[2], u[3], 0x88),
                odd23 = _mm512_shuffle_i32x4(u[2], u[3], 0xdd);
  if constexpr (GROUPS == 4) {
    sums[0] = _mm512_shuffle_i32x4(even01, even23, 0x88);
    sums[1] = _mm512_shuffle_i32x4(odd01, odd23, 0x88);
    sums[2] = _mm512_shuffle_i32x4(even01, even23, 0xdd);
    sums[3] = _mm512_shuffle_i32x4(odd01, odd23, 0xdd);
  } else {
    const __m512i ab = _mm512_add_epi32(even01, odd01), cd = _mm512_add_epi32(even23, odd23);
    const __m512i first = _mm512_shuffle_i32x4(ab, cd, 0x88), second = _mm512_shuffle_i32x4(ab, cd, 0xdd);
    if constexpr (GROUPS == 2) {
      sums[0] = first;
      sums[1] = second;
    } else {
      sums[0] = _mm512_add_epi32(first, second);
    }
  }
}

}  // namespace
}  // namespace mlxf::kernels::avx512
