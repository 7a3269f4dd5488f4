// Products of one to eight tokens with MLX's packed codes of 2 to 8 bits on the stored layout, four rows and four
// groups at a time (groups.h).
//
// A permutation takes the BITS bytes of each eight codes to a quadword, of which a multishift gives a byte each: three
// operations for 64 codes, and two to bring each group to a lane of its own. 64 bytes of 4 bits are 128 codes: a shift,
// two masks and up to two operations for the lanes.
#include <immintrin.h>

#include <cstdint>

#include "kernels/avx512/avx512.h"
#include "kernels/avx512/four_rows.h"
#include "kernels/avx512/groups.h"
#include "tensor/dtype.h"

namespace mlxf::kernels::avx512 {
namespace {

struct PackedOrder {
  alignas(64) uint8_t from[64];
};

constexpr PackedOrder packed_order(uint32_t bits) {
  PackedOrder order{};
  for (uint32_t i = 0; i < 64; ++i)
    order.from[i] = static_cast<uint8_t>(i / 8 * bits + (i % 8 < bits ? i % 8 : 0));
  return order;
}

// Where the codes of a quadword begin.
constexpr uint64_t code_starts(uint32_t bits) {
  uint64_t starts = 0;
  for (uint32_t i = 0; i < 8; ++i) starts |= uint64_t{i * bits} << (8 * i);
  return starts;
}

// Up to 64 codes from the first bytes of a vector.
template <uint32_t BITS>
MLXF_INLINE __m512i unpack_codes(__m512i packed) {
  if constexpr (BITS == 8) return packed;
  static constexpr PackedOrder kOrder = packed_order(BITS);
  constexpr auto kStarts = static_cast<int64_t>(code_starts(BITS));
  const __m512i spread = _mm512_permutexvar_epi8(_mm512_load_si512(kOrder.from), packed);
  return _mm512_and_si512(_mm512_multishift_epi64_epi8(_mm512_set1_epi64(kStarts), spread),
                          bytes_of((1 << BITS) - 1));
}

// `count` bytes as the low ones of a word. No other byte is read: the last row may end its mapping.
MLXF_INLINE uint64_t load_bytes(const uint8_t* from, uint32_t count) {
  uint64_t word = 0;
  if (count == 8) {
    __builtin_memcpy(&word, from, 8);
  } else {
    for (uint32_t i = 0; i < count; ++i) word |= uint64_t{from[i]} << (8 * i);
  }
  return word;
}

// Scales of the first n of four groups from `g` on, of group q and row r in lane 4 q + r. Put together in registers: a
// vector loaded from what was just stored in parts would wait for the stores.
MLXF_INLINE __m512 load_scales(DType type, const FourRows& rows, uint32_t g, uint32_t n) {
  if (type == DType::kF32) return load_f32_scales(rows, g, n);
  const __m512i turn = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const auto row = [&](uint32_t r) {
    return static_cast<long long>(load_bytes(rows.at[r] + uint64_t{g} * 2, n * 2));
  };
  const __m256i halves = _mm256_set_epi64x(row(3), row(2), row(1), row(0));
  if (type == DType::kF16) return _mm512_permutexvar_ps(turn, _mm512_cvtph_ps(halves));
  const __m512i wide = _mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16);
  return _mm512_castsi512_ps(_mm512_permutexvar_epi32(turn, wide));
}

template <uint32_t BITS, uint32_t GROUP>
struct Packed {
  static constexpr uint32_t kGroup = GROUP, kVectors = GROUP / 16, kBytes = GROUP * BITS / 8;
  static constexpr bool kEvenOdd = BITS == 4;
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
    return {load_scales(w.scale_type, rows.scales, g, n), load_scales(w.scale_type, rows.biases, g, n)};
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
