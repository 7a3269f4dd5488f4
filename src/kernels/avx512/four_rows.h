// What the products of one to eight tokens share: four neighbouring rows and four groups of each are multiplied
// together, which leaves the sum of group q and row r in lane 4 q + r. Four rows are one ascending run of memory, which
// a core reads at the memory's speed; sixteen side by side got 35 to 38 GB/s of 52 from two cores of Zen 5.
// Everything here has internal linkage: each object file carries its own copy, so that none built with AVX-512 can be
// picked for a program that runs on a machine without. Pure functions over borrowed memory; any thread.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/activations.h"
#include "kernels/avx512/avx512.h"
#include "kernels/kernel_table.h"
#include "tensor/matrix.h"

namespace mlxf::kernels::avx512 {
namespace {

// A call would spill the vectors of the loop that it stands in; but a loop with everything in it takes minutes to
// compile once a sanitizer has added its checks.
#if defined(MLXF_SANITIZED)
#define MLXF_INLINE [[maybe_unused]] inline
#else
#define MLXF_INLINE [[maybe_unused]] inline __attribute__((always_inline))
#endif

constexpr uint32_t kRows = 4;
constexpr uint32_t kQuad = 4;  // Groups of a row that are multiplied together.

// The row pointers of a group of four; past the end the last row repeats, its results are not stored.
struct FourRows {
  const uint8_t* at[kRows];
};

MLXF_INLINE FourRows four_rows(const uint8_t* data, uint64_t row_bytes, uint32_t row, uint32_t count) {
  FourRows rows;
  for (uint32_t r = 0; r < kRows; ++r) rows.at[r] = data + (row + (r < count ? r : count - 1)) * row_bytes;
  return rows;
}

// Which rows are asked for while four are in use, and into which cache. Weights are used once a token: not worth a
// place in L2, where L1 has room for four rows more. One of 32 KiB has not, and what is asked for leaves it before it
// is used (Zen 4: 19 to 25 GB/s from two cores, and 30 to 44 through L2); a Zen 5 core, with 48 KiB, fetches half as
// much for L2 as for L1.
struct Ahead {
  uint64_t bytes;  // A multiple of four rows.
  bool into_l1;
};
MLXF_INLINE Ahead ahead_of(uint64_t row_bytes) {
  const uint64_t four = kRows * row_bytes;
  constexpr uint64_t kFar = 16 << 10;  // Less is too late for short rows, more gains nothing.
  if (!small_l1()) return {four, true};
  return {(kFar + four - 1) / four * four, false};
}

// What __builtin_prefetch calls the hints NTA and T1.
constexpr int kNonTemporal = 0, kIntoL2 = 2;

template <int LOCALITY>
MLXF_INLINE void prefetch_rows(const uint8_t* next, uint64_t row_bytes, uint64_t used, uint64_t offset,
                               uint32_t bytes) {
  if (used == row_bytes) {
    next += kRows * offset;
#pragma GCC unroll 16
    for (uint32_t i = 0; i < kRows * bytes; i += 64) __builtin_prefetch(next + i, 0, LOCALITY);
  } else {
    for (uint32_t r = 0; r < kRows; ++r)
      for (uint32_t i = 0; i < bytes; i += 64)
        __builtin_prefetch(next + r * row_bytes + offset + i, 0, LOCALITY);
  }
}

// While `bytes` of each row at `offset` are in use: the same share of four rows ahead, line after line. Rows of which
// only `used` bytes are this matrix's, every second one of what is stored, are asked for in turn. Always inline: GCC 12
// takes a function that only prefetches for one without effect and drops its calls.
MLXF_INLINE void prefetch_next_rows(Ahead ahead, const uint8_t* first_row, uint64_t row_bytes, uint64_t used,
                                    uint64_t offset, uint32_t bytes) {
  if (ahead.into_l1) {
    prefetch_rows<kNonTemporal>(first_row + ahead.bytes, row_bytes, used, offset, bytes);
  } else {
    prefetch_rows<kIntoL2>(first_row + ahead.bytes, row_bytes, used, offset, bytes);
  }
}

// Lane 4 q + r: the sum of 128-bit lane q of v[r].
MLXF_INLINE __m512i sum_lanes(const __m512i v[kRows]) {
  const __m512i t0 = _mm512_add_epi32(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
  const __m512i t1 = _mm512_add_epi32(_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));
  return _mm512_add_epi32(_mm512_unpacklo_epi64(t0, t1), _mm512_unpackhi_epi64(t0, t1));
}

// The sum of the four lanes.
MLXF_INLINE __m128i add_lanes(__m512i v) {
  const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));
  return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

MLXF_INLINE __m512i bytes_of(int value) { return _mm512_set1_epi8(static_cast<char>(value)); }
MLXF_INLINE __mmask64 first_bytes(uint32_t count) {
  return count < 64 ? (uint64_t{1} << count) - 1 : ~uint64_t{0};
}

// The 4 N lanes of N vectors, transposed: lane N q + i of all becomes lane q of vector i.
template <uint32_t N>
MLXF_INLINE void gather_lanes(const __m512i* in, __m512i* out) {
  if constexpr (N == 1) {
    out[0] = in[0];
  } else if constexpr (N == 2) {
    out[0] = _mm512_shuffle_i64x2(in[0], in[1], 0x88);
    out[1] = _mm512_shuffle_i64x2(in[0], in[1], 0xdd);
  } else {
    static_assert(N == 4);
    const __m512i a = _mm512_shuffle_i64x2(in[0], in[1], 0x44), b = _mm512_shuffle_i64x2(in[2], in[3], 0x44);
    const __m512i c = _mm512_shuffle_i64x2(in[0], in[1], 0xee), d = _mm512_shuffle_i64x2(in[2], in[3], 0xee);
    out[0] = _mm512_shuffle_i64x2(a, b, 0x88);
    out[1] = _mm512_shuffle_i64x2(a, b, 0xdd);
    out[2] = _mm512_shuffle_i64x2(c, d, 0x88);
    out[3] = _mm512_shuffle_i64x2(c, d, 0xdd);
  }
}

// The f32 chain of four rows over groups, in their order: total = fma(value, factor, total) for lane q = 0, 1, ...
MLXF_INLINE __m128 chain(__m512 values, __m512 factors, uint32_t groups, __m128 total) {
  total = _mm_fmadd_ps(_mm512_castps512_ps128(values), _mm512_castps512_ps128(factors), total);
  if (groups > 1)
    total = _mm_fmadd_ps(_mm512_extractf32x4_ps(values, 1), _mm512_extractf32x4_ps(factors, 1), total);
  if (groups > 2)
    total = _mm_fmadd_ps(_mm512_extractf32x4_ps(values, 2), _mm512_extractf32x4_ps(factors, 2), total);
  if (groups > 3)
    total = _mm_fmadd_ps(_mm512_extractf32x4_ps(values, 3), _mm512_extractf32x4_ps(factors, 3), total);
  return total;
}

// The running sums of four rows.
struct Totals {
  __m128 s = _mm_setzero_ps();
  __m128 m = _mm_setzero_ps();
};

// d, and of affine formats e, of group q and row r in lane 4 q + r.
struct GroupScales {
  __m512 d;
  __m512 e;
};

// Scales of 32 bits of the first n of four groups from `g` on, of group q and row r in lane 4 q + r.
MLXF_INLINE __m512 load_f32_scales(const FourRows& rows, uint32_t g, uint32_t n) {
  const auto mask = static_cast<__mmask8>((1u << n) - 1);
  const auto row = [&](uint32_t r) { return _mm_maskz_loadu_ps(mask, rows.at[r] + uint64_t{g} * 4); };
  __m512 all = _mm512_castps128_ps512(row(0));
  all = _mm512_insertf32x4(all, row(1), 1);
  all = _mm512_insertf32x4(all, row(2), 2);
  all = _mm512_insertf32x4(all, row(3), 3);
  return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), all);
}

// Makes the compiler finish `value` here: GCC 12 otherwise delays the sums and spills their terms.
MLXF_INLINE void keep(__m512i& value) { __asm__("" : "+v"(value)); }

MLXF_INLINE void store(float* y, uint32_t count, __m128 values) {
  _mm_mask_storeu_ps(y, static_cast<__mmask8>((1u << count) - 1), values);
}

constexpr uint32_t kShared = 4;  // Tokens.

// Calls product.run<T>(row, count, token, first) for `count` rows from `row` on and T tokens from `token` on, until all
// rows and tokens had their turn. `first`: these rows were not there before.
template <typename Product>
MLXF_INLINE void for_each_tile(uint32_t row_begin, uint32_t row_end, uint32_t tokens,
                               const Product& product) {
  const uint32_t passes = (tokens + kShared - 1) / kShared;
  for (uint32_t row = row_begin; row < row_end; row += kRows) {
    const uint32_t count = row_end - row < kRows ? row_end - row : kRows;
    for (uint32_t pass = 0; pass < passes; ++pass) {
      const uint32_t token = tokens * pass / passes;
      switch (tokens * (pass + 1) / passes - token) {
        case 1:  // Never one of several.
          if constexpr (Product::kOneToken) product.template run<1>(row, count, token, pass == 0);
          break;
        case 2:
          product.template run<2>(row, count, token, pass == 0);
          break;
        case 3:
          product.template run<3>(row, count, token, pass == 0);
          break;
        default:
          product.template run<4>(row, count, token, pass == 0);
          break;
      }
    }
  }
}

}  // namespace
}  // namespace mlxf::kernels::avx512
