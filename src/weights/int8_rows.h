// int8 rows: 16- and 32-bit weights as int8 codes with one f32 scale per 32 elements (--activations int8).
//
// A row's codes and scales depend on that row alone, so weights converted while loading and weights converted in their
// slot after every read are the same, bit for bit. Stateless; any thread.
#pragma once

#include <cstdint>

#include "tensor/matrix.h"

namespace mlxf::weights {

enum class Rows : uint8_t { kAsStored, kInt8 };

// Whether a matrix can be converted: of floats, in whole groups.
[[nodiscard]] bool can_be_int8(const MatrixView& stored);
// `stored` as int8 rows, codes and scales apart; its pointers are null. REQUIRES: can_be_int8.
[[nodiscard]] MatrixView int8_layout(const MatrixView& stored);
// Bytes of all rows of that.
[[nodiscard]] uint64_t int8_bytes(const MatrixView& stored);

// Converts the rows of `stored` into `target`, from its row `target_row` on.
void convert_rows(const MatrixView& stored, const MatrixView& target, uint32_t target_row);
// Converts `stored`, whose memory the caller may write to, in place: each row's codes, then its scales.
[[nodiscard]] MatrixView convert_in_place(const MatrixView& stored);

}  // namespace mlxf::weights
