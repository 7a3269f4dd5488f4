// Products of one to eight tokens with the formats of 32 elements a block (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, MXFP4,
// MLX's mxfp4 and int8) on the stored layout, four rows and four blocks at a time (groups.h).
//
// Two loads cover four blocks of a row of up to five bits, 64 to 96 bytes. A permutation takes the 64 bytes of nibbles
// from them, a block to each 128-bit lane. Other permutations take the scales from the loads. Some 60 vector operations
// for the 272 bytes of 4 x 4 blocks of MXFP4 and one token.
#include <immintrin.h>

#include <cstdint>

#include "kernels/avx512/avx512.h"
#include "kernels/avx512/codebooks.h"
#include "kernels/avx512/four_rows.h"
#include "kernels/avx512/groups.h"

namespace mlxf::kernels::avx512 {
namespace {

enum class ScaleKind : uint8_t { kHalf, kHalfPair, kExponent, kExponentApart, kFloatApart };

struct Layout {
  uint32_t bytes;            // Of a block.
  uint32_t codes;            // Where in a block the 16 bytes of nibbles or the 32 signed bytes begin,
  uint32_t fifth;            // and the four bytes of fifth bits; 0: none.
  ScaleKind scale;           // d; d and e; an E8M0 byte; one that lies in the array of scales; a float there.
  const void* codebook;      // Null: the codes are the nibbles.
  int32_t minimum;           // Added to every code; 0: affine.
  bool whole_bytes = false;  // Then AVX2's products of one token are faster.
};

constexpr Layout kQ40 = {18, 2, 0, ScaleKind::kHalf, nullptr, -8};
constexpr Layout kQ41 = {20, 4, 0, ScaleKind::kHalfPair, nullptr, 0};
constexpr Layout kQ50 = {22, 6, 2, ScaleKind::kHalf, nullptr, -16};
constexpr Layout kQ51 = {24, 8, 4, ScaleKind::kHalfPair, nullptr, 0};
constexpr Layout kQ80 = {34, 2, 0, ScaleKind::kHalf, nullptr, -128, true};
constexpr Layout kIq4Nl = {18, 2, 0, ScaleKind::kHalf, kIq4, -128};
constexpr Layout kMxfp4 = {17, 1, 0, ScaleKind::kExponent, kE2m1, -12};
constexpr Layout kMlxMxfp4 = {16, 0, 0, ScaleKind::kExponentApart, kE2m1, -12};
constexpr Layout kI8Row = {32, 0, 0, ScaleKind::kFloatApart, nullptr, -128, true};

// Four blocks of a row: the first 64 bytes, and the last 32, of whole bytes the next 64.
struct Loaded {
  __m512i first;
  __m512i second;
};
constexpr uint32_t second_at(const Layout& f) { return f.whole_bytes ? 64 : kQuad * f.bytes - 32; }

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
  for (uint32_t i = 0; i < 64; ++i) order.from[i] = place(f, i / 16 * f.bytes + f.codes + i % 16);
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

// The codes of four blocks of a row: elements 0 .. 15, then 16 .. 31.
template <const Layout& F>
MLXF_INLINE void unpack_nibbles(const Loaded& row, __m512i out[2]) {
  __m512i q = row.first;
  if constexpr (F.scale != ScaleKind::kExponentApart) {
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
  out[0] = low;
  out[1] = high;
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

template <const Layout& F>
MLXF_INLINE GroupScales scales_of(const Loaded rows[kRows]) {
  if constexpr (F.scale == ScaleKind::kExponent) {
    static constexpr Order k0 = exponent_order(F, 0), k1 = exponent_order(F, 1);
    const __m512i first =
        _mm512_maskz_permutex2var_epi8(k0.counts, rows[0].first, load_order(k0), rows[1].first);
    const __m512i second =
        _mm512_maskz_permutex2var_epi8(k1.counts, rows[2].first, load_order(k1), rows[3].first);
    return {half_e8m0(_mm512_or_si512(first, second)), _mm512_setzero_ps()};
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

// Group q and row r in lane 4 q + r.
MLXF_INLINE __m512i turn_exponents(__m128i exponents) {
  return _mm512_cvtepu8_epi32(
      _mm_shuffle_epi8(exponents, _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)));
}

template <const Layout& F>
struct Blocks {
  static constexpr uint32_t kGroup = 32, kVectors = 2, kBytes = F.bytes;
  // MLX's nibbles are even and odd elements, the others' elements 0 .. 15 and 16 .. 31.
  static constexpr bool kEvenOdd = F.scale == ScaleKind::kExponentApart;
  static constexpr int32_t kMinimum = F.minimum;
  static constexpr bool kOneToken = !F.whole_bytes;
  static constexpr bool kApart = F.scale == ScaleKind::kExponentApart || F.scale == ScaleKind::kFloatApart;
  struct Rows {
    FourRows codes, scales;
  };

  const MatrixView& w;

  [[nodiscard]] MLXF_INLINE Rows rows(uint32_t row, uint32_t count) const {
    return {four_rows(w.data, w.row_bytes, row, count),
            kApart ? four_rows(w.scales, w.scale_row_bytes, row, count) : FourRows{}};
  }

  template <bool WHOLE>
  MLXF_INLINE static Loaded load(const uint8_t* row, uint32_t n) {
    const uint8_t* second = row + second_at(F);
    if constexpr (WHOLE && F.whole_bytes) {
      return {_mm512_loadu_si512(row), _mm512_loadu_si512(second)};
    } else if constexpr (WHOLE) {
      return {_mm512_loadu_si512(row),
              _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(second)))};
    } else {
      const uint32_t left = n * F.bytes;
      const __mmask64 behind = first_bytes(left > second_at(F) ? left - second_at(F) : 0);
      return {_mm512_maskz_loadu_epi8(first_bytes(left), row),
              F.whole_bytes
                  ? _mm512_maskz_loadu_epi8(behind, second)
                  : _mm512_castsi256_si512(_mm256_maskz_loadu_epi8(static_cast<__mmask32>(behind), second))};
    }
  }

  template <bool WHOLE>
  MLXF_INLINE void unpack(const Rows& rows, uint32_t r, uint32_t b, uint32_t n, __m512i out[kVectors]) const {
    const uint8_t* row = rows.codes.at[r] + uint64_t{b} * F.bytes;
    if constexpr (!F.whole_bytes) {
      unpack_nibbles<F>(load<WHOLE>(row, n), out);
    } else {
      const auto block = [&](uint32_t q) {
        return _mm256_maskz_loadu_epi8(WHOLE || q < n ? ~0u : 0u, row + q * F.bytes + F.codes);
      };
      const auto pair = [&](uint32_t q) {
        return _mm512_xor_si512(_mm512_inserti64x4(_mm512_castsi256_si512(block(q)), block(q + 1), 1),
                                bytes_of(0x80));
      };
      const __m512i both[2] = {pair(0), pair(2)};
      gather_lanes<2>(both, out);
    }
  }

  template <bool WHOLE>
  MLXF_INLINE GroupScales scales(const Rows& rows, uint32_t b, uint32_t n) const {
    if constexpr (F.scale == ScaleKind::kFloatApart) {
      return {load_f32_scales(rows.scales, b, n), _mm512_setzero_ps()};
    } else if constexpr (F.scale == ScaleKind::kExponentApart) {
      return {half_e8m0(turn_exponents(load_exponents(rows.scales, b, WHOLE ? kQuad : n))),
              _mm512_setzero_ps()};
    } else {
      Loaded loaded[kRows];
#pragma GCC unroll 4
      for (uint32_t r = 0; r < kRows; ++r)
        loaded[r] = load<WHOLE>(rows.codes.at[r] + uint64_t{b} * F.bytes, n);
      return scales_of<F>(loaded);
    }
  }
};

template <const Layout& F>
void multiply(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y,
              uint64_t y_stride, void* scratch) {
  multiply_groups(Blocks<F>{w}, w, row_begin, row_end, x, y, y_stride, scratch);
}

}  // namespace

void multiply_few_q4_0(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                       float* y, uint64_t y_stride, void* scratch) {
  multiply<kQ40>(w, row_begin, row_end, x, y, y_stride, scratch);
}
void multiply_few_q4_1(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                       float* y, uint64_t y_stride, void* scratch) {
  multiply<kQ41>(w, row_begin, row_end, x, y, y_stride, scratch);
}
void multiply_few_q5_0(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                       float* y, uint64_t y_stride, void* scratch) {
  multiply<kQ50>(w, row_begin, row_end, x, y, y_stride, scratch);
}
void multiply_few_q5_1(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                       float* y, uint64_t y_stride, void* scratch) {
  multiply<kQ51>(w, row_begin, row_end, x, y, y_stride, scratch);
}
void multiply_few_q8_0(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                       float* y, uint64_t y_stride, void* scratch) {
  multiply<kQ80>(w, row_begin, row_end, x, y, y_stride, scratch);
}
void multiply_few_iq4_nl(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                         float* y, uint64_t y_stride, void* scratch) {
  multiply<kIq4Nl>(w, row_begin, row_end, x, y, y_stride, scratch);
}
void multiply_few_mxfp4(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                        float* y, uint64_t y_stride, void* scratch) {
  multiply<kMxfp4>(w, row_begin, row_end, x, y, y_stride, scratch);
}
void multiply_few_mlx_mxfp4(const MatrixView& w, uint32_t row_begin, uint32_t row_end,
                            const ActivationView& x, float* y, uint64_t y_stride, void* scratch) {
  multiply<kMlxMxfp4>(w, row_begin, row_end, x, y, y_stride, scratch);
}
void multiply_few_i8_row(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                         float* y, uint64_t y_stride, void* scratch) {
  multiply<kI8Row>(w, row_begin, row_end, x, y, y_stride, scratch);
}

}  // namespace mlxf::kernels::avx512
