// What tests of weights share: the values of a matrix in any format, by the scalar kernels.
//
// Of tests alone; one thread. Row-major f32 [rows, cols].
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/kernel_table.h"
#include "tensor/matrix.h"

namespace mlxf::weights {

inline std::vector<float> decode(const MatrixView& w) {
  std::vector<float> values(uint64_t{w.rows} * w.cols);
  for (uint32_t row = 0; row < w.rows; ++row)
    kernels::reference_kernels().decode[static_cast<uint32_t>(w.format)](w, row, 0, w.cols,
                                                                         &values[uint64_t{row} * w.cols]);
  return values;
}

}  // namespace mlxf::weights
