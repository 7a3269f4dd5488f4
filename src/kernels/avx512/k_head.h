// The 16 bytes that open the blocks of Q4_K and Q5_K, of sixteen rows at once.
// Everything here has internal linkage: each object file carries its own copy, so that none built with AVX-512 can be
// picked for a program that runs on a machine without. Pure functions over borrowed memory; any thread.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/avx512/columns.h"

namespace mlxf::kernels::avx512 {
namespace {

// A row per lane. The 6-bit scales and minima are bytes: 0 .. 3 and 4 .. 7.
struct KHead {
  __m512 d;
  __m512 e;  // -dmin
  __m512i scales[2];
  __m512i minima[2];
};

// Of the four dwords of each row: d and dmin, low scales, low minima, low nibbles of the high ones.
[[maybe_unused]] inline KHead k_head_of(const __m512i head[4]) {
  const __m512i six = bytes(0x3f), top = bytes(0x30);
  const auto high = [top](__m512i nibble, __m512i above) {
    return _mm512_or_si512(nibble, _mm512_and_si512(_mm512_srli_epi16(above, 2), top));
  };
  return {widen_f16(head[0]),
          negate(widen_f16(_mm512_srli_epi32(head[0], 16))),
          {_mm512_and_si512(head[1], six), high(nibbles_low(head[3]), head[1])},
          {_mm512_and_si512(head[2], six), high(nibbles_high(head[3]), head[2])}};
}
[[maybe_unused]] inline KHead load_k_head(const Rows& rows, uint64_t offset) {
  __m512i head[4];
  load_columns4(rows, offset, head);
  return k_head_of(head);
}

// Four bytes of each lane as two pairs of words.
[[maybe_unused]] inline void widen_pairs(__m512i four, __m512i pairs[2]) {
  const __m512i first = _mm512_set4_epi32(static_cast<int>(0x800d800cu), static_cast<int>(0x80098008u),
                                          static_cast<int>(0x80058004u), static_cast<int>(0x80018000u));
  const __m512i second = _mm512_set4_epi32(static_cast<int>(0x800f800eu), static_cast<int>(0x800b800au),
                                           static_cast<int>(0x80078006u), static_cast<int>(0x80038002u));
  pairs[0] = _mm512_shuffle_epi8(four, first);
  pairs[1] = _mm512_shuffle_epi8(four, second);
}

}  // namespace
}  // namespace mlxf::kernels::avx512
