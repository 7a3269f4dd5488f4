#include "weights/transpose.h"

#include <algorithm>
#include <cstring>

namespace mlxf::weights {
namespace {

// Lines of the cache that a tile reads and writes stay in the first level.
constexpr uint32_t kTile = 32;

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

}  // namespace mlxf::weights
