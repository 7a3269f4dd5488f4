// Products of few tokens with Q4_K and Q6_K of sixteen rows side by side (kernels/side_by_side.h).
//
// A vector holds four codes of each row, which vpdpbusd multiplies with four of a token, spread to all lanes. Up to
// eight tokens share what is unpacked; more of them go over the block again, which L1 still has. A block of 16 rows
// of Q4_K costs some 130 operations and each token 64 of vpdpbusd, 16 for scales, 4 for minima and 6 for the chains; of
// Q6_K 250, and 64, 32, 10 and 3. Zen 5 takes some 80 cycles for the first part of Q4_K and 40 a token; panels
// (panel.cpp), which are better where very many tokens share them, 700 before the first product.
#include <immintrin.h>

#include <cstdint>

#include "kernels/avx512/avx512.h"
#include "kernels/avx512/columns.h"
#include "kernels/avx512/four_rows.h"
#include "kernels/avx512/k_head.h"
#include "kernels/side_by_side.h"

namespace mlxf::kernels::avx512 {
namespace {

constexpr uint32_t kTokensTogether = 32;  // Whose totals are kept while a group of rows is read.

MLXF_INLINE __m512i load(const void* vector) { return _mm512_loadu_si512(vector); }
MLXF_INLINE __m512i spread(const void* dword) {
  int32_t value;
  __builtin_memcpy(&value, dword, 4);
  return _mm512_set1_epi32(value);
}

// Weights are asked for so many bytes before they are used, line by line as others are: in one go, they would keep what
// is used next from coming. Two blocks of Q4_K.
constexpr uint64_t kAhead = 4608;
MLXF_INLINE void prefetch_ahead(const uint8_t* line) { __builtin_prefetch(line + kAhead, 0, kNonTemporal); }

// A block of the tokens' side, from one of them on.
struct TokenBlock {
  const int8_t* codes;
  uint64_t stride;  // Between tokens, of codes; a sixteenth or a thirty-second of it for sums.
  const int16_t* sums;
  const float* scales;
  uint64_t scale_stride;
};

// The running sums of sixteen rows, by token.
struct GroupTotals {
  __m512 s[kTokensTogether];
  __m512 m[kTokensTogether];
};

// The products of two sub-blocks, each with its scale.
template <uint32_t T>
MLXF_INLINE void add_scaled(const __m512i first[T], __m512i first_scale, const __m512i second[T],
                            __m512i second_scale, __m512i sum[T]) {
#pragma GCC unroll 8
  for (uint32_t t = 0; t < T; ++t) {
    sum[t] = _mm512_add_epi32(sum[t], _mm512_mullo_epi32(first[t], first_scale));
    sum[t] = _mm512_add_epi32(sum[t], _mm512_mullo_epi32(second[t], second_scale));
    keep(sum[t]);
  }
}

struct Q4K {
  static constexpr uint32_t kBytes = 144 * kRowsSideBySide;
  static constexpr uint32_t kRestBytes = 0;
  static constexpr uint32_t kSub = 32;
  // Whose products share what is unpacked: registers for no more.
  static constexpr uint32_t kTokensShared = 8;
  static constexpr bool kMinima = true;

  // What all tokens share of a block beside its codes.
  struct Head {
    __m512 d, e;
    __m512i scales[8];
    __m512i minima[4];  // Pairs of words.
  };

  MLXF_INLINE static void read_head(const uint8_t* block, const uint8_t*, uint64_t, Head& head) {
#pragma GCC unroll 4
    for (uint32_t i = 0; i < 4; ++i) prefetch_ahead(block + i * 64);
    const __m512i dwords[4] = {load(block), load(block + 64), load(block + 128), load(block + 192)};
    const KHead h = k_head_of(dwords);
    head.d = h.d;
    head.e = h.e;
    const __m512i low = _mm512_set1_epi32(0xff);
#pragma GCC unroll 2
    for (uint32_t i = 0; i < 2; ++i) {
      head.scales[4 * i] = _mm512_and_si512(h.scales[i], low);
      head.scales[4 * i + 1] = _mm512_and_si512(_mm512_srli_epi32(h.scales[i], 8), low);
      head.scales[4 * i + 2] = _mm512_and_si512(_mm512_srli_epi32(h.scales[i], 16), low);
      head.scales[4 * i + 3] = _mm512_srli_epi32(h.scales[i], 24);
      widen_pairs(h.minima[i], head.minima + 2 * i);
    }
  }

  // Of a run of 64 codes, low nibbles are the first half and high ones the second.
  template <uint32_t T>
  MLXF_INLINE static void multiply_run(const uint8_t* q, const __m512i* scales, const int8_t* with,
                                       uint64_t stride, __m512i sum[T]) {
    __m512i low[T], high[T];
#pragma GCC unroll 8
    for (uint32_t t = 0; t < T; ++t) low[t] = high[t] = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (uint32_t i = 0; i < 8; ++i) {
      prefetch_ahead(q + i * 64);
      const __m512i both = load(q + i * 64);
      const __m512i first = nibbles_low(both), second = nibbles_high(both);
#pragma GCC unroll 8
      for (uint32_t t = 0; t < T; ++t) {
        const int8_t* codes = with + t * stride + i * 4;
        low[t] = _mm512_dpbusd_epi32(low[t], first, spread(codes));
        high[t] = _mm512_dpbusd_epi32(high[t], second, spread(codes + 32));
      }
    }
    add_scaled<T>(low, scales[0], high, scales[1], sum);
  }

  template <uint32_t T>
  MLXF_INLINE static void multiply(const uint8_t* block, const Head& head, const TokenBlock& x,
                                   GroupTotals& totals, uint32_t first) {
    __m512i sum[T];
#pragma GCC unroll 8
    for (uint32_t t = 0; t < T; ++t) sum[t] = _mm512_setzero_si512();
#pragma GCC unroll 1
    for (uint32_t r = 0; r < 4; ++r)
      multiply_run<T>(block + 256 + uint64_t{r} * 512, head.scales + 2 * r, x.codes + uint64_t{r} * 64,
                      x.stride, sum);
#pragma GCC unroll 8
    for (uint32_t t = 0; t < T; ++t) {
      const int16_t* sums = x.sums + t * (x.stride / kSub);
      __m512i m = _mm512_setzero_si512();
#pragma GCC unroll 4
      for (uint32_t p = 0; p < 4; ++p) m = _mm512_dpwssd_epi32(m, head.minima[p], spread(sums + 2 * p));
      const __m512 dx = _mm512_set1_ps(x.scales[t * x.scale_stride]);
      totals.s[first + t] =
          _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[t]), _mm512_mul_ps(head.d, dx), totals.s[first + t]);
      totals.m[first + t] =
          _mm512_fmadd_ps(head.e, _mm512_mul_ps(_mm512_cvtepi32_ps(m), dx), totals.m[first + t]);
    }
  }
};

// IN_ORDER: for three or four tokens. With registers to spare GCC 12 begins with all loads of a run, of which memory
// then gives a tenth less; what keeps them in order costs more tokens as much.
template <bool IN_ORDER>
struct Q6K {
  static constexpr uint32_t kBytes = 208 * kRowsSideBySide;
  static constexpr uint32_t kRestBytes = 2 * kRowsSideBySide;
  static constexpr uint32_t kSub = 16;
  static constexpr uint32_t kTokensShared = IN_ORDER ? 4 : 6;
  static constexpr bool kMinima = false;

  struct Head {
    __m512 d;
    __m512i scales[16];
    __m512i pairs[8];  // The same as pairs of words.
  };

  // `rest`: the d of the block's rows, behind all blocks of theirs.
  MLXF_INLINE static void read_head(const uint8_t* block, const uint8_t* rest, uint64_t group_bytes,
                                    Head& head) {
    __builtin_prefetch(rest + group_bytes, 0, kNonTemporal);
    head.d = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(rest)));
    const __m512i first = _mm512_set4_epi32(static_cast<int>(0x0d800c80u), static_cast<int>(0x09800880u),
                                            static_cast<int>(0x05800480u), static_cast<int>(0x01800080u));
    const __m512i second = _mm512_set4_epi32(static_cast<int>(0x0f800e80u), static_cast<int>(0x0b800a80u),
                                             static_cast<int>(0x07800680u), static_cast<int>(0x03800280u));
#pragma GCC unroll 4
    for (uint32_t i = 0; i < 4; ++i) {
      const __m512i four = load(block + i * 64);
      prefetch_ahead(block + i * 64);
      head.scales[4 * i] = _mm512_srai_epi32(_mm512_slli_epi32(four, 24), 24);
      head.scales[4 * i + 1] = _mm512_srai_epi32(_mm512_slli_epi32(four, 16), 24);
      head.scales[4 * i + 2] = _mm512_srai_epi32(_mm512_slli_epi32(four, 8), 24);
      head.scales[4 * i + 3] = _mm512_srai_epi32(four, 24);
      head.pairs[2 * i] = _mm512_srai_epi16(_mm512_shuffle_epi8(four, first), 8);
      head.pairs[2 * i + 1] = _mm512_srai_epi16(_mm512_shuffle_epi8(four, second), 8);
    }
  }

  // Sub-block SUB of quarters Q and Q + 2 of a half: the low and the high nibbles of the same bytes.
  template <uint32_t T, uint32_t Q, uint32_t SUB>
  MLXF_INLINE static void multiply_quarters(const uint8_t* half, const __m512i* scales, const int8_t* with,
                                            uint64_t stride, __m512i sum[T]) {
    // What others read, too, is read again: GCC 12 would keep all of it and spill it.
    __asm__("" : "+r"(half));
    __m512i first[T], second[T];
#pragma GCC unroll 8
    for (uint32_t t = 0; t < T; ++t) first[t] = second[t] = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (uint32_t i = 0; i < 4; ++i) {
      if constexpr (IN_ORDER) __asm__ volatile("" ::: "memory");
      const uint32_t dword = SUB * 4 + i;
      const uint8_t* low = half + (Q == 0 ? dword * 128 : 1024 + dword * 64);
      const uint8_t* high = half + dword * 128 + 64;
      prefetch_ahead(low);
      if constexpr (Q == 0) prefetch_ahead(high);
      const __m512i nibbles = load(low), pairs = load(high);
      const auto join = [](__m512i nibble, __m512i pair) {  // nibble | (pair & 0x30)
        return _mm512_ternarylogic_epi64(nibble, pair, bytes_of(0x30), 0xf8);
      };
      const __m512i codes = join(nibbles_low(nibbles), _mm512_slli_epi16(pairs, 4 - 2 * Q));
      const __m512i more = join(nibbles_high(nibbles), Q == 0 ? pairs : _mm512_srli_epi16(pairs, 2));
#pragma GCC unroll 8
      for (uint32_t t = 0; t < T; ++t) {
        const int8_t* at = with + t * stride + Q * 32 + dword * 4;
        first[t] = _mm512_dpbusd_epi32(first[t], codes, spread(at));
        second[t] = _mm512_dpbusd_epi32(second[t], more, spread(at + 64));
      }
    }
    add_scaled<T>(first, scales[2 * Q + SUB], second, scales[2 * Q + SUB + 4], sum);
  }

  template <uint32_t T>
  MLXF_INLINE static void multiply(const uint8_t* block, const Head& head, const TokenBlock& x,
                                   GroupTotals& totals, uint32_t first) {
    __m512i sum[T];
#pragma GCC unroll 8
    for (uint32_t t = 0; t < T; ++t) sum[t] = _mm512_setzero_si512();
#pragma GCC unroll 1
    for (uint32_t h = 0; h < 2; ++h) {
      const uint8_t* half = block + 256 + uint64_t{h} * 1536;
      const __m512i* scales = head.scales + 8 * h;
      const int8_t* with = x.codes + uint64_t{h} * 128;
      multiply_quarters<T, 0, 0>(half, scales, with, x.stride, sum);
      multiply_quarters<T, 0, 1>(half, scales, with, x.stride, sum);
      multiply_quarters<T, 1, 0>(half, scales, with, x.stride, sum);
      multiply_quarters<T, 1, 1>(half, scales, with, x.stride, sum);
    }
#pragma GCC unroll 8
    for (uint32_t t = 0; t < T; ++t) {
      // Codes are 32 more than what they stand for.
      const int16_t* sums = x.sums + t * (x.stride / kSub);
      __m512i more = _mm512_setzero_si512();
#pragma GCC unroll 8
      for (uint32_t p = 0; p < 8; ++p) more = _mm512_dpwssd_epi32(more, head.pairs[p], spread(sums + 2 * p));
      const __m512i s = _mm512_sub_epi32(sum[t], _mm512_slli_epi32(more, 5));
      const __m512 dx = _mm512_set1_ps(x.scales[t * x.scale_stride]);
      totals.s[first + t] =
          _mm512_fmadd_ps(_mm512_cvtepi32_ps(s), _mm512_mul_ps(head.d, dx), totals.s[first + t]);
    }
  }
};

template <typename Format>
MLXF_INLINE void multiply_block(const uint8_t* block, const typename Format::Head& head, const TokenBlock& x,
                                uint32_t tokens, GroupTotals& totals) {
  const uint32_t passes = (tokens + Format::kTokensShared - 1) / Format::kTokensShared;
  for (uint32_t pass = 0; pass < passes; ++pass) {
    const uint32_t first = tokens * pass / passes;
    const TokenBlock from{x.codes + first * x.stride, x.stride, x.sums + first * (x.stride / Format::kSub),
                          x.scales + first * x.scale_stride, x.scale_stride};
    switch (tokens * (pass + 1) / passes - first) {
      case 1:
        Format::template multiply<1>(block, head, from, totals, first);
        break;
      case 2:
        Format::template multiply<2>(block, head, from, totals, first);
        break;
      case 3:
        Format::template multiply<3>(block, head, from, totals, first);
        break;
      case 4:
        Format::template multiply<4>(block, head, from, totals, first);
        break;
      case 5:
        if constexpr (Format::kTokensShared >= 5)
          Format::template multiply<5>(block, head, from, totals, first);
        break;
      case 6:
        if constexpr (Format::kTokensShared >= 6)
          Format::template multiply<6>(block, head, from, totals, first);
        break;
      case 7:
        if constexpr (Format::kTokensShared >= 7)
          Format::template multiply<7>(block, head, from, totals, first);
        break;
      default:
        if constexpr (Format::kTokensShared >= 8)
          Format::template multiply<8>(block, head, from, totals, first);
        break;
    }
  }
}

// `tokens` <= kTokensTogether from `token` on.
template <typename Format>
MLXF_INLINE void multiply_tokens(const MatrixView& w, uint32_t row_begin, uint32_t row_end,
                                 const ActivationView& x, uint32_t token, uint32_t tokens, float* y,
                                 uint64_t y_stride) {
  const uint32_t blocks = x.cols / 256;
  const int16_t* sums = Format::kSub == 16 ? x.sums16 : x.sums32;
  for (uint32_t group = row_begin / kRowsSideBySide * kRowsSideBySide; group < row_end;
       group += kRowsSideBySide) {
    const uint8_t* data = w.data + group * w.row_bytes;
    GroupTotals totals;
    for (uint32_t t = 0; t < tokens; ++t) totals.s[t] = totals.m[t] = _mm512_setzero_ps();
    for (uint32_t b = 0; b < blocks; ++b) {
      const uint8_t* block = data + uint64_t{b} * Format::kBytes;
      const TokenBlock from{x.codes + uint64_t{token} * x.cols + uint64_t{b} * 256, x.cols,
                            sums + (uint64_t{token} * x.cols + uint64_t{b} * 256) / Format::kSub,
                            x.scales + uint64_t{token} * blocks + b, blocks};
      typename Format::Head head;
      Format::read_head(block, data + uint64_t{blocks} * Format::kBytes + uint64_t{b} * Format::kRestBytes,
                        kRowsSideBySide * w.row_bytes, head);
      multiply_block<Format>(block, head, from, tokens, totals);
    }
    const uint32_t before = group < row_begin ? row_begin - group : 0;
    const uint32_t behind = row_end - group < kRowsSideBySide ? kRowsSideBySide - (row_end - group) : 0;
    const auto mask = static_cast<__mmask16>(0xffffu >> behind & 0xffffu << before);
    for (uint32_t t = 0; t < tokens; ++t)
      _mm512_mask_storeu_ps(y + (token + t) * y_stride + group, mask,
                            Format::kMinima ? _mm512_add_ps(totals.s[t], totals.m[t]) : totals.s[t]);
  }
}

template <typename Format>
MLXF_INLINE void multiply_rows(const MatrixView& w, uint32_t row_begin, uint32_t row_end,
                               const ActivationView& x, float* y, uint64_t y_stride) {
  for (uint32_t token = 0; token < x.tokens; token += kTokensTogether)
    multiply_tokens<Format>(w, row_begin, row_end, x, token,
                            x.tokens - token < kTokensTogether ? x.tokens - token : kTokensTogether, y,
                            y_stride);
}

// A function of its own: in one with the other, that one's loops came out slower.
__attribute__((noinline)) void multiply_q6_k_in_order(const MatrixView& w, uint32_t row_begin,
                                                      uint32_t row_end, const ActivationView& x, float* y,
                                                      uint64_t y_stride) {
  multiply_rows<Q6K<true>>(w, row_begin, row_end, x, y, y_stride);
}

}  // namespace

void multiply_q4_k_x16(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                       float* y, uint64_t y_stride, void*) {
  multiply_rows<Q4K>(w, row_begin, row_end, x, y, y_stride);
}
void multiply_q6_k_x16(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                       float* y, uint64_t y_stride, void*) {
  if (x.tokens == 3 || x.tokens == 4) return multiply_q6_k_in_order(w, row_begin, row_end, x, y, y_stride);
  multiply_rows<Q6K<false>>(w, row_begin, row_end, x, y, y_stride);
}

void put_side_by_side(const MatrixView& rows, uint8_t* target) {
  const uint32_t block_bytes = rows.format == WeightFormat::kQ4_K ? 144 : 210;
  const uint32_t blocks = rows.cols / 256, dwords = block_bytes / 4, rest = block_bytes % 4;
  for (uint32_t first = 0; first < rows.rows; first += kRowsSideBySide) {
    const Rows from = rows_of(rows.data, rows.row_bytes, first, kRowsSideBySide);
    uint8_t* group = target + first * rows.row_bytes;
    for (uint32_t b = 0; b < blocks; ++b) {
      const uint64_t at = uint64_t{b} * block_bytes;
      uint8_t* block = group + uint64_t{b} * dwords * 64;
      for (uint32_t i = 0; i < dwords; i += 16) {
        __m512i v[16];
        const uint32_t n = dwords - i < 16 ? dwords - i : 16;
        if (n == 4) {
          load_columns4(from, at + i * 4, v);
        } else {
          load_columns16(from, at + i * 4, v);
        }
        for (uint32_t j = 0; j < n; ++j)
          _mm512_storeu_si512(block + uint64_t{dword_place(rows.format, i + j)} * 64, v[j]);
      }
      uint8_t* behind = group + (uint64_t{blocks} * dwords * 4 + uint64_t{b} * rest) * kRowsSideBySide;
      for (uint32_t r = 0; r < kRowsSideBySide; ++r)
        __builtin_memcpy(behind + r * rest, from.at[r] + at + dwords * 4, rest);
    }
  }
}

}  // namespace mlxf::kernels::avx512
