// Philox (kernels/philox.h) for eight counters at a time, one in each lane.
#include <immintrin.h>

#include <cstdint>

#include "kernels/avx2/avx2.h"

namespace mlxf::kernels::avx2 {
namespace {

constexpr uint32_t kLanes = 8;

struct HighLow {
  __m256i high, low;
};

// The 64-bit products of all lanes, of which one multiplication gives every second one.
inline __attribute__((always_inline)) HighLow multiply(__m256i a, __m256i b) {
  const __m256i even = _mm256_mul_epu32(a, b), odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), b);
  return {_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa),
          _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa)};
}

__m256i every(uint32_t value) { return _mm256_set1_epi32(static_cast<int>(value)); }

// Counters first .. first + 7.
void eight(uint64_t key, uint32_t position, uint32_t first, uint32_t* out) {
  const __m256i m0 = every(0xD2511F53u), m1 = every(0xCD9E8D57u);
  __m256i c0 = every(position),
          c1 = _mm256_add_epi32(every(first), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  __m256i c2 = _mm256_setzero_si256(), c3 = c2;
  auto k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
    const HighLow p0 = multiply(c0, m0), p1 = multiply(c2, m1);
    c0 = _mm256_xor_si256(_mm256_xor_si256(p1.high, c1), every(k0));
    c2 = _mm256_xor_si256(_mm256_xor_si256(p0.high, c3), every(k1));
    c1 = p1.low;
    c3 = p0.low;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  // The four words of a counter side by side: within halves, then the halves in order.
  const __m256i a = _mm256_unpacklo_epi32(c0, c1), b = _mm256_unpackhi_epi32(c0, c1);
  const __m256i c = _mm256_unpacklo_epi32(c2, c3), d = _mm256_unpackhi_epi32(c2, c3);
  const __m256i x0 = _mm256_unpacklo_epi64(a, c), x1 = _mm256_unpackhi_epi64(a, c);
  const __m256i x2 = _mm256_unpacklo_epi64(b, d), x3 = _mm256_unpackhi_epi64(b, d);
  auto* to = reinterpret_cast<__m256i*>(out);
  _mm256_storeu_si256(to, _mm256_permute2x128_si256(x0, x1, 0x20));
  _mm256_storeu_si256(to + 1, _mm256_permute2x128_si256(x2, x3, 0x20));
  _mm256_storeu_si256(to + 2, _mm256_permute2x128_si256(x0, x1, 0x31));
  _mm256_storeu_si256(to + 3, _mm256_permute2x128_si256(x2, x3, 0x31));
}

}  // namespace

void random_words(uint64_t key, uint32_t position, uint32_t block, uint32_t blocks, uint32_t* out) {
  uint32_t i = 0;
  for (; i + kLanes <= blocks; i += kLanes) eight(key, position, block + i, out + uint64_t{i} * 4);
  if (i == blocks) return;
  uint32_t last[kLanes * 4];
  eight(key, position, block + i, last);
  __builtin_memcpy(out + uint64_t{i} * 4, last, uint64_t{blocks - i} * 4 * sizeof(uint32_t));
}

}  // namespace mlxf::kernels::avx2
