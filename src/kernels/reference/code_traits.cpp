#include "kernels/code_row.h"

namespace mlxf::kernels {

CodeTraits code_traits(const MatrixView& w) {
  switch (w.format) {
    case WeightFormat::kQ8_0:
    case WeightFormat::kI8Row:
    case WeightFormat::kIQ4_NL:
      return {32, 32, 0, true, MinimumKind::kNone};
    case WeightFormat::kQ4_0:
      return {32, 32, 15, false, MinimumKind::kSymmetric};
    case WeightFormat::kQ4_1:
      return {32, 32, 15, false, MinimumKind::kAffine};
    case WeightFormat::kQ5_0:
      return {32, 32, 31, false, MinimumKind::kSymmetric};
    case WeightFormat::kQ5_1:
      return {32, 32, 31, false, MinimumKind::kAffine};
    case WeightFormat::kMXFP4:
    case WeightFormat::kMlxMxfp4:
      return {32, 32, 24, false, MinimumKind::kSymmetric};
    case WeightFormat::kQ2_K:
      return {256, 16, 3, false, MinimumKind::kAffine};
    case WeightFormat::kQ3_K:
      return {256, 16, 7, false, MinimumKind::kSymmetric};
    case WeightFormat::kQ4_K:
    case WeightFormat::kQ4_Kx16:
      return {256, 32, 15, false, MinimumKind::kAffine};
    case WeightFormat::kQ5_K:
      return {256, 32, 31, false, MinimumKind::kAffine};
    case WeightFormat::kQ6_K:
    case WeightFormat::kQ6_Kx16:
      return {256, 16, 63, false, MinimumKind::kSymmetric};
    case WeightFormat::kIQ4_XS:
      return {256, 32, 0, true, MinimumKind::kNone};
    case WeightFormat::kMlxAffine:
      return {w.group, 32, static_cast<uint8_t>((1u << w.bits) - 1), false, MinimumKind::kAffine};
    default:
      return {};
  }
}

uint32_t activation_block(const MatrixView& w) { return code_traits(w).block; }

}  // namespace mlxf::kernels
