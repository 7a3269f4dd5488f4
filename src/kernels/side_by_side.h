// Rows side by side: the blocks of sixteen rows of a GGUF K format, stored so that a vector of 512 bits holds the same
// four bytes of each row, a row to a lane.
//
// Products of one token to many then unpack a vector once for all tokens, and no sum ever crosses lanes: some 13
// operations a block, row and token instead of 48. Rows 16 g .. 16 g + 15 take 16 row_bytes from 16 g row_bytes on, as
// before, and hold
//     [blocks][n][16 rows] dwords   dword i of each row's block, in the order of dword_place()
//     [blocks][16 rows] m bytes     what is left of each row's block: d of Q6_K
// for blocks of 4 n + m bytes, m < 4. Dwords lie in the order in which products read them: out of order, the same loop
// got a tenth to a quarter less from memory (Zen 5).
// Pure functions over borrowed memory; any thread.
#pragma once

#include <cstdint>

#include "tensor/matrix.h"

namespace mlxf::kernels {

// The format of that matrix's rows side by side; its own where there is none.
[[nodiscard]] WeightFormat side_by_side(WeightFormat format);
// The format whose rows lie side by side in `format`; itself where they do not.
[[nodiscard]] WeightFormat row_by_row(WeightFormat format);

// Where dword `dword` of a row's block lies among the block's vectors. Q4_K: as in a row. Q6_K: the scales; then for
// each half the low bits of its first 32 bytes and the high bits in turn, and the low bits of the other 32. Internal
// linkage: no copy built for one instruction set may be picked for another.
static constexpr uint32_t dword_place(WeightFormat format, uint32_t dword) {
  if (format != WeightFormat::kQ6_K && format != WeightFormat::kQ6_Kx16) return dword;
  if (dword >= 48) return dword - 48;
  const uint32_t half = dword < 32 ? dword / 16 : (dword - 32) / 8, i = dword % 8;
  const uint32_t within = dword >= 32 ? 2 * i + 1 : dword % 16 < 8 ? 2 * i : 16 + i;
  return 4 + half * 24 + within;
}

// Puts the rows of `rows` side by side at `target`, which does not overlap them. REQUIRES: side_by_side(format) is
// another format; rows.rows a multiple of kRowsSideBySide.
using SideBySideFn = void (*)(const MatrixView& rows, uint8_t* target);
void put_side_by_side(const MatrixView& rows, uint8_t* target);

}  // namespace mlxf::kernels
