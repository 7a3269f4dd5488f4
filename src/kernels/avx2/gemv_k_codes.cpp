// Decode products (one token) of Q2_K, Q3_K, Q5_K and IQ4_XS (k_codes.h) on the stored layout, four rows at a time, as
// gemv_k.cpp does it for Q4_K and Q6_K.
//
// 40-60 vector operations per row and block of 84-176 bytes.
#include <immintrin.h>

#include <cstdint>

#include "kernels/avx2/avx2.h"
#include "kernels/avx2/four_rows.h"
#include "kernels/avx2/k_codes.h"
#include "kernels/avx2/reduce.h"

namespace mlxf::kernels::avx2 {
namespace {

// Where spread_word finds the scales of 32 elements: two sub-blocks of 16 take the even ones to the low half, the odd
// ones to the high; a sub-block of 32 has its scale in both halves already.
template <uint32_t SUB>
__m256i arrange_scales(__m256i scales) {
  if constexpr (SUB == 32) return scales;
  const __m256i even_odd = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15,  //
                                            0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
  return _mm256_permute4x64_epi64(_mm256_shuffle_epi8(scales, even_odd), _MM_SHUFFLE(3, 1, 2, 0));
}

template <typename Format>
void gemv_blocks(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                 float* y) {
  constexpr bool kAffine = Format::kKind == MinimumKind::kAffine;
  constexpr uint32_t kSubs = 256 / Format::kSub;
  const uint32_t blocks = w.cols / 256;
  for (uint32_t row = row_begin; row < row_end; row += 4) {
    const uint32_t count = row_end - row < 4 ? row_end - row : 4;
    const uint8_t* rows[4];
    four_rows(w, row, count, rows);
    __m128 s_total = _mm_setzero_ps(), m_total = _mm_setzero_ps();
    for (uint32_t b = 0; b < blocks; ++b) {
      const int8_t* x_codes = x.codes + b * 256;
      // [sub-blocks] sums of x; the eight of 32 elements with zeros behind.
      const __m256i x_sums =
          kSubs == 16
              ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x.sums16 + b * 16))
              : _mm256_zextsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x.sums32 + b * 8)));
      __m256i s[4], m[4];
      const uint8_t* at[4];
      prefetch_next_rows<Format::kBytes>(rows[0], w.row_bytes, uint64_t{b} * Format::kBytes);
#pragma GCC unroll 4
      for (uint32_t r = 0; r < 4; ++r) {
        const uint8_t* block = rows[r] + uint64_t{b} * Format::kBytes;
        at[r] = block + Format::kHead;
        const SubScales subs = Format::scales(block);
        const __m256i scales = arrange_scales<Format::kSub>(subs.scales);
        s[r] = _mm256_setzero_si256();
        if constexpr (kAffine) m[r] = _mm256_madd_epi16(subs.minima, x_sums);
        if constexpr (Format::kKind == MinimumKind::kSymmetric) s[r] = _mm256_madd_epi16(subs.minima, x_sums);
#pragma GCC unroll 2
        for (uint32_t half = 0; half < 2; ++half) {
          __m256i codes[4];
          Format::codes(block, half, codes);
#pragma GCC unroll 4
          for (uint32_t c = 0; c < 4; ++c) {
            const __m256i v =
                _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x_codes + half * 128 + c * 32));
            const __m256i pairs = pair_sums<Format::kSigned>(codes[c], v);
            s[r] = _mm256_add_epi32(s[r], _mm256_madd_epi16(pairs, spread_word(scales, half * 4 + c)));
            keep(s[r]);
          }
        }
      }
      const __m128 s_floats = _mm_cvtepi32_ps(sum_lanes4(s[0], s[1], s[2], s[3]));
      const __m128 dx = _mm_set1_ps(x.scales[b]);
      if constexpr (kAffine) {
        const FloatPairs both = load_f16_pairs(at);
        s_total = _mm_fmadd_ps(s_floats, _mm_mul_ps(both.first, dx), s_total);
        const __m128 e = _mm_xor_ps(both.second, _mm_set1_ps(-0.0f));
        m_total =
            _mm_fmadd_ps(e, _mm_mul_ps(_mm_cvtepi32_ps(sum_lanes4(m[0], m[1], m[2], m[3])), dx), m_total);
      } else {
        s_total = _mm_fmadd_ps(s_floats, _mm_mul_ps(load_f16x4(at), dx), s_total);
      }
    }
    if constexpr (kAffine) s_total = _mm_add_ps(s_total, m_total);
    store_rows(y + row, s_total, count);
  }
}

}  // namespace

void gemv_q2_k(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y) {
  gemv_blocks<Q2K>(w, row_begin, row_end, x, y);
}
void gemv_q3_k(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y) {
  gemv_blocks<Q3K>(w, row_begin, row_end, x, y);
}
void gemv_q5_k(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y) {
  gemv_blocks<Q5K>(w, row_begin, row_end, x, y);
}
void gemv_iq4_xs(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                 float* y) {
  gemv_blocks<Iq4Xs>(w, row_begin, row_end, x, y);
}

}  // namespace mlxf::kernels::avx2
