#include "convert/row_slices.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace mlxf::convert {

uint64_t slice_rows(const SourceTensor& tensor) {
  return std::max<uint64_t>(1, kSliceElements / std::max<uint64_t>(1, tensor.cols()));
}

Result<EncodeSums> encode_rows(const SourceModel& model, const SourceTensor& tensor,
                               compute::ThreadPool& pool, const EncodeRowFn& encode,
                               const SliceDoneFn& done) {
  const uint64_t cols = tensor.cols();
  const uint64_t rows = tensor.rows();
  const uint64_t at_once = slice_rows(tensor);
  std::vector<float> weights(std::min(at_once, rows) * cols);
  std::vector<EncodeSums> sums(std::min(at_once, rows));
  EncodeSums total;
  for (uint64_t begin = 0; begin < rows; begin += at_once) {
    const uint64_t count = std::min(at_once, rows - begin);
    RETURN_IF_ERROR(model.read_rows(tensor, begin, std::span(weights).first(count * cols)));
    pool.parallel_for(static_cast<uint32_t>(count), [&](uint32_t chunk, uint32_t) {
      const std::span<const float> row = std::span(weights).subspan(chunk * cols, cols);
      sums[chunk].error = encode(begin + chunk, row);
      sums[chunk].squares = 0.0;
      for (const float weight : row) sums[chunk].squares += double{weight} * weight;
    });
    for (uint64_t row = 0; row < count; ++row) {
      total.error += sums[row].error;
      total.squares += sums[row].squares;
    }
    if (!std::isfinite(total.squares))
      return fail(ErrorCode::kCorrupt, tensor.name + ": holds a weight that is not finite");
    RETURN_IF_ERROR(done(begin, count));
  }
  return total;
}

}  // namespace mlxf::convert
