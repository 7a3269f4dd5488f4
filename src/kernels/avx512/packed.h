// How MLX packs codes of 2 to 8 bits, and its scales.
//
// A permutation takes the BITS bytes of each eight codes to a quadword, of which a multishift gives a byte each: three
// operations for 64 codes.
// Everything here has internal linkage: each object file carries its own copy, so that none built with AVX-512 can be
// picked for a program that runs on a machine without. Pure functions over borrowed memory; any thread.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/avx512/four_rows.h"
#include "tensor/dtype.h"

namespace mlxf::kernels::avx512 {
namespace {

struct PackedOrder {
  alignas(64) uint8_t from[64];
};

[[maybe_unused]] constexpr PackedOrder packed_order(uint32_t bits) {
  PackedOrder order{};
  for (uint32_t i = 0; i < 64; ++i)
    order.from[i] = static_cast<uint8_t>(i / 8 * bits + (i % 8 < bits ? i % 8 : 0));
  return order;
}

// Where the codes of a quadword begin.
[[maybe_unused]] constexpr uint64_t code_starts(uint32_t bits) {
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

// Scales of n groups from `g` on, of group q and row r in lane 4 q + r. Put together in registers: a vector loaded from
// what was just stored in parts would wait for the stores.
template <DType TYPE>
MLXF_INLINE __m512 load_scales(const FourRows& rows, uint32_t g, uint32_t n) {
  if constexpr (TYPE == DType::kF32) {
    return load_f32_scales(rows, g, n);
  } else {
    const auto row = [&](uint32_t r) {
      return static_cast<long long>(load_bytes(rows.at[r] + uint64_t{g} * 2, n * 2));
    };
    const __m512i turn = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m256i halves = _mm256_set_epi64x(row(3), row(2), row(1), row(0));
    if constexpr (TYPE == DType::kF16) {
      return _mm512_permutexvar_ps(turn, _mm512_cvtph_ps(halves));
    } else {
      const __m512i wide = _mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16);
      return _mm512_castsi512_ps(_mm512_permutexvar_epi32(turn, wide));
    }
  }
}

}  // namespace
}  // namespace mlxf::kernels::avx512
