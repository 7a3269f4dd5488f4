// Panels: 16 rows of weights unpacked for the int8 matrix product (panel.cpp), and how a format's panels are read.
//
//   codes  [cols / 4][16 rows][4]: one 64-byte vector holds 4 elements of each row, so an int32 lane of a product
//          belongs to one row and no horizontal sum is ever needed.
//   scales [cols / sub][16] int32, of formats with sub-block scales only.
//   minima [cols / (2 sub)][16][2] i16: two neighbouring sub-blocks; of affine formats with sub-block minima only.
//   d, e   [cols / block][16] f32; e of affine formats only.
// vpdpbusd multiplies the unsigned codes with signed activations and does not saturate. Codes that stand for signed
// values have an offset (128 for signed bytes); a sub-block's sum starts with minus offset times its sum of x.
// A panel is memory of one call of the product; one thread.
#pragma once

#include <cstdint>

#include "kernels/avx512/columns.h"
#include "kernels/code_row.h"
#include "tensor/matrix.h"

namespace mlxf::kernels::avx512 {

struct Panel {
  uint8_t* codes;
  int32_t* scales;
  int32_t* minima;
  float* d;
  float* e;
};

// Unpacks columns [col, col + cols), whole blocks, of `count` <= 16 rows from `row` on; the panel's other rows repeat
// the last one.
using UnpackFn = void (*)(const MatrixView& w, uint32_t row, uint32_t count, uint32_t col, uint32_t cols,
                          const Panel& panel);
[[nodiscard]] UnpackFn panel_unpacker(WeightFormat format);

namespace {

// What a code of a format that is not affine has more than the value it stands for; signed bytes get 128 added.
[[maybe_unused]] inline int32_t code_offset(const MatrixView& w) {
  switch (w.format) {
    case WeightFormat::kQ4_0:
      return 8;
    case WeightFormat::kQ5_0:
      return 16;
    case WeightFormat::kQ3_K:
      return 4;
    case WeightFormat::kQ6_K:
    case WeightFormat::kQ6_Kx16:
      return 32;
    case WeightFormat::kMXFP4:
    case WeightFormat::kMlxMxfp4:
      return 12;
    default:
      return 128;
  }
}

// What a product of a format does per block.
struct Shape {
  uint32_t block, sub;
  bool affine;
  bool unit;       // Every sub-block scale is 1, and every minimum of an affine format too.
  int32_t offset;  // Of codes of a format that is not affine.
};

[[maybe_unused]] inline Shape shape_of(const MatrixView& w) {
  const CodeTraits t = code_traits(w);
  return {t.block, t.sub, t.minimum == MinimumKind::kAffine, t.block != 256, code_offset(w)};
}

// float(sum of a block's codes) * dx for the blocks of one segment of one token.
[[maybe_unused]] inline void sum_blocks(const int16_t* sums32, const float* scales, uint32_t blocks,
                                        uint32_t block, float* out) {
  const uint32_t subs = block / 32;
  for (uint32_t b = 0; b < blocks; ++b) {
    int32_t sum = 0;
    for (uint32_t j = 0; j < subs; ++j) sum += sums32[b * subs + j];
    out[b] = static_cast<float>(sum) * scales[b];
  }
}

}  // namespace

}  // namespace mlxf::kernels::avx512
