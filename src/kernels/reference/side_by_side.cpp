#include "kernels/side_by_side.h"

#include <cstring>

#include "base/check.h"
#include "kernels/code_row.h"
#include "kernels/reference/blocks.h"

namespace mlxf::kernels {

WeightFormat side_by_side(WeightFormat format) {
  switch (format) {
    case WeightFormat::kQ4_K:
      return WeightFormat::kQ4_Kx16;
    case WeightFormat::kQ6_K:
      return WeightFormat::kQ6_Kx16;
    default:
      return format;
  }
}

WeightFormat row_by_row(WeightFormat format) {
  switch (format) {
    case WeightFormat::kQ4_Kx16:
      return WeightFormat::kQ4_K;
    case WeightFormat::kQ6_Kx16:
      return WeightFormat::kQ6_K;
    default:
      return format;
  }
}

namespace {

// What rows' blocks are made of, and where a group of rows has it.
struct Layout {
  WeightFormat format;
  uint32_t blocks;
  uint64_t block_bytes, dwords, rest;

  explicit Layout(const MatrixView& w)
      : format(w.format),
        blocks(w.cols / code_traits(w).block),
        block_bytes(w.row_bytes / blocks),
        dwords(block_bytes / 4),
        rest(block_bytes % 4) {}
  [[nodiscard]] uint64_t dword_at(uint32_t b, uint32_t dword, uint32_t lane) const {
    return ((b * dwords + dword_place(format, dword)) * kRowsSideBySide + lane) * 4;
  }
  [[nodiscard]] uint64_t rest_at(uint32_t b, uint32_t lane) const {
    return (blocks * dwords * 4 + b * rest) * kRowsSideBySide + lane * rest;
  }
};

}  // namespace

void put_side_by_side(const MatrixView& rows, uint8_t* target) {
  CHECK(side_by_side(rows.format) != rows.format && rows.rows % kRowsSideBySide == 0);
  const Layout layout(rows);
  for (uint32_t row = 0; row < rows.rows; ++row) {
    const uint32_t lane = row % kRowsSideBySide;
    uint8_t* group = target + (row - lane) * rows.row_bytes;
    for (uint32_t b = 0; b < layout.blocks; ++b) {
      const uint8_t* block = rows.data + row * rows.row_bytes + b * layout.block_bytes;
      for (uint32_t i = 0; i < layout.dwords; ++i)
        std::memcpy(group + layout.dword_at(b, i, lane), block + i * 4, 4);
      std::memcpy(group + layout.rest_at(b, lane), block + layout.dwords * 4, layout.rest);
    }
  }
}

namespace reference {

void gather_block(const MatrixView& w, uint32_t row, uint32_t index, uint8_t* block) {
  const Layout layout(w);
  const uint32_t lane = row % kRowsSideBySide;
  const uint8_t* group = w.data + (row - lane) * w.row_bytes;
  for (uint32_t i = 0; i < layout.dwords; ++i)
    std::memcpy(block + i * 4, group + layout.dword_at(index, i, lane), 4);
  std::memcpy(block + layout.dwords * 4, group + layout.rest_at(index, lane), layout.rest);
}

}  // namespace reference
}  // namespace mlxf::kernels
