// The remaining formats of 256 elements a block (Q2_K, Q3_K, Q5_K, IQ4_XS) as types that the AVX2 decoders and products
// share: what a block's bytes are as codes, scales and minima. Q4_K and Q6_K: k_scales.h.
// Everything here has internal linkage: each object file carries its own copy, so that none built with AVX2 can be
// picked for a program that runs on a machine without. Pure functions; any thread. No function reads past a block.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/avx2/k_scales.h"
#include "kernels/avx2/legacy_codes.h"
#include "kernels/code_row.h"

namespace mlxf::kernels::avx2 {
namespace {

[[maybe_unused]] inline __m256i load_32_bytes(const uint8_t* bytes) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes));
}

// Scales and minima as 16 words in order (kSub 16), or 8 words in both halves (kSub 32).
struct SubScales {
  __m256i scales;
  __m256i minima;
};

// Every type has codes(block, half, out): 128 codes in order. kHead: where d, for affine formats d and dmin, are.

// 84 bytes: 16 of scales (low nibbles) and minima (high), 64 of bit pairs, d, dmin.
struct Q2K {
  static constexpr uint32_t kBytes = 84, kSub = 16, kHead = 80;
  static constexpr MinimumKind kKind = MinimumKind::kAffine;
  static constexpr bool kSigned = false;
  static SubScales scales(const uint8_t* block) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block));
    const __m128i nibble = _mm_set1_epi8(0x0f);
    return {_mm256_cvtepu8_epi16(_mm_and_si128(bytes, nibble)),
            _mm256_cvtepu8_epi16(_mm_and_si128(_mm_srli_epi16(bytes, 4), nibble))};
  }
  static void codes(const uint8_t* block, uint32_t half, __m256i out[4]) {
    const __m256i q = load_32_bytes(block + 16 + half * 32);
    const __m256i pair = _mm256_set1_epi8(3);
    out[0] = _mm256_and_si256(q, pair);
    out[1] = _mm256_and_si256(_mm256_srli_epi16(q, 2), pair);
    out[2] = _mm256_and_si256(_mm256_srli_epi16(q, 4), pair);
    out[3] = _mm256_and_si256(_mm256_srli_epi16(q, 6), pair);
  }
};

// 110 bytes: 32 of third bits, 64 of bit pairs, 12 of 6-bit scales (offset 32), d.
struct Q3K {
  static constexpr uint32_t kBytes = 110, kSub = 16, kHead = 108;
  static constexpr MinimumKind kKind = MinimumKind::kSymmetric;
  static constexpr bool kSigned = false;
  static SubScales scales(const uint8_t* block) {
    // The 12 bytes end two before the block does: they are loaded with two of the codes in front and d behind.
    const __m128i raw = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block + 94));
    const __m128i first =
        _mm_shuffle_epi8(raw, _mm_setr_epi8(2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5, 6, 7, 8, 9));
    const __m128i last =
        _mm_shuffle_epi8(raw, _mm_setr_epi8(10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13));
    const __m128i low = _mm_and_si128(_mm_srlv_epi64(first, _mm_set_epi64x(4, 0)), _mm_set1_epi8(0x0f));
    const __m128i high = _mm_and_si128(_mm_srlv_epi32(last, _mm_setr_epi32(0, 2, 4, 6)), _mm_set1_epi8(3));
    const __m128i bytes = _mm_sub_epi8(_mm_or_si128(low, _mm_slli_epi16(high, 4)), _mm_set1_epi8(32));
    const __m256i words = _mm256_cvtepi8_epi16(bytes);
    return {words, _mm256_sub_epi16(_mm256_setzero_si256(), _mm256_slli_epi16(words, 2))};
  }
  static void codes(const uint8_t* block, uint32_t half, __m256i out[4]) {
    const __m256i q = load_32_bytes(block + 32 + half * 32);
    const __m256i third = _mm256_srli_epi16(load_32_bytes(block), static_cast<int>(half * 4));
    const __m256i pair = _mm256_set1_epi8(3), bit = _mm256_set1_epi8(4);
    out[0] = _mm256_or_si256(_mm256_and_si256(q, pair), _mm256_and_si256(_mm256_slli_epi16(third, 2), bit));
    out[1] = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(q, 2), pair),
                             _mm256_and_si256(_mm256_slli_epi16(third, 1), bit));
    out[2] = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(q, 4), pair), _mm256_and_si256(third, bit));
    out[3] = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(q, 6), pair),
                             _mm256_and_si256(_mm256_srli_epi16(third, 1), bit));
  }
};

// 176 bytes: d, dmin, 12 of scales as in Q4_K, 32 of fifth bits, 128 of nibbles.
struct Q5K {
  static constexpr uint32_t kBytes = 176, kSub = 32, kHead = 0;
  static constexpr MinimumKind kKind = MinimumKind::kAffine;
  static constexpr bool kSigned = false;
  static SubScales scales(const uint8_t* block) {
    const KScales both = load_k_scales(block + 4);
    return {_mm256_broadcastsi128_si256(both.scales), _mm256_broadcastsi128_si256(both.minima)};
  }
  static void codes(const uint8_t* block, uint32_t half, __m256i out[4]) {
    const __m256i nibble = _mm256_set1_epi8(0x0f), bit = _mm256_set1_epi8(0x10);
    const __m256i fifth = _mm256_srli_epi16(load_32_bytes(block + 16), static_cast<int>(half * 4));
    const __m256i q0 = load_32_bytes(block + 48 + half * 64), q1 = load_32_bytes(block + 80 + half * 64);
    out[0] =
        _mm256_or_si256(_mm256_and_si256(q0, nibble), _mm256_and_si256(_mm256_slli_epi16(fifth, 4), bit));
    out[1] = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(q0, 4), nibble),
                             _mm256_and_si256(_mm256_slli_epi16(fifth, 3), bit));
    out[2] =
        _mm256_or_si256(_mm256_and_si256(q1, nibble), _mm256_and_si256(_mm256_slli_epi16(fifth, 2), bit));
    out[3] = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(q1, 4), nibble),
                             _mm256_and_si256(_mm256_slli_epi16(fifth, 1), bit));
  }
};

// 136 bytes: d, 8 x 2 high scale bits, 8 low scale nibbles (offset 32), 128 of codebook indices.
struct Iq4Xs {
  static constexpr uint32_t kBytes = 136, kSub = 32, kHead = 0;
  static constexpr MinimumKind kKind = MinimumKind::kNone;
  static constexpr bool kSigned = true;
  static SubScales scales(const uint8_t* block) {
    uint16_t high_bits;
    int32_t low_bits;
    __builtin_memcpy(&high_bits, block + 2, 2);
    __builtin_memcpy(&low_bits, block + 4, 4);
    // Multiplying shifts each word's own bits to one place: nibble j to bits 4-7, pair j to bits 14-15.
    const __m128i spread = _mm_setr_epi8(0, -1, 0, -1, 1, -1, 1, -1, 2, -1, 2, -1, 3, -1, 3, -1);
    const __m128i low =
        _mm_and_si128(_mm_srli_epi16(_mm_mullo_epi16(_mm_shuffle_epi8(_mm_cvtsi32_si128(low_bits), spread),
                                                     _mm_setr_epi16(16, 1, 16, 1, 16, 1, 16, 1)),
                                     4),
                      _mm_set1_epi16(15));
    const __m128i high = _mm_srli_epi16(
        _mm_mullo_epi16(_mm_set1_epi16(static_cast<short>(high_bits)),
                        _mm_setr_epi16(1 << 14, 1 << 12, 1 << 10, 1 << 8, 1 << 6, 1 << 4, 1 << 2, 1)),
        14);
    const __m128i words = _mm_sub_epi16(_mm_or_si128(low, _mm_slli_epi16(high, 4)), _mm_set1_epi16(32));
    return {_mm256_broadcastsi128_si256(words), _mm256_setzero_si256()};
  }
  static void codes(const uint8_t* block, uint32_t half, __m256i out[4]) {
    for (uint32_t c = 0; c < 4; ++c) out[c] = iq4_codes(load_nibbles(block + 8 + half * 64 + c * 16));
  }
};

}  // namespace
}  // namespace mlxf::kernels::avx2
