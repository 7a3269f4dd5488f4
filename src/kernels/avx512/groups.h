// Products of one to eight tokens with formats of groups of 32 to 128 elements that have a scale each, on the stored
// layout, four rows and four groups at a time (four_rows.h).
//
// Codes are unpacked to vectors of which lane q belongs to group q, and the tokens are brought into that order once a
// call: a tree of nine operations then leaves the sums of four groups of four rows, whatever the size of a group. Up to
// four tokens share an unpacking; more go over the four rows again, which L1 still has.
//
// A Format has
//   kGroup, kVectors    elements of a group, and vectors of codes that four groups fill: kGroup / 16;
//   kEvenOdd            whether 16 bytes of nibbles give the even and then the odd ones of 32 elements;
//   kMinimum            what is added to every code; 0: the format is affine;
//   kOneToken           whether it is used for one token too;
//   kBytes              of a group's codes and what lies among them;
//   rows(row, count)    the pointers of four rows;
//   unpack<WHOLE>       kVectors vectors of codes of a row, of the first n of four groups; WHOLE: of four;
//   scales<WHOLE>       d and e of group q and row r in lane 4 q + r.
// Everything here has internal linkage: each object file carries its own copy, so that none built with AVX-512 can be
// picked for a program that runs on a machine without. Pure functions over borrowed memory; any thread.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/avx512/avx512.h"
#include "kernels/avx512/four_rows.h"

namespace mlxf::kernels::avx512 {
namespace {

// What a call prepares of its tokens; groups are filled up to a multiple of four with zeros.
struct TokenGroups {
  uint32_t padded;        // Groups.
  const int8_t* codes;    // [tokens][padded / 4][kVectors][4][16]
  const float* scales;    // [tokens][padded]
  const float* offsets;   // [tokens][padded]: float(sum of codes) * scale of affine formats.
  const int32_t* starts;  // The same place: kMinimum * sum of codes, of others.
};

// 32 elements as they are, or the even and then the odd ones.
template <bool EVEN_ODD>
MLXF_INLINE __m256i order_elements(const int8_t* codes) {
  const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
  if constexpr (!EVEN_ODD) return v;
  const __m256i apart = _mm256_shuffle_epi8(
      v, _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15)));
  return _mm256_permute4x64_epi64(apart, _MM_SHUFFLE(3, 1, 2, 0));
}

template <typename Format>
void take_token(const ActivationView& x, uint32_t token, uint32_t padded, int8_t* codes, float* scales,
                float* offsets) {
  constexpr uint32_t kParts = Format::kGroup / 32;
  const uint32_t groups = x.cols / Format::kGroup;
  const int8_t* from = x.codes + uint64_t{token} * x.cols;
  const float* of_groups = x.scales + uint64_t{token} * groups;
  const int16_t* sums = x.sums32 + uint64_t{token} * (x.cols / 32);
  for (uint32_t g = 0; g < padded; ++g) {
    auto* to = reinterpret_cast<__m128i*>(codes + g / kQuad * (kQuad * Format::kGroup) + g % kQuad * 16);
    int32_t sum = 0;
    for (uint32_t i = 0; i < kParts; ++i) {
      __m256i part = _mm256_setzero_si256();
      if (g < groups) {
        part = order_elements<Format::kEvenOdd>(from + g * Format::kGroup + i * 32);
        sum += sums[g * kParts + i];
      }
      _mm_store_si128(to + i * 8, _mm256_castsi256_si128(part));
      _mm_store_si128(to + i * 8 + 4, _mm256_extracti128_si256(part, 1));
    }
    const float scale = g < groups ? of_groups[g] : 0.0f;
    scales[g] = scale;
    if constexpr (Format::kMinimum == 0) {
      offsets[g] = static_cast<float>(sum) * scale;
    } else {
      reinterpret_cast<int32_t*>(offsets)[g] = Format::kMinimum * sum;
    }
  }
}

// Scratch that they take at most, in groups of 32 at least.
[[maybe_unused]] constexpr uint64_t groups_bytes(uint32_t tokens, uint32_t cols) {
  return uint64_t{tokens} * (uint64_t{cols} / 4 * 5 + 640);
}

template <typename Format>
TokenGroups take_tokens(const ActivationView& x, void* scratch) {
  static_assert(groups_bytes(kFewTokens, kFewColsMax) <= kMatmulScratchBytes);
  static_assert(groups_bytes(1, kMatmulColsMax) <= kMatmulScratchBytes);
  const uint32_t padded = (x.cols / Format::kGroup + kQuad - 1) / kQuad * kQuad;
  auto* codes = static_cast<int8_t*>(scratch);
  auto* scales = reinterpret_cast<float*>(codes + uint64_t{x.tokens} * padded * Format::kGroup);
  float* offsets = scales + uint64_t{x.tokens} * padded;
  for (uint64_t t = 0; t < x.tokens; ++t)
    take_token<Format>(x, static_cast<uint32_t>(t), padded, codes + t * padded * Format::kGroup,
                       scales + t * padded, offsets + t * padded);
  return {padded, codes, scales, offsets, reinterpret_cast<const int32_t*>(offsets)};
}

// Four values, each in four neighbouring lanes.
MLXF_INLINE __m512 spread(const float* four) {
  return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3),
                               _mm512_broadcast_f32x4(_mm_load_ps(four)));
}
MLXF_INLINE __m512i spread(const int32_t* four) {
  return _mm512_permutexvar_epi32(
      _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3),
      _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(four))));
}

// Groups g .. g + n - 1 of four rows times T tokens from `token` on.
template <bool WHOLE, uint32_t T, typename Format>
MLXF_INLINE void multiply_quad(const Format& format, const typename Format::Rows& rows, uint32_t g,
                               uint32_t n, const TokenGroups& x, uint32_t token, Totals (&totals)[T]) {
  __m512i v[T][kRows];
  const int8_t* codes = x.codes + (uint64_t{token} * x.padded + g) * Format::kGroup;
#pragma GCC unroll 4
  for (uint32_t r = 0; r < kRows; ++r) {
    __m512i w[Format::kVectors];
    format.template unpack<WHOLE>(rows, r, g, n, w);
#pragma GCC unroll 4
    for (uint32_t t = 0; t < T; ++t) {
      __m512i sum = _mm512_setzero_si512();
#pragma GCC unroll 8
      for (uint32_t i = 0; i < Format::kVectors; ++i)
        sum = _mm512_dpbusd_epi32(
            sum, w[i], _mm512_load_si512(codes + uint64_t{t} * x.padded * Format::kGroup + i * 64));
      if constexpr (T > 1) keep(sum);
      v[t][r] = sum;
    }
  }
  const GroupScales scales = format.template scales<WHOLE>(rows, g, n);
  const uint32_t groups = WHOLE ? kQuad : n;
#pragma GCC unroll 4
  for (uint32_t t = 0; t < T; ++t) {
    const uint64_t at = uint64_t{token + t} * x.padded + g;
    __m512i sums = sum_lanes(v[t]);
    if constexpr (Format::kMinimum != 0) sums = _mm512_add_epi32(sums, spread(x.starts + at));
    totals[t].s =
        chain(_mm512_cvtepi32_ps(sums), _mm512_mul_ps(scales.d, spread(x.scales + at)), groups, totals[t].s);
    if constexpr (Format::kMinimum == 0)
      totals[t].m = chain(scales.e, spread(x.offsets + at), groups, totals[t].m);
  }
}

template <typename Format>
struct GroupProduct {
  const MatrixView& w;
  const Format& format;
  const TokenGroups x;
  float* y;
  uint64_t y_stride;

  static constexpr bool kOneToken = Format::kOneToken;
  template <uint32_t T>
  void run(uint32_t row, uint32_t count, uint32_t token, bool first) const {
    const uint32_t groups = w.cols / Format::kGroup, whole = groups / kQuad * kQuad;
    const typename Format::Rows rows = format.rows(row, count);
    const Ahead ahead = ahead_of(w.row_bytes);
    Totals totals[T];
    for (uint32_t g = 0; g < whole; g += kQuad) {
      if (first)
        prefetch_next_rows(ahead, rows.codes.at[0], w.row_bytes, uint64_t{groups} * Format::kBytes,
                           uint64_t{g} * Format::kBytes, kQuad * Format::kBytes);
      multiply_quad<true, T>(format, rows, g, kQuad, x, token, totals);
    }
    if (whole < groups) multiply_quad<false, T>(format, rows, whole, groups - whole, x, token, totals);
    for (uint32_t t = 0; t < T; ++t)
      store(y + (token + t) * y_stride + row, count,
            Format::kMinimum == 0 ? _mm_add_ps(totals[t].s, totals[t].m) : totals[t].s);
  }
};

template <typename Format>
void multiply_groups(const Format& format, const MatrixView& w, uint32_t row_begin, uint32_t row_end,
                     const ActivationView& x, float* y, uint64_t y_stride, void* scratch) {
  const GroupProduct<Format> product{w, format, take_tokens<Format>(x, scratch), y, y_stride};
  for_each_tile(row_begin, row_end, x.tokens, product);
}

}  // namespace
}  // namespace mlxf::kernels::avx512
