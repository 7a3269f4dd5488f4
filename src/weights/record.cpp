#include "weights/record.h"

#include <algorithm>

#include "weights/side_by_side.h"

namespace mlxf::weights {
namespace {

// Ranges closer than this share their widened blocks or cost less to read through than to read apart.
constexpr uint64_t kJoinGap = 4096;

struct Range {
  RecordExtent extent;
  uint32_t matrix;
  RecordPart RecordMatrix::*part;
  uint64_t inner = 0;  // From the range's beginning to the part's.
};

// Appends where the slice's parts lie in the files.
void add_ranges(const RecordSlice& slice, const RecordMatrix& matrix, uint32_t index,
                std::vector<Range>& ranges) {
  const MatrixView& w = slice.stored.layout;
  const auto add = [&](const formats::TensorEntry* tensor, RecordPart RecordMatrix::*part, uint64_t begin,
                       uint64_t bytes, uint64_t inner) {
    if (tensor != nullptr)
      ranges.push_back({{tensor->file, tensor->offset + begin, bytes}, index, part, inner});
  };
  if (slice.transposed) {
    const uint64_t slab_bytes = matrix.layout.cols * w.row_bytes;
    const uint64_t own_bytes = matrix.layout.row_bytes / slice.row_step;
    add(slice.stored.data, &RecordMatrix::data, slice.row_begin / w.cols * slab_bytes, slab_bytes,
        slice.row_begin % w.cols * own_bytes);
    return;
  }
  const bool blocks = w.format == WeightFormat::kF8E4M3;
  const uint64_t rows = (uint64_t{slice.rows} - 1) * slice.row_step + 1;
  const uint64_t scale_begin = blocks ? slice.row_begin / 128 : slice.row_begin;
  const uint64_t scale_rows = blocks ? (rows + 127) / 128 : rows;
  add(slice.stored.data, &RecordMatrix::data, slice.row_begin * w.row_bytes, rows * w.row_bytes, 0);
  add(slice.stored.scales, &RecordMatrix::scales, scale_begin * w.scale_row_bytes,
      scale_rows * w.scale_row_bytes, 0);
  add(slice.stored.biases, &RecordMatrix::biases, scale_begin * w.scale_row_bytes,
      scale_rows * w.scale_row_bytes, 0);
}

RecordMatrix matrix_of(const RecordSlice& slice) {
  RecordMatrix matrix;
  matrix.layout = slice.stored.layout;
  if (slice.transposed) matrix.layout = *transposed_layout(slice.stored);
  matrix.layout.rows = slice.rows;
  matrix.row_step = slice.row_step;
  matrix.transposed = slice.transposed;
  matrix.by_row = slice.by_row;
  matrix.layout.row_bytes *= slice.row_step;
  if (slice.stored.layout.format != WeightFormat::kF8E4M3) matrix.layout.scale_row_bytes *= slice.row_step;
  return matrix;
}

// Two matrices of one slice share a transposition.
void add_transpose(Record& record, const RecordSlice& slice, const RecordPart& slab) {
  const MatrixView& w = slice.stored.layout;
  for (const RecordTranspose& known : record.transposes)
    if (known.extent == slab.extent && known.at == slab.at) return;
  const auto rows = static_cast<uint32_t>(slice.stored.data->shape[slice.stored.data->shape.size() - 2]);
  record.transposes.push_back({slab.extent, slab.at, rows, w.cols, w.row_bytes / w.cols});
}

}  // namespace

bool RecordMatrix::goes_side_by_side() const {
  return row_step == 1 && !transposed && !by_row && can_be_side_by_side(layout);
}

uint64_t Record::bytes() const {
  uint64_t total = 0;
  for (const RecordExtent& extent : extents) total += extent.bytes;
  return total;
}

uint64_t Record::transpose_bytes() const {
  uint64_t largest = 0;
  for (const RecordTranspose& transpose : transposes) largest = std::max(largest, transpose.bytes());
  return largest;
}

Record make_record(const std::vector<RecordSlice>& slices) {
  Record record;
  std::vector<Range> ranges;
  for (const RecordSlice& slice : slices) {
    record.matrices.push_back(matrix_of(slice));
    add_ranges(slice, record.matrices.back(), static_cast<uint32_t>(record.matrices.size() - 1), ranges);
  }
  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) {
    return a.extent.file != b.extent.file ? a.extent.file < b.extent.file : a.extent.offset < b.extent.offset;
  });
  for (const Range& range : ranges) {
    const RecordExtent& e = range.extent;
    if (record.extents.empty() || record.extents.back().file != e.file ||
        e.offset > record.extents.back().offset + record.extents.back().bytes + kJoinGap)
      record.extents.push_back(e);
    RecordExtent& joined = record.extents.back();
    joined.bytes = std::max(joined.bytes, e.offset + e.bytes - joined.offset);
    const RecordPart begin{static_cast<uint32_t>(record.extents.size() - 1), e.offset - joined.offset};
    record.matrices[range.matrix].*range.part = {begin.extent, begin.at + range.inner};
    if (slices[range.matrix].transposed) add_transpose(record, slices[range.matrix], begin);
  }
  return record;
}

}  // namespace mlxf::weights
