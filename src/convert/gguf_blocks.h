// Encoders of GGUF's block formats: rows of f32 weights to Q8_0, Q5_0, Q4_0, Q4_K, Q5_K, Q6_K, F16, BF16 and F32.
//
// Each block gets the scales of least squared error that a bounded search finds: ranges around the extremes, each
// refined by alternating between codes and least-squares scales, always judged with scales as they are stored. The
// layouts are in docs/formats/gguf.md and in kernels/reference/. Results depend on the weights alone. Pure
// functions; any thread.
#pragma once

#include <cstdint>
#include <span>

#include "tensor/dtype.h"

namespace mlxf::convert {

// Whether encode_gguf_row() can make this type.
[[nodiscard]] bool has_gguf_encoder(DType dtype);

// One row; returns the sum of its squared errors. REQUIRES: has_gguf_encoder(dtype), row.size() a multiple of the
// type's block, out of row_bytes(dtype, row.size()), finite weights for a meaningful result.
double encode_gguf_row(DType dtype, std::span<const float> row, std::span<uint8_t> out);

}  // namespace mlxf::convert
