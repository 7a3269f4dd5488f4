// Decode products (one token) of MLX's packed codes of 2 to 8 bits on the stored layout, four rows and four groups at a
// time (four_rows.h). Bringing groups to lanes first, as several tokens share it in few_packed.cpp, costs one token a
// tenth of its speed here.
//
// Three operations and one vpdpbusd for 64 codes (packed.h). The sixteen vectors of sums that four groups of four rows
// leave are added up by one tree. Some 140 vector operations for 256 codes of four rows, 384 bytes of 3 bits and 640 of
// 5. 64 bytes of 4 bits are 128 codes, of one, two or four groups: 90 operations for 256 codes of four rows.
#include <immintrin.h>

#include <cstdint>

#include "kernels/avx512/avx512.h"
#include "kernels/avx512/four_rows.h"
#include "kernels/avx512/packed.h"
#include "tensor/dtype.h"

namespace mlxf::kernels::avx512 {
namespace {

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

// The token in the order in which 64 bytes of nibbles give elements: of every 128 those of the low nibbles, then those
// of the high: even and odd elements. Zeros behind the last.
void order_nibbles(const int8_t* codes, uint32_t cols, uint8_t* out) {
  for (uint32_t k = 0; k < cols; k += 128) {
    const uint32_t n = cols - k < 128 ? cols - k : 128;
    const __m512i a = _mm512_maskz_loadu_epi8(first_bytes(n), codes + k);
    const __m512i b = _mm512_maskz_loadu_epi8(first_bytes(n > 64 ? n - 64 : 0), codes + k + 64);
    const auto narrow = [](__m512i first, __m512i second) {
      return _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi16_epi8(first)),
                                _mm512_cvtepi16_epi8(second), 1);
    };
    _mm512_store_si512(out + k, narrow(a, b));
    _mm512_store_si512(out + k + 64, narrow(_mm512_srli_epi16(a, 8), _mm512_srli_epi16(b, 8)));
  }
}

// What a call prepares of its token: per group four equal lanes of its scale, and of what its sum of codes comes to.
struct GroupValues {
  const float* scales;
  const float* unit_sums;  // float(sum) * scale
};

// Sums over `GROUP` elements of sixteen groups from `first` on; of those that are there, zeros of the others.
template <uint32_t GROUP>
MLXF_INLINE __m512i sixteen_sums(const int16_t* sums32, uint32_t first, uint32_t there) {
  constexpr uint32_t kParts = GROUP / 32;
  const auto halves = [&](uint32_t from) {
    const uint32_t left = there * kParts > from ? there * kParts - from : 0;
    const auto mask = left < 32 ? (1u << left) - 1 : ~0u;
    return _mm512_maskz_loadu_epi16(mask, sums32 + uint64_t{first} * kParts + (left > 0 ? from : 0));
  };
  const __m512i ones = _mm512_set1_epi16(1);
  if constexpr (kParts == 1) {
    return _mm512_cvtepi16_epi32(_mm512_castsi512_si256(halves(0)));
  } else if constexpr (kParts == 2) {
    return _mm512_madd_epi16(halves(0), ones);
  } else {
    static_assert(kParts == 4);
    const __m512i a = _mm512_madd_epi16(halves(0), ones), b = _mm512_madd_epi16(halves(32), ones);
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return _mm512_add_epi32(_mm512_permutex2var_epi32(a, even, b),
                            _mm512_permutex2var_epi32(a, _mm512_add_epi32(even, _mm512_set1_epi32(1)), b));
  }
}

// Four equal lanes of each of sixteen values.
MLXF_INLINE void store_four_times(float* out, __m512 values) {
  const __m512i four = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
#pragma GCC unroll 4
  for (uint32_t i = 0; i < 4; ++i) {
    const __m512i of_quad = _mm512_add_epi32(four, _mm512_set1_epi32(static_cast<int>(i * kQuad)));
    _mm512_store_ps(out + uint64_t{i} * 16, _mm512_permutexvar_ps(of_quad, values));
  }
}

// Zeros behind the last group. Takes 32 bytes a group, up to a multiple of sixteen. Every call of a product does this
// anew: sixteen groups at once, since a call may be for a few rows.
template <uint32_t GROUP>
GroupValues take_groups(const ActivationView& x, void* memory) {
  const uint32_t groups = x.cols / GROUP, padded = (groups + 15) / 16 * 16;
  auto* scales = static_cast<float*>(memory);
  auto* unit_sums = scales + uint64_t{padded} * 4;
  for (uint32_t g = 0; g < padded; g += 16) {
    const uint32_t there = groups - g < 16 ? groups - g : 16;
    const __m512 of_groups = _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << there) - 1), x.scales + g);
    const __m512 sums = _mm512_cvtepi32_ps(sixteen_sums<GROUP>(x.sums32, g, there));
    store_four_times(scales + uint64_t{g} * 4, of_groups);
    store_four_times(unit_sums + uint64_t{g} * 4, _mm512_mul_ps(sums, of_groups));
  }
  return {scales, unit_sums};
}

// Adds `groups` (up to four) groups from `g` on.
MLXF_INLINE void add_groups(__m512i sums, const GroupScales& scales, const GroupValues& x, uint32_t g,
                            uint32_t groups, Totals& totals) {
  const __m512 factors = _mm512_mul_ps(scales.d, _mm512_load_ps(x.scales + uint64_t{g} * 4));
  totals.s = chain(_mm512_cvtepi32_ps(sums), factors, groups, totals.s);
  totals.m = chain(scales.e, _mm512_load_ps(x.unit_sums + uint64_t{g} * 4), groups, totals.m);
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
    sum = _mm512_dpbusd_epi32(sum, unpack_codes<BITS>(_mm512_maskz_loadu_epi8(kBytes, packed + k * BITS / 8)),
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

template <uint32_t BITS, uint32_t GROUP, DType TYPE>
void multiply(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y,
              void* scratch) {
  constexpr uint32_t kBytes = GROUP * BITS / 8;
  const GroupValues token = take_groups<GROUP>(x, static_cast<uint8_t*>(scratch) + kMatmulColsMax + 128);
  const int8_t* codes = x.codes;
  if constexpr (BITS == 4) {
    order_nibbles(x.codes, x.cols, static_cast<uint8_t*>(scratch));
    codes = static_cast<const int8_t*>(scratch);
  }
  const uint32_t groups = w.cols / GROUP;
  for (uint32_t row = row_begin; row < row_end; row += kRows) {
    const uint32_t count = row_end - row < kRows ? row_end - row : kRows;
    const FourRows rows = four_rows(w.data, w.row_bytes, row, count);
    const FourRows scales = four_rows(w.scales, w.scale_row_bytes, row, count);
    const FourRows biases = four_rows(w.biases, w.scale_row_bytes, row, count);
    const Ahead ahead = ahead_of(w.row_bytes);
    Totals totals;
    for (uint32_t g = 0; g < groups; g += kQuad) {
      const uint32_t n = groups - g < kQuad ? groups - g : kQuad;
      prefetch_next_rows(ahead, rows.at[0], w.row_bytes, uint64_t{groups} * kBytes, uint64_t{g} * kBytes,
                         kQuad * kBytes);
      __m512i sums;
      if constexpr (BITS == 4) {
        sums = multiply_nibbles<GROUP>(rows, uint64_t{g} * kBytes, codes + uint64_t{g} * GROUP, n);
      } else {
        sums = multiply_quad<BITS, GROUP>(rows, uint64_t{g} * kBytes, codes + uint64_t{g} * GROUP, n);
      }
      const GroupScales of_quad = {load_scales<TYPE>(scales, g, n), load_scales<TYPE>(biases, g, n)};
      add_groups(sums, of_quad, token, g, n, totals);
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
