// MatrixView: a weight matrix in memory exactly as it is stored, and the vocabulary of its layouts.
//
// Borrowed and immutable: whoever owns the bytes (weights/) outlives the view. A matrix is [rows, cols],
// row-major; `cols` is the contracted dimension, so y = x · Wᵀ takes x of `cols` and gives y of `rows`. No
// alignment is promised: safetensors guarantees 8 bytes, GGUF 32, and a row of Q6_K is a multiple of 2 only.
#pragma once

#include <cstdint>

#include "tensor/dtype.h"

namespace mlxf {

// How the elements of one row are encoded.
enum class WeightFormat : uint8_t {
  kF32,
  kF16,
  kBF16,
  kF8E4M3,  // With f32 scales per block of 128x128, as DeepSeek ships it (scales may be null: 1.0).
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ8_0,
  kQ2_K,
  kQ3_K,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kIQ4_NL,
  kIQ4_XS,
  kMXFP4,
  // MLX: codes packed little-endian into u32 words, `bits` each, with scale and bias per group in separate
  // arrays. w = scale * code + bias. bits in {2, 3, 4, 5, 6, 8}; 3, 5 and 6 pack a group's codes without
  // gaps.
  kMlxAffine,
  kMlxMxfp4,  // MLX's mxfp4: sequential nibbles in u32 words, one E8M0 scale byte per 32 elements, no bias.
  kI8Row,  // Ours: int8 codes and one f32 scale per group of 32, made at load by --activations int8 on 16-bit
           // files.
  // Ours: Q4_K and Q6_K with sixteen rows side by side, made at load for instruction sets that multiply them so
  // (kernels/side_by_side.h).
  kQ4_Kx16,
  kQ6_Kx16,
};
inline constexpr int kWeightFormatCount = static_cast<int>(WeightFormat::kQ6_Kx16) + 1;
// Those before lie row by row; the rest are made of these.
inline constexpr int kRowFormatCount = static_cast<int>(WeightFormat::kQ4_Kx16);
// Rows that lie side by side.
inline constexpr uint32_t kRowsSideBySide = 16;

struct MatrixView {
  WeightFormat format = WeightFormat::kF32;
  uint8_t bits = 0;                // kMlxAffine only.
  uint16_t group = 0;              // Elements per scale of the kMlx… formats: 32, 64 or 128.
  DType scale_type = DType::kF16;  // kMlxAffine: kF16, kBF16 or kF32, of scales and biases alike.
  uint32_t rows = 0;
  uint32_t cols = 0;
  const uint8_t* data = nullptr;  // [rows, row_bytes]
  uint64_t row_bytes = 0;
  const uint8_t* scales = nullptr;  // [rows, cols / group] of scale_type (kMlxMxfp4: u8; kF8E4M3: f32 blocks)
  const uint8_t* biases = nullptr;  // Same shape as scales; kMlxAffine only.
  uint64_t scale_row_bytes = 0;

  // `count` rows of this matrix, every step-th from `begin` on. REQUIRES for kF8E4M3: begin a multiple of 128, step 1;
  // for GGUF's block formats: step 1; for rows side by side also: begin and count multiples of kRowsSideBySide.
  [[nodiscard]] MatrixView row_slice(uint32_t begin, uint32_t count, uint32_t step = 1) const {
    MatrixView slice = *this;
    slice.rows = count;
    slice.data += begin * row_bytes;
    const uint64_t scale_row = format == WeightFormat::kF8E4M3 ? begin / 128 : begin;
    if (scales != nullptr) slice.scales += scale_row * scale_row_bytes;
    if (biases != nullptr) slice.biases += begin * scale_row_bytes;
    slice.row_bytes *= step;
    if (step > 1) slice.scale_row_bytes *= step;
    return slice;
  }
};

}  // namespace mlxf
