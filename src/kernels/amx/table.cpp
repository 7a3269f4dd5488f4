// The AMX kernel table: int8 products of many tokens (Sapphire Rapids onwards). Everything else is AVX-512's.
#include <cstdint>

#include "kernels/amx/amx.h"
#include "kernels/avx512/avx512.h"
#include "kernels/isa_tables.h"

namespace mlxf::kernels {
namespace amx {
namespace {

// Tokens from which on tiles are faster; folding sub-block scales into two planes takes more of them to pay.
constexpr uint32_t tokens_min(uint32_t format) {
  switch (static_cast<WeightFormat>(format)) {
    case WeightFormat::kQ3_K:
    case WeightFormat::kQ4_K:
    case WeightFormat::kQ4_Kx16:
    case WeightFormat::kQ5_K:
    case WeightFormat::kQ6_K:
    case WeightFormat::kQ6_Kx16:
    case WeightFormat::kIQ4_XS:
      return 32;
    default:
      return 16;
  }
}

// From two tokens on it is panels, not AVX-512's products of few tokens on the stored layout: these bring each row's
// codes and sums into order by many shuffles, for all of which such a processor has one port (Zen 5 has two).
template <uint32_t FORMAT>
void matmul_i8(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y,
               uint64_t y_stride, void* scratch) {
  const auto kernel = x.tokens >= tokens_min(FORMAT) ? matmul_panels
                      : x.tokens > 1                 ? avx512::matmul_panels
                                                     : avx512_table()->matmul_i8[FORMAT];
  kernel(w, row_begin, row_end, x, y, y_stride, scratch);
}

// Rows side by side need no shuffles.
template <uint32_t FORMAT>
void matmul_i8_x16(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                   float* y, uint64_t y_stride, void* scratch) {
  const bool tiles = x.tokens >= tokens_min(FORMAT) && row_begin % kRowsSideBySide == 0;
  const auto kernel = tiles ? matmul_panels : avx512_table()->matmul_i8[FORMAT];
  kernel(w, row_begin, row_end, x, y, y_stride, scratch);
}

constexpr uint32_t at(WeightFormat format) { return static_cast<uint32_t>(format); }

template <WeightFormat... FORMATS>
constexpr KernelTable make_table() {
  KernelTable t{};
  t.isa = "amx";
  ((t.matmul_i8[at(FORMATS)] = matmul_i8<at(FORMATS)>), ...);
  t.matmul_i8[at(WeightFormat::kQ4_Kx16)] = matmul_i8_x16<at(WeightFormat::kQ4_Kx16)>;
  t.matmul_i8[at(WeightFormat::kQ6_Kx16)] = matmul_i8_x16<at(WeightFormat::kQ6_Kx16)>;
  return t;
}

constexpr KernelTable kTable =
    make_table<WeightFormat::kQ4_0, WeightFormat::kQ4_1, WeightFormat::kQ5_0, WeightFormat::kQ5_1,
               WeightFormat::kQ8_0, WeightFormat::kQ2_K, WeightFormat::kQ3_K, WeightFormat::kQ4_K,
               WeightFormat::kQ5_K, WeightFormat::kQ6_K, WeightFormat::kIQ4_NL, WeightFormat::kIQ4_XS,
               WeightFormat::kMXFP4, WeightFormat::kMlxAffine, WeightFormat::kMlxMxfp4,
               WeightFormat::kI8Row>();

}  // namespace
}  // namespace amx

const KernelTable* amx_table() { return &amx::kTable; }

}  // namespace mlxf::kernels
