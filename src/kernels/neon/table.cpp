// The NEON kernel table: for ARMv8 processors with the dot product of bytes (Cortex-A76, Neoverse N1, Apple M1 and
// later).
#include <cstdint>

#include "kernels/isa_tables.h"
#include "kernels/neon/neon.h"

namespace mlxf::kernels {
namespace neon {
namespace {

// One token runs on the stored layout, several on panels.
void matmul_i8(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y,
               uint64_t y_stride, void* scratch) {
  if (x.tokens == 1) {
    gemv(w, row_begin, row_end, x, y);
  } else {
    matmul_panels(w, row_begin, row_end, x, y, y_stride, scratch);
  }
}

constexpr uint32_t at(WeightFormat format) { return static_cast<uint32_t>(format); }

constexpr KernelTable make_table() {
  KernelTable t{};
  t.isa = "neon";
  for (uint32_t format = 0; format < kRowFormatCount; ++format) t.matmul_f32[format] = matmul_f32_decoded;
  t.matmul_f32[at(WeightFormat::kF32)] = matmul_f32_f32;
  t.matmul_f32[at(WeightFormat::kF16)] = matmul_f32_f16;
  t.matmul_f32[at(WeightFormat::kBF16)] = matmul_f32_bf16;
  for (uint32_t format = at(WeightFormat::kQ4_0); format < kRowFormatCount; ++format) {
    t.matmul_i8[format] = matmul_i8;
    t.decode[format] = decode_blocks;
  }
  t.decode[at(WeightFormat::kF8E4M3)] = decode_f8e4m3;
  t.decode[at(WeightFormat::kF32)] = decode_f32;
  t.decode[at(WeightFormat::kF16)] = decode_f16;
  t.decode[at(WeightFormat::kBF16)] = decode_bf16;
  t.quantize = quantize;
  t.attention = attention;
  t.latent_attention = latent_attention;
  t.rms_norm = rms_norm;
  t.silu_mul = silu_mul;
  t.gelu_mul = gelu_mul;
  t.sigmoid_mul = sigmoid_mul;
  t.clamped_swiglu = clamped_swiglu;
  t.add_scaled = add_scaled;
  t.narrow_f16 = narrow_f16;
  t.delta_rule = delta_rule;
  t.conv_silu = conv_silu;
  return t;
}

constexpr KernelTable kTable = make_table();

}  // namespace
}  // namespace neon

const KernelTable* neon_table() { return &neon::kTable; }

}  // namespace mlxf::kernels
