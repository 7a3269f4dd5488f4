// A copy of matrices that lie in a slot, in memory of its own that holds nothing but them: how what was streamed comes
// to stay.
//
// Bytes are copied as they lie, strides included, so that matrices whose rows alternate and rows that were converted in
// their slot stay what they were; what lies between matrices is left out. One thread calls it; the pool shares the
// copying. Sizes are bytes.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "compute/thread_pool.h"
#include "platform/huge_memory.h"
#include "tensor/matrix.h"
#include "weights/record.h"

namespace mlxf::weights {

struct MatrixCopy {
  platform::HugeMemory memory;
  std::vector<MatrixView> matrices;  // Into `memory`.
};

// Memory beside the bytes of so many matrices that a copy of them, or loading them, may take: parts begin at lines.
[[nodiscard]] constexpr uint64_t copy_slack_bytes(uint64_t matrices) { return matrices * 3 * 64; }

// `stored` describes the record that `matrices` are of, one each; null `pool`: alone. kOutOfBudget where the system
// refuses the memory.
[[nodiscard]] Result<MatrixCopy> copy_matrices(std::span<const MatrixView> matrices,
                                               std::span<const RecordMatrix> stored,
                                               compute::ThreadPool* pool);

}  // namespace mlxf::weights
