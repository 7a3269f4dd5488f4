// Decode products (one token) of Q8_0, int8 rows and MLX's affine formats on the stored layout, four rows at a time.
//
// Signed bytes are multiplied as |w| * (x with w's sign): a pair sum is at most 2 * 128 * 127 and fits i16.
// MLX's 8-bit codes become signed by flipping the top bit; the offset is in the bias (kernels/code_row.h).
#include <immintrin.h>

#include <cstdint>

#include "kernels/avx2/avx2.h"
#include "kernels/avx2/four_rows.h"
#include "kernels/avx2/mlx_codes.h"
#include "kernels/avx2/mlx_scales.h"
#include "kernels/avx2/reduce.h"

namespace mlxf::kernels::avx2 {
namespace {

__m256i load(const void* bytes) { return _mm256_loadu_si256(static_cast<const __m256i*>(bytes)); }

// Eight i32 lanes of the product of 32 signed bytes with 32 signed bytes.
__m256i dot_signed(__m256i w, __m256i x) {
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
  return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

uint32_t clamp_row(uint32_t row, uint32_t r, uint32_t count) { return row + (r < count ? r : count - 1); }

// 4 rows x 8 floats to 8 columns of 4.
void transpose_4x8(const __m256 rows[4], __m128 columns[8]) {
  for (int half = 0; half < 2; ++half) {
    __m128 a = half == 0 ? _mm256_castps256_ps128(rows[0]) : _mm256_extractf128_ps(rows[0], 1);
    __m128 b = half == 0 ? _mm256_castps256_ps128(rows[1]) : _mm256_extractf128_ps(rows[1], 1);
    __m128 c = half == 0 ? _mm256_castps256_ps128(rows[2]) : _mm256_extractf128_ps(rows[2], 1);
    __m128 d = half == 0 ? _mm256_castps256_ps128(rows[3]) : _mm256_extractf128_ps(rows[3], 1);
    _MM_TRANSPOSE4_PS(a, b, c, d);
    columns[half * 4 + 0] = a;
    columns[half * 4 + 1] = b;
    columns[half * 4 + 2] = c;
    columns[half * 4 + 3] = d;
  }
}

// The scales (and, for affine formats, biases) of up to eight groups of four rows, a vector of rows per
// group.
struct ScaleColumns {
  __m128 scale[8];
  __m128 bias[8];
};

void load_columns(const MatrixView& w, uint32_t row, uint32_t count, uint32_t group, uint32_t groups,
                  ScaleColumns& columns) {
  __m256 scales[4], biases[4];
  for (uint32_t r = 0; r < 4; ++r) {
    const uint64_t at = clamp_row(row, r, count) * w.scale_row_bytes;
    if (groups == 8) {
      scales[r] = load_scales8(w.scales + at, w.scale_type, group);
      biases[r] = load_scales8(w.biases + at, w.scale_type, group);
      continue;
    }
    float some_scales[8] = {}, some_biases[8] = {};
    for (uint32_t g = 0; g < groups; ++g) {
      some_scales[g] = load_scale(w.scales + at, w.scale_type, group + g);
      some_biases[g] = load_scale(w.biases + at, w.scale_type, group + g);
    }
    scales[r] = _mm256_loadu_ps(some_scales);
    biases[r] = _mm256_loadu_ps(some_biases);
  }
  transpose_4x8(scales, columns.scale);
  transpose_4x8(biases, columns.bias);
}

// MLX affine; dot(codes of one row, x) gives eight i32 lanes of one group. `x_codes` may be permuted within
// groups.
template <uint32_t BITS, typename Dot>
void gemv_mlx(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
              const int8_t* x_codes, float* y, const Dot& dot) {
  const uint32_t groups = w.cols / w.group;
  const uint32_t group_bytes = w.group * BITS / 8;
  const uint32_t group_sums = w.group / 32;
  for (uint32_t row = row_begin; row < row_end; row += 4) {
    const uint32_t count = row_end - row < 4 ? row_end - row : 4;
    const uint8_t* rows[4];
    for (uint32_t r = 0; r < 4; ++r) rows[r] = w.data + clamp_row(row, r, count) * w.row_bytes;
    __m128 s_total = _mm_setzero_ps(), m_total = _mm_setzero_ps();
    for (uint32_t g0 = 0; g0 < groups; g0 += 8) {
      const uint32_t n = groups - g0 < 8 ? groups - g0 : 8;
      ScaleColumns columns;
      load_columns(w, row, count, g0, n, columns);
      for (uint32_t i = 0; i < n; ++i) {
        const uint32_t g = g0 + i;
        const int8_t* codes = x_codes + uint64_t{g} * w.group;
        const uint64_t at = uint64_t{g} * group_bytes;
        for (uint32_t k = 0; k < group_bytes; k += 16) prefetch_next_rows<16>(rows[0], w.row_bytes, at + k);
        __m128i s = sum_lanes4(dot(rows[0] + at, codes), dot(rows[1] + at, codes), dot(rows[2] + at, codes),
                               dot(rows[3] + at, codes));
        int32_t sum = 0;
        for (uint32_t j = 0; j < group_sums; ++j) sum += x.sums32[g * group_sums + j];
        // 8-bit codes were multiplied as code - 128.
        if constexpr (BITS == 8) s = _mm_add_epi32(s, _mm_set1_epi32(128 * sum));
        const float dx = x.scales[g];
        s_total = _mm_fmadd_ps(_mm_cvtepi32_ps(s), _mm_mul_ps(columns.scale[i], _mm_set1_ps(dx)), s_total);
        m_total = _mm_fmadd_ps(columns.bias[i], _mm_set1_ps(static_cast<float>(sum) * dx), m_total);
      }
    }
    store_rows(y + row, _mm_add_ps(s_total, m_total), count);
  }
}

// 64 elements of 4 bits as i16 pair sums; x is split into even and odd elements.
__m256i pairs_mlx4(const uint8_t* q, const int8_t* x) {
  const __m256i nibble = _mm256_set1_epi8(0x0f);
  const __m256i pairs = load(q);
  return _mm256_add_epi16(
      _mm256_maddubs_epi16(_mm256_and_si256(pairs, nibble), load(x)),
      _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(pairs, 4), nibble), load(x + 32)));
}

template <uint32_t BITS>
void gemv_mlx_packed(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                     float* y) {
  const __m256i ones = _mm256_set1_epi16(1);
  const uint32_t group = w.group;
  gemv_mlx<BITS>(w, row_begin, row_end, x, x.codes, y, [ones, group](const uint8_t* q, const int8_t* codes) {
    __m256i s = _mm256_setzero_si256();
    for (uint32_t k = 0; k < group; k += 32) {
      const __m256i pairs = _mm256_maddubs_epi16(load_packed<BITS>(q + k * BITS / 8), load(codes + k));
      s = _mm256_add_epi32(s, _mm256_madd_epi16(pairs, ones));
    }
    return s;
  });
}

}  // namespace

void gemv_q8_0(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y) {
  constexpr uint32_t kBytes = 34;
  const uint32_t blocks = w.cols / 32;
  for (uint32_t row = row_begin; row < row_end; row += 4) {
    const uint32_t count = row_end - row < 4 ? row_end - row : 4;
    const uint8_t* rows[4];
    for (uint32_t r = 0; r < 4; ++r) rows[r] = w.data + clamp_row(row, r, count) * w.row_bytes;
    __m128 acc = _mm_setzero_ps();
    for (uint32_t b = 0; b < blocks; ++b) {
      const __m256i codes = load(x.codes + b * 32);
      __m256i s[4];
      uint16_t heads[4];
      prefetch_next_rows<kBytes>(rows[0], w.row_bytes, uint64_t{b} * kBytes);
#pragma GCC unroll 4
      for (uint32_t r = 0; r < 4; ++r) {
        const uint8_t* block = rows[r] + uint64_t{b} * kBytes;
        __builtin_memcpy(&heads[r], block, 2);
        s[r] = dot_signed(load(block + 2), codes);
      }
      const __m128 d = _mm_cvtph_ps(_mm_setr_epi16(static_cast<short>(heads[0]), static_cast<short>(heads[1]),
                                                   static_cast<short>(heads[2]), static_cast<short>(heads[3]),
                                                   0, 0, 0, 0));
      const __m128 scale = _mm_mul_ps(d, _mm_set1_ps(x.scales[b]));
      acc = _mm_fmadd_ps(_mm_cvtepi32_ps(sum_lanes4(s[0], s[1], s[2], s[3])), scale, acc);
    }
    store_rows(y + row, acc, count);
  }
}

void gemv_i8_row(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                 float* y) {
  const uint32_t blocks = w.cols / 32;
  for (uint32_t row = row_begin; row < row_end; row += 4) {
    const uint32_t count = row_end - row < 4 ? row_end - row : 4;
    const uint8_t* rows[4];
    const uint8_t* scales[4];
    for (uint32_t r = 0; r < 4; ++r) {
      rows[r] = w.data + clamp_row(row, r, count) * w.row_bytes;
      scales[r] = w.scales + clamp_row(row, r, count) * w.scale_row_bytes;
    }
    __m128 acc = _mm_setzero_ps();
    for (uint32_t b = 0; b < blocks; ++b) {
      const __m256i codes = load(x.codes + b * 32);
      __m256i s[4];
      float d[4];
      prefetch_next_rows<32>(rows[0], w.row_bytes, uint64_t{b} * 32);
#pragma GCC unroll 4
      for (uint32_t r = 0; r < 4; ++r) {
        __builtin_memcpy(&d[r], scales[r] + uint64_t{b} * 4, 4);
        s[r] = dot_signed(load(rows[r] + uint64_t{b} * 32), codes);
      }
      const __m128 scale = _mm_mul_ps(_mm_setr_ps(d[0], d[1], d[2], d[3]), _mm_set1_ps(x.scales[b]));
      acc = _mm_fmadd_ps(_mm_cvtepi32_ps(sum_lanes4(s[0], s[1], s[2], s[3])), scale, acc);
    }
    store_rows(y + row, acc, count);
  }
}

void gemv_mlx2(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y) {
  gemv_mlx_packed<2>(w, row_begin, row_end, x, y);
}
void gemv_mlx3(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y) {
  gemv_mlx_packed<3>(w, row_begin, row_end, x, y);
}
void gemv_mlx5(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y) {
  gemv_mlx_packed<5>(w, row_begin, row_end, x, y);
}
void gemv_mlx6(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y) {
  gemv_mlx_packed<6>(w, row_begin, row_end, x, y);
}

void gemv_mlx4(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y,
               void* scratch) {
  const __m256i ones = _mm256_set1_epi16(1);
  auto* split = static_cast<int8_t*>(scratch);
  if (w.group == 32) {
    split_even_odd<16>(x.codes, x.cols, split);
    gemv_mlx<4>(w, row_begin, row_end, x, split, y, [ones](const uint8_t* q, const int8_t* codes) {
      const __m128i nibble = _mm_set1_epi8(0x0f);
      const __m128i pairs = _mm_loadu_si128(reinterpret_cast<const __m128i*>(q));
      const __m256i both =
          _mm256_set_m128i(_mm_and_si128(_mm_srli_epi16(pairs, 4), nibble), _mm_and_si128(pairs, nibble));
      return _mm256_madd_epi16(_mm256_maddubs_epi16(both, load(codes)), ones);
    });
    return;
  }
  split_even_odd<32>(x.codes, x.cols, split);
  if (w.group == 64) {
    gemv_mlx<4>(w, row_begin, row_end, x, split, y, [ones](const uint8_t* q, const int8_t* codes) {
      return _mm256_madd_epi16(pairs_mlx4(q, codes), ones);
    });
  } else {
    gemv_mlx<4>(w, row_begin, row_end, x, split, y, [ones](const uint8_t* q, const int8_t* codes) {
      return _mm256_madd_epi16(_mm256_add_epi16(pairs_mlx4(q, codes), pairs_mlx4(q + 32, codes + 64)), ones);
    });
  }
}

void gemv_mlx8(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y) {
  const __m256i flip = _mm256_set1_epi8(static_cast<char>(0x80));
  const uint32_t group = w.group;
  gemv_mlx<8>(w, row_begin, row_end, x, x.codes, y, [flip, group](const uint8_t* q, const int8_t* codes) {
    __m256i s = dot_signed(_mm256_xor_si256(load(q), flip), load(codes));
    for (uint32_t k = 32; k < group; k += 32)
      s = _mm256_add_epi32(s, dot_signed(_mm256_xor_si256(load(q + k), flip), load(codes + k)));
    return s;
  });
}

}  // namespace mlxf::kernels::avx2
