// MLX's affine quantisation: w = scale * code + bias per group of 32, 64 or 128 elements of a row.
//
// Two encoders. kMlx is the rule of mlx.core.quantize: the range from min to max in 2^bits - 1 steps, moved so
// that the edge of larger magnitude is exact. kRefined starts there, tries narrower ranges and fits scale and
// bias to the codes by least squares; it keeps what has the least squared error *with scale and bias as
// stored*, so it is never worse than kMlx in that measure. Pure functions; any thread.
#pragma once

#include <cstdint>
#include <span>

#include "tensor/dtype.h"

namespace mlxf::convert {

enum class AffineEncoder : uint8_t { kMlx, kRefined };

struct AffineFormat {
  uint32_t bits = 4;                // 2, 3, 4, 5, 6 or 8.
  uint32_t group = 64;              // 32, 64 or 128.
  DType scale_type = DType::kBF16;  // kBF16 or kF16.
};

// Bytes of the packed codes of `cols` elements: little-endian bit string.
[[nodiscard]] inline uint64_t affine_code_bytes(uint64_t cols, uint32_t bits) { return cols * bits / 8; }

// One row of weights; returns the sum of its squared errors. REQUIRES: row.size() a multiple of format.group;
// codes of affine_code_bytes(), scales and biases one per group.
double encode_affine_row(std::span<const float> row, const AffineFormat& format, AffineEncoder encoder,
                         std::span<uint8_t> codes, std::span<uint16_t> scales, std::span<uint16_t> biases);

// The values that an encoded row stands for.
void decode_affine_row(std::span<const uint8_t> codes, std::span<const uint16_t> scales,
                       std::span<const uint16_t> biases, const AffineFormat& format, std::span<float> row);

}  // namespace mlxf::convert
