// Transposes matrices as they come from a file: checkpoints that store experts as [in, out] are turned on the way in.
//
// Pure; any thread, the one with a pool its owner's. No alignment is needed.
#pragma once

#include <cstdint>

#include "compute/thread_pool.h"

namespace mlxf::weights {

// target [cols, rows] = source [rows, cols], elements of 2 or 4 bytes. REQUIRES: the two do not overlap.
void transpose(const uint8_t* source, uint32_t rows, uint32_t cols, uint64_t element_bytes, uint8_t* target);
// Of that, the target's rows [begin, end) alone.
void transpose_columns(const uint8_t* source, uint32_t rows, uint32_t cols, uint64_t element_bytes,
                       uint32_t begin, uint32_t end, uint8_t* target);
// On the pool, where it lies. `scratch` is as large as the matrix.
void transpose_in_place(compute::ThreadPool& pool, uint8_t* matrix, uint32_t rows, uint32_t cols,
                        uint64_t element_bytes, uint8_t* scratch);

}  // namespace mlxf::weights
