#include "weights/matrix_copy.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace mlxf::weights {
namespace {

constexpr uint64_t kAlign = 64;
// Copied by one thread at a time: long enough to be at full speed, short enough that the disk is looked after between.
constexpr uint64_t kPieceBytes = uint64_t{1} << 20;

// Bytes that are copied together, and where to.
struct Range {
  const uint8_t* begin = nullptr;
  const uint8_t* end = nullptr;
  uint64_t at = 0;
};

// Every `step`-th of the rows is the matrix's own: it ends with its last one, not with the one after.
Range rows_of(const uint8_t* begin, uint64_t rows, uint64_t stride, uint32_t step) {
  return {begin, begin + (rows - 1) * stride + stride / step, 0};
}

void add_ranges(const MatrixView& w, uint32_t step, std::vector<Range>& ranges) {
  if (w.rows == 0) return;
  const Range data = rows_of(w.data, w.rows, w.row_bytes, step);
  ranges.push_back(data);
  const uint64_t scale_rows = w.format == WeightFormat::kF8E4M3 ? (w.rows + 127) / 128 : w.rows;
  for (const uint8_t* more : {w.scales, w.biases}) {
    // Those of rows that were converted in their slot stand between the codes.
    if (more == nullptr || (more >= data.begin && more < data.end)) continue;
    ranges.push_back(rows_of(more, scale_rows, w.scale_row_bytes, step));
  }
}

// Those that overlap become one, and each gets its place; returns the bytes of all.
uint64_t place(std::vector<Range>& ranges) {
  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
  uint64_t total = 0;
  size_t kept = 0;
  for (const Range& range : ranges) {
    if (kept > 0 && range.begin < ranges[kept - 1].end) {
      ranges[kept - 1].end = std::max(ranges[kept - 1].end, range.end);
      continue;
    }
    ranges[kept++] = range;
  }
  ranges.resize(kept);
  for (Range& range : ranges) {
    range.at = total;
    total += (static_cast<uint64_t>(range.end - range.begin) + kAlign - 1) / kAlign * kAlign;
  }
  return total;
}

void copy_range(const Range& range, uint8_t* to, compute::ThreadPool* pool) {
  const auto bytes = static_cast<uint64_t>(range.end - range.begin);
  const auto copy = [&](uint32_t piece, uint32_t) {
    const uint64_t at = piece * kPieceBytes;
    std::memcpy(to + at, range.begin + at, std::min(kPieceBytes, bytes - at));
  };
  const auto pieces = static_cast<uint32_t>((bytes + kPieceBytes - 1) / kPieceBytes);
  if (pool != nullptr) return pool->parallel_for(pieces, copy);
  for (uint32_t piece = 0; piece < pieces; ++piece) copy(piece, 0);
}

}  // namespace

Result<MatrixCopy> copy_matrices(std::span<const MatrixView> matrices, std::span<const RecordMatrix> stored,
                                 compute::ThreadPool* pool) {
  CHECK(matrices.size() == stored.size());
  std::vector<Range> ranges;
  ranges.reserve(matrices.size() * 3);
  for (size_t i = 0; i < matrices.size(); ++i) add_ranges(matrices[i], stored[i].row_step, ranges);
  MatrixCopy result;
  ASSIGN_OR_RETURN(result.memory, platform::HugeMemory::allocate_tight(place(ranges)));
  for (const Range& range : ranges) copy_range(range, result.memory.data() + range.at, pool);
  const auto moved = [&](const uint8_t* old) -> const uint8_t* {
    if (old == nullptr) return nullptr;
    const auto range = std::find_if(ranges.begin(), ranges.end(),
                                    [&](const Range& r) { return old >= r.begin && old < r.end; });
    CHECK(range != ranges.end());
    return result.memory.data() + range->at + (old - range->begin);
  };
  result.matrices.assign(matrices.begin(), matrices.end());
  for (MatrixView& w : result.matrices) {
    if (w.rows == 0) continue;
    w.data = moved(w.data);
    w.scales = moved(w.scales);
    w.biases = moved(w.biases);
  }
  return result;
}

}  // namespace mlxf::weights
