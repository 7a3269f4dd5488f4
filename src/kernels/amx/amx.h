// The AMX kernels' entry points. Compiled with AMX-TILE and AMX-INT8 on top of what avx512/ is compiled with: only this
// folder may include it. Pure functions over borrowed memory; any thread, one scratch per thread. A thread's tiles are
// configured when a call begins and released when it returns.
#pragma once

#include <cstdint>

#include "kernels/activations.h"
#include "tensor/matrix.h"

namespace mlxf::kernels::amx {

// y = W x for any number of tokens: panels of 16 rows by tiles of 16 tokens. For few tokens avx512's is faster.
void matmul_panels(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                   float* y, uint64_t y_stride, void* scratch);

}  // namespace mlxf::kernels::amx
