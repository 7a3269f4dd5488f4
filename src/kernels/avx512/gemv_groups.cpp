// Decode products (one token) of Q8_0, int8 rows and MLX 4 and 8 bits on the stored layout, sixteen rows at a time.
//
// 64 bytes of a row are one or two vpdpbusd into 16 lanes that belong to one, two or four scale groups. Sixteen rows'
// lanes are then added in a tree of 15 shuffle pairs, which leaves a row per lane, and the f32 chain runs in lanes =
// rows. Bound for 1 KiB of MLX 4 bits in groups of 64: some 130 vector operations, two a cycle on Zen 4: 15 bytes a
// cycle, above what memory delivers.
#include <immintrin.h>

#include <cstdint>

#include "kernels/avx512/avx512.h"
#include "kernels/avx512/columns.h"
#include "kernels/avx512/reduce.h"

namespace mlxf::kernels::avx512 {
namespace {

constexpr uint32_t kColumns = 32;  // Groups whose scales are transposed together.

// What a call prepares of its token.
struct Token {
  const int8_t* codes;
  const float* scales;
  float* unit_sums;  // float(M) * dx per group, of affine formats.
  int32_t* starts;   // -128 * sum per group, of signed codes that are multiplied as code + 128.
};

// Scratch: codes in another order, then a value per group.
Token take_token(const ActivationView& x, uint32_t group, bool affine, void* scratch) {
  auto* values = static_cast<uint8_t*>(scratch) + kMatmulColsMax + 128;
  Token token{x.codes, x.scales, reinterpret_cast<float*>(values), reinterpret_cast<int32_t*>(values)};
  for (uint32_t g = 0; g < x.cols / group; ++g) {
    int32_t sum = 0;
    for (uint32_t j = 0; j < group / 32; ++j) sum += x.sums32[g * (group / 32) + j];
    if (affine) {
      token.unit_sums[g] = static_cast<float>(sum) * x.scales[g];
    } else {
      token.starts[g] = -128 * sum;
    }
  }
  return token;
}

// Rows [row_begin, row_end) in groups of `bytes` code bytes, GROUPS of them to a vector. dot(row, group, mask) gives
// the 16 lanes of GROUPS groups, of which the mask covers the code bytes that exist; columns(row, count, group, n, d,
// e) fills the scales of n groups.
template <uint32_t GROUPS, bool AFFINE, typename Dot, typename Columns>
void multiply(const MatrixView& w, uint32_t row_begin, uint32_t row_end, uint32_t groups, uint32_t bytes,
              const Token& x, float* y, const Dot& dot, const Columns& columns) {
  alignas(64) float d[kColumns * kPanelRows], e[kColumns * kPanelRows];
  const uint64_t stored = w.row_bytes / groups;
  for (uint32_t row = row_begin; row < row_end; row += kPanelRows) {
    const uint32_t count = row_end - row < kPanelRows ? row_end - row : kPanelRows;
    const Rows rows = rows_of(w.data, w.row_bytes, row, count);
    __m512 s_total = _mm512_setzero_ps(), m_total = _mm512_setzero_ps();
    for (uint32_t g0 = 0; g0 < groups; g0 += kColumns) {
      const uint32_t n = groups - g0 < kColumns ? groups - g0 : kColumns;
      columns(row, count, g0, n, d, e);
      for (uint32_t i = 0; i < n; i += GROUPS) {
        const uint64_t left = uint64_t{groups - g0 - i} * bytes;
        const __mmask64 mask = left < 64 ? (uint64_t{1} << left) - 1 : ~uint64_t{0};
        const uint64_t ahead = place_ahead(w, uint64_t{g0 + i} * stored);
        __m512i v[16], s[GROUPS];
#pragma GCC unroll 16
        for (uint32_t r = 0; r < kPanelRows; ++r) {
          v[r] = dot(rows.at[r], g0 + i, mask);
          prefetch(rows.at[r] + ahead);
        }
        reduce16<GROUPS>(v, s);
        for (uint32_t j = 0; j < GROUPS && i + j < n; ++j) {
          const uint32_t g = g0 + i + j;
          if constexpr (!AFFINE) s[j] = _mm512_add_epi32(s[j], _mm512_set1_epi32(x.starts[g]));
          const __m512 scale =
              _mm512_mul_ps(_mm512_load_ps(d + (i + j) * kPanelRows), _mm512_set1_ps(x.scales[g]));
          s_total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(s[j]), scale, s_total);
          if constexpr (AFFINE)
            m_total = _mm512_fmadd_ps(_mm512_load_ps(e + (i + j) * kPanelRows),
                                      _mm512_set1_ps(x.unit_sums[g]), m_total);
        }
      }
    }
    const auto mask = static_cast<__mmask16>((1u << count) - 1);
    _mm512_mask_storeu_ps(y + row, mask, AFFINE ? _mm512_add_ps(s_total, m_total) : s_total);
  }
}

// The even elements of every 128, then the odd ones: the order in which the low and high nibbles of MLX's 4-bit codes
// appear. Zeros behind the last.
void split_even_odd(const int8_t* codes, uint32_t cols, uint8_t* out) {
  for (uint32_t k = 0; k < cols; k += 128) {
    const uint32_t n = cols - k < 128 ? cols - k : 128;
    const __mmask64 first = n < 64 ? (uint64_t{1} << n) - 1 : ~uint64_t{0};
    const __mmask64 second = n < 128 ? (n > 64 ? (uint64_t{1} << (n - 64)) - 1 : 0) : ~uint64_t{0};
    const __m512i a = _mm512_maskz_loadu_epi8(first, codes + k);
    const __m512i b = _mm512_maskz_loadu_epi8(second, codes + k + 64);
    const auto narrow = [](__m512i low, __m512i high) {
      return _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi16_epi8(low)), _mm512_cvtepi16_epi8(high),
                                1);
    };
    _mm512_store_si512(out + k, narrow(a, b));
    _mm512_store_si512(out + k + 64, narrow(_mm512_srli_epi16(a, 8), _mm512_srli_epi16(b, 8)));
  }
}

template <uint32_t GROUPS>
void multiply_mlx4(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const Token& x,
                   const uint8_t* split, float* y) {
  const __m512i nibble = bytes(0x0f);
  const uint32_t group = w.group;
  multiply<GROUPS, true>(
      w, row_begin, row_end, w.cols / group, group / 2, x, y,
      [nibble, group, split](const uint8_t* row, uint32_t g, __mmask64 mask) {
        const __m512i q = _mm512_maskz_loadu_epi8(mask, row + uint64_t{g} * group / 2);
        const uint8_t* codes = split + uint64_t{g} * group;
        const __m512i low = _mm512_and_si512(q, nibble);
        const __m512i high = _mm512_and_si512(_mm512_srli_epi16(q, 4), nibble);
        return _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(_mm512_setzero_si512(), low, _mm512_load_si512(codes)),
                                   high, _mm512_load_si512(codes + 64));
      },
      [&w](uint32_t row, uint32_t count, uint32_t g, uint32_t n, float* d, float* e) {
        spread_scales(rows_of(w.scales, w.scale_row_bytes, row, count), w.scale_type, g, n, d);
        spread_scales(rows_of(w.biases, w.scale_row_bytes, row, count), w.scale_type, g, n, e);
      });
}

template <uint32_t GROUPS, uint32_t STEPS>
void multiply_mlx8(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const Token& x, float* y) {
  const uint32_t group = w.group;
  const int8_t* codes = x.codes;
  multiply<GROUPS, true>(
      w, row_begin, row_end, w.cols / group, group, x, y,
      [group, codes](const uint8_t* row, uint32_t g, __mmask64 mask) {
        const uint64_t at = uint64_t{g} * group;
        __m512i s = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_maskz_loadu_epi8(mask, row + at),
                                        _mm512_maskz_loadu_epi8(mask, codes + at));
        if constexpr (STEPS == 2)
          s = _mm512_dpbusd_epi32(s, _mm512_loadu_si512(row + at + 64), _mm512_loadu_si512(codes + at + 64));
        return s;
      },
      [&w](uint32_t row, uint32_t count, uint32_t g, uint32_t n, float* d, float* e) {
        spread_scales(rows_of(w.scales, w.scale_row_bytes, row, count), w.scale_type, g, n, d);
        spread_scales(rows_of(w.biases, w.scale_row_bytes, row, count), w.scale_type, g, n, e);
      });
}

}  // namespace

void gemv_mlx4(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y,
               void* scratch) {
  auto* split = static_cast<uint8_t*>(scratch);
  const Token token = take_token(x, w.group, true, scratch);
  split_even_odd(x.codes, x.cols, split);
  const auto run = w.group == 32 ? multiply_mlx4<4> : w.group == 64 ? multiply_mlx4<2> : multiply_mlx4<1>;
  run(w, row_begin, row_end, token, split, y);
}

void gemv_mlx8(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y,
               void* scratch) {
  const Token token = take_token(x, w.group, true, scratch);
  const auto run = w.group == 32   ? multiply_mlx8<2, 1>
                   : w.group == 64 ? multiply_mlx8<1, 1>
                                   : multiply_mlx8<1, 2>;
  run(w, row_begin, row_end, token, y);
}

void gemv_q8_0(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y,
               void* scratch) {
  constexpr uint32_t kBytes = 34;
  const Token token = take_token(x, 32, false, scratch);
  const __m512i flip = bytes(0x80);
  const int8_t* codes = x.codes;
  multiply<2, false>(
      w, row_begin, row_end, w.cols / 32, 32, token, y,
      [flip, codes](const uint8_t* row, uint32_t g, __mmask64 mask) {
        const uint8_t* block = row + uint64_t{g} * kBytes + 2;
        const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block));
        const __m256i high = _mm256_maskz_loadu_epi8(static_cast<__mmask32>(mask >> 32), block + kBytes);
        const __m512i q = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
        return _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_xor_si512(q, flip),
                                   _mm512_maskz_loadu_epi8(mask, codes + g * 32));
      },
      [&w](uint32_t row, uint32_t count, uint32_t g, uint32_t n, float* d, float*) {
        const Rows rows = rows_of(w.data + uint64_t{g} * kBytes, w.row_bytes, row, count);
        for (uint32_t i = 0; i < n; ++i)
          _mm512_store_ps(d + i * kPanelRows, load_f16(rows, uint64_t{i} * kBytes));
      });
}

void gemv_i8_row(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y,
                 void* scratch) {
  const Token token = take_token(x, 32, false, scratch);
  const __m512i flip = bytes(0x80);
  const int8_t* codes = x.codes;
  multiply<2, false>(
      w, row_begin, row_end, w.cols / 32, 32, token, y,
      [flip, codes](const uint8_t* row, uint32_t g, __mmask64 mask) {
        const __m512i q = _mm512_maskz_loadu_epi8(mask, row + g * 32);
        return _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_xor_si512(q, flip),
                                   _mm512_maskz_loadu_epi8(mask, codes + g * 32));
      },
      [&w](uint32_t row, uint32_t count, uint32_t g, uint32_t n, float* d, float*) {
        spread_scales(rows_of(w.scales, w.scale_row_bytes, row, count), DType::kF32, g, n, d);
      });
}

}  // namespace mlxf::kernels::avx512
