// y = W x + b over rows: the products that all blocks are made of.
//
// Rows are dense f32 [rows, width].
#pragma once

#include <cstdint>
#include <vector>

#include "compute/cpu.h"
#include "tensor/matrix.h"

namespace mlxf::model {

using Vector = std::vector<float>;  // Empty: the layer has none.

// y [rows, w.rows] = w · x [rows, w.cols].
[[nodiscard]] inline compute::MatmulJob product(const MatrixView& w, const float* x, uint32_t rows,
                                                float* y) {
  compute::MatmulJob job;
  job.w = w;
  job.x = x;
  job.x_stride = w.cols;
  job.tokens = rows;
  job.y = y;
  job.y_stride = w.rows;
  return job;
}

// Nothing where the layer has no such bias.
inline void add_bias(float* rows, uint32_t count, uint32_t width, const Vector& bias) {
  if (bias.empty()) return;
  for (uint32_t r = 0; r < count; ++r)
    for (uint32_t i = 0; i < width; ++i) rows[uint64_t{r} * width + i] += bias[i];
}

}  // namespace mlxf::model
