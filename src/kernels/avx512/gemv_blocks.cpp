// Decode products (one token) of the formats of 32 elements a block (Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL, MXFP4 and MLX's
// mxfp4) on the stored layout, four rows and four blocks at a time (four_rows.h).
//
// Two loads cover four blocks of a row, 64 to 96 bytes. A permutation takes the 64 bytes of nibbles from them, a block
// to each 128-bit lane, so that two vpdpbusd against the token in that order leave four lanes of sums per block. Other
// permutations take the scales from the loads. Some 60 vector operations for the 272 bytes of 4 x 4 blocks of MXFP4.
#include <immintrin.h>

#include <cstdint>

#include "kernels/avx512/avx512.h"
#include "kernels/avx512/codebooks.h"
#include "kernels/avx512/four_rows.h"

namespace mlxf::kernels::avx512 {
namespace {

enum class ScaleKind : uint8_t { kHalf, kHalfPair, kExponent, kApart };

struct Layout {
  uint32_t bytes;        // Of a block.
  uint32_t nibbles;      // Where in a block the 16 bytes of nibbles begin,
  uint32_t fifth;        // and the four bytes of fifth bits; 0: none.
  ScaleKind scale;       // d; d and e; an E8M0 byte; one that lies in the array of scales.
  const void* codebook;  // Null: the codes are the nibbles.
  int32_t minimum;       // Added to every code; 0: affine.
};

constexpr Layout kQ40 = {18, 2, 0, ScaleKind::kHalf, nullptr, -8};
constexpr Layout kQ41 = {20, 4, 0, ScaleKind::kHalfPair, nullptr, 0};
constexpr Layout kQ50 = {22, 6, 2, ScaleKind::kHalf, nullptr, -16};
constexpr Layout kQ51 = {24, 8, 4, ScaleKind::kHalfPair, nullptr, 0};
constexpr Layout kIq4Nl = {18, 2, 0, ScaleKind::kHalf, kIq4, -128};
constexpr Layout kMxfp4 = {17, 1, 0, ScaleKind::kExponent, kE2m1, -12};
constexpr Layout kMlxMxfp4 = {16, 0, 0, ScaleKind::kApart, kE2m1, -12};

// Four blocks of a row: the first 64 bytes, and the last 32.
struct Loaded {
  __m512i first;
  __m512i second;
};
constexpr uint32_t second_at(const Layout& f) { return kQuad * f.bytes - 32; }

// A permutation of the bytes of two vectors, and which of its bytes count.
struct Order {
  alignas(64) uint8_t from[64];
  uint64_t counts;
};
MLXF_INLINE __m512i load_order(const Order& order) { return _mm512_load_si512(order.from); }

// Byte `byte` of four blocks among both loads of a row.
constexpr uint8_t place(const Layout& f, uint32_t byte) {
  return static_cast<uint8_t>(byte < 64 ? byte : 64 + byte - second_at(f));
}

// The nibbles of block q in 128-bit lane q.
constexpr Order nibble_order(const Layout& f) {
  Order order{{}, ~uint64_t{0}};
  for (uint32_t i = 0; i < 64; ++i) order.from[i] = place(f, i / 16 * f.bytes + f.nibbles + i % 16);
  return order;
}

// The fifth bits of block q in each dword of lane q.
constexpr Order fifth_order(const Layout& f) {
  Order order{{}, ~uint64_t{0}};
  for (uint32_t i = 0; i < 64; ++i) order.from[i] = place(f, i / 16 * f.bytes + f.fifth + i % 4);
  return order;
}

// Of the first loads of rows 2 p and 2 p + 1: their exponents as dwords 4 q + r.
constexpr Order exponent_order(const Layout& f, uint32_t p) {
  Order order{};
  for (uint32_t q = 0; q < kQuad; ++q)
    for (uint32_t r = 0; r < 2; ++r) {
      const uint32_t to = 16 * q + 4 * (2 * p + r);
      order.from[to] = static_cast<uint8_t>(q * f.bytes + 64 * r);
      order.counts |= uint64_t{1} << to;
    }
  return order;
}

// Of both loads of row r: the halves at byte `at` of its blocks as words 4 q + r.
constexpr Order half_order(const Layout& f, uint32_t r, uint32_t at) {
  Order order{};
  for (uint32_t q = 0; q < kQuad; ++q)
    for (uint32_t i = 0; i < 2; ++i) {
      const uint32_t to = 2 * (4 * q + r) + i;
      order.from[to] = place(f, q * f.bytes + at + i);
      order.counts |= uint64_t{1} << to;
    }
  return order;
}

// What a call prepares of its token.
struct Token {
  const uint8_t*
      codes;  // In the order of the nibbles of four blocks: the low ones, then the high. Zeros behind.
  GroupValues groups;
};

// MLX's nibbles are even and odd elements, the others' elements 0 .. 15 and 16 .. 31.
template <bool EVEN_ODD>
Token take_token(const ActivationView& x, int32_t minimum, void* scratch) {
  auto* out = static_cast<uint8_t*>(scratch);
  order_nibbles<EVEN_ODD>(x.codes, x.cols, out);
  return {out, take_groups(x, 32, minimum, out + kMatmulColsMax + 128)};
}

// Four blocks of a row times the token: four lanes a block.
template <const Layout& F>
MLXF_INLINE __m512i dot(const Loaded& row, __m512i x_low, __m512i x_high) {
  __m512i q = row.first;
  if constexpr (F.scale != ScaleKind::kApart) {
    static constexpr Order kNibbles = nibble_order(F);
    q = _mm512_permutex2var_epi8(row.first, load_order(kNibbles), row.second);
  }
  __m512i low, high;
  if constexpr (F.codebook != nullptr) {
    const __m512i table = load_table(F.codebook);
    low = _mm512_permutexvar_epi8(q, table);
    high = _mm512_permutexvar_epi8(_mm512_srli_epi16(q, 4), table);
  } else {
    low = _mm512_and_si512(q, bytes_of(0x0f));
    high = _mm512_and_si512(_mm512_srli_epi16(q, 4), bytes_of(0x0f));
  }
  if constexpr (F.fifth != 0) {
    static constexpr Order kFifth = fifth_order(F);
    const __m512i bits = _mm512_permutex2var_epi8(row.first, load_order(kFifth), row.second);
    // Where those eight bits begin of which bit 4 is that of elements 0 .. 15; sixteen bits on for 16 .. 31.
    const __m512i at =
        _mm512_broadcast_i32x4(_mm_setr_epi8(28, 29, 30, 31, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11));
    const __m512i later = _mm512_add_epi8(at, bytes_of(16));
    constexpr int kOrAnd = 0xf8;  // a | (b & c)
    low = _mm512_ternarylogic_epi64(low, _mm512_multishift_epi64_epi8(at, bits), bytes_of(0x10), kOrAnd);
    high = _mm512_ternarylogic_epi64(high, _mm512_multishift_epi64_epi8(later, bits), bytes_of(0x10), kOrAnd);
  }
  return _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(_mm512_setzero_si512(), low, x_low), high, x_high);
}

template <const Layout& F, uint32_t AT>
MLXF_INLINE __m512 halves(const Loaded rows[kRows]) {
  static constexpr Order k0 = half_order(F, 0, AT), k1 = half_order(F, 1, AT), k2 = half_order(F, 2, AT),
                         k3 = half_order(F, 3, AT);
  const auto take = [](const Loaded& row, const Order& order) {
    return _mm512_castsi512_si256(_mm512_permutex2var_epi8(row.first, load_order(order), row.second));
  };
  const __m256i a = _mm256_mask_blend_epi16(0x2222, take(rows[0], k0), take(rows[1], k1));
  const __m256i b = _mm256_mask_blend_epi16(0x8888, take(rows[2], k2), take(rows[3], k3));
  return _mm512_cvtph_ps(_mm256_mask_blend_epi16(0xcccc, a, b));
}

// `apart`: the exponents of the four blocks of each row in a dword, where they do not lie in the blocks.
template <const Layout& F>
MLXF_INLINE GroupScales scales_of(const Loaded rows[kRows], __m128i apart) {
  if constexpr (F.scale == ScaleKind::kExponent) {
    static constexpr Order k0 = exponent_order(F, 0), k1 = exponent_order(F, 1);
    const __m512i first =
        _mm512_maskz_permutex2var_epi8(k0.counts, rows[0].first, load_order(k0), rows[1].first);
    const __m512i second =
        _mm512_maskz_permutex2var_epi8(k1.counts, rows[2].first, load_order(k1), rows[3].first);
    return {half_e8m0(_mm512_or_si512(first, second)), _mm512_setzero_ps()};
  } else if constexpr (F.scale == ScaleKind::kApart) {
    const __m128i turned =
        _mm_shuffle_epi8(apart, _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    return {half_e8m0(_mm512_cvtepu8_epi32(turned)), _mm512_setzero_ps()};
  } else if constexpr (F.scale == ScaleKind::kHalfPair) {
    return {halves<F, 0>(rows), halves<F, 2>(rows)};
  } else {
    return {halves<F, 0>(rows), _mm512_setzero_ps()};
  }
}

// The first n exponents of four rows from `g` on.
MLXF_INLINE __m128i load_exponents(const FourRows& scales, uint32_t g, uint32_t n) {
  int32_t all[kRows] = {};
  for (uint32_t r = 0; r < kRows; ++r) {
    if (n == kQuad) {
      __builtin_memcpy(&all[r], scales.at[r] + g, 4);
    } else {
      for (uint32_t i = 0; i < n; ++i) all[r] |= int32_t{scales.at[r][g + i]} << (8 * i);
    }
  }
  return _mm_setr_epi32(all[0], all[1], all[2], all[3]);
}

// Blocks b .. b + n - 1 of four rows; WHOLE: n is kQuad.
template <const Layout& F, bool WHOLE>
MLXF_INLINE void multiply_quad(const FourRows& rows, const FourRows& scales, uint32_t b, uint32_t n,
                               const Token& x, Totals& totals) {
  const uint8_t* codes = x.codes + uint64_t{b} * 32;
  const __m512i x_low = _mm512_load_si512(codes), x_high = _mm512_load_si512(codes + 64);
  const uint32_t left = n * F.bytes;
  const __mmask64 first = first_bytes(left);
  const auto second = static_cast<__mmask32>(first_bytes(left > second_at(F) ? left - second_at(F) : 0));
  Loaded loaded[kRows];
  __m512i v[kRows];
#pragma GCC unroll 4
  for (uint32_t r = 0; r < kRows; ++r) {
    const uint8_t* row = rows.at[r] + uint64_t{b} * F.bytes;
    if constexpr (WHOLE) {
      loaded[r] = {
          _mm512_loadu_si512(row),
          _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + second_at(F))))};
    } else {
      loaded[r] = {_mm512_maskz_loadu_epi8(first, row),
                   _mm512_castsi256_si512(_mm256_maskz_loadu_epi8(second, row + second_at(F)))};
    }
    v[r] = dot<F>(loaded[r], x_low, x_high);
  }
  __m128i apart = _mm_setzero_si128();
  if constexpr (F.scale == ScaleKind::kApart) apart = load_exponents(scales, b, WHOLE ? kQuad : n);
  add_groups<F.minimum == 0>(sum_lanes(v), scales_of<F>(loaded, apart), x.groups, b, WHOLE ? kQuad : n,
                             totals);
}

template <const Layout& F>
void multiply(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y,
              void* scratch) {
  const Token token = take_token<F.scale == ScaleKind::kApart>(x, F.minimum, scratch);
  const uint32_t blocks = w.cols / 32, whole = blocks / kQuad * kQuad;
  for (uint32_t row = row_begin; row < row_end; row += kRows) {
    const uint32_t count = row_end - row < kRows ? row_end - row : kRows;
    const FourRows rows = four_rows(w.data, w.row_bytes, row, count);
    const FourRows scales =
        F.scale == ScaleKind::kApart ? four_rows(w.scales, w.scale_row_bytes, row, count) : FourRows{};
    Totals totals;
    for (uint32_t b = 0; b < whole; b += kQuad) {
      prefetch_next_rows(rows.at[0], w.row_bytes, uint64_t{blocks} * F.bytes, uint64_t{b} * F.bytes,
                         kQuad * F.bytes);
      multiply_quad<F, true>(rows, scales, b, kQuad, token, totals);
    }
    if (whole < blocks) multiply_quad<F, false>(rows, scales, whole, blocks - whole, token, totals);
    store(y + row, count, F.minimum == 0 ? _mm_add_ps(totals.s, totals.m) : totals.s);
  }
}

}  // namespace

void gemv_q4_0(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y,
               void* scratch) {
  multiply<kQ40>(w, row_begin, row_end, x, y, scratch);
}
void gemv_q4_1(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y,
               void* scratch) {
  multiply<kQ41>(w, row_begin, row_end, x, y, scratch);
}
void gemv_q5_0(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y,
               void* scratch) {
  multiply<kQ50>(w, row_begin, row_end, x, y, scratch);
}
void gemv_q5_1(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y,
               void* scratch) {
  multiply<kQ51>(w, row_begin, row_end, x, y, scratch);
}
void gemv_iq4_nl(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y,
                 void* scratch) {
  multiply<kIq4Nl>(w, row_begin, row_end, x, y, scratch);
}
void gemv_mxfp4(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y,
                void* scratch) {
  multiply<kMxfp4>(w, row_begin, row_end, x, y, scratch);
}
void gemv_mlx_mxfp4(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                    float* y, void* scratch) {
  multiply<kMlxMxfp4>(w, row_begin, row_end, x, y, scratch);
}

}  // namespace mlxf::kernels::avx512
