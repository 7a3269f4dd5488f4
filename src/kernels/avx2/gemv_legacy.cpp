// Decode products (one token) of the 32-element formats (legacy_codes.h) on the stored layout, four rows at a time.
//
// Four rows share the loads of x and one transposing horizontal sum per block, after which the f32 chain runs in
// lanes = rows. A symmetric minimum and an affine one are the same for all rows: one value per block. About 10 vector
// operations per row and block of 17-24 bytes, 3-4 cycles on four pipes: 5-7 bytes a cycle, above what memory delivers.
#include <immintrin.h>

#include <cstdint>

#include "kernels/avx2/avx2.h"
#include "kernels/avx2/four_rows.h"
#include "kernels/avx2/legacy_codes.h"
#include "kernels/avx2/mlx_codes.h"
#include "kernels/avx2/reduce.h"

namespace mlxf::kernels::avx2 {
namespace {

// MLX's nibbles are in sequence: read like the others they give the even elements first, then the odd ones. x is put in
// the same order instead of the codes. Its scales lie apart.
struct MlxMxfp4 {
  static constexpr uint32_t kBytes = 16;
  static constexpr MinimumKind kKind = MinimumKind::kSymmetric;
  static constexpr bool kSigned = false;
  static constexpr int16_t kMinimum = -12;
  static __m256i codes(const uint8_t* block) { return e2m1_codes(load_nibbles(block)); }
  static __m128 scales(const uint8_t* const at[4]) { return load_half_e8m0x4(at); }
};

// Where block 0 of row 0 has its scale, and the strides from there.
struct ScalePlace {
  const uint8_t* data;
  uint64_t row_bytes;
  uint32_t block_bytes;
};

template <typename Format>
void gemv_blocks(const MatrixView& w, const ScalePlace& place, uint32_t row_begin, uint32_t row_end,
                 const ActivationView& x, const int8_t* x_codes, float* y) {
  const __m256i ones = _mm256_set1_epi16(1);
  const uint32_t blocks = w.cols / 32;
  for (uint32_t row = row_begin; row < row_end; row += 4) {
    const uint32_t count = row_end - row < 4 ? row_end - row : 4;
    const uint8_t* rows[4];
    four_rows(w, row, count, rows);
    const uint8_t* heads[4];
    for (uint32_t r = 0; r < 4; ++r)
      heads[r] = place.data + (row + (r < count ? r : count - 1)) * place.row_bytes;
    __m128 s_total = _mm_setzero_ps(), m_total = _mm_setzero_ps();
    for (uint32_t b = 0; b < blocks; ++b) {
      const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x_codes + b * 32));
      __m256i sums[4];
      const uint8_t* at[4];
      prefetch_next_rows<Format::kBytes>(rows[0], w.row_bytes, uint64_t{b} * Format::kBytes);
#pragma GCC unroll 4
      for (uint32_t r = 0; r < 4; ++r) {
        const uint8_t* block = rows[r] + uint64_t{b} * Format::kBytes;
        at[r] = heads[r] + uint64_t{b} * place.block_bytes;
        sums[r] = _mm256_madd_epi16(pair_sums<Format::kSigned>(Format::codes(block), v), ones);
      }
      __m128i s = sum_lanes4(sums[0], sums[1], sums[2], sums[3]);
      const __m128 dx = _mm_set1_ps(x.scales[b]);
      if constexpr (Format::kKind == MinimumKind::kAffine) {
        const FloatPairs both = load_f16_pairs(at);
        s_total = _mm_fmadd_ps(_mm_cvtepi32_ps(s), _mm_mul_ps(both.first, dx), s_total);
        const __m128 m = _mm_set1_ps(static_cast<float>(x.sums32[b]) * x.scales[b]);
        m_total = _mm_fmadd_ps(both.second, m, m_total);
      } else {
        if constexpr (Format::kKind == MinimumKind::kSymmetric)
          s = _mm_add_epi32(s, _mm_set1_epi32(Format::kMinimum * x.sums32[b]));
        s_total = _mm_fmadd_ps(_mm_cvtepi32_ps(s), _mm_mul_ps(Format::scales(at), dx), s_total);
      }
    }
    if constexpr (Format::kKind == MinimumKind::kAffine) s_total = _mm_add_ps(s_total, m_total);
    store_rows(y + row, s_total, count);
  }
}

template <typename Format>
void gemv_inline_scales(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                        float* y) {
  gemv_blocks<Format>(w, {w.data, w.row_bytes, Format::kBytes}, row_begin, row_end, x, x.codes, y);
}

}  // namespace

void gemv_q4_0(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y) {
  gemv_inline_scales<Q40>(w, row_begin, row_end, x, y);
}
void gemv_q4_1(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y) {
  gemv_inline_scales<Q41>(w, row_begin, row_end, x, y);
}
void gemv_q5_0(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y) {
  gemv_inline_scales<Q50>(w, row_begin, row_end, x, y);
}
void gemv_q5_1(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y) {
  gemv_inline_scales<Q51>(w, row_begin, row_end, x, y);
}
void gemv_iq4_nl(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                 float* y) {
  gemv_inline_scales<Iq4Nl>(w, row_begin, row_end, x, y);
}
void gemv_mxfp4(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                float* y) {
  gemv_inline_scales<Mxfp4>(w, row_begin, row_end, x, y);
}

void gemv_mlx_mxfp4(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                    float* y, void* scratch) {
  auto* split = static_cast<int8_t*>(scratch);
  split_even_odd<16>(x.codes, x.cols, split);
  gemv_blocks<MlxMxfp4>(w, {w.scales, w.scale_row_bytes, 1}, row_begin, row_end, x, split, y);
}

}  // namespace mlxf::kernels::avx2
