// The AVX-512 kernel table: F, BW, VL, DQ, VNNI, BF16 and VBMI (Ice Lake with BF16: Sapphire Rapids; Zen 4 onwards).
// Entries left null are AVX2's.
#include <cpuid.h>

#include <cstdint>

#include "kernels/avx512/avx512.h"
#include "kernels/isa_tables.h"

namespace mlxf::kernels {
namespace avx512 {
namespace {

constexpr uint32_t at(WeightFormat format) { return static_cast<uint32_t>(format); }

using Gemv = void (*)(const MatrixView&, uint32_t, uint32_t, const ActivationView&, float*, void*);

// One token runs on the stored layout, several on panels.
template <Gemv GEMV>
void matmul_i8(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y,
               uint64_t y_stride, void* scratch) {
  if (x.tokens == 1) {
    GEMV(w, row_begin, row_end, x, y, scratch);
  } else {
    matmul_panels(w, row_begin, row_end, x, y, y_stride, scratch);
  }
}

using Few = void (*)(const MatrixView&, uint32_t, uint32_t, const ActivationView&, float*, uint64_t, void*);

// Up to TOKENS, as many as kernel_bench found faster so on Zen 5, on the stored layout; more on panels.
template <Few FEW, uint32_t TOKENS>
void matmul_i8_few(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                   float* y, uint64_t y_stride, void* scratch) {
  static_assert(TOKENS <= (FEW == multiply_few_q6_k ? kFewTokensQ6K : kFewTokens));
  const bool few = x.tokens == 1 || (x.tokens <= TOKENS && x.cols <= kFewColsMax);
  (few ? FEW : matmul_panels)(w, row_begin, row_end, x, y, y_stride, scratch);
}

// The same with a faster product of its own for one token.
template <Few FEW, uint32_t TOKENS, Gemv GEMV>
void matmul_i8_few_or_one(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                          float* y, uint64_t y_stride, void* scratch) {
  if (x.tokens == 1) return GEMV(w, row_begin, row_end, x, y, scratch);
  matmul_i8_few<FEW, TOKENS>(w, row_begin, row_end, x, y, y_stride, scratch);
}

// MLX's packed codes. Those of 4 and 8 bits cost few operations to unpack.
void matmul_i8_packed(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                      float* y, uint64_t y_stride, void* scratch) {
  const auto kernel = w.bits == 4 || w.bits == 8
                          ? matmul_i8_few_or_one<multiply_few_mlx_packed, 8, gemv_mlx_packed>
                          : matmul_i8_few_or_one<multiply_few_mlx_packed, 4, gemv_mlx_packed>;
  kernel(w, row_begin, row_end, x, y, y_stride, scratch);
}

// Few tokens on the stored layout, but one with AVX2's product, which reads these formats as fast as memory delivers.
template <WeightFormat FORMAT, Few FEW, uint32_t TOKENS>
void matmul_i8_several(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                       float* y, uint64_t y_stride, void* scratch) {
  const auto kernel = x.tokens == 1 ? avx2_table()->matmul_i8[at(FORMAT)] : matmul_i8_few<FEW, TOKENS>;
  kernel(w, row_begin, row_end, x, y, y_stride, scratch);
}

// Rows side by side: few tokens as they lie, many on panels, which begin at a multiple of sixteen rows.
template <Few FEW, uint32_t TOKENS>
void matmul_i8_x16(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                   float* y, uint64_t y_stride, void* scratch) {
  const bool few = x.tokens <= TOKENS || row_begin % kRowsSideBySide != 0;
  (few ? FEW : matmul_panels)(w, row_begin, row_end, x, y, y_stride, scratch);
}

constexpr KernelTable make_table() {
  KernelTable t{};
  t.isa = "avx512";
  for (uint32_t format = 0; format < kRowFormatCount; ++format) t.matmul_f32[format] = matmul_f32_decoded;
  t.matmul_f32[at(WeightFormat::kF32)] = matmul_f32_f32;
  t.matmul_f32[at(WeightFormat::kF16)] = matmul_f32_f16;
  t.matmul_f32[at(WeightFormat::kBF16)] = matmul_f32_bf16;

  t.matmul_i8[at(WeightFormat::kQ4_0)] = matmul_i8_few<multiply_few_q4_0, 4>;
  t.matmul_i8[at(WeightFormat::kQ4_1)] = matmul_i8_few<multiply_few_q4_1, 4>;
  t.matmul_i8[at(WeightFormat::kQ5_0)] = matmul_i8_few<multiply_few_q5_0, 4>;
  t.matmul_i8[at(WeightFormat::kQ5_1)] = matmul_i8_few<multiply_few_q5_1, 4>;
  t.matmul_i8[at(WeightFormat::kQ8_0)] = matmul_i8_several<WeightFormat::kQ8_0, multiply_few_q8_0, 4>;
  t.matmul_i8[at(WeightFormat::kQ2_K)] = matmul_i8<gemv_q2_k>;
  t.matmul_i8[at(WeightFormat::kQ3_K)] = matmul_i8<gemv_q3_k>;
  t.matmul_i8[at(WeightFormat::kQ4_K)] = matmul_i8_few<multiply_few_q4_k, 8>;
  t.matmul_i8[at(WeightFormat::kQ5_K)] = matmul_i8_few_or_one<multiply_few_q5_k, 8, gemv_q5_k>;
  t.matmul_i8[at(WeightFormat::kQ6_K)] = matmul_i8_few<multiply_few_q6_k, kFewTokensQ6K>;
  t.matmul_i8[at(WeightFormat::kIQ4_NL)] = matmul_i8_few<multiply_few_iq4_nl, 4>;
  t.matmul_i8[at(WeightFormat::kIQ4_XS)] = matmul_i8<gemv_iq4_xs>;
  t.matmul_i8[at(WeightFormat::kMXFP4)] = matmul_i8_few<multiply_few_mxfp4, 4>;
  t.matmul_i8[at(WeightFormat::kMlxAffine)] = matmul_i8_packed;
  t.matmul_i8[at(WeightFormat::kMlxMxfp4)] = matmul_i8_few<multiply_few_mlx_mxfp4, 5>;
  t.matmul_i8[at(WeightFormat::kI8Row)] = matmul_i8_several<WeightFormat::kI8Row, multiply_few_i8_row, 3>;

  t.matmul_i8[at(WeightFormat::kQ4_Kx16)] = matmul_i8_x16<multiply_q4_k_x16, 64>;
  t.matmul_i8[at(WeightFormat::kQ6_Kx16)] = matmul_i8_x16<multiply_q6_k_x16, 32>;
  t.put_side_by_side = put_side_by_side;

  t.attention = attention;
  t.latent_attention = latent_attention;
  t.delta_rule = delta_rule;
  t.random_words = random_words;
  return t;
}

constexpr KernelTable kTable = make_table();

}  // namespace

bool small_l1() {
  static const bool small = [] {
    // Intel's leaf and AMD's have the same form; the first cache is the data cache of level 1.
    for (const uint32_t leaf : {0x4u, 0x8000001du}) {
      uint32_t a = 0, b = 0, c = 0, d = 0;
      if (__get_cpuid_count(leaf, 0, &a, &b, &c, &d) == 0 || (a & 0x1f) != 1 || (a >> 5 & 7) != 1) continue;
      const uint32_t ways = (b >> 22) + 1, partitions = (b >> 12 & 0x3ff) + 1, line = (b & 0xfff) + 1;
      return uint64_t{ways} * partitions * line * (uint64_t{c} + 1) <= uint64_t{32} << 10;
    }
    return false;
  }();
  return small;
}

}  // namespace avx512

const KernelTable* avx512_table() { return &avx512::kTable; }

}  // namespace mlxf::kernels
