// Products of one to eight tokens with Q4_K, Q5_K and Q6_K on the stored layout, four rows at a time.
//
// Several answers side by side, and the experts of a mixture that few tokens of a prompt chose. Unpacking panels costs
// a block some 45 cycles before the first product; here a block is unpacked in registers, some 20 vector operations,
// and then costs each token 8 for its products and 5 for its share of the horizontal sums and chains, against 6 of a
// panel: worth it up to eight tokens. Four of them at most share the unpacking; more go over the four rows again, which
// L1 still has.
#include <immintrin.h>

#include <cstdint>

#include "kernels/avx512/avx512.h"
#include "kernels/avx512/four_rows.h"

namespace mlxf::kernels::avx512 {
namespace {

__m512i load(const void* vector) { return _mm512_loadu_si512(vector); }
__m256i load_half(const void* vector) { return _mm256_loadu_si256(static_cast<const __m256i*>(vector)); }
__m128i load_quarter(const void* vector) { return _mm_loadu_si128(static_cast<const __m128i*>(vector)); }

__m128i broadcast_pair(const int16_t* pair) {
  int32_t both;
  __builtin_memcpy(&both, pair, 4);
  return _mm_set1_epi32(both);
}

// 256 elements in order, and the words that their products are multiplied with.
struct Block {
  __m512i codes[4];
  __m512i scales[4];
};

// The dwords of four vectors: out[i] has dword i of each.
inline void transpose_4x4(const __m128i in[4], __m128i out[4]) {
  const __m128i a = _mm_unpacklo_epi32(in[0], in[1]), b = _mm_unpackhi_epi32(in[0], in[1]);
  const __m128i c = _mm_unpacklo_epi32(in[2], in[3]), d = _mm_unpackhi_epi32(in[2], in[3]);
  out[0] = _mm_unpacklo_epi64(a, c);
  out[1] = _mm_unpackhi_epi64(a, c);
  out[2] = _mm_unpacklo_epi64(b, d);
  out[3] = _mm_unpackhi_epi64(b, d);
}

// The 16-bit floats at four places.
inline __m128 load_f16x4(const FourRows& rows, uint64_t offset) {
  uint64_t all = 0;
  for (uint32_t r = 0; r < kRows; ++r) {
    uint16_t half;
    __builtin_memcpy(&half, rows.at[r] + offset, 2);
    all |= uint64_t{half} << (16 * r);
  }
  return _mm_cvtph_ps(_mm_cvtsi64_si128(static_cast<long long>(all)));
}

// Both have 8 scales and 8 minima of 6 bits each.
struct Affine {
  static constexpr uint32_t kScaleAt = 0;
  static constexpr bool kMinima = true;

  // The 8 scales, then the 8 minima, as bytes: see load_k_scales in avx2/k_scales.h.
  static __m128i sub_scales(const uint8_t* block) {
    const __m128i raw = load_quarter(block + 4);
    const __m128i low = _mm_and_si128(
        _mm_srlv_epi32(_mm_shuffle_epi32(raw, _MM_SHUFFLE(2, 1, 2, 0)), _mm_setr_epi32(0, 0, 0, 4)),
        _mm_setr_epi32(0x3f3f3f3f, 0x0f0f0f0f, 0x3f3f3f3f, 0x0f0f0f0f));
    const __m128i high = _mm_and_si128(_mm_srli_epi32(_mm_shuffle_epi32(raw, _MM_SHUFFLE(1, 1, 0, 0)), 2),
                                       _mm_setr_epi32(0, 0x30303030, 0, 0x30303030));
    return _mm_or_si128(low, high);
  }
  // Words for elements 64 c .. 64 c + 63.
  static __m512i spread_scales(__m512i words, uint32_t c) {
    const __m512i first = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(1), 1);
    return _mm512_permutexvar_epi16(_mm512_add_epi16(first, _mm512_set1_epi16(static_cast<short>(2 * c))),
                                    words);
  }
  static __m512i start(__m128i, const int16_t*) { return _mm512_setzero_si512(); }
  static const int16_t* sums(const ActivationView& x, uint64_t token, uint32_t b) {
    return x.sums32 + token * (x.cols / 32) + uint64_t{b} * 8;
  }
};

struct Q4K : Affine {
  static constexpr uint32_t kBytes = 144;
  static constexpr bool kOneToken = true;

  static Block unpack(const uint8_t* block, __m128i subs) {
    const __m512i words = _mm512_castsi128_si512(_mm_cvtepu8_epi16(subs));
    const __m512i down = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(4), 1);
    Block out;
#pragma GCC unroll 4
    for (uint32_t c = 0; c < 4; ++c) {
      const __m512i both = _mm512_broadcast_i64x4(load_half(block + 16 + c * 32));
      out.codes[c] = _mm512_and_si512(_mm512_srlv_epi16(both, down), bytes_of(0x0f));
      out.scales[c] = spread_scales(words, c);
    }
    return out;
  }
};

struct Q5K : Affine {
  static constexpr uint32_t kBytes = 176;
  static constexpr bool kOneToken = false;  // gemv_k.cpp's is faster.

  static Block unpack(const uint8_t* block, __m128i subs) {
    const __m512i words = _mm512_castsi128_si512(_mm_cvtepu8_epi16(subs));
    const __m512i down = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(4), 1);
    // Bits 2 c and 2 c + 1 of these bytes belong to elements 64 c .. 64 c + 31 and the next 32; they are made bit 4.
    const __m512i fifth = _mm512_broadcast_i64x4(load_half(block + 16));
    const __m512i bytes_at = _mm512_set1_epi64(0x3830282018100800);
    const __m512i bit_at = _mm512_inserti64x4(_mm512_set1_epi8(60), _mm256_set1_epi8(61), 1);  // Modulo 64.
    Block out;
#pragma GCC unroll 4
    for (uint32_t c = 0; c < 4; ++c) {
      const __m512i both = _mm512_broadcast_i64x4(load_half(block + 48 + c * 32));
      const __m512i at =
          _mm512_add_epi8(_mm512_add_epi8(bytes_at, bit_at), bytes_of(static_cast<int>(2 * c)));
      const __m512i low = _mm512_and_si512(_mm512_srlv_epi16(both, down), bytes_of(0x0f));
      // low | (bits & 0x10)
      out.codes[c] =
          _mm512_ternarylogic_epi64(low, _mm512_multishift_epi64_epi8(at, fifth), bytes_of(0x10), 0xf8);
      out.scales[c] = spread_scales(words, c);
    }
    return out;
  }
};

struct Q6K {
  static constexpr uint32_t kBytes = 210, kScaleAt = 208;
  static constexpr bool kOneToken = true;
  static constexpr bool kMinima = false;

  static __m128i sub_scales(const uint8_t* block) { return load_quarter(block + 192); }
  static Block unpack(const uint8_t* block, __m128i subs) {
    // Codes 0-31 and 32-63 of a half take bit pairs 0 and 1 of its 32 bytes, the next 64 pairs 2 and 3.
    const __m512i left = _mm512_inserti64x4(_mm512_set1_epi16(4), _mm256_set1_epi16(2), 1);
    const __m512i right = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(2), 1);
    // Word i of each 128-bit lane: the scale of that lane's 16 codes.
    const __m512i lane = _mm512_set_epi64(0x0003000300030003, 0x0003000300030003, 0x0002000200020002,
                                          0x0002000200020002, 0x0001000100010001, 0x0001000100010001, 0, 0);
    const __m512i words = _mm512_castsi256_si512(_mm256_cvtepi8_epi16(subs));
    Block out;
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      const __m512i q = load(block + h * 64);
      const __m512i high = _mm512_broadcast_i64x4(load_half(block + 128 + h * 32));
      // (a & 0x0f) | (b & 0x30)
      const auto join = [](__m512i nibbles, __m512i pairs) {
        return _mm512_or_si512(_mm512_and_si512(nibbles, bytes_of(0x0f)),
                               _mm512_and_si512(pairs, bytes_of(0x30)));
      };
      out.codes[2 * h] = join(q, _mm512_sllv_epi16(high, left));
      out.codes[2 * h + 1] = join(_mm512_srli_epi16(q, 4), _mm512_srlv_epi16(high, right));
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c)
      out.scales[c] = _mm512_permutexvar_epi16(
          _mm512_add_epi16(lane, _mm512_set1_epi16(static_cast<short>(4 * c))), words);
    return out;
  }
  // Codes are 32 more than what they stand for.
  static __m512i start(__m128i subs, const int16_t* sums) {
    const __m256i sum = _mm256_madd_epi16(_mm256_cvtepi8_epi16(subs), load_half(sums));
    return _mm512_zextsi256_si512(_mm256_sub_epi32(_mm256_setzero_si256(), _mm256_slli_epi32(sum, 5)));
  }
  static const int16_t* sums(const ActivationView& x, uint64_t token, uint32_t b) {
    return x.sums16 + token * (x.cols / 16) + uint64_t{b} * 16;
  }
};

template <typename Format>
struct BlockProduct {
  const MatrixView& w;
  const ActivationView& x;
  float* y;
  uint64_t y_stride;

  static constexpr bool kOneToken = Format::kOneToken;
  template <uint32_t T>
  void run(uint32_t row, uint32_t count, uint32_t token, bool first) const {
    const FourRows rows = four_rows(w.data, w.row_bytes, row, count);
    const uint32_t blocks = x.cols / 256;
    const Ahead ahead = ahead_of(w.row_bytes);
    Totals totals[T];
    for (uint32_t b = 0; b < blocks; ++b) {
      const uint64_t offset = uint64_t{b} * Format::kBytes;
      if (first) prefetch_next_rows(ahead, rows.at[0], w.row_bytes, w.row_bytes, offset, Format::kBytes);
      __m512i s[T][kRows];
      __m128i minima[kRows];
#pragma GCC unroll 4
      for (uint32_t r = 0; r < kRows; ++r) {
        const __m128i subs = Format::sub_scales(rows.at[r] + offset);
        if constexpr (Format::kMinima) minima[r] = _mm_unpackhi_epi8(subs, _mm_setzero_si128());
        const Block block = Format::unpack(rows.at[r] + offset, subs);
#pragma GCC unroll 4
        for (uint32_t t = 0; t < T; ++t) {
          const int8_t* codes = x.codes + uint64_t{token + t} * x.cols + uint64_t{b} * 256;
          s[t][r] = Format::start(subs, Format::sums(x, token + t, b));
#pragma GCC unroll 4
          for (uint32_t c = 0; c < 4; ++c)
            s[t][r] = _mm512_dpwssd_epi32(s[t][r], _mm512_maddubs_epi16(block.codes[c], load(codes + c * 64)),
                                          block.scales[c]);
          keep(s[t][r]);
        }
      }
      const __m128 d = load_f16x4(rows, offset + Format::kScaleAt);
      __m128 e = _mm_setzero_ps();
      __m128i pairs[4];
      if constexpr (Format::kMinima) {
        transpose_4x4(minima, pairs);
        e = _mm_xor_ps(load_f16x4(rows, offset + 2), _mm_set1_ps(-0.0f));
      }
#pragma GCC unroll 4
      for (uint32_t t = 0; t < T; ++t) {
        const __m128 dx = _mm_set1_ps(x.scales[uint64_t{token + t} * blocks + b]);
        totals[t].s =
            _mm_fmadd_ps(_mm_cvtepi32_ps(add_lanes(sum_lanes(s[t]))), _mm_mul_ps(d, dx), totals[t].s);
        if constexpr (Format::kMinima) {
          const int16_t* sums = Format::sums(x, token + t, b);
          __m128i m = _mm_setzero_si128();
#pragma GCC unroll 4
          for (uint32_t p = 0; p < 4; ++p) m = _mm_dpwssd_epi32(m, pairs[p], broadcast_pair(sums + p * 2));
          totals[t].m = _mm_fmadd_ps(e, _mm_mul_ps(_mm_cvtepi32_ps(m), dx), totals[t].m);
        }
      }
    }
    for (uint32_t t = 0; t < T; ++t)
      store(y + (token + t) * y_stride + row, count,
            Format::kMinima ? _mm_add_ps(totals[t].s, totals[t].m) : totals[t].s);
  }
};

}  // namespace

void multiply_few_q4_k(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                       float* y, uint64_t y_stride, void*) {
  for_each_tile(row_begin, row_end, x.tokens, BlockProduct<Q4K>{w, x, y, y_stride});
}
void multiply_few_q5_k(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                       float* y, uint64_t y_stride, void*) {
  for_each_tile(row_begin, row_end, x.tokens, BlockProduct<Q5K>{w, x, y, y_stride});
}
void multiply_few_q6_k(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                       float* y, uint64_t y_stride, void*) {
  for_each_tile(row_begin, row_end, x.tokens, BlockProduct<Q6K>{w, x, y, y_stride});
}

}  // namespace mlxf::kernels::avx512
