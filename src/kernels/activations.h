// The right-hand side of every matrix product: rows of activations, as f32 or quantised to int8.
//
// A view; compute/ owns the memory. Int8 form: per `block` consecutive elements one scale, code =
// round-to-even(x * 127 / max|x|) in [-127, 127], scale = max|x| / 127; `block` is what the weight format
// asks for (see activation_block). sums16/sums32 hold the sums of the codes over 16 and 32 elements: with
// them the offset of unsigned weight codes and the minimum of affine formats cost one multiplication per
// sub-block.
#pragma once

#include <cstdint>

#include "tensor/matrix.h"

namespace mlxf::kernels {

struct ActivationView {
  uint32_t tokens = 0;
  uint32_t cols = 0;
  const float* f32 = nullptr;  // [tokens, f32_stride], null when only the int8 form is wanted.
  uint64_t f32_stride = 0;
  // The int8 form; null when `codes` is.
  const int8_t* codes = nullptr;    // [tokens, cols]
  const float* scales = nullptr;    // [tokens, cols / block]
  const int16_t* sums16 = nullptr;  // [tokens, cols / 16]
  const int16_t* sums32 = nullptr;  // [tokens, cols / 32]
  uint32_t block = 0;
};

// Elements per activation scale that the int8 kernels of `w` expect; 0 when the format has no int8 kernels
// (16- and 32-bit weights).
[[nodiscard]] uint32_t activation_block(const MatrixView& w);

}  // namespace mlxf::kernels
