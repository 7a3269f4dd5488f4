// The formats of 32 elements a block (Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL, MXFP4) as types that the AVX2 decoders and
// products share: what a block's bytes are as codes, minimum and scales.
// Everything here has internal linkage: each object file carries its own copy, so that none built with AVX2 can be
// picked for a program that runs on a machine without. Pure functions; any thread. No function reads past a block.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/avx2/four_rows.h"
#include "kernels/avx2/k_scales.h"
#include "kernels/code_row.h"

namespace mlxf::kernels::avx2 {
namespace {

// 2^(exponent - 128), the scale of doubled e2m1 codes: exact, subnormal below an exponent of 2; 255 is NaN.
[[maybe_unused]] inline __m128 half_e8m0(__m128i exponents) {
  const __m128i normal = _mm_slli_epi32(_mm_sub_epi32(exponents, _mm_set1_epi32(1)), 23);
  const __m128i subnormal = _mm_sllv_epi32(_mm_set1_epi32(0x00200000), exponents);
  const __m128i small = _mm_cmplt_epi32(exponents, _mm_set1_epi32(2));
  const __m128i nan =
      _mm_and_si128(_mm_cmpeq_epi32(exponents, _mm_set1_epi32(255)), _mm_set1_epi32(0x7fc00000));
  return _mm_castsi128_ps(_mm_or_si128(_mm_blendv_epi8(normal, subnormal, small), nan));
}

[[maybe_unused]] inline __m128 load_half_e8m0x4(const uint8_t* const at[4]) {
  const uint32_t all = *at[0] | uint32_t{*at[1]} << 8 | uint32_t{*at[2]} << 16 | uint32_t{*at[3]} << 24;
  return half_e8m0(_mm_cvtepu8_epi32(_mm_cvtsi32_si128(static_cast<int>(all))));
}

// 16 bytes as 32 nibbles: the low ones first, then the high ones.
[[maybe_unused]] inline __m256i load_nibbles(const uint8_t* bytes) {
  const __m128i q = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
  return _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(q, 4), q), _mm256_set1_epi8(0x0f));
}

// Bit i of four bytes as 0x10 in byte i.
[[maybe_unused]] inline __m256i load_fifth_bits(const uint8_t* bytes) {
  int32_t bits;
  __builtin_memcpy(&bits, bytes, 4);
  const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1,  //
                                          2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
  const __m256i select = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201u));
  const __m256i own = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(bits), spread), select);
  return _mm256_and_si256(_mm256_cmpeq_epi8(own, select), _mm256_set1_epi8(0x10));
}

// Nibbles to 16 bytes of a table.
[[maybe_unused]] inline __m256i look_up(__m128i table, __m256i nibbles) {
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), nibbles);
}

// The values of e2m1 doubled, plus 12.
[[maybe_unused]] inline __m256i e2m1_codes(__m256i nibbles) {
  return look_up(_mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0), nibbles);
}

[[maybe_unused]] inline __m256i iq4_codes(__m256i nibbles) {
  return look_up(_mm_setr_epi8(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113),
                 nibbles);
}

// kMinimum is per code (kSymmetric) or the factor of the block's second float (kAffine).
struct Q40 {
  static constexpr uint32_t kBytes = 18;
  static constexpr MinimumKind kKind = MinimumKind::kSymmetric;
  static constexpr bool kSigned = false;
  static constexpr int16_t kMinimum = -8;
  static __m256i codes(const uint8_t* block) { return load_nibbles(block + 2); }
  static __m128 scales(const uint8_t* const blocks[4]) { return load_f16x4(blocks); }
};

struct Q41 {
  static constexpr uint32_t kBytes = 20;
  static constexpr MinimumKind kKind = MinimumKind::kAffine;
  static constexpr bool kSigned = false;
  static constexpr int16_t kMinimum = 1;
  static __m256i codes(const uint8_t* block) { return load_nibbles(block + 4); }
  static __m128 scales(const uint8_t* const blocks[4]) { return load_f16x4(blocks); }
};

struct Q50 {
  static constexpr uint32_t kBytes = 22;
  static constexpr MinimumKind kKind = MinimumKind::kSymmetric;
  static constexpr bool kSigned = false;
  static constexpr int16_t kMinimum = -16;
  static __m256i codes(const uint8_t* block) {
    return _mm256_or_si256(load_nibbles(block + 6), load_fifth_bits(block + 2));
  }
  static __m128 scales(const uint8_t* const blocks[4]) { return load_f16x4(blocks); }
};

struct Q51 {
  static constexpr uint32_t kBytes = 24;
  static constexpr MinimumKind kKind = MinimumKind::kAffine;
  static constexpr bool kSigned = false;
  static constexpr int16_t kMinimum = 1;
  static __m256i codes(const uint8_t* block) {
    return _mm256_or_si256(load_nibbles(block + 8), load_fifth_bits(block + 4));
  }
  static __m128 scales(const uint8_t* const blocks[4]) { return load_f16x4(blocks); }
};

struct Iq4Nl {
  static constexpr uint32_t kBytes = 18;
  static constexpr MinimumKind kKind = MinimumKind::kNone;
  static constexpr bool kSigned = true;
  static constexpr int16_t kMinimum = 0;
  static __m256i codes(const uint8_t* block) { return iq4_codes(load_nibbles(block + 2)); }
  static __m128 scales(const uint8_t* const blocks[4]) { return load_f16x4(blocks); }
};

struct Mxfp4 {
  static constexpr uint32_t kBytes = 17;
  static constexpr MinimumKind kKind = MinimumKind::kSymmetric;
  static constexpr bool kSigned = false;
  static constexpr int16_t kMinimum = -12;
  static __m256i codes(const uint8_t* block) { return e2m1_codes(load_nibbles(block + 1)); }
  static __m128 scales(const uint8_t* const blocks[4]) { return load_half_e8m0x4(blocks); }
};

}  // namespace
}  // namespace mlxf::kernels::avx2
