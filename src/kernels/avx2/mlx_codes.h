// MLX's packed codes: bytes from those of 2, 3, 5 and 6 bits, and the order of x that the 4-bit layouts ask for.
// Everything here has internal linkage: each object file carries its own copy, so that none built with AVX2 can be
// picked for a program that runs on a machine without. Pure functions; any thread.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace mlxf::kernels::avx2 {
namespace {

// How 32 codes of BITS bits, packed little-endian in 4 * BITS bytes, come to one byte each. The low half of a register
// is loaded from the start of those bytes, the high half so that it ends where they end; no other byte is read, so that
// the last row of a mapping is safe. `at[v]` takes the two bytes around each code to a word, `shift[v]` multiplies the
// code to the word's top. Vector 0 holds codes 0-7 and 16-23, vector 1 the others: packing them restores the order.
struct PackedLayout {
  alignas(32) uint8_t at[2][32];
  alignas(32) uint16_t shift[2][16];
};

constexpr PackedLayout packed_layout(uint32_t bits) {
  PackedLayout layout{};
  const uint32_t load = bits < 4 ? 8 : 16, high_begin = 4 * bits - load;
  for (uint32_t code = 0; code < 32; ++code) {
    const uint32_t half = code / 16, vector = code / 8 % 2, word = half * 8 + code % 8;
    const uint32_t begin = code * bits - half * high_begin * 8;  // In bits from where the half was loaded.
    const uint32_t byte = begin / 8, next = byte + 1 < load ? byte + 1 : byte;
    layout.at[vector][word * 2] = static_cast<uint8_t>(byte);
    layout.at[vector][word * 2 + 1] = static_cast<uint8_t>(next);
    layout.shift[vector][word] = static_cast<uint16_t>(1u << (16 - bits - begin % 8));
  }
  return layout;
}

template <uint32_t BITS>
[[maybe_unused]] inline __m256i load_packed(const uint8_t* packed) {
  static constexpr PackedLayout kLayout = packed_layout(BITS);
  __m128i low, high;
  if constexpr (BITS < 4) {
    low = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(packed));
    high = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(packed + 4 * BITS - 8));
  } else {
    low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(packed));
    high = _mm_loadu_si128(reinterpret_cast<const __m128i*>(packed + 4 * BITS - 16));
  }
  const __m256i both = _mm256_set_m128i(high, low);
  __m256i words[2];
  for (uint32_t v = 0; v < 2; ++v) {
    const __m256i at = _mm256_load_si256(reinterpret_cast<const __m256i*>(kLayout.at[v]));
    const __m256i shift = _mm256_load_si256(reinterpret_cast<const __m256i*>(kLayout.shift[v]));
    words[v] = _mm256_srli_epi16(_mm256_mullo_epi16(_mm256_shuffle_epi8(both, at), shift), 16 - BITS);
  }
  return _mm256_packus_epi16(words[0], words[1]);
}

// Even elements of each 32 (HALF = 16) or 64 (HALF = 32) codes first, then the odd ones: the order in which
// the low and high nibbles of MLX's 4-bit codes appear, so that the weights need no interleaving.
template <uint32_t HALF>
[[maybe_unused]] inline void split_even_odd(const int8_t* codes, uint32_t cols, int8_t* out) {
  const __m128i low_bytes = _mm_set1_epi16(0x00ff);
  for (uint32_t k = 0; k < cols; k += 2 * HALF)
    for (uint32_t i = 0; i < HALF; i += 16) {
      const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + k + 2 * i));
      const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + k + 2 * i + 16));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + k + i),
                       _mm_packus_epi16(_mm_and_si128(a, low_bytes), _mm_and_si128(b, low_bytes)));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + k + HALF + i),
                       _mm_packus_epi16(_mm_srli_epi16(a, 8), _mm_srli_epi16(b, 8)));
    }
}

}  // namespace
}  // namespace mlxf::kernels::avx2
