// Decode products (one token) of MLX's packed codes of 2 to 8 bits on the stored layout, four rows and four groups at a
// time (four_rows.h).
//
// A permutation takes the BITS bytes of each eight codes to a quadword, of which a multishift gives a byte each: three
// operations and one vpdpbusd for 64 codes. The sixteen vectors of sums that four groups of four rows leave are added
// up by one tree. Some 140 vector operations for 256 codes of four rows, 384 bytes of 3 bits and 640 of 5. 64 bytes of
// 4 bits are 128 codes, of one, two or four groups: 90 operations for 256 codes of four rows.
#include <immintrin.h>

#include <cstdint>

#include "kernels/avx512/avx512.h"
#include "kernels/avx512/four_rows.h"
#include "tensor/dtype.h"

namespace mlxf::kernels::avx512 {
namespace {

struct PackedOrder {
  alignas(64) uint8_t from[64];
};

constexpr PackedOrder packed_order(uint32_t bits) {
  PackedOrder order{};
  for (uint32_t i = 0; i < 64; ++i)
    order.from[i] = static_cast<uint8_t>(i / 8 * bits + (i % 8 < bits ? i % 8 : 0));
  return order;
}

// Where the codes of a quadword begin.
constexpr uint64_t code_starts(uint32_t bits) {
  uint64_t starts = 0;
  for (uint32_t i = 0; i < 8; ++i) starts |= uint64_t{i * bits} << (8 * i);
  return starts;
}

// Up to 64 codes from the first bytes of a vector.
template <uint32_t BITS>
MLXF_INLINE __m512i unpack(__m512i packed) {
  if constexpr (BITS == 8) return packed;
  static constexpr PackedOrder kOrder = packed_order(BITS);
  constexpr auto kStarts = static_cast<int64_t>(code_starts(BITS));
  const __m512i spread = _mm512_permutexvar_epi8(_mm512_load_si512(kOrder.from), packed);
  return _mm512_and_si512(_mm512_multishift_epi64_epi8(_mm512_set1_epi64(kStarts), spread),
                          bytes_of((1 << BITS) - 1));
}

// A group of GROUP elements times the token's.
template <uint32_t BITS, uint32_t GROUP>
MLXF_INLINE __m512i dot(const uint8_t* packed, const int8_t* codes) {
  constexpr uint32_t kStep = GROUP < 64 ? GROUP : 64;
  constexpr __mmask64 kBytes = ~uint64_t{0} >> (64 - kStep * BITS / 8);
  constexpr __mmask64 kCodes = ~uint64_t{0} >> (64 - kStep);
  __m512i sum = _mm512_setzero_si512();
#pragma GCC unroll 2
  for (uint32_t k = 0; k < GROUP; k += kStep)
    sum = _mm512_dpbusd_epi32(sum, unpack<BITS>(_mm512_maskz_loadu_epi8(kBytes, packed + k * BITS / 8)),
                              _mm512_maskz_loadu_epi8(kCodes, codes + k));
  return sum;
}

// Sums of n groups of GROUP elements of four rows, `packed` bytes into them; lane 4 q + r.
template <uint32_t BITS, uint32_t GROUP>
MLXF_INLINE __m512i multiply_quad(const FourRows& rows, uint64_t packed, const int8_t* codes, uint32_t n) {
  __m512i v[kQuad][kRows];
#pragma GCC unroll 4
  for (uint32_t q = 0; q < kQuad; ++q) {
    // Behind the last group its sums are taken again, and not added.
    const uint32_t group = q < n ? q : n - 1;
#pragma GCC unroll 4
    for (uint32_t r = 0; r < kRows; ++r)
      v[q][r] = dot<BITS, GROUP>(rows.at[r] + packed + group * (GROUP * BITS / 8), codes + group * GROUP);
  }
  return sum_vectors(v);
}

// The same of 4 bits; the token's codes are in the order of nibbles.
template <uint32_t GROUP>
MLXF_INLINE __m512i multiply_nibbles(const FourRows& rows, uint64_t packed, const int8_t* codes, uint32_t n) {
  constexpr uint32_t kVectors = GROUP / 32;  // Of the four groups of a row.
  __m512i u[kVectors];
#pragma GCC unroll 4
  for (uint32_t i = 0; i < kVectors; ++i) {
    const uint32_t left = n * (GROUP / 2) > i * 64 ? n * (GROUP / 2) - i * 64 : 0;
    const __mmask64 mask = first_bytes(left);
    // Behind the token's end there is nothing to read either.
    const int8_t* with = codes + (left > 0 ? i * 128 : 0);
    const __m512i x_low = _mm512_load_si512(with), x_high = _mm512_load_si512(with + 64);
    __m512i v[kRows];
#pragma GCC unroll 4
    for (uint32_t r = 0; r < kRows; ++r) {
      const __m512i q = _mm512_maskz_loadu_epi8(mask, rows.at[r] + packed + i * 64);
      const __m512i low = _mm512_and_si512(q, bytes_of(0x0f));
      const __m512i high = _mm512_and_si512(_mm512_srli_epi16(q, 4), bytes_of(0x0f));
      v[r] = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(_mm512_setzero_si512(), low, x_low), high, x_high);
    }
    u[i] = sum_lanes(v);
  }
  if constexpr (kVectors == 1) {
    return u[0];
  } else if constexpr (kVectors == 2) {
    return add_halves(u[0], u[1]);
  } else {
    return add_halves(add_halves(u[0], u[1]), add_halves(u[2], u[3]));
  }
}

// `count` bytes as the low ones of a word. No other byte is read: the last row may end its mapping.
MLXF_INLINE uint64_t load_bytes(const uint8_t* from, uint32_t count) {
  uint64_t word = 0;
  if (count == 8) {
    __builtin_memcpy(&word, from, 8);
  } else {
    for (uint32_t i = 0; i < count; ++i) word |= uint64_t{from[i]} << (8 * i);
  }
  return word;
}

// Scales of n groups from `g` on, of group q and row r in lane 4 q + r. Put together in registers: a vector loaded from
// what was just stored in parts would wait for the stores.
template <DType TYPE>
MLXF_INLINE __m512 load_scales(const FourRows& rows, uint32_t g, uint32_t n) {
  const __m512i turn = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  if constexpr (TYPE == DType::kF32) {
    const auto mask = static_cast<__mmask8>((1u << n) - 1);
    const auto row = [&](uint32_t r) { return _mm_maskz_loadu_ps(mask, rows.at[r] + uint64_t{g} * 4); };
    __m512 all = _mm512_castps128_ps512(row(0));
    all = _mm512_insertf32x4(all, row(1), 1);
    all = _mm512_insertf32x4(all, row(2), 2);
    all = _mm512_insertf32x4(all, row(3), 3);
    return _mm512_permutexvar_ps(turn, all);
  } else {
    const auto row = [&](uint32_t r) {
      return static_cast<long long>(load_bytes(rows.at[r] + uint64_t{g} * 2, n * 2));
    };
    const __m256i halves = _mm256_set_epi64x(row(3), row(2), row(1), row(0));
    if constexpr (TYPE == DType::kF16) {
      return _mm512_permutexvar_ps(turn, _mm512_cvtph_ps(halves));
    } else {
      const __m512i wide = _mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16);
      return _mm512_castsi512_ps(_mm512_permutexvar_epi32(turn, wide));
    }
  }
}

template <uint32_t BITS, uint32_t GROUP, DType TYPE>
void multiply(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y,
              void* scratch) {
  constexpr uint32_t kBytes = GROUP * BITS / 8;
  const GroupValues token = take_groups(x, GROUP, 0, static_cast<uint8_t*>(scratch) + kMatmulColsMax + 128);
  const int8_t* codes = x.codes;
  if constexpr (BITS == 4) {
    order_nibbles<true>(x.codes, x.cols, static_cast<uint8_t*>(scratch));
    codes = static_cast<const int8_t*>(scratch);
  }
  const uint32_t groups = w.cols / GROUP;
  for (uint32_t row = row_begin; row < row_end; row += kRows) {
    const uint32_t count = row_end - row < kRows ? row_end - row : kRows;
    const FourRows rows = four_rows(w.data, w.row_bytes, row, count);
    const FourRows scales = four_rows(w.scales, w.scale_row_bytes, row, count);
    const FourRows biases = four_rows(w.biases, w.scale_row_bytes, row, count);
    Totals totals;
    for (uint32_t g = 0; g < groups; g += kQuad) {
      const uint32_t n = groups - g < kQuad ? groups - g : kQuad;
      prefetch_next_rows(rows.at[0], w.row_bytes, uint64_t{groups} * kBytes, uint64_t{g} * kBytes,
                         kQuad * kBytes);
      __m512i sums;
      if constexpr (BITS == 4) {
        sums = multiply_nibbles<GROUP>(rows, uint64_t{g} * kBytes, codes + uint64_t{g} * GROUP, n);
      } else {
        sums = multiply_quad<BITS, GROUP>(rows, uint64_t{g} * kBytes, codes + uint64_t{g} * GROUP, n);
      }
      const GroupScales of_quad = {load_scales<TYPE>(scales, g, n), load_scales<TYPE>(biases, g, n)};
      add_groups<true>(sums, of_quad, token, g, n, totals);
    }
    store(y + row, count, _mm_add_ps(totals.s, totals.m));
  }
}

template <uint32_t BITS, uint32_t GROUP>
void multiply_groups(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                     float* y, void* scratch) {
  const auto run = w.scale_type == DType::kF32   ? multiply<BITS, GROUP, DType::kF32>
                   : w.scale_type == DType::kF16 ? multiply<BITS, GROUP, DType::kF16>
                                                 : multiply<BITS, GROUP, DType::kBF16>;
  run(w, row_begin, row_end, x, y, scratch);
}

template <uint32_t BITS>
void multiply_bits(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                   float* y, void* scratch) {
  const auto run = w.group == 32   ? multiply_groups<BITS, 32>
                   : w.group == 64 ? multiply_groups<BITS, 64>
                                   : multiply_groups<BITS, 128>;
  run(w, row_begin, row_end, x, y, scratch);
}

}  // namespace

void gemv_mlx_packed(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                     float* y, void* scratch) {
  const auto run = w.bits == 2   ? multiply_bits<2>
                   : w.bits == 3 ? multiply_bits<3>
                   : w.bits == 4 ? multiply_bits<4>
                   : w.bits == 5 ? multiply_bits<5>
                   : w.bits == 6 ? multiply_bits<6>
                                 : multiply_bits<8>;
  run(w, row_begin, row_end, x, y, scratch);
}

}  // namespace mlxf::kernels::avx512
