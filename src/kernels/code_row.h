// CodeRow: one row of block-quantised weights decoded to integers, the common currency of the int8 kernels.
//
// Every format reduces to: per block (activation_block elements) floats d and e; per sub-block of `sub`
// elements integers scale and minimum; per element one 8-bit code. The value of element k in sub-block j of
// block b is
//     d_b * scale_j * code_k + d_b * minimum_j   when the minimum is symmetric (an offset of the codes)
//     d_b * scale_j * code_k + e_b * minimum_j   when it is affine (e_b is the format's own second float)
// so that  S_b = sum_j scale_j * (codes . x)_j [+ sum_j minimum_j * X_j],  M_b = sum_j minimum_j * X_j.
// The format of each kind is fixed (code_traits); decoders differ per ISA and must give identical arrays.
#pragma once

#include <cstdint>

#include "tensor/matrix.h"

namespace mlxf::kernels {

enum class MinimumKind : uint8_t {
  kNone,       // Codes are signed, or their offset is zero.
  kSymmetric,  // minimum_j * X_j belongs to S_b.
  kAffine,     // minimum_j * X_j is M_b and has its own float e_b.
};

struct CodeTraits {
  uint32_t block = 0;      // Elements per d/e, the activation block. 0: the format has no integer form.
  uint32_t sub = 0;        // Elements per scale/minimum: 16 or 32.
  uint8_t code_max = 0;    // Largest code of unsigned codes (15, 31, 63 …).
  bool is_signed = false;  // Codes are int8 in [-128, 127].
  MinimumKind minimum = MinimumKind::kNone;
};

// By format; for kMlxAffine it depends on bits and group.
[[nodiscard]] CodeTraits code_traits(const MatrixView& w);

struct CodeRow {
  uint8_t* codes;     // [elements]; int8 bits when signed
  int16_t* scales;    // [elements / sub]
  int16_t* minimums;  // [elements / sub]; not written for kNone
  float* d;           // [elements / block]
  float* e;           // [elements / block]; written for kAffine only
};

// Decodes blocks [block_begin, block_end) of one row.
using DecodeCodesFn = void (*)(const MatrixView& w, uint32_t row, uint32_t block_begin, uint32_t block_end,
                               const CodeRow& out);

// The scalar specification of every integer format; null for formats without one.
[[nodiscard]] DecodeCodesFn reference_code_decoder(WeightFormat format);

}  // namespace mlxf::kernels
