// Products in f32: f32, f16 and bf16 weights widened on the fly, and quantised weights dequantised first.
//
// Lane j of 8 accumulators sums the elements k = j (mod 8), ascending; the same for every tile. A tile is 4
// rows x 3 tokens: 12 accumulators, and 7 loads feed 12 FMAs. Columns run in segments whose activations (3
// tokens x 4 KiB) stay in L1 while the rows of a chunk pass from L2; accumulators wait in memory between
// segments. Bound: 2 FMAs a cycle; one token: 16 bytes of bf16 a cycle, above what memory delivers.
#include <immintrin.h>

#include <cstdint>

#include "kernels/avx2/avx2.h"
#include "kernels/avx2/four_rows.h"
#include "kernels/avx2/reduce.h"

namespace mlxf::kernels::avx2 {
namespace {

constexpr uint32_t kSegmentCols = 1024;
constexpr uint32_t kGroupRows = 32;
constexpr uint32_t kTileRows = 4;
constexpr uint32_t kTileTokens = 3;

// Lanes k .. k + 7 of a row, and its last n < 8 lanes with zeros behind.
struct F32 {
  using Element = float;
  static __m256 load(const uint8_t* row, uint32_t k) {
    return _mm256_loadu_ps(reinterpret_cast<const float*>(row) + k);
  }
  static __m256 widen(const Element* tail) { return _mm256_loadu_ps(tail); }
};
struct F16 {
  using Element = uint16_t;
  static __m256 load(const uint8_t* row, uint32_t k) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row + uint64_t{k} * 2)));
  }
  static __m256 widen(const Element* tail) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(tail)));
  }
};
struct BF16 {
  using Element = uint16_t;
  static __m256 expand(__m128i bits) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  static __m256 load(const uint8_t* row, uint32_t k) {
    return expand(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row + uint64_t{k} * 2)));
  }
  static __m256 widen(const Element* tail) {
    return expand(_mm_loadu_si128(reinterpret_cast<const __m128i*>(tail)));
  }
};

template <typename Type>
__m256 load_tail(const uint8_t* row, uint32_t k, uint32_t n) {
  typename Type::Element tail[8] = {};
  __builtin_memcpy(tail, row + uint64_t{k} * sizeof(typename Type::Element),
                   n * sizeof(typename Type::Element));
  return Type::widen(tail);
}

// acc[R][T] += rows x tokens over columns [begin, end); acc has kTileTokens vectors per row, rows are `row_bytes`
// apart.
template <typename Type, uint32_t R, uint32_t T>
void tile(const uint8_t* const* rows, uint64_t row_bytes, const float* const* x, uint32_t begin, uint32_t end,
          __m256* acc) {
  constexpr uint32_t kBytes = sizeof(typename Type::Element);
  __m256 sum[R][T];
  for (uint32_t r = 0; r < R; ++r)
    for (uint32_t t = 0; t < T; ++t) sum[r][t] = acc[r * kTileTokens + t];
  uint32_t k = begin;
  for (; k + 8 <= end; k += 8) {
    __m256 v[T];
    for (uint32_t t = 0; t < T; ++t) v[t] = _mm256_loadu_ps(x[t] + k);
    if constexpr (T == 1 && R == kTileRows)
      prefetch_next_rows<8 * kBytes>(rows[0], row_bytes, uint64_t{k} * kBytes);
#pragma GCC unroll 4
    for (uint32_t r = 0; r < R; ++r) {
      const __m256 w = Type::load(rows[r], k);
#pragma GCC unroll 3
      for (uint32_t t = 0; t < T; ++t) sum[r][t] = _mm256_fmadd_ps(w, v[t], sum[r][t]);
    }
  }
  if (k < end) {
    for (uint32_t t = 0; t < T; ++t) {
      const __m256 v = load_tail<F32>(reinterpret_cast<const uint8_t*>(x[t]), k, end - k);
      for (uint32_t r = 0; r < R; ++r)
        sum[r][t] = _mm256_fmadd_ps(load_tail<Type>(rows[r], k, end - k), v, sum[r][t]);
    }
  }
  for (uint32_t r = 0; r < R; ++r)
    for (uint32_t t = 0; t < T; ++t) acc[r * kTileTokens + t] = sum[r][t];
}

using TileFn = void (*)(const uint8_t* const*, uint64_t, const float* const*, uint32_t, uint32_t, __m256*);

template <typename Type>
TileFn choose(uint32_t rows, uint32_t tokens) {
  static constexpr TileFn kTiles[4][3] = {{tile<Type, 1, 1>, tile<Type, 1, 2>, tile<Type, 1, 3>},
                                          {tile<Type, 2, 1>, tile<Type, 2, 2>, tile<Type, 2, 3>},
                                          {tile<Type, 3, 1>, tile<Type, 3, 2>, tile<Type, 3, 3>},
                                          {tile<Type, 4, 1>, tile<Type, 4, 2>, tile<Type, 4, 3>}};
  return kTiles[rows - 1][tokens - 1];
}

// `count` <= kGroupRows rows from `data`; y points at the first row's result for token 0.
template <typename Type>
void multiply_group(const uint8_t* data, uint64_t row_bytes, uint32_t count, const ActivationView& x,
                    float* y, uint64_t y_stride) {
  __m256 acc[kGroupRows * kTileTokens];
  for (uint32_t token = 0; token < x.tokens; token += kTileTokens) {
    const uint32_t tokens = x.tokens - token < kTileTokens ? x.tokens - token : kTileTokens;
    const float* inputs[kTileTokens] = {};
    for (uint32_t t = 0; t < tokens; ++t) inputs[t] = x.f32 + (token + t) * x.f32_stride;
    for (uint32_t i = 0; i < count * kTileTokens; ++i) acc[i] = _mm256_setzero_ps();
    const uint32_t segment = x.tokens == 1 ? x.cols : kSegmentCols;
    for (uint32_t begin = 0; begin < x.cols; begin += segment) {
      const uint32_t end = x.cols - begin < segment ? x.cols : begin + segment;
      for (uint32_t r = 0; r < count; r += kTileRows) {
        const uint32_t n = count - r < kTileRows ? count - r : kTileRows;
        const uint8_t* rows[kTileRows] = {};
        for (uint32_t i = 0; i < n; ++i) rows[i] = data + (r + i) * row_bytes;
        choose<Type>(n, tokens)(rows, row_bytes, inputs, begin, end, acc + r * kTileTokens);
      }
    }
    for (uint32_t t = 0; t < tokens; ++t)
      for (uint32_t r = 0; r < count; ++r)
        y[(token + t) * y_stride + r] = sum_lanes(acc[r * kTileTokens + t]);
  }
}

template <typename Type>
void multiply(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y,
              uint64_t y_stride) {
  for (uint32_t row = row_begin; row < row_end; row += kGroupRows) {
    const uint32_t count = row_end - row < kGroupRows ? row_end - row : kGroupRows;
    multiply_group<Type>(w.data + row * w.row_bytes, w.row_bytes, count, x, y + row, y_stride);
  }
}

template <typename Type>
void widen_row(const uint8_t* row, uint32_t begin, uint32_t end, float* out) {
  uint32_t k = begin;
  for (; k + 8 <= end; k += 8) _mm256_storeu_ps(out + (k - begin), Type::load(row, k));
  if (k == end) return;
  float tail[8];
  _mm256_storeu_ps(tail, load_tail<Type>(row, k, end - k));
  __builtin_memcpy(out + (k - begin), tail, (end - k) * sizeof(float));
}

}  // namespace

void matmul_f32_f32(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                    float* y, uint64_t y_stride, void*) {
  multiply<F32>(w, row_begin, row_end, x, y, y_stride);
}

void matmul_f32_f16(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                    float* y, uint64_t y_stride, void*) {
  multiply<F16>(w, row_begin, row_end, x, y, y_stride);
}

void matmul_f32_bf16(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                     float* y, uint64_t y_stride, void*) {
  multiply<BF16>(w, row_begin, row_end, x, y, y_stride);
}

void matmul_f32_decoded(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                        float* y, uint64_t y_stride, void* scratch) {
  const DecodeFn decode = w.format == WeightFormat::kF8E4M3 ? decode_f8e4m3 : decode_blocks;
  auto* values = static_cast<float*>(scratch);
  const uint64_t fit = kMatmulScratchBytes / (uint64_t{w.cols} * sizeof(float));
  // Few tokens reuse little: four rows stay in a nearer cache.
  const uint32_t rows_max = x.tokens <= kTileTokens ? kTileRows : kGroupRows;
  const uint32_t group = fit < rows_max ? static_cast<uint32_t>(fit) : rows_max;
  for (uint32_t row = row_begin; row < row_end; row += group) {
    const uint32_t count = row_end - row < group ? row_end - row : group;
    for (uint32_t r = 0; r < count; ++r) decode(w, row + r, 0, w.cols, values + uint64_t{r} * w.cols);
    multiply_group<F32>(reinterpret_cast<const uint8_t*>(values), uint64_t{w.cols} * sizeof(float), count, x,
                        y + row, y_stride);
  }
}

void decode_f32(const MatrixView& w, uint32_t row, uint32_t begin, uint32_t end, float* out) {
  widen_row<F32>(w.data + row * w.row_bytes, begin, end, out);
}
void decode_f16(const MatrixView& w, uint32_t row, uint32_t begin, uint32_t end, float* out) {
  widen_row<F16>(w.data + row * w.row_bytes, begin, end, out);
}
void decode_bf16(const MatrixView& w, uint32_t row, uint32_t begin, uint32_t end, float* out) {
  widen_row<BF16>(w.data + row * w.row_bytes, begin, end, out);
}

}  // namespace mlxf::kernels::avx2
