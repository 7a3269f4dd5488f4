// Philox (kernels/philox.h) for sixteen counters at a time, one in each lane.
#include <immintrin.h>

#include <cstdint>

#include "kernels/avx512/avx512.h"

namespace mlxf::kernels::avx512 {
namespace {

constexpr uint32_t kLanes = 16;
constexpr __mmask16 kOdd = 0xaaaa;

struct HighLow {
  __m512i high, low;
};

// The 64-bit products of all lanes, of which one multiplication gives every second one.
inline __attribute__((always_inline)) HighLow multiply(__m512i a, __m512i b) {
  const __m512i even = _mm512_mul_epu32(a, b), odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), b);
  return {_mm512_mask_mov_epi32(_mm512_srli_epi64(even, 32), kOdd, odd),
          _mm512_mask_mov_epi32(even, kOdd, _mm512_slli_epi64(odd, 32))};
}

__m512i every(uint32_t value) { return _mm512_set1_epi32(static_cast<int>(value)); }

// Counters first .. first + 15; of their words the first `words`, up to 64.
void sixteen(uint64_t key, uint32_t position, uint32_t first, uint32_t words, uint32_t* out) {
  const __m512i m0 = every(0xD2511F53u), m1 = every(0xCD9E8D57u);
  __m512i c0 = every(position);
  __m512i c1 =
      _mm512_add_epi32(every(first), _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
  __m512i c2 = _mm512_setzero_si512(), c3 = c2;
  auto k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
    const HighLow p0 = multiply(c0, m0), p1 = multiply(c2, m1);
    c0 = _mm512_xor_si512(_mm512_xor_si512(p1.high, c1), every(k0));
    c2 = _mm512_xor_si512(_mm512_xor_si512(p0.high, c3), every(k1));
    c1 = p1.low;
    c3 = p0.low;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  // The four words of a counter side by side: within quarters, then the quarters in order.
  const __m512i a = _mm512_unpacklo_epi32(c0, c1), b = _mm512_unpackhi_epi32(c0, c1);
  const __m512i c = _mm512_unpacklo_epi32(c2, c3), d = _mm512_unpackhi_epi32(c2, c3);
  const __m512i x0 = _mm512_unpacklo_epi64(a, c), x1 = _mm512_unpackhi_epi64(a, c);
  const __m512i x2 = _mm512_unpacklo_epi64(b, d), x3 = _mm512_unpackhi_epi64(b, d);
  const __m512i low01 = _mm512_shuffle_i32x4(x0, x1, 0x44), low23 = _mm512_shuffle_i32x4(x2, x3, 0x44);
  const __m512i high01 = _mm512_shuffle_i32x4(x0, x1, 0xee), high23 = _mm512_shuffle_i32x4(x2, x3, 0xee);
  const __m512i in_order[4] = {
      _mm512_shuffle_i32x4(low01, low23, 0x88), _mm512_shuffle_i32x4(low01, low23, 0xdd),
      _mm512_shuffle_i32x4(high01, high23, 0x88), _mm512_shuffle_i32x4(high01, high23, 0xdd)};
#pragma GCC unroll 4
  for (uint32_t i = 0; i < 4; ++i) {
    const uint32_t left = words > i * 16 ? words - i * 16 : 0;
    const auto mask = static_cast<__mmask16>(left < 16 ? (1u << left) - 1 : 0xffffu);
    _mm512_mask_storeu_epi32(out + (left > 0 ? i * 16 : 0), mask, in_order[i]);
  }
}

}  // namespace

void random_words(uint64_t key, uint32_t position, uint32_t block, uint32_t blocks, uint32_t* out) {
  for (uint32_t i = 0; i < blocks; i += kLanes)
    sixteen(key, position, block + i, (blocks - i < kLanes ? blocks - i : kLanes) * 4, out + uint64_t{i} * 4);
}

}  // namespace mlxf::kernels::avx512
