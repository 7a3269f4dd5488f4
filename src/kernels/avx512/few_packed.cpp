// Products of two to eight tokens with MLX's packed codes of 2 to 8 bits on the stored layout, four rows and four
// groups at a time (groups.h): three operations unpack 64 codes (packed.h), and two bring each group to a lane of its
// own. 64 bytes of 4 bits are 128 codes: a shift, two masks and up to two operations for the lanes. One token:
// gemv_packed.cpp.
#include <immintrin.h>

#include <cstdint>

#include "kernels/avx512/avx512.h"
#include "kernels/avx512/four_rows.h"
#include "kernels/avx512/groups.h"
#include "kernels/avx512/packed.h"
#include "tensor/dtype.h"

namespace mlxf::kernels::avx512 {
namespace {

MLXF_INLINE __m512 load_scales_of(DType type, const FourRows& rows, uint32_t g, uint32_t n) {
  return type == DType::kF32   ? load_scales<DType::kF32>(rows, g, n)
         : type == DType::kF16 ? load_scales<DType::kF16>(rows, g, n)
                               : load_scales<DType::kBF16>(rows, g, n);
}

template <uint32_t BITS, uint32_t GROUP>
struct Packed {
  static constexpr uint32_t kGroup = GROUP, kVectors = GROUP / 16, kBytes = GROUP * BITS / 8;
  static constexpr bool kEvenOdd = BITS == 4, kOneToken = false;
  static constexpr int32_t kMinimum = 0;
  struct Rows {
    FourRows codes, scales, biases;
  };

  const MatrixView& w;

  [[nodiscard]] MLXF_INLINE Rows rows(uint32_t row, uint32_t count) const {
    return {four_rows(w.data, w.row_bytes, row, count), four_rows(w.scales, w.scale_row_bytes, row, count),
            four_rows(w.biases, w.scale_row_bytes, row, count)};
  }

  template <bool WHOLE>
  MLXF_INLINE void unpack(const Rows& rows, uint32_t r, uint32_t g, uint32_t n, __m512i out[kVectors]) const {
    const uint8_t* row = rows.codes.at[r] + uint64_t{g} * kBytes;
    // Bytes of a vector of 64 codes, or of 128 nibbles.
    constexpr uint32_t kStep = BITS == 4 ? 64 : 8 * BITS, kSteps = kQuad * kBytes / kStep;
    __m512i in[kSteps];
#pragma GCC unroll 8
    for (uint32_t i = 0; i < kSteps; ++i) {
      const uint32_t left = WHOLE ? kStep : n * kBytes > i * kStep ? n * kBytes - i * kStep : 0;
      in[i] = _mm512_maskz_loadu_epi8(first_bytes(left < kStep ? left : kStep), row + i * kStep);
    }
    if constexpr (BITS == 4) {
      __m512i lanes[kSteps];
      gather_lanes<kSteps>(in, lanes);
#pragma GCC unroll 4
      for (uint32_t i = 0; i < kSteps; ++i) {
        out[2 * i] = _mm512_and_si512(lanes[i], bytes_of(0x0f));
        out[2 * i + 1] = _mm512_and_si512(_mm512_srli_epi16(lanes[i], 4), bytes_of(0x0f));
      }
    } else {
#pragma GCC unroll 8
      for (uint32_t i = 0; i < kSteps; ++i) in[i] = unpack_codes<BITS>(in[i]);
      if constexpr (GROUP < 128) {
        gather_lanes<kSteps>(in, out);
      } else {
#pragma GCC unroll 2
        for (uint32_t h = 0; h < 2; ++h) {
          const __m512i half[kQuad] = {in[h], in[2 + h], in[4 + h], in[6 + h]};
          gather_lanes<kQuad>(half, out + kQuad * h);
        }
      }
    }
  }

  template <bool WHOLE>
  MLXF_INLINE GroupScales scales(const Rows& rows, uint32_t g, uint32_t n) const {
    n = WHOLE ? kQuad : n;
    return {load_scales_of(w.scale_type, rows.scales, g, n), load_scales_of(w.scale_type, rows.biases, g, n)};
  }
};

template <uint32_t BITS, uint32_t GROUP>
void multiply(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y,
              uint64_t y_stride, void* scratch) {
  multiply_groups(Packed<BITS, GROUP>{w}, w, row_begin, row_end, x, y, y_stride, scratch);
}

template <uint32_t BITS>
void multiply_bits(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                   float* y, uint64_t y_stride, void* scratch) {
  const auto run = w.group == 32   ? multiply<BITS, 32>
                   : w.group == 64 ? multiply<BITS, 64>
                                   : multiply<BITS, 128>;
  run(w, row_begin, row_end, x, y, y_stride, scratch);
}

}  // namespace

void multiply_few_mlx_packed(const MatrixView& w, uint32_t row_begin, uint32_t row_end,
                             const ActivationView& x, float* y, uint64_t y_stride, void* scratch) {
  const auto run = w.bits == 2   ? multiply_bits<2>
                   : w.bits == 3 ? multiply_bits<3>
                   : w.bits == 4 ? multiply_bits<4>
                   : w.bits == 5 ? multiply_bits<5>
                   : w.bits == 6 ? multiply_bits<6>
                                 : multiply_bits<8>;
  run(w, row_begin, row_end, x, y, y_stride, scratch);
}

}  // namespace mlxf::kernels::avx512
