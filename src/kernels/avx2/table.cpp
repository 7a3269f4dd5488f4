// The AVX2 kernel table: for x86-64 processors with AVX2, FMA and F16C (Haswell and Zen onwards).
#include <immintrin.h>

#include <cstdint>

#include "kernels/avx2/avx2.h"
#include "kernels/isa_tables.h"

namespace mlxf::kernels {
namespace avx2 {
namespace {

using Gemv = void (*)(const MatrixView&, uint32_t, uint32_t, const ActivationView&, float*);

// One token runs on the stored layout, several on panels.
template <Gemv GEMV, DecodeCodesFn DECODE>
void matmul_i8(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y,
               uint64_t y_stride, void* scratch) {
  if (x.tokens == 1) {
    GEMV(w, row_begin, row_end, x, y);
  } else {
    matmul_panels(w, row_begin, row_end, x, y, y_stride, scratch, DECODE);
  }
}

void matmul_i8_mlx_mxfp4(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                         float* y, uint64_t y_stride, void* scratch) {
  if (x.tokens == 1) {
    gemv_mlx_mxfp4(w, row_begin, row_end, x, y, scratch);
  } else {
    matmul_panels(w, row_begin, row_end, x, y, y_stride, scratch, decode_codes_mlx_mxfp4);
  }
}

void matmul_i8_mlx(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                   float* y, uint64_t y_stride, void* scratch) {
  if (x.tokens > 1) return matmul_panels(w, row_begin, row_end, x, y, y_stride, scratch, decode_codes_mlx);
  switch (w.bits) {
    case 2:
      return gemv_mlx2(w, row_begin, row_end, x, y);
    case 3:
      return gemv_mlx3(w, row_begin, row_end, x, y);
    case 4:
      return gemv_mlx4(w, row_begin, row_end, x, y, scratch);
    case 5:
      return gemv_mlx5(w, row_begin, row_end, x, y);
    case 6:
      return gemv_mlx6(w, row_begin, row_end, x, y);
    default:
      return gemv_mlx8(w, row_begin, row_end, x, y);
  }
}

constexpr uint32_t at(WeightFormat format) { return static_cast<uint32_t>(format); }

constexpr KernelTable make_table() {
  KernelTable t{};
  t.isa = "avx2";
  for (uint32_t format = 0; format < kRowFormatCount; ++format) t.matmul_f32[format] = matmul_f32_decoded;
  t.matmul_f32[at(WeightFormat::kF32)] = matmul_f32_f32;
  t.matmul_f32[at(WeightFormat::kF16)] = matmul_f32_f16;
  t.matmul_f32[at(WeightFormat::kBF16)] = matmul_f32_bf16;
  for (uint32_t format = at(WeightFormat::kQ4_0); format < kRowFormatCount; ++format)
    t.decode[format] = decode_blocks;
  t.decode[at(WeightFormat::kF8E4M3)] = decode_f8e4m3;
  t.decode[at(WeightFormat::kF32)] = decode_f32;
  t.decode[at(WeightFormat::kF16)] = decode_f16;
  t.decode[at(WeightFormat::kBF16)] = decode_bf16;

  t.matmul_i8[at(WeightFormat::kQ4_K)] = matmul_i8<gemv_q4_k, decode_codes_q4_k>;
  t.matmul_i8[at(WeightFormat::kQ6_K)] = matmul_i8<gemv_q6_k, decode_codes_q6_k>;
  t.matmul_i8[at(WeightFormat::kQ8_0)] = matmul_i8<gemv_q8_0, decode_codes_q8_0>;
  t.matmul_i8[at(WeightFormat::kI8Row)] = matmul_i8<gemv_i8_row, decode_codes_i8_row>;
  t.matmul_i8[at(WeightFormat::kMlxAffine)] = matmul_i8_mlx;
  t.matmul_i8[at(WeightFormat::kMlxMxfp4)] = matmul_i8_mlx_mxfp4;
  t.matmul_i8[at(WeightFormat::kMXFP4)] = matmul_i8<gemv_mxfp4, decode_codes_mxfp4>;
  t.matmul_i8[at(WeightFormat::kQ4_0)] = matmul_i8<gemv_q4_0, decode_codes_q4_0>;
  t.matmul_i8[at(WeightFormat::kQ4_1)] = matmul_i8<gemv_q4_1, decode_codes_q4_1>;
  t.matmul_i8[at(WeightFormat::kQ5_0)] = matmul_i8<gemv_q5_0, decode_codes_q5_0>;
  t.matmul_i8[at(WeightFormat::kQ5_1)] = matmul_i8<gemv_q5_1, decode_codes_q5_1>;
  t.matmul_i8[at(WeightFormat::kQ2_K)] = matmul_i8<gemv_q2_k, decode_codes_q2_k>;
  t.matmul_i8[at(WeightFormat::kQ3_K)] = matmul_i8<gemv_q3_k, decode_codes_q3_k>;
  t.matmul_i8[at(WeightFormat::kQ5_K)] = matmul_i8<gemv_q5_k, decode_codes_q5_k>;
  t.matmul_i8[at(WeightFormat::kIQ4_NL)] = matmul_i8<gemv_iq4_nl, decode_codes_iq4_nl>;
  t.matmul_i8[at(WeightFormat::kIQ4_XS)] = matmul_i8<gemv_iq4_xs, decode_codes_iq4_xs>;

  t.quantize = quantize;
  t.attention = attention;
  t.latent_attention = latent_attention;
  t.rms_norm = rms_norm;
  t.silu_mul = silu_mul;
  t.gelu_mul = gelu_mul;
  t.clamped_swiglu = clamped_swiglu;
  t.add_scaled = add_scaled;
  t.narrow_f16 = narrow_f16;
  t.random_words = random_words;
  t.sigmoid_mul = sigmoid_mul;
  t.delta_rule = delta_rule;
  t.conv_silu = conv_silu;
  return t;
}

constexpr KernelTable kTable = make_table();

}  // namespace

DecodeCodesFn code_decoder(WeightFormat format) {
  switch (format) {
    case WeightFormat::kQ4_0:
      return decode_codes_q4_0;
    case WeightFormat::kQ4_1:
      return decode_codes_q4_1;
    case WeightFormat::kQ5_0:
      return decode_codes_q5_0;
    case WeightFormat::kQ5_1:
      return decode_codes_q5_1;
    case WeightFormat::kQ8_0:
      return decode_codes_q8_0;
    case WeightFormat::kQ2_K:
      return decode_codes_q2_k;
    case WeightFormat::kQ3_K:
      return decode_codes_q3_k;
    case WeightFormat::kQ4_K:
      return decode_codes_q4_k;
    case WeightFormat::kQ5_K:
      return decode_codes_q5_k;
    case WeightFormat::kQ6_K:
      return decode_codes_q6_k;
    case WeightFormat::kIQ4_NL:
      return decode_codes_iq4_nl;
    case WeightFormat::kIQ4_XS:
      return decode_codes_iq4_xs;
    case WeightFormat::kMXFP4:
      return decode_codes_mxfp4;
    case WeightFormat::kMlxAffine:
      return decode_codes_mlx;
    case WeightFormat::kMlxMxfp4:
      return decode_codes_mlx_mxfp4;
    case WeightFormat::kI8Row:
      return decode_codes_i8_row;
    default:
      return nullptr;
  }
}

}  // namespace avx2

const KernelTable* avx2_table() { return &avx2::kTable; }

}  // namespace mlxf::kernels
