// Products in f32: f32, f16 and bf16 weights widened on the fly, and quantised weights dequantised first.
//
// Lane j of 16 accumulators sums the elements k = j (mod 16), ascending; the same for every tile. A tile is 4 rows x 6
// tokens: 24 accumulators, six vectors of x and one of weights; 10 loads feed 24 FMAs. Zen 4 executes one FMA of 512
// bits a cycle, so the gain over AVX2 is the larger tile: fewer loads and fewer conversions of the weights.
#include <immintrin.h>

#include <cstdint>

#include "kernels/avx512/avx512.h"
#include "kernels/isa_tables.h"

namespace mlxf::kernels::avx512 {
namespace {

constexpr uint32_t kSegmentCols = 1024;  // The activations of a tile, 24 KiB, stay in L1 while the rows pass.
constexpr uint32_t kGroupRows = 32;
constexpr uint32_t kTileRows = 4;
constexpr uint32_t kTileTokens = 6;

// Lanes k .. k + 15 of a row, of which the mask covers those that exist.
struct F32 {
  static __m512 load(const uint8_t* row, uint32_t k, __mmask16 mask) {
    return _mm512_maskz_loadu_ps(mask, reinterpret_cast<const float*>(row) + k);
  }
  static constexpr uint32_t kBytes = 4;
};
struct F16 {
  static __m512 load(const uint8_t* row, uint32_t k, __mmask16 mask) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, row + uint64_t{k} * 2));
  }
  static constexpr uint32_t kBytes = 2;
};
struct BF16 {
  static __m512 load(const uint8_t* row, uint32_t k, __mmask16 mask) {
    const __m256i bits = _mm256_maskz_loadu_epi16(mask, row + uint64_t{k} * 2);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  static constexpr uint32_t kBytes = 2;
};

// The sum of sixteen lanes: halves, quarters, eighths.
float sum_lanes(__m512 v) {
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  s = _mm_add_ss(s, _mm_shuffle_ps(s, s, 1));
  return _mm_cvtss_f32(s);
}

// sum[R][T] += the products of columns k .. k + 15.
template <typename Type, uint32_t R, uint32_t T>
inline __attribute__((always_inline)) void step(const uint8_t* const* rows, const float* const* x, uint32_t k,
                                                __mmask16 mask, uint64_t ahead, __m512 (&sum)[R][T]) {
  __m512 v[T];
#pragma GCC unroll 6
  for (uint32_t t = 0; t < T; ++t) v[t] = _mm512_maskz_loadu_ps(mask, x[t] + k);
#pragma GCC unroll 4
  for (uint32_t r = 0; r < R; ++r) {
    const __m512 w = Type::load(rows[r], k, mask);
    if constexpr (T == 1)
      _mm_prefetch(reinterpret_cast<const char*>(rows[r] + ahead + uint64_t{k} * Type::kBytes), _MM_HINT_T0);
#pragma GCC unroll 6
    for (uint32_t t = 0; t < T; ++t) sum[r][t] = _mm512_fmadd_ps(w, v[t], sum[r][t]);
  }
}

// acc[R][T] += rows x tokens over columns [begin, end); acc has kTileTokens vectors per row. One token asks for the
// rows at `ahead` bytes from these: rows are short streams that the hardware prefetcher has to find anew.
template <typename Type, uint32_t R, uint32_t T>
void tile(const uint8_t* const* rows, const float* const* x, uint32_t begin, uint32_t end, uint64_t ahead,
          __m512* acc) {
  __m512 sum[R][T];
#pragma GCC unroll 4
  for (uint32_t r = 0; r < R; ++r)
#pragma GCC unroll 6
    for (uint32_t t = 0; t < T; ++t) sum[r][t] = acc[r * kTileTokens + t];
  uint32_t k = begin;
  for (; k + 16 <= end; k += 16) step<Type>(rows, x, k, 0xffff, ahead, sum);
  if (k < end) step<Type>(rows, x, k, static_cast<__mmask16>((1u << (end - k)) - 1), ahead, sum);
#pragma GCC unroll 4
  for (uint32_t r = 0; r < R; ++r)
#pragma GCC unroll 6
    for (uint32_t t = 0; t < T; ++t) acc[r * kTileTokens + t] = sum[r][t];
}

using TileFn = void (*)(const uint8_t* const*, const float* const*, uint32_t, uint32_t, uint64_t, __m512*);

template <typename Type>
TileFn choose(uint32_t rows, uint32_t tokens) {
  static constexpr TileFn kTiles[4][6] = {{tile<Type, 1, 1>, tile<Type, 1, 2>, tile<Type, 1, 3>,
                                           tile<Type, 1, 4>, tile<Type, 1, 5>, tile<Type, 1, 6>},
                                          {tile<Type, 2, 1>, tile<Type, 2, 2>, tile<Type, 2, 3>,
                                           tile<Type, 2, 4>, tile<Type, 2, 5>, tile<Type, 2, 6>},
                                          {tile<Type, 3, 1>, tile<Type, 3, 2>, tile<Type, 3, 3>,
                                           tile<Type, 3, 4>, tile<Type, 3, 5>, tile<Type, 3, 6>},
                                          {tile<Type, 4, 1>, tile<Type, 4, 2>, tile<Type, 4, 3>,
                                           tile<Type, 4, 4>, tile<Type, 4, 5>, tile<Type, 4, 6>}};
  return kTiles[rows - 1][tokens - 1];
}

// `count` <= kGroupRows rows from `data`; y points at the first row's result for token 0.
template <typename Type>
void multiply_group(const uint8_t* data, uint64_t row_bytes, uint32_t count, const ActivationView& x,
                    float* y, uint64_t y_stride) {
  __m512 acc[kGroupRows * kTileTokens];
  for (uint32_t token = 0; token < x.tokens;) {
    // The last tokens are halved, as in panel.cpp.
    const uint32_t left = x.tokens - token;
    const uint32_t tokens = left >= 2 * kTileTokens ? kTileTokens
                            : left > kTileTokens    ? (left + 1) / 2
                                                    : left;
    const float* inputs[kTileTokens] = {};
    for (uint32_t t = 0; t < tokens; ++t) inputs[t] = x.f32 + (token + t) * x.f32_stride;
    for (uint32_t i = 0; i < count * kTileTokens; ++i) acc[i] = _mm512_setzero_ps();
    const uint32_t segment = x.tokens == 1 ? x.cols : kSegmentCols;
    for (uint32_t begin = 0; begin < x.cols; begin += segment) {
      const uint32_t end = x.cols - begin < segment ? x.cols : begin + segment;
      for (uint32_t r = 0; r < count; r += kTileRows) {
        const uint32_t n = count - r < kTileRows ? count - r : kTileRows;
        const uint8_t* rows[kTileRows] = {};
        for (uint32_t i = 0; i < n; ++i) rows[i] = data + (r + i) * row_bytes;
        choose<Type>(n, tokens)(rows, inputs, begin, end, kTileRows * row_bytes, acc + r * kTileTokens);
      }
    }
    for (uint32_t t = 0; t < tokens; ++t)
      for (uint32_t r = 0; r < count; ++r)
        y[(token + t) * y_stride + r] = sum_lanes(acc[r * kTileTokens + t]);
    token += tokens;
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
  const DecodeFn decode = avx2_table()->decode[static_cast<uint32_t>(w.format)];
  auto* values = static_cast<float*>(scratch);
  const uint64_t fit = kMatmulScratchBytes / (uint64_t{w.cols} * sizeof(float));
  const uint32_t group = fit < kGroupRows ? static_cast<uint32_t>(fit) : kGroupRows;
  for (uint32_t row = row_begin; row < row_end; row += group) {
    const uint32_t count = row_end - row < group ? row_end - row : group;
    for (uint32_t r = 0; r < count; ++r) decode(w, row + r, 0, w.cols, values + uint64_t{r} * w.cols);
    multiply_group<F32>(reinterpret_cast<const uint8_t*>(values), uint64_t{w.cols} * sizeof(float), count, x,
                        y + row, y_stride);
  }
}

}  // namespace mlxf::kernels::avx512
