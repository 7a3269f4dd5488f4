// Products in f32: f32, f16 and bf16 weights widened on the fly, and quantised weights dequantised first.
//
// Lane j of 8 accumulators (two vectors) sums the elements k = j (mod 8), ascending, and the lanes are added as halves,
// quarters, eighths: the order of the reference, whose bits these products therefore have. A tile is 4 rows x 2
// tokens: 16 accumulators, and 12 loads feed 16 FMAs. Columns run in segments whose activations stay in L1 while the
// rows of a chunk pass from L2; accumulators wait in memory between segments.
#include <arm_neon.h>

#include <cstdint>

#include "kernels/neon/neon.h"

namespace mlxf::kernels::neon {
namespace {

constexpr uint32_t kSegmentCols = 1024;
constexpr uint32_t kGroupRows = 32;
constexpr uint32_t kTileRows = 4;
constexpr uint32_t kTileTokens = 2;

struct Lanes8 {
  float32x4_t low;
  float32x4_t high;
};

inline float32x4_t from_bf16(uint16x4_t bits) { return vreinterpretq_f32_u32(vshll_n_u16(bits, 16)); }

// Lanes k .. k + 7 of a row.
struct F32 {
  using Element = float;
  static Lanes8 load(const uint8_t* at) {
    const uint8x16_t low = vld1q_u8(at), high = vld1q_u8(at + 16);
    return {vreinterpretq_f32_u8(low), vreinterpretq_f32_u8(high)};
  }
};
struct F16 {
  using Element = uint16_t;
  static Lanes8 load(const uint8_t* at) {
    const float16x8_t halves = vreinterpretq_f16_u8(vld1q_u8(at));
    return {vcvt_f32_f16(vget_low_f16(halves)), vcvt_high_f32_f16(halves)};
  }
};
struct BF16 {
  using Element = uint16_t;
  static Lanes8 load(const uint8_t* at) {
    const uint16x8_t bits = vreinterpretq_u16_u8(vld1q_u8(at));
    return {from_bf16(vget_low_u16(bits)), from_bf16(vget_high_u16(bits))};
  }
};

// The last n < 8 lanes with zeros behind.
template <typename Type>
Lanes8 load_tail(const uint8_t* at, uint32_t n) {
  typename Type::Element tail[8] = {};
  __builtin_memcpy(tail, at, n * sizeof(typename Type::Element));
  return Type::load(reinterpret_cast<const uint8_t*>(tail));
}

inline void add_product(Lanes8& sum, const Lanes8& w, const Lanes8& x) {
  sum.low = vfmaq_f32(sum.low, w.low, x.low);
  sum.high = vfmaq_f32(sum.high, w.high, x.high);
}

float sum_lanes(const Lanes8& v) {
  const float32x4_t quarter = vaddq_f32(v.low, v.high);
  const float32x2_t eighth = vadd_f32(vget_low_f32(quarter), vget_high_f32(quarter));
  return vget_lane_f32(eighth, 0) + vget_lane_f32(eighth, 1);
}

// acc[R][T] += rows x tokens over columns [begin, end); acc has kTileTokens entries per row.
template <typename Type, uint32_t R, uint32_t T>
void tile(const uint8_t* const* rows, const float* const* x, uint32_t begin, uint32_t end, Lanes8* acc) {
  constexpr uint32_t kBytes = sizeof(typename Type::Element);
  Lanes8 sum[R][T];
#pragma GCC unroll 4
  for (uint32_t r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (uint32_t t = 0; t < T; ++t) sum[r][t] = acc[r * kTileTokens + t];
  uint32_t k = begin;
  for (; k + 8 <= end; k += 8) {
    Lanes8 v[T];
#pragma GCC unroll 2
    for (uint32_t t = 0; t < T; ++t) v[t] = {vld1q_f32(x[t] + k), vld1q_f32(x[t] + k + 4)};
#pragma GCC unroll 4
    for (uint32_t r = 0; r < R; ++r) {
      const Lanes8 w = Type::load(rows[r] + uint64_t{k} * kBytes);
#pragma GCC unroll 2
      for (uint32_t t = 0; t < T; ++t) add_product(sum[r][t], w, v[t]);
    }
  }
  if (k < end) {
    for (uint32_t t = 0; t < T; ++t) {
      const Lanes8 v = load_tail<F32>(reinterpret_cast<const uint8_t*>(x[t] + k), end - k);
      for (uint32_t r = 0; r < R; ++r)
        add_product(sum[r][t], load_tail<Type>(rows[r] + uint64_t{k} * kBytes, end - k), v);
    }
  }
#pragma GCC unroll 4
  for (uint32_t r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (uint32_t t = 0; t < T; ++t) acc[r * kTileTokens + t] = sum[r][t];
}

using TileFn = void (*)(const uint8_t* const*, const float* const*, uint32_t, uint32_t, Lanes8*);

template <typename Type>
TileFn choose(uint32_t rows, uint32_t tokens) {
  static constexpr TileFn kTiles[kTileRows][kTileTokens] = {{tile<Type, 1, 1>, tile<Type, 1, 2>},
                                                            {tile<Type, 2, 1>, tile<Type, 2, 2>},
                                                            {tile<Type, 3, 1>, tile<Type, 3, 2>},
                                                            {tile<Type, 4, 1>, tile<Type, 4, 2>}};
  return kTiles[rows - 1][tokens - 1];
}

// `count` <= kGroupRows rows from `data`; y points at the first row's result for token 0.
template <typename Type>
void multiply_group(const uint8_t* data, uint64_t row_bytes, uint32_t count, const ActivationView& x,
                    float* y, uint64_t y_stride) {
  Lanes8 acc[kGroupRows * kTileTokens];
  for (uint32_t token = 0; token < x.tokens; token += kTileTokens) {
    const uint32_t tokens = x.tokens - token < kTileTokens ? x.tokens - token : kTileTokens;
    const float* inputs[kTileTokens] = {};
    for (uint32_t t = 0; t < tokens; ++t) inputs[t] = x.f32 + (token + t) * x.f32_stride;
    for (uint32_t i = 0; i < count * kTileTokens; ++i) acc[i] = {vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)};
    for (uint32_t begin = 0; begin < x.cols; begin += kSegmentCols) {
      const uint32_t end = x.cols - begin < kSegmentCols ? x.cols : begin + kSegmentCols;
      for (uint32_t r = 0; r < count; r += kTileRows) {
        const uint32_t n = count - r < kTileRows ? count - r : kTileRows;
        const uint8_t* rows[kTileRows] = {};
        for (uint32_t i = 0; i < n; ++i) rows[i] = data + (r + i) * row_bytes;
        choose<Type>(n, tokens)(rows, inputs, begin, end, acc + r * kTileTokens);
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
  constexpr uint32_t kBytes = sizeof(typename Type::Element);
  for (uint32_t k = begin; k < end; k += 8) {
    const uint32_t n = end - k < 8 ? end - k : 8;
    const uint8_t* at = row + uint64_t{k} * kBytes;
    const Lanes8 v = n == 8 ? Type::load(at) : load_tail<Type>(at, n);
    float values[8];
    vst1q_f32(values, v.low);
    vst1q_f32(values + 4, v.high);
    __builtin_memcpy(out + (k - begin), values, n * sizeof(float));
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

}  // namespace mlxf::kernels::neon
