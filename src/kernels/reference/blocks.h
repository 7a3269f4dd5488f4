// The bytes of a quantised block as integers: one reader per format, shared by the integer and the f32 decoders.
//
// Layouts: docs/formats/gguf.md (ggml's block structures) and MLX's affine and mxfp4 quantisation. All offsets are in
// bytes from the block's start.
#pragma once

#include <cstdint>
#include <cstring>

#include "tensor/float16.h"
#include "tensor/matrix.h"

namespace mlxf::kernels::reference {

// One block as kernels/code_row.h describes it; for K formats 256 elements.
struct Block {
  int32_t codes[256];
  int32_t scales[16];
  int32_t minimums[16];
  float d = 0.0f;
  float e = 0.0f;
};

inline float read_f16(const uint8_t* bytes) {
  uint16_t bits;
  std::memcpy(&bits, bytes, 2);
  return f32_from_f16(bits);
}

// The values of e2m1 (OCP MX) doubled, and the codebook of IQ4_NL and IQ4_XS.
inline constexpr int32_t kE2m1Doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
inline constexpr int32_t kIq4Codebook[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                             1,    13,   25,  38,  53,  69,  89,  113};

// Block `index` of a row whose rows lie side by side (kernels/side_by_side.h), as it was row by row.
inline constexpr uint32_t kGatheredBytesMax = 210;
void gather_block(const MatrixView& w, uint32_t row, uint32_t index, uint8_t* block);

// Reads block `index` of a row.
void read_block(const MatrixView& w, uint32_t row, uint32_t index, Block& block);

}  // namespace mlxf::kernels::reference
