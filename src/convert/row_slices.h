// encode_rows(): runs an encoder over all rows of a source tensor, in slices, on a thread pool.
//
// The calling thread reads a slice and hands it out row by row; then it passes the slice on to be written,
// in order. Memory: one slice as f32. Results do not depend on the number of threads.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "base/result.h"
#include "compute/thread_pool.h"
#include "convert/source_model.h"

namespace mlxf::convert {

struct EncodeSums {
  double error = 0.0;    // Sum of squared errors,
  double squares = 0.0;  // and of squared weights.
};

// Encodes row `row` (counted from the tensor's first) and returns its squared error; called on any worker.
using EncodeRowFn = std::function<double(uint64_t row, std::span<const float> weights)>;
// Rows [begin, begin + count) are encoded; called by the thread that called encode_rows().
using SliceDoneFn = std::function<Status(uint64_t begin, uint64_t count)>;

inline constexpr uint64_t kSliceElements = uint64_t{4} << 20;

// Rows that a slice of this tensor holds: at least one.
[[nodiscard]] uint64_t slice_rows(const SourceTensor& tensor);

[[nodiscard]] Result<EncodeSums> encode_rows(const SourceModel& model, const SourceTensor& tensor,
                                             compute::ThreadPool& pool, const EncodeRowFn& encode,
                                             const SliceDoneFn& done);

}  // namespace mlxf::convert
