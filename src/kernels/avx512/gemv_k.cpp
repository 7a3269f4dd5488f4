// Decode products (one token) of Q2_K, Q3_K, Q5_K and IQ4_XS on the stored layout, four rows at a time
// (four_rows.h).
//
// Codes are multiplied a row at a time: pairs of products in words (vpmaddubsw: at most 2 * 31 * 127), which vpdpwssd
// scales and adds up in 16 lanes. IQ4_XS's are too large for words: the lanes of a sub-block are added up first
// (vpdpbusd, a sub-block to each 128-bit lane) and scaled then. Scales and minima of four rows are unpacked together, a
// row to each 128-bit lane. Some 160 vector operations for 704 bytes of Q5_K, 140 for 336 of Q2_K, 170 for 440 of Q3_K,
// 90 for 544 of IQ4_XS, two to four a cycle on Zen 5. Block layouts: kernels/reference/blocks.cpp.
#include <immintrin.h>

#include <cstdint>

#include "kernels/avx512/avx512.h"
#include "kernels/avx512/codebooks.h"
#include "kernels/avx512/four_rows.h"

namespace mlxf::kernels::avx512 {
namespace {

constexpr uint32_t kQ2KBytes = 84;
constexpr uint32_t kQ3KBytes = 110;
constexpr uint32_t kQ5KBytes = 176;
constexpr uint32_t kIq4XsBytes = 136;
constexpr int kOrAnd = 0xf8;  // Of three-way logic: a | (b & c)

MLXF_INLINE __m512i load(const void* vector) { return _mm512_loadu_si512(vector); }
MLXF_INLINE __m128i load_lane(const void* lane) { return _mm_loadu_si128(static_cast<const __m128i*>(lane)); }
MLXF_INLINE __m256i load_half(const void* half) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(half));
}
MLXF_INLINE __m512i twice(__m256i half) { return _mm512_broadcast_i64x4(half); }
MLXF_INLINE __m512i join(__m256i low, __m256i high) {
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}
MLXF_INLINE __m512i low_nibbles(__m512i v) { return _mm512_and_si512(v, bytes_of(0x0f)); }
MLXF_INLINE __m512i high_nibbles(__m512i v) {
  return _mm512_and_si512(_mm512_srli_epi16(v, 4), bytes_of(0x0f));
}

// Sixteen bytes at `offset` of row r in lane r.
MLXF_INLINE __m512i load_lanes(const FourRows& rows, uint64_t offset) {
  __m512i v = _mm512_castsi128_si512(load_lane(rows.at[0] + offset));
  v = _mm512_mask_broadcast_i32x4(v, 0x00f0, load_lane(rows.at[1] + offset));
  v = _mm512_mask_broadcast_i32x4(v, 0x0f00, load_lane(rows.at[2] + offset));
  return _mm512_mask_broadcast_i32x4(v, 0xf000, load_lane(rows.at[3] + offset));
}

// The first dwords of the four lanes.
MLXF_INLINE __m128i first_dwords(__m512i v) {
  return _mm512_castsi512_si128(
      _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12), v));
}

// The sums of each lane's four dwords.
MLXF_INLINE __m128i add_dwords(__m512i v) {
  v = _mm512_add_epi32(v, _mm512_shuffle_epi32(v, _MM_PERM_BADC));
  return first_dwords(_mm512_add_epi32(v, _mm512_shuffle_epi32(v, _MM_PERM_CDAB)));
}

// Pairs of halves: the lower ones, the upper ones.
MLXF_INLINE __m128 lower_halves(__m128i pairs) { return _mm_cvtph_ps(_mm_cvtepi32_epi16(pairs)); }
MLXF_INLINE __m128 upper_halves(__m128i pairs) {
  return _mm_cvtph_ps(_mm_cvtepi32_epi16(_mm_srli_epi32(pairs, 16)));
}
MLXF_INLINE __m128i load_pairs(const FourRows& rows, uint64_t offset) {
  int32_t pairs[kRows];
  for (uint32_t r = 0; r < kRows; ++r) __builtin_memcpy(&pairs[r], rows.at[r] + offset, 4);
  return _mm_setr_epi32(pairs[0], pairs[1], pairs[2], pairs[3]);
}

MLXF_INLINE __m128 negated(__m128 v) { return _mm_xor_ps(v, _mm_set1_ps(-0.0f)); }

// One affine block: the integers of four rows.
MLXF_INLINE void add_block(__m128i s, __m128i m, __m128 d, __m128 dmin, float scale, Totals& totals) {
  const __m128 dx = _mm_set1_ps(scale);
  totals.s = _mm_fmadd_ps(_mm_cvtepi32_ps(s), _mm_mul_ps(d, dx), totals.s);
  totals.m = _mm_fmadd_ps(negated(dmin), _mm_mul_ps(_mm_cvtepi32_ps(m), dx), totals.m);
}

// Where the eight bits begin of which bit `to` is bit `lower` of each byte of a quadword, or `upper` in the upper half.
MLXF_INLINE __m512i pick_bits(uint32_t to, uint32_t lower, uint32_t upper) {
  const auto each = [to](uint32_t bit) {
    return _mm256_add_epi8(_mm256_set1_epi64x(0x3830282018100800),
                           _mm256_set1_epi8(static_cast<char>(64 + bit - to)));  // Modulo 64.
  };
  return join(each(lower), each(upper));
}

// Words that take byte `lower` of each lane, or `upper` in the upper half of the lanes.
MLXF_INLINE __m512i pick_words(uint32_t lower, uint32_t upper) {
  return join(_mm256_set1_epi16(static_cast<short>(0x8000u | lower)),
              _mm256_set1_epi16(static_cast<short>(0x8000u | upper)));
}

// Words for bit pairs of shift c: the bytes of sub-blocks 2 c, 2 c + 1 and of those eight further, as they are or
// (UPPER) 256 times a signed byte.
template <bool UPPER>
MLXF_INLINE __m512i pick_pair_words(uint32_t c) {
  const auto lane = [](uint32_t byte) {
    return _mm_set1_epi16(static_cast<short>(UPPER ? byte << 8 | 0x80u : 0x8000u | byte));
  };
  return join(_mm256_set_m128i(lane(2 * c + 1), lane(2 * c)),
              _mm256_set_m128i(lane(2 * c + 9), lane(2 * c + 8)));
}

// Sub-blocks 0, 2, 1, 3 of every four: the order of the low and then the high nibbles of 64 bytes of Q5_K.
void order_q5_k(const int8_t* codes, uint32_t cols, int8_t* out) {
  for (uint32_t k = 0; k < cols; k += 128) {
    const __m512i a = load(codes + k), b = load(codes + k + 64);
    _mm512_store_si512(out + k, _mm512_shuffle_i64x2(a, b, 0x44));
    _mm512_store_si512(out + k + 64, _mm512_shuffle_i64x2(a, b, 0xee));
  }
}

// Elements 0 .. 15 of every 32, then 16 .. 31: the order of the nibbles of 64 bytes of IQ4_XS.
void order_iq4_xs(const int8_t* codes, uint32_t cols, int8_t* out) {
  for (uint32_t k = 0; k < cols; k += 128) {
    const __m512i a = load(codes + k), b = load(codes + k + 64);
    _mm512_store_si512(out + k, _mm512_shuffle_i64x2(a, b, 0x88));
    _mm512_store_si512(out + k + 64, _mm512_shuffle_i64x2(a, b, 0xdd));
  }
}

// Elements 32 c .. 32 c + 31 of either half of a block, for each shift c: the order of 64 bytes of bit pairs.
void order_pairs(const int8_t* codes, uint32_t cols, int8_t* out) {
  for (uint32_t k = 0; k < cols; k += 256)
    for (uint32_t c = 0; c < 4; ++c)
      _mm512_store_si512(out + k + c * 64,
                         join(load_half(codes + k + c * 32), load_half(codes + k + 128 + c * 32)));
}

MLXF_INLINE __m512i bit_pairs(__m512i q, uint32_t c) {
  return _mm512_and_si512(_mm512_srli_epi16(q, 2 * c), bytes_of(3));
}

// The 8 scales and then the 8 minima of 6 bits of Q5_K's 12 bytes, which stand behind each lane's first dword.
MLXF_INLINE __m512i unpack_k_scales(__m512i head) {
  const __m512i low_shift = _mm512_broadcast_i32x4(_mm_setr_epi32(0, 0, 0, 4));
  const __m512i low_mask =
      _mm512_broadcast_i32x4(_mm_setr_epi32(0x3f3f3f3f, 0x0f0f0f0f, 0x3f3f3f3f, 0x0f0f0f0f));
  const __m512i high_mask = _mm512_broadcast_i32x4(_mm_setr_epi32(0, 0x30303030, 0, 0x30303030));
  const __m512i low = _mm512_and_si512(
      _mm512_srlv_epi32(_mm512_shuffle_epi32(head, static_cast<_MM_PERM_ENUM>(_MM_SHUFFLE(3, 2, 3, 1))),
                        low_shift),
      low_mask);
  const __m512i high =
      _mm512_srli_epi32(_mm512_shuffle_epi32(head, static_cast<_MM_PERM_ENUM>(_MM_SHUFFLE(2, 2, 1, 1))), 2);
  return _mm512_ternarylogic_epi64(low, high, high_mask, kOrAnd);
}

// The 16 scales of 6 bits, less 32, of Q3_K's 12 bytes, which stand behind the first two bytes of each lane.
MLXF_INLINE __m512i unpack_q3_k_scales(__m512i raw) {
  const __m512i first = _mm512_shuffle_epi8(
      raw, _mm512_broadcast_i32x4(_mm_setr_epi8(2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5, 6, 7, 8, 9)));
  const __m512i last = _mm512_shuffle_epi8(
      raw,
      _mm512_broadcast_i32x4(_mm_setr_epi8(10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13)));
  const __m512i low = low_nibbles(_mm512_srlv_epi64(first, _mm512_set4_epi64(4, 0, 4, 0)));
  const __m512i high = _mm512_and_si512(
      _mm512_srlv_epi32(last, _mm512_broadcast_i32x4(_mm_setr_epi32(0, 2, 4, 6))), bytes_of(3));
  return _mm512_sub_epi8(_mm512_or_si512(low, _mm512_slli_epi16(high, 4)), bytes_of(32));
}

// Runs block(rows, b, totals) for all blocks of four rows each; `bytes` a block.
template <bool AFFINE, typename Block>
MLXF_INLINE void for_each_block(const MatrixView& w, uint32_t row_begin, uint32_t row_end, uint32_t bytes,
                                float* y, const Block& block) {
  for (uint32_t row = row_begin; row < row_end; row += kRows) {
    const uint32_t count = row_end - row < kRows ? row_end - row : kRows;
    const FourRows rows = four_rows(w.data, w.row_bytes, row, count);
    const Ahead ahead = ahead_of(w.row_bytes);
    Totals totals;
    for (uint32_t b = 0; b < w.cols / 256; ++b) {
      prefetch_next_rows(ahead, rows.at[0], w.row_bytes, w.row_bytes, uint64_t{b} * bytes, bytes);
      block(rows, b, totals);
    }
    store(y + row, count, AFFINE ? _mm_add_ps(totals.s, totals.m) : totals.s);
  }
}

}  // namespace

void gemv_q5_k(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y,
               void* scratch) {
  auto* codes = static_cast<int8_t*>(scratch);
  order_q5_k(x.codes, x.cols, codes);
  const __m512i pick[4] = {pick_words(0, 2), pick_words(1, 3), pick_words(4, 6), pick_words(5, 7)};
  const __m512i fifth[4] = {pick_bits(4, 0, 2), pick_bits(4, 1, 3), pick_bits(4, 4, 6), pick_bits(4, 5, 7)};
  for_each_block<true>(
      w, row_begin, row_end, kQ5KBytes, y, [&](const FourRows& rows, uint32_t b, Totals& totals) {
        const uint64_t at = uint64_t{b} * kQ5KBytes;
        const __m512i head = load_lanes(rows, at), scales = unpack_k_scales(head);
        __m512i v[kRows];
#pragma GCC unroll 4
        for (uint32_t r = 0; r < kRows; ++r) {
          const uint8_t* block = rows.at[r] + at;
          const __m512i own = _mm512_permutexvar_epi64(_mm512_set1_epi64(2 * r), scales);
          const __m512i bits = twice(load_half(block + 16));
          v[r] = _mm512_setzero_si512();
#pragma GCC unroll 2
          for (uint32_t h = 0; h < 2; ++h) {
            const __m512i q = load(block + 48 + h * 64);
            const int8_t* with = codes + b * 256 + h * 128;
            const auto join_bits = [&](__m512i nibbles, uint32_t i) {
              const __m512i bit = _mm512_multishift_epi64_epi8(fifth[2 * h + i], bits);
              return _mm512_ternarylogic_epi64(nibbles, bit, bytes_of(0x10), kOrAnd);
            };
            const __m512i low = _mm512_maddubs_epi16(join_bits(low_nibbles(q), 0), load(with));
            const __m512i high = _mm512_maddubs_epi16(join_bits(high_nibbles(q), 1), load(with + 64));
            v[r] = _mm512_dpwssd_epi32(v[r], low, _mm512_shuffle_epi8(own, pick[2 * h]));
            v[r] = _mm512_dpwssd_epi32(v[r], high, _mm512_shuffle_epi8(own, pick[2 * h + 1]));
          }
        }
        const __m512i sums = _mm512_broadcast_i32x4(load_lane(x.sums32 + b * 8));
        const __m512i minima = _mm512_unpackhi_epi8(scales, _mm512_setzero_si512());
        const __m128i floats = first_dwords(head);
        add_block(add_lanes(sum_lanes(v)), add_dwords(_mm512_madd_epi16(minima, sums)), lower_halves(floats),
                  upper_halves(floats), x.scales[b], totals);
      });
}

void gemv_q2_k(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y,
               void* scratch) {
  auto* codes = static_cast<int8_t*>(scratch);
  order_pairs(x.codes, x.cols, codes);
  const __m512i pick[4] = {pick_pair_words<false>(0), pick_pair_words<false>(1), pick_pair_words<false>(2),
                           pick_pair_words<false>(3)};
  for_each_block<true>(
      w, row_begin, row_end, kQ2KBytes, y, [&](const FourRows& rows, uint32_t b, Totals& totals) {
        const uint64_t at = uint64_t{b} * kQ2KBytes;
        const int8_t* with = codes + b * 256;
        const __m512i head = load_lanes(rows, at), scales = low_nibbles(head), minima = high_nibbles(head);
        __m512i v[kRows];
#pragma GCC unroll 4
        for (uint32_t r = 0; r < kRows; ++r) {
          const __m512i q = load(rows.at[r] + at + 16);
          const __m512i own =
              _mm512_permutexvar_epi64(_mm512_broadcast_i32x4(_mm_set_epi64x(2 * r + 1, 2 * r)), scales);
          v[r] = _mm512_setzero_si512();
#pragma GCC unroll 4
          for (uint32_t c = 0; c < 4; ++c)
            v[r] = _mm512_dpwssd_epi32(v[r], _mm512_maddubs_epi16(bit_pairs(q, c), load(with + c * 64)),
                                       _mm512_shuffle_epi8(own, pick[c]));
        }
        const __m512i zero = _mm512_setzero_si512();
        const auto sums = [&](uint32_t j) {
          return _mm512_broadcast_i32x4(load_lane(x.sums16 + b * 16 + j));
        };
        const __m512i m = _mm512_dpwssd_epi32(_mm512_madd_epi16(_mm512_unpacklo_epi8(minima, zero), sums(0)),
                                              _mm512_unpackhi_epi8(minima, zero), sums(8));
        const __m128i floats = load_pairs(rows, at + 80);
        add_block(add_lanes(sum_lanes(v)), add_dwords(m), lower_halves(floats), upper_halves(floats),
                  x.scales[b], totals);
      });
}

// Scales are multiplied as 256 * scale: at most 16 * 32 * 16 * 7 * 127 * 256 < 2^31.
void gemv_q3_k(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y,
               void* scratch) {
  auto* codes = static_cast<int8_t*>(scratch);
  order_pairs(x.codes, x.cols, codes);
  const __m512i pick[4] = {pick_pair_words<true>(0), pick_pair_words<true>(1), pick_pair_words<true>(2),
                           pick_pair_words<true>(3)};
  const __m512i third[4] = {pick_bits(2, 0, 4), pick_bits(2, 1, 5), pick_bits(2, 2, 6), pick_bits(2, 3, 7)};
  for_each_block<false>(
      w, row_begin, row_end, kQ3KBytes, y, [&](const FourRows& rows, uint32_t b, Totals& totals) {
        const uint64_t at = uint64_t{b} * kQ3KBytes;
        const int8_t* with = codes + b * 256;
        const __m512i tail = load_lanes(rows, at + 94), scales = unpack_q3_k_scales(tail);
        __m512i v[kRows];
#pragma GCC unroll 4
        for (uint32_t r = 0; r < kRows; ++r) {
          const uint8_t* block = rows.at[r] + at;
          const __m512i q = load(block + 32), high = twice(load_half(block));
          const __m512i own =
              _mm512_permutexvar_epi64(_mm512_broadcast_i32x4(_mm_set_epi64x(2 * r + 1, 2 * r)), scales);
          v[r] = _mm512_setzero_si512();
#pragma GCC unroll 4
          for (uint32_t c = 0; c < 4; ++c) {
            const __m512i code = _mm512_ternarylogic_epi64(
                bit_pairs(q, c), _mm512_multishift_epi64_epi8(third[c], high), bytes_of(4), kOrAnd);
            v[r] = _mm512_dpwssd_epi32(v[r], _mm512_maddubs_epi16(code, load(with + c * 64)),
                                       _mm512_shuffle_epi8(own, pick[c]));
          }
        }
        // Codes are stored plus 4.
        const __m512i zero = _mm512_setzero_si512();
        const auto sums = [&](uint32_t j) {
          return _mm512_broadcast_i32x4(load_lane(x.sums16 + b * 16 + j));
        };
        const __m512i o = _mm512_dpwssd_epi32(_mm512_madd_epi16(_mm512_unpacklo_epi8(zero, scales), sums(0)),
                                              _mm512_unpackhi_epi8(zero, scales), sums(8));
        const __m128i s =
            _mm_sub_epi32(_mm_srai_epi32(add_lanes(sum_lanes(v)), 8), _mm_srai_epi32(add_dwords(o), 6));
        // d ends the block: the last two bytes of the lanes.
        const __m128 d = upper_halves(first_dwords(_mm512_shuffle_epi32(tail, _MM_PERM_DDDD)));
        totals.s = _mm_fmadd_ps(_mm_cvtepi32_ps(s), _mm_mul_ps(d, _mm_set1_ps(x.scales[b])), totals.s);
      });
}

void gemv_iq4_xs(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y,
                 void* scratch) {
  auto* codes = static_cast<int8_t*>(scratch);
  order_iq4_xs(x.codes, x.cols, codes);
  const __m512i table = load_table(kIq4);
  const auto per_lane = [](int step) {
    return _mm512_setr_epi32(0, 0, 0, 0, step, step, step, step, 2 * step, 2 * step, 2 * step, 2 * step,
                             3 * step, 3 * step, 3 * step, 3 * step);
  };
  const __m512i nibble_at = per_lane(4), pair_at = _mm512_add_epi32(per_lane(2), _mm512_set1_epi32(12));
  for_each_block<false>(
      w, row_begin, row_end, kIq4XsBytes, y, [&](const FourRows& rows, uint32_t b, Totals& totals) {
        const uint64_t at = uint64_t{b} * kIq4XsBytes;
        // d below eight pairs of high bits, and the low nibbles of the scales.
        const __m128i first = load_pairs(rows, at), nibbles = load_pairs(rows, at + 4);
        const __m512i pairs4 = _mm512_broadcast_i32x4(first), nibbles4 = _mm512_broadcast_i32x4(nibbles);
        // Sums of the token's sub-blocks, one to a lane: the codes are multiplied as code + 128.
        const __m256i sums = _mm256_slli_epi32(_mm256_cvtepi16_epi32(load_lane(x.sums32 + b * 8)), 7);
        __m512i total = _mm512_setzero_si512();
#pragma GCC unroll 2
        for (uint32_t h = 0; h < 2; ++h) {
          const __m512i x_low = load(codes + b * 256 + h * 128),
                        x_high = load(codes + b * 256 + h * 128 + 64);
          __m512i v[kRows];
#pragma GCC unroll 4
          for (uint32_t r = 0; r < kRows; ++r) {
            const __m512i q = load(rows.at[r] + at + 8 + h * 64);
            const __m512i low = _mm512_permutexvar_epi8(q, table);
            const __m512i high = _mm512_permutexvar_epi8(_mm512_srli_epi16(q, 4), table);
            v[r] = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(_mm512_setzero_si512(), low, x_low), high, x_high);
          }
          const int of_half = static_cast<int>(h);
          const __m512i low = _mm512_and_si512(
              _mm512_srlv_epi32(nibbles4, _mm512_add_epi32(nibble_at, _mm512_set1_epi32(16 * of_half))),
              _mm512_set1_epi32(15));
          const __m512i high =
              _mm512_srlv_epi32(pairs4, _mm512_add_epi32(pair_at, _mm512_set1_epi32(8 * of_half)));
          const __m512i scale = _mm512_sub_epi32(
              _mm512_ternarylogic_epi64(low, high, _mm512_set1_epi32(0x30), kOrAnd), _mm512_set1_epi32(32));
          const __m512i spread =
              _mm512_add_epi32(_mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3),
                               _mm512_set1_epi32(4 * of_half));
          const __m512i offset = _mm512_permutexvar_epi32(spread, _mm512_castsi256_si512(sums));
          const __m512i products = _mm512_mullo_epi32(_mm512_sub_epi32(sum_lanes(v), offset), scale);
          total = _mm512_add_epi32(total, products);
        }
        const __m128 d = _mm_mul_ps(lower_halves(first), _mm_set1_ps(x.scales[b]));
        totals.s = _mm_fmadd_ps(_mm_cvtepi32_ps(add_lanes(total)), d, totals.s);
      });
}

}  // namespace mlxf::kernels::avx512
