// What the one-token products share: four neighbouring rows and four groups of each are multiplied together, which
// leaves the sum of group q and row r in lane 4 q + r. Four rows are one ascending run of memory, which a core reads at
// the memory's speed; sixteen side by side got 35 to 38 GB/s of 52 from two cores of Zen 5.
// Everything here has internal linkage: each object file carries its own copy, so that none built with AVX-512 can be
// picked for a program that runs on a machine without. Pure functions over borrowed memory; any thread.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/activations.h"
#include "kernels/kernel_table.h"
#include "tensor/matrix.h"

namespace mlxf::kernels::avx512 {
namespace {

// A call would spill the vectors of the loop that it stands in.
#define MLXF_INLINE [[maybe_unused]] inline __attribute__((always_inline))

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

// While `bytes` of each row at `offset` are in use: the same share of the next four rows, line after line. Weights are
// used once a token: not worth a place in L2. Rows of which only `used` bytes are this matrix's, every second one of
// what is stored, are asked for in turn.
MLXF_INLINE void prefetch_next_rows(const uint8_t* first_row, uint64_t row_bytes, uint64_t used,
                                    uint64_t offset, uint32_t bytes) {
  // Written out: GCC 12 takes a function that only prefetches for one without effect and drops its calls.
  const uint8_t* next = first_row + kRows * row_bytes;
  if (used == row_bytes) {
    next += kRows * offset;
#pragma GCC unroll 16
    for (uint32_t i = 0; i < kRows * bytes; i += 64)
      _mm_prefetch(reinterpret_cast<const char*>(next + i), _MM_HINT_NTA);
  } else {
    for (uint32_t r = 0; r < kRows; ++r)
      for (uint32_t i = 0; i < bytes; i += 64)
        _mm_prefetch(reinterpret_cast<const char*>(next + r * row_bytes + offset + i), _MM_HINT_NTA);
  }
}

// Lane 4 q + r: the sum of 128-bit lane q of v[r].
MLXF_INLINE __m512i sum_lanes(const __m512i v[kRows]) {
  const __m512i t0 = _mm512_add_epi32(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
  const __m512i t1 = _mm512_add_epi32(_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));
  return _mm512_add_epi32(_mm512_unpacklo_epi64(t0, t1), _mm512_unpackhi_epi64(t0, t1));
}

// The sums of 128-bit lanes 0 and 1, then 2 and 3, of a and then of b.
MLXF_INLINE __m512i add_halves(__m512i a, __m512i b) {
  return _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd));
}

// Lane 4 q + r: the sum of all of v[q][r].
MLXF_INLINE __m512i sum_vectors(const __m512i v[kQuad][kRows]) {
  __m512i u[kQuad];
#pragma GCC unroll 4
  for (uint32_t q = 0; q < kQuad; ++q) u[q] = sum_lanes(v[q]);
  return add_halves(add_halves(u[0], u[1]), add_halves(u[2], u[3]));
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

// The token in the order in which 64 bytes of nibbles give elements: of every 128 those of the low nibbles, then those
// of the high. Nibbles are even and odd elements, or elements 0 .. 15 and 16 .. 31 of each 32. Zeros behind the last.
template <bool EVEN_ODD>
[[maybe_unused]] inline void order_nibbles(const int8_t* codes, uint32_t cols, uint8_t* out) {
  for (uint32_t k = 0; k < cols; k += 128) {
    const uint32_t n = cols - k < 128 ? cols - k : 128;
    const __m512i a = _mm512_maskz_loadu_epi8(first_bytes(n), codes + k);
    const __m512i b = _mm512_maskz_loadu_epi8(first_bytes(n > 64 ? n - 64 : 0), codes + k + 64);
    __m512i low = _mm512_shuffle_i64x2(a, b, 0x88), high = _mm512_shuffle_i64x2(a, b, 0xdd);
    if constexpr (EVEN_ODD) {
      const auto narrow = [](__m512i first, __m512i second) {
        return _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi16_epi8(first)),
                                  _mm512_cvtepi16_epi8(second), 1);
      };
      low = narrow(a, b);
      high = narrow(_mm512_srli_epi16(a, 8), _mm512_srli_epi16(b, 8));
    }
    _mm512_store_si512(out + k, low);
    _mm512_store_si512(out + k + 64, high);
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

// What a call prepares of its token: per group four equal lanes of its scale, and of what its sum of codes comes to.
struct GroupValues {
  const float* scales;
  const float* unit_sums;  // float(sum) * scale, of affine formats.
  const int32_t* starts;   // minimum * sum, of others.
};

// Of groups of `group` elements; minimum 0: affine. Zeros behind the last. Takes 32 bytes a group and 128 more.
[[maybe_unused]] inline GroupValues take_groups(const ActivationView& x, uint32_t group, int32_t minimum,
                                                void* memory) {
  const uint32_t groups = x.cols / group, padded = (groups + kQuad - 1) / kQuad * kQuad;
  auto* scales = static_cast<float*>(memory);
  auto* unit_sums = scales + uint64_t{padded} * 4;
  auto* starts = reinterpret_cast<int32_t*>(unit_sums);
  for (uint32_t g = 0; g < padded; ++g) {
    int32_t sum = 0;
    const float scale = g < groups ? x.scales[g] : 0.0f;
    for (uint32_t j = 0; g < groups && j < group / 32; ++j) sum += x.sums32[g * (group / 32) + j];
    _mm_store_ps(scales + g * 4, _mm_set1_ps(scale));
    if (minimum == 0) {
      _mm_store_ps(unit_sums + g * 4, _mm_set1_ps(static_cast<float>(sum) * scale));
    } else {
      _mm_store_si128(reinterpret_cast<__m128i*>(starts + g * 4), _mm_set1_epi32(minimum * sum));
    }
  }
  return {scales, unit_sums, starts};
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

// Adds `groups` (up to four) groups from `g` on.
template <bool AFFINE>
MLXF_INLINE void add_groups(__m512i sums, const GroupScales& scales, const GroupValues& x, uint32_t g,
                            uint32_t groups, Totals& totals) {
  if constexpr (!AFFINE) sums = _mm512_add_epi32(sums, _mm512_load_si512(x.starts + uint64_t{g} * 4));
  const __m512 factors = _mm512_mul_ps(scales.d, _mm512_load_ps(x.scales + uint64_t{g} * 4));
  totals.s = chain(_mm512_cvtepi32_ps(sums), factors, groups, totals.s);
  if constexpr (AFFINE)
    totals.m = chain(scales.e, _mm512_load_ps(x.unit_sums + uint64_t{g} * 4), groups, totals.m);
}

MLXF_INLINE void store(float* y, uint32_t count, __m128 values) {
  _mm_mask_storeu_ps(y, static_cast<__mmask8>((1u << count) - 1), values);
}

}  // namespace
}  // namespace mlxf::kernels::avx512
