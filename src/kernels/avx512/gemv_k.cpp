// Decode products (one token) of Q4_K and Q6_K on the stored layout, sixteen rows at a time.
//
// Codes are multiplied a row at a time: pairs of products in words (vpmaddubsw: at most 2 * 63 * 127), which vpdpwssd
// scales and adds up in 16 lanes. A tree of 15 shuffle pairs then leaves each row's exact integer of a 256-block in its
// own lane, and the f32 chain runs in lanes = rows, like Q4_K's minima. Some 390 vector operations for the 2304 bytes
// of 16 blocks of Q4_K, two a cycle on Zen 4: 12 bytes a cycle, above what memory delivers.
#include <immintrin.h>

#include <cstdint>

#include "kernels/avx512/avx512.h"
#include "kernels/avx512/columns.h"
#include "kernels/avx512/k_head.h"
#include "kernels/avx512/reduce.h"

namespace mlxf::kernels::avx512 {
namespace {

constexpr uint32_t kQ4KBytes = 144;
constexpr uint32_t kQ6KBytes = 210;

__m512i load(const void* vector) { return _mm512_loadu_si512(vector); }

// Which lines to prefetch in every row while block `b` is in use: those that begin in the block's place ahead.
struct LinesAhead {
  uint64_t first;
  uint32_t count;
};

LinesAhead lines_ahead(const MatrixView& w, uint32_t b, uint32_t block_bytes) {
  const uint64_t begin = uint64_t{b} * block_bytes, end = begin + block_bytes;
  const uint64_t first = (begin + 63) / 64 * 64;
  return {place_ahead(w, first), static_cast<uint32_t>((end - first + 63) / 64)};
}

void prefetch_lines(const uint8_t* row, const LinesAhead& lines) {
  for (uint32_t i = 0; i < lines.count; ++i) prefetch(row + lines.first + i * 64);
}

__m512i broadcast_dword(const int16_t* pair) {
  int32_t both;
  __builtin_memcpy(&both, pair, 4);
  return _mm512_set1_epi32(both);
}

// Words that pick byte `first` of each quadword for the lower half of the lanes and `second` for the upper.
__m512i pick_words(uint32_t first, uint32_t second) {
  return _mm512_inserti64x4(_mm512_set1_epi16(static_cast<short>(0x8000u | first)),
                            _mm256_set1_epi16(static_cast<short>(0x8000u | second)), 1);
}

// Sub-blocks 0, 2, 1, 3 of every four: the order of the low and then the high nibbles of 64 bytes of Q4_K.
void order_q4_k(const int8_t* codes, uint32_t cols, int8_t* out) {
  for (uint32_t k = 0; k < cols; k += 128) {
    const __m512i a = load(codes + k), b = load(codes + k + 64);
    _mm512_store_si512(out + k, _mm512_shuffle_i64x2(a, b, 0x44));
    _mm512_store_si512(out + k + 64, _mm512_shuffle_i64x2(a, b, 0xee));
  }
}

}  // namespace

void gemv_q4_k(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y,
               void* scratch) {
  auto* codes = static_cast<int8_t*>(scratch);
  order_q4_k(x.codes, x.cols, codes);
  const __m512i pick[4] = {pick_words(0, 2), pick_words(1, 3), pick_words(4, 6), pick_words(5, 7)};
  for (uint32_t row = row_begin; row < row_end; row += kPanelRows) {
    const uint32_t count = row_end - row < kPanelRows ? row_end - row : kPanelRows;
    const Rows rows = rows_of(w.data, w.row_bytes, row, count);
    __m512 s_total = _mm512_setzero_ps(), m_total = _mm512_setzero_ps();
    for (uint32_t b = 0; b < w.cols / 256; ++b) {
      const KHead head = load_k_head(rows, uint64_t{b} * kQ4KBytes);
      const LinesAhead lines = lines_ahead(w, b, kQ4KBytes);
      // The scales a row at a time again: rows 0, 1 of every four, then 2, 3.
      alignas(64) uint64_t scales[2][8];
      _mm512_store_si512(scales[0], _mm512_unpacklo_epi32(head.scales[0], head.scales[1]));
      _mm512_store_si512(scales[1], _mm512_unpackhi_epi32(head.scales[0], head.scales[1]));
      __m512i v[16], s;
#pragma GCC unroll 16
      for (uint32_t r = 0; r < kPanelRows; ++r) {
        const uint8_t* block = rows.at[r] + uint64_t{b} * kQ4KBytes;
        prefetch_lines(rows.at[r], lines);
        const __m512i eight = _mm512_set1_epi64(static_cast<int64_t>(scales[r % 4 / 2][r / 4 * 2 + r % 2]));
        v[r] = _mm512_setzero_si512();
#pragma GCC unroll 2
        for (uint32_t h = 0; h < 2; ++h) {
          const __m512i q = load(block + 16 + h * 64);
          const int8_t* with = codes + b * 256 + h * 128;
          const __m512i low = _mm512_maddubs_epi16(nibbles_low(q), load(with));
          const __m512i high = _mm512_maddubs_epi16(nibbles_high(q), load(with + 64));
          v[r] = _mm512_dpwssd_epi32(v[r], low, _mm512_shuffle_epi8(eight, pick[2 * h]));
          v[r] = _mm512_dpwssd_epi32(v[r], high, _mm512_shuffle_epi8(eight, pick[2 * h + 1]));
        }
      }
      reduce16<1>(v, &s);
      __m512i m = _mm512_setzero_si512();
      for (uint32_t h = 0; h < 2; ++h) {
        __m512i pairs[2];
        widen_pairs(head.minima[h], pairs);
        m = _mm512_dpwssd_epi32(m, pairs[0], broadcast_dword(x.sums32 + b * 8 + h * 4));
        m = _mm512_dpwssd_epi32(m, pairs[1], broadcast_dword(x.sums32 + b * 8 + h * 4 + 2));
      }
      const __m512 dx = _mm512_set1_ps(x.scales[b]);
      s_total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(s), _mm512_mul_ps(head.d, dx), s_total);
      m_total = _mm512_fmadd_ps(head.e, _mm512_mul_ps(_mm512_cvtepi32_ps(m), dx), m_total);
    }
    _mm512_mask_storeu_ps(y + row, static_cast<__mmask16>((1u << count) - 1),
                          _mm512_add_ps(s_total, m_total));
  }
}

void gemv_q6_k(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y,
               void*) {
  const __m512i pair = bytes(0x30);
  // Codes 0-31 and 32-63 of a half take bit pairs 0 and 1 of its 32 bytes, the next 64 pairs 2 and 3.
  const __m512i left = _mm512_inserti64x4(_mm512_set1_epi16(4), _mm256_set1_epi16(2), 1);
  const __m512i right = _mm512_inserti64x4(_mm512_set1_epi16(0), _mm256_set1_epi16(2), 1);
  // Word i of each 128-bit lane: the scale of that lane's 16 codes.
  const __m512i lane = _mm512_set_epi64(0x0003000300030003, 0x0003000300030003, 0x0002000200020002,
                                        0x0002000200020002, 0x0001000100010001, 0x0001000100010001, 0, 0);
  for (uint32_t row = row_begin; row < row_end; row += kPanelRows) {
    const uint32_t count = row_end - row < kPanelRows ? row_end - row : kPanelRows;
    const Rows rows = rows_of(w.data, w.row_bytes, row, count);
    __m512 total = _mm512_setzero_ps();
    for (uint32_t b = 0; b < w.cols / 256; ++b) {
      const LinesAhead lines = lines_ahead(w, b, kQ6KBytes);
      const __m256i sums = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x.sums16 + b * 16));
      __m512i v[16], s;
#pragma GCC unroll 16
      for (uint32_t r = 0; r < kPanelRows; ++r) {
        const uint8_t* block = rows.at[r] + uint64_t{b} * kQ6KBytes;
        prefetch_lines(rows.at[r], lines);
        const __m256i scales =
            _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(block + 192)));
        const __m256i offset = _mm256_slli_epi32(_mm256_madd_epi16(scales, sums), 5);
        v[r] = _mm512_zextsi256_si512(_mm256_sub_epi32(_mm256_setzero_si256(), offset));
        const __m512i words = _mm512_castsi256_si512(scales);
#pragma GCC unroll 2
        for (uint32_t h = 0; h < 2; ++h) {
          const __m512i q = load(block + h * 64);
          const __m512i high = _mm512_broadcast_i64x4(
              _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + 128 + h * 32)));
          const __m512i first =
              _mm512_or_si512(nibbles_low(q), _mm512_and_si512(_mm512_sllv_epi16(high, left), pair));
          const __m512i second =
              _mm512_or_si512(nibbles_high(q), _mm512_and_si512(_mm512_srlv_epi16(high, right), pair));
          const int8_t* with = x.codes + b * 256 + h * 128;
          const auto scale = [&](uint32_t i) {
            const __m512i index = _mm512_add_epi16(lane, _mm512_set1_epi16(static_cast<short>(4 * i)));
            return _mm512_permutexvar_epi16(index, words);
          };
          v[r] = _mm512_dpwssd_epi32(v[r], _mm512_maddubs_epi16(first, load(with)), scale(2 * h));
          v[r] = _mm512_dpwssd_epi32(v[r], _mm512_maddubs_epi16(second, load(with + 64)), scale(2 * h + 1));
        }
      }
      reduce16<1>(v, &s);
      const __m512 d = load_f16(rows, uint64_t{b} * kQ6KBytes + 208);
      total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(s), _mm512_mul_ps(d, _mm512_set1_ps(x.scales[b])), total);
    }
    _mm512_mask_storeu_ps(y + row, static_cast<__mmask16>((1u << count) - 1), total);
  }
}

}  // namespace mlxf::kernels::avx512
