#include <cmath>
#include <vector>

#include "kernels/reference/blocks.h"
#include "kernels/reference/reference.h"

namespace mlxf::kernels::reference {
namespace {

constexpr uint32_t kFloatLanes = 8;

float dot_f32(const float* w, const float* x, uint32_t n) {
  float lanes[kFloatLanes] = {};
  for (uint32_t k = 0; k < n; ++k) lanes[k % kFloatLanes] = std::fma(w[k], x[k], lanes[k % kFloatLanes]);
  for (uint32_t half = kFloatLanes / 2; half > 0; half /= 2)
    for (uint32_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
}

// S and M of one block against one token.
struct Sums {
  int32_t s = 0;
  int32_t m = 0;
};

Sums block_sums(const CodeTraits& t, const Block& block, const int8_t* x) {
  Sums sums;
  for (uint32_t j = 0; j < t.block / t.sub; ++j) {
    int32_t products = 0, codes = 0;
    for (uint32_t i = j * t.sub; i < (j + 1) * t.sub; ++i) {
      products += block.codes[i] * x[i];
      codes += x[i];
    }
    sums.s += block.scales[j] * products;
    if (t.minimum == MinimumKind::kSymmetric) sums.s += block.minimums[j] * codes;
    if (t.minimum == MinimumKind::kAffine) sums.m += block.minimums[j] * codes;
  }
  return sums;
}

}  // namespace

void matmul_f32(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y,
                uint64_t y_stride, void*) {
  std::vector<float> values(w.cols);
  for (uint32_t row = row_begin; row < row_end; ++row) {
    decode_values(w, row, 0, w.cols, values.data());
    for (uint32_t t = 0; t < x.tokens; ++t)
      y[t * y_stride + row] = dot_f32(values.data(), x.f32 + t * x.f32_stride, w.cols);
  }
}

void matmul_i8(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y,
               uint64_t y_stride, void*) {
  const CodeTraits t = code_traits(w);
  const uint32_t blocks = w.cols / t.block;
  std::vector<Block> row_blocks(blocks);
  for (uint32_t row = row_begin; row < row_end; ++row) {
    for (uint32_t b = 0; b < blocks; ++b) read_block(w, row, b, row_blocks[b]);
    for (uint32_t token = 0; token < x.tokens; ++token) {
      float s = 0.0f, m = 0.0f;
      for (uint32_t b = 0; b < blocks; ++b) {
        const Block& block = row_blocks[b];
        const Sums sums = block_sums(t, block, x.codes + uint64_t{token} * x.cols + b * t.block);
        const float dx = x.scales[uint64_t{token} * blocks + b];
        s = std::fma(static_cast<float>(sums.s), block.d * dx, s);
        if (t.minimum == MinimumKind::kAffine) m = std::fma(block.e, static_cast<float>(sums.m) * dx, m);
      }
      y[token * y_stride + row] = t.minimum == MinimumKind::kAffine ? s + m : s;
    }
  }
}

}  // namespace mlxf::kernels::reference
