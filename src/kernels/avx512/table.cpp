// The AVX-512 kernel table: F, BW, VL, DQ, VNNI, BF16 and VBMI (Ice Lake with BF16: Sapphire Rapids; Zen 4 onwards).
// Entries left null are AVX2's.
#include <cstdint>

#include "kernels/avx512/avx512.h"
#include "kernels/isa_tables.h"

namespace mlxf::kernels {
namespace avx512 {
namespace {

constexpr uint32_t at(WeightFormat format) { return static_cast<uint32_t>(format); }

// One token runs on AVX2's products of the stored layout, which memory bounds; several run on panels.
template <WeightFormat FORMAT>
void matmul_i8(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y,
               uint64_t y_stride, void* scratch) {
  const auto kernel = x.tokens == 1 ? avx2_table()->matmul_i8[at(FORMAT)] : matmul_panels;
  kernel(w, row_begin, row_end, x, y, y_stride, scratch);
}

// The same, with products of few tokens on the stored layout.
template <WeightFormat FORMAT, auto FEW>
void matmul_i8_few(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                   float* y, uint64_t y_stride, void* scratch) {
  if (x.tokens <= kFewTokens) return FEW(w, row_begin, row_end, x, y, y_stride);
  matmul_i8<FORMAT>(w, row_begin, row_end, x, y, y_stride, scratch);
}

constexpr KernelTable make_table() {
  KernelTable t{};
  t.isa = "avx512";
  for (uint32_t format = 0; format < kWeightFormatCount; ++format) t.matmul_f32[format] = matmul_f32_decoded;
  t.matmul_f32[at(WeightFormat::kF32)] = matmul_f32_f32;
  t.matmul_f32[at(WeightFormat::kF16)] = matmul_f32_f16;
  t.matmul_f32[at(WeightFormat::kBF16)] = matmul_f32_bf16;

  t.matmul_i8[at(WeightFormat::kQ4_0)] = matmul_i8<WeightFormat::kQ4_0>;
  t.matmul_i8[at(WeightFormat::kQ4_1)] = matmul_i8<WeightFormat::kQ4_1>;
  t.matmul_i8[at(WeightFormat::kQ5_0)] = matmul_i8<WeightFormat::kQ5_0>;
  t.matmul_i8[at(WeightFormat::kQ5_1)] = matmul_i8<WeightFormat::kQ5_1>;
  t.matmul_i8[at(WeightFormat::kQ8_0)] = matmul_i8<WeightFormat::kQ8_0>;
  t.matmul_i8[at(WeightFormat::kQ2_K)] = matmul_i8<WeightFormat::kQ2_K>;
  t.matmul_i8[at(WeightFormat::kQ3_K)] = matmul_i8<WeightFormat::kQ3_K>;
  t.matmul_i8[at(WeightFormat::kQ4_K)] = matmul_i8_few<WeightFormat::kQ4_K, multiply_few_q4_k>;
  t.matmul_i8[at(WeightFormat::kQ5_K)] = matmul_i8<WeightFormat::kQ5_K>;
  t.matmul_i8[at(WeightFormat::kQ6_K)] = matmul_i8_few<WeightFormat::kQ6_K, multiply_few_q6_k>;
  t.matmul_i8[at(WeightFormat::kIQ4_NL)] = matmul_i8<WeightFormat::kIQ4_NL>;
  t.matmul_i8[at(WeightFormat::kIQ4_XS)] = matmul_i8<WeightFormat::kIQ4_XS>;
  t.matmul_i8[at(WeightFormat::kMXFP4)] = matmul_i8<WeightFormat::kMXFP4>;
  t.matmul_i8[at(WeightFormat::kMlxAffine)] = matmul_i8<WeightFormat::kMlxAffine>;
  t.matmul_i8[at(WeightFormat::kMlxMxfp4)] = matmul_i8<WeightFormat::kMlxMxfp4>;
  t.matmul_i8[at(WeightFormat::kI8Row)] = matmul_i8<WeightFormat::kI8Row>;

  t.attention = attention;
  t.delta_rule = delta_rule;
  return t;
}

constexpr KernelTable kTable = make_table();

}  // namespace
}  // namespace avx512

const KernelTable* avx512_table() { return &avx512::kTable; }

}  // namespace mlxf::kernels
