// Pieces of the K-quant layouts that the AVX2 decoders and products share.
// Everything here has internal linkage: each object file carries its own copy, so that none built with AVX2 can be
// picked for a program that runs on a machine without. Pure functions; any thread.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace mlxf::kernels::avx2 {
namespace {

constexpr uint32_t kQ4KBytes = 144;
constexpr uint32_t kQ6KBytes = 210;

[[maybe_unused]] inline float load_f16(const uint8_t* bytes) {
  uint16_t half;
  __builtin_memcpy(&half, bytes, 2);
  return _cvtsh_ss(half);
}

// The 8 scales and 8 minima of Q4_K and Q5_K, 6 bits each in 12 bytes: the first four of either are the low 6
// bits of bytes 0-3 and 4-7; the last four have their low nibbles in bytes 8-11 and their high bits on top of
// bytes 0-7.
struct KScales {
  __m128i bytes;   // 8 scales, 8 minima
  __m128i scales;  // 8 x i16
  __m128i minima;  // 8 x i16
};

// Reads 16 bytes; the last four belong to the codes behind the scales.
[[maybe_unused]] inline KScales load_k_scales(const uint8_t* bytes) {
  const __m128i raw = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));  // a, b, c, -
  const __m128i low = _mm_and_si128(
      _mm_srlv_epi32(_mm_shuffle_epi32(raw, _MM_SHUFFLE(2, 1, 2, 0)), _mm_setr_epi32(0, 0, 0, 4)),
      _mm_setr_epi32(0x3f3f3f3f, 0x0f0f0f0f, 0x3f3f3f3f, 0x0f0f0f0f));
  const __m128i high = _mm_and_si128(_mm_srli_epi32(_mm_shuffle_epi32(raw, _MM_SHUFFLE(1, 1, 0, 0)), 2),
                                     _mm_setr_epi32(0, 0x30303030, 0, 0x30303030));
  const __m128i all = _mm_or_si128(low, high);
  return {all, _mm_cvtepu8_epi16(all), _mm_unpackhi_epi8(all, _mm_setzero_si128())};
}

// The 128 codes (0..63) of one half of a Q6_K block, in order.
[[maybe_unused]] inline void load_q6_k_codes(const uint8_t* block, uint32_t half, __m256i codes[4]) {
  const __m256i nibble = _mm256_set1_epi8(0x0f);
  const __m256i pair = _mm256_set1_epi8(0x30);
  const __m256i low0 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + half * 64));
  const __m256i low1 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + half * 64 + 32));
  const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + 128 + half * 32));
  codes[0] =
      _mm256_or_si256(_mm256_and_si256(low0, nibble), _mm256_and_si256(_mm256_slli_epi16(high, 4), pair));
  codes[1] =
      _mm256_or_si256(_mm256_and_si256(low1, nibble), _mm256_and_si256(_mm256_slli_epi16(high, 2), pair));
  codes[2] =
      _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(low0, 4), nibble), _mm256_and_si256(high, pair));
  codes[3] = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(low1, 4), nibble),
                             _mm256_and_si256(_mm256_srli_epi16(high, 2), pair));
}

}  // namespace
}  // namespace mlxf::kernels::avx2
