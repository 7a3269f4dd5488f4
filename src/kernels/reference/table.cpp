#include "kernels/reference/reference.h"

namespace mlxf::kernels {
namespace {

KernelTable make_table() {
  KernelTable t{};
  t.isa = "reference";
  for (int32_t format = 0; format < kWeightFormatCount; ++format) {
    t.matmul_f32[format] = reference::matmul_f32;
    t.decode[format] = reference::decode_values;
    if (reference_code_decoder(static_cast<WeightFormat>(format)) != nullptr)
      t.matmul_i8[format] = reference::matmul_i8;
  }
  t.quantize = reference::quantize;
  t.attention = reference::attention;
  t.latent_attention = reference::latent_attention;
  t.rms_norm = reference::rms_norm;
  t.silu_mul = reference::silu_mul;
  t.gelu_mul = reference::gelu_mul;
  t.clamped_swiglu = reference::clamped_swiglu;
  t.add_scaled = reference::add_scaled;
  t.narrow_f16 = reference::narrow_f16;
  t.random_words = reference::random_words;
  t.sigmoid_mul = reference::sigmoid_mul;
  t.delta_rule = reference::delta_rule;
  t.conv_silu = reference::conv_silu;
  return t;
}

}  // namespace

const KernelTable& reference_kernels() {
  static const KernelTable table = make_table();
  return table;
}

}  // namespace mlxf::kernels
