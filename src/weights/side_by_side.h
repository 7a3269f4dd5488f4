// Rows side by side (kernels/side_by_side.h): which weights are put so when they come to stay in memory, and putting
// them so.
//
// For the int8 products of instruction sets whose kernels multiply them faster so: those whose table has a function
// that puts them so. What streams through slots stays as stored: it is used once or a few times, and putting it so
// costs as much as some products. Any form gives the same bits. Stateless; any thread, with a pool its owner's.
#pragma once

#include <cstdint>
#include <span>

#include "compute/thread_pool.h"
#include "kernels/side_by_side.h"
#include "tensor/matrix.h"
#include "weights/record.h"

namespace mlxf::weights {

// Whether a matrix can lie so: its format has such a form, its rows are whole groups.
[[nodiscard]] bool can_be_side_by_side(const MatrixView& stored);

// Puts side by side, where they lie, those of `matrices` that can be and that are not read by row; `records` describes
// them, one each. Their memory is the caller's to write to. Null `pool`: alone.
void put_side_by_side(kernels::SideBySideFn put, std::span<MatrixView> matrices,
                      std::span<const RecordMatrix> records, compute::ThreadPool* pool);

}  // namespace mlxf::weights
