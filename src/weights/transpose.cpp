#include "weights/transpose.h"

#include <algorithm>
#include <cstring>

namespace mlxf::weights {
namespace {

// Lines of the cache that a tile reads and writes stay in the first level.
constexpr uint32_t kTile = 32;
// Columns that a thread transposes at a time.
constexpr uint32_t kPieceColumns = 256;

template <typename Element>
void transpose_elements(const uint8_t* source, uint32_t rows, uint32_t cols, uint32_t begin, uint32_t end,
                        uint8_t* target) {
  for (uint32_t row = 0; row < rows; row += kTile)
    for (uint32_t col = begin; col < end; col += kTile)
      for (uint32_t c = col; c < std::min(col + kTile, end); ++c)
        for (uint32_t r = row; r < std::min(row + kTile, rows); ++r)
          std::memcpy(target + (uint64_t{c} * rows + r) * sizeof(Element),
                      source + (uint64_t{r} * cols + c) * sizeof(Element), sizeof(Element));
}

}  // namespace

void transpose_columns(const uint8_t* source, uint32_t rows, uint32_t cols, uint64_t element_bytes,
                       uint32_t begin, uint32_t end, uint8_t* target) {
  const auto fn =
      element_bytes == sizeof(uint16_t) ? transpose_elements<uint16_t> : transpose_elements<uint32_t>;
  fn(source, rows, cols, begin, end, target);
}

void transpose(const uint8_t* source, uint32_t rows, uint32_t cols, uint64_t element_bytes, uint8_t* target) {
  transpose_columns(source, rows, cols, element_bytes, 0, cols, target);
}

void transpose_in_place(compute::ThreadPool& pool, uint8_t* matrix, uint32_t rows, uint32_t cols,
                        uint64_t element_bytes, uint8_t* scratch) {
  const uint32_t pieces = (cols + kPieceColumns - 1) / kPieceColumns;
  pool.parallel_for(pieces, [&](uint32_t i, uint32_t) {
    const uint32_t begin = i * kPieceColumns;
    transpose_columns(matrix, rows, cols, element_bytes, begin, std::min(begin + kPieceColumns, cols),
                      scratch);
  });
  const uint64_t piece_bytes = uint64_t{kPieceColumns} * rows * element_bytes;
  const uint64_t bytes = uint64_t{rows} * cols * element_bytes;
  pool.parallel_for(pieces, [&](uint32_t i, uint32_t) {
    const uint64_t at = i * piece_bytes;
    std::copy_n(scratch + at, std::min(piece_bytes, bytes - at), matrix + at);
  });
}

}  // namespace mlxf::weights
