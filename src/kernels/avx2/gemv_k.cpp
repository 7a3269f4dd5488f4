// Decode products (one token) of Q4_K and Q6_K on the stored layout, four rows at a time.
//
// Four rows share the loads of x and one transposing horizontal sum, which leaves each row's exact integer of
// a 256-block in its own lane; the f32 chain then runs in lanes = rows. About 50 vector operations per row
// and block for 144 (Q4_K) or 210 (Q6_K) bytes; from L2 one Zen 3 core does 20 GB/s of either, from memory what
// memory delivers (15).
#include <immintrin.h>

#include <cstdint>

#include "kernels/avx2/avx2.h"
#include "kernels/avx2/four_rows.h"
#include "kernels/avx2/k_scales.h"
#include "kernels/avx2/reduce.h"

namespace mlxf::kernels::avx2 {
namespace {

__m256i load(const void* bytes) { return _mm256_loadu_si256(static_cast<const __m256i*>(bytes)); }

}  // namespace

void gemv_q4_k(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y) {
  const __m256i nibble = _mm256_set1_epi8(0x0f);
  // Byte j of the low half (scales 0-3) and of the high half (4-7) to both words of dword j.
  const __m256i spread = _mm256_setr_epi8(0, -1, 0, -1, 1, -1, 1, -1, 2, -1, 2, -1, 3, -1, 3, -1,  //
                                          4, -1, 4, -1, 5, -1, 5, -1, 6, -1, 6, -1, 7, -1, 7, -1);
  const uint32_t blocks = w.cols / 256;
  for (uint32_t row = row_begin; row < row_end; row += 4) {
    const uint32_t count = row_end - row < 4 ? row_end - row : 4;
    const uint8_t* rows[4];
    four_rows(w, row, count, rows);
    __m128 s_total = _mm_setzero_ps(), m_total = _mm_setzero_ps();
    for (uint32_t b = 0; b < blocks; ++b) {
      const int8_t* codes = x.codes + b * 256;
      const __m128i sums = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x.sums32 + b * 8));
      const uint64_t at = uint64_t{b} * kQ4KBytes;
      __m256i s[4];
      __m128i m[4];
      uint32_t heads[4];  // d and dmin, two halves each.
      prefetch_next_rows<kQ4KBytes>(rows[0], w.row_bytes, at);
      alignas(32) int32_t pairs[4][8];
#pragma GCC unroll 4
      for (uint32_t r = 0; r < 4; ++r) {
        const uint8_t* block = rows[r] + at;
        __builtin_memcpy(&heads[r], block, 4);
        const KScales scales = load_k_scales(block + 4);
        m[r] = _mm_madd_epi16(scales.minima, sums);
        _mm256_store_si256(reinterpret_cast<__m256i*>(pairs[r]),
                           _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(scales.bytes), spread));
        s[r] = _mm256_setzero_si256();
      }
      // Each scale twice in a dword: a broadcast from memory costs a load and no shuffle. GCC would make it shuffles.
      __asm__("" : "+m"(pairs));
#pragma GCC unroll 4
      for (uint32_t c = 0; c < 4; ++c) {
        const __m256i x0 = load(codes + c * 64), x1 = load(codes + c * 64 + 32);
#pragma GCC unroll 4
        for (uint32_t r = 0; r < 4; ++r) {
          __m256i q = load(rows[r] + at + 16 + c * 32);
          keep(q);
          const __m256i low = _mm256_and_si256(q, nibble);
          const __m256i high = _mm256_and_si256(_mm256_srli_epi16(q, 4), nibble);
          const __m256i p0 =
              _mm256_madd_epi16(_mm256_maddubs_epi16(low, x0), _mm256_set1_epi32(pairs[r][2 * c]));
          const __m256i p1 =
              _mm256_madd_epi16(_mm256_maddubs_epi16(high, x1), _mm256_set1_epi32(pairs[r][2 * c + 1]));
          s[r] = _mm256_add_epi32(s[r], _mm256_add_epi32(p0, p1));
          keep(s[r]);
        }
      }
      const __m256 both =
          _mm256_cvtph_ps(_mm_set_epi32(static_cast<int>(heads[3]), static_cast<int>(heads[2]),
                                        static_cast<int>(heads[1]), static_cast<int>(heads[0])));
      const __m128 first = _mm256_castps256_ps128(both), second = _mm256_extractf128_ps(both, 1);
      const __m128 d = _mm_shuffle_ps(first, second, 0x88);
      const __m128 e = _mm_xor_ps(_mm_shuffle_ps(first, second, 0xdd), _mm_set1_ps(-0.0f));
      const __m128 dx = _mm_set1_ps(x.scales[b]);
      s_total = _mm_fmadd_ps(_mm_cvtepi32_ps(sum_lanes4(s[0], s[1], s[2], s[3])), _mm_mul_ps(d, dx), s_total);
      m_total = _mm_fmadd_ps(e, _mm_mul_ps(_mm_cvtepi32_ps(sum_lanes4(m[0], m[1], m[2], m[3])), dx), m_total);
    }
    store_rows(y + row, _mm_add_ps(s_total, m_total), count);
  }
}

void gemv_q6_k(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y) {
  // Even scales to the low half, odd ones to the high: a vector of 32 elements spans two sub-blocks of 16.
  const __m128i even_odd = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
  const uint32_t blocks = w.cols / 256;
  for (uint32_t row = row_begin; row < row_end; row += 4) {
    const uint32_t count = row_end - row < 4 ? row_end - row : 4;
    const uint8_t* rows[4];
    four_rows(w, row, count, rows);
    __m128 acc = _mm_setzero_ps();
    for (uint32_t b = 0; b < blocks; ++b) {
      const int8_t* x_codes = x.codes + b * 256;
      const __m256i sums = load(x.sums16 + b * 16);
      __m256i s[4];
      uint16_t heads[4];
      prefetch_next_rows<kQ6KBytes>(rows[0], w.row_bytes, uint64_t{b} * kQ6KBytes);
#pragma GCC unroll 4
      for (uint32_t r = 0; r < 4; ++r) {
        const uint8_t* block = rows[r] + uint64_t{b} * kQ6KBytes;
        __builtin_memcpy(&heads[r], block + 208, 2);
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block + 192));
        const __m256i words = _mm256_cvtepi8_epi16(_mm_shuffle_epi8(bytes, even_odd));
        const __m256i offset = _mm256_madd_epi16(_mm256_cvtepi8_epi16(bytes), sums);
        s[r] = _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_slli_epi32(offset, 5));
#pragma GCC unroll 2
        for (uint32_t half = 0; half < 2; ++half) {
          __m256i codes[4];
          load_q6_k_codes(block, half, codes);
#pragma GCC unroll 4
          for (uint32_t c = 0; c < 4; ++c) {
            const __m256i p = _mm256_maddubs_epi16(codes[c], load(x_codes + half * 128 + c * 32));
            s[r] = _mm256_add_epi32(s[r], _mm256_madd_epi16(p, spread_word(words, half * 4 + c)));
            keep(s[r]);
          }
        }
      }
      const __m128 d = _mm_cvtph_ps(_mm_setr_epi16(static_cast<short>(heads[0]), static_cast<short>(heads[1]),
                                                   static_cast<short>(heads[2]), static_cast<short>(heads[3]),
                                                   0, 0, 0, 0));
      const __m128 dx = _mm_set1_ps(x.scales[b]);
      acc = _mm_fmadd_ps(_mm_cvtepi32_ps(sum_lanes4(s[0], s[1], s[2], s[3])), _mm_mul_ps(d, dx), acc);
    }
    store_rows(y + row, acc, count);
  }
}

}  // namespace mlxf::kernels::avx2
