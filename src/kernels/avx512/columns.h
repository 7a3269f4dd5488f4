// Sixteen rows of a stored matrix at once: a vector holds the same dword of each row, a row per lane.
// Everything here has internal linkage: each object file carries its own copy, so that none built with AVX-512 can be
// picked for a program that runs on a machine without. Pure functions over borrowed memory; any thread.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "tensor/dtype.h"
#include "tensor/matrix.h"

namespace mlxf::kernels::avx512 {

constexpr uint32_t kPanelRows = 16;

namespace {

// 16 rows of 16 dwords in, 16 columns of 16 dwords out.
[[maybe_unused]] inline void transpose_16x16_epi32(__m512i v[16]) {
  __m512i t[16];
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
  }
  // v[4 i + j]: dword j of each 128-bit lane of rows 4 i .. 4 i + 3.
  for (int i = 0; i < 4; ++i) {
    v[4 * i + 0] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    v[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    v[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    v[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
  // A 4x4 transpose of 128-bit lanes over the four groups of rows.
  for (int j = 0; j < 4; ++j) {
    t[j] = _mm512_shuffle_i32x4(v[j], v[4 + j], 0x88);           // lanes 0, 2 of row groups 0 and 1
    t[4 + j] = _mm512_shuffle_i32x4(v[j], v[4 + j], 0xdd);       // lanes 1, 3
    t[8 + j] = _mm512_shuffle_i32x4(v[8 + j], v[12 + j], 0x88);  // the same of row groups 2 and 3
    t[12 + j] = _mm512_shuffle_i32x4(v[8 + j], v[12 + j], 0xdd);
  }
  for (int j = 0; j < 4; ++j) {
    v[j] = _mm512_shuffle_i32x4(t[j], t[8 + j], 0x88);
    v[4 + j] = _mm512_shuffle_i32x4(t[4 + j], t[12 + j], 0x88);
    v[8 + j] = _mm512_shuffle_i32x4(t[j], t[8 + j], 0xdd);
    v[12 + j] = _mm512_shuffle_i32x4(t[4 + j], t[12 + j], 0xdd);
  }
}

[[maybe_unused]] inline __m512i bytes(int value) { return _mm512_set1_epi8(static_cast<char>(value)); }

// The 16 rows' pointers; past the end the last row repeats, its results are not stored.
struct Rows {
  const uint8_t* at[kPanelRows];
};

[[maybe_unused]] inline Rows rows_of(const uint8_t* data, uint64_t row_bytes, uint32_t row, uint32_t rows) {
  Rows r;
  for (uint32_t i = 0; i < kPanelRows; ++i) r.at[i] = data + (row + (i < rows ? i : rows - 1)) * row_bytes;
  return r;
}

// Rows are short streams that the hardware prefetcher finds late: ask for the same place of the next panel. Not for L2
// alone: a Zen 5 core then fetches half as much. Always inline: GCC 12 drops calls of a function that only prefetches.
[[maybe_unused]] inline __attribute__((always_inline)) void prefetch_next(const Rows& rows, uint64_t offset,
                                                                          uint32_t count) {
  const uint64_t next = kPanelRows * static_cast<uint64_t>(rows.at[1] - rows.at[0]);
  for (const uint8_t* row : rows.at)
    for (uint32_t i = 0; i < count; i += 64)
      _mm_prefetch(reinterpret_cast<const char*>(row + next + offset + i), _MM_HINT_T0);
}

// 16 bytes of each row: v[i] has dword i of row r in lane r.
[[maybe_unused]] inline void load_columns4(const Rows& rows, uint64_t offset, __m512i v[4]) {
  __m512i t[4];
  for (uint32_t g = 0; g < 4; ++g) {
    const auto load = [&](uint32_t r) {
      return _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows.at[r] + offset));
    };
    t[g] = _mm512_castsi128_si512(load(g));
    t[g] = _mm512_mask_broadcast_i32x4(t[g], 0x00f0, load(4 + g));
    t[g] = _mm512_mask_broadcast_i32x4(t[g], 0x0f00, load(8 + g));
    t[g] = _mm512_mask_broadcast_i32x4(t[g], 0xf000, load(12 + g));
  }
  const __m512i a = _mm512_unpacklo_epi32(t[0], t[1]), b = _mm512_unpackhi_epi32(t[0], t[1]);
  const __m512i c = _mm512_unpacklo_epi32(t[2], t[3]), d = _mm512_unpackhi_epi32(t[2], t[3]);
  v[0] = _mm512_unpacklo_epi64(a, c);
  v[1] = _mm512_unpackhi_epi64(a, c);
  v[2] = _mm512_unpacklo_epi64(b, d);
  v[3] = _mm512_unpackhi_epi64(b, d);
}

// 64 bytes of each row, or the first `dwords` of them.
[[maybe_unused]] inline void load_columns16(const Rows& rows, uint64_t offset, __m512i v[16]) {
  for (uint32_t r = 0; r < kPanelRows; ++r) v[r] = _mm512_loadu_si512(rows.at[r] + offset);
  transpose_16x16_epi32(v);
}
[[maybe_unused]] inline void load_columns16(const Rows& rows, uint64_t offset, uint32_t dwords,
                                            __m512i v[16]) {
  const auto mask = static_cast<__mmask16>((1u << dwords) - 1);
  for (uint32_t r = 0; r < kPanelRows; ++r) v[r] = _mm512_maskz_loadu_epi32(mask, rows.at[r] + offset);
  transpose_16x16_epi32(v);
}

// f16 in the low halves of the lanes.
[[maybe_unused]] inline __m512 widen_f16(__m512i halves) {
  return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(halves));
}

// An f16 of each row.
[[maybe_unused]] inline __m512 load_f16(const Rows& rows, uint64_t offset) {
  alignas(32) uint16_t halves[kPanelRows];
  for (uint32_t r = 0; r < kPanelRows; ++r) __builtin_memcpy(&halves[r], rows.at[r] + offset, 2);
  return _mm512_cvtph_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(halves)));
}

[[maybe_unused]] inline __m512 negate(__m512 v) { return _mm512_xor_ps(v, _mm512_set1_ps(-0.0f)); }

[[maybe_unused]] inline __m512i nibbles_low(__m512i v) { return _mm512_and_si512(v, bytes(0x0f)); }
[[maybe_unused]] inline __m512i nibbles_high(__m512i v) {
  return _mm512_and_si512(_mm512_srli_epi16(v, 4), bytes(0x0f));
}

// `count` scales from `first` on to [count][16] f32.
[[maybe_unused]] inline void spread_scales(const Rows& rows, DType type, uint32_t first, uint32_t count,
                                           float* out) {
  const uint32_t step = type == DType::kF32 ? 16 : 32;  // Per transpose: 16-bit scales travel in pairs.
  const auto store = [out](uint32_t index, __m512 v) { _mm512_store_ps(out + index * kPanelRows, v); };
  for (uint32_t g = 0; g < count; g += step) {
    const uint32_t n = count - g < step ? count - g : step;
    prefetch_next(rows, uint64_t{first + g} * (type == DType::kF32 ? 4 : 2), 64);
    __m512i v[16];
    if (type == DType::kF32) {
      load_columns16(rows, uint64_t{first + g} * 4, n, v);
      for (uint32_t i = 0; i < n; ++i) store(g + i, _mm512_castsi512_ps(v[i]));
      continue;
    }
    const auto mask = static_cast<__mmask32>((uint64_t{1} << n) - 1);
    for (uint32_t r = 0; r < kPanelRows; ++r)
      v[r] = _mm512_maskz_loadu_epi16(mask, rows.at[r] + uint64_t{first + g} * 2);
    transpose_16x16_epi32(v);
    for (uint32_t i = 0; i < n; i += 2) {
      const __m512i high = _mm512_srli_epi32(v[i / 2], 16);
      const bool half = type == DType::kF16;
      store(g + i, half ? widen_f16(v[i / 2]) : _mm512_castsi512_ps(_mm512_slli_epi32(v[i / 2], 16)));
      if (i + 1 < n)
        store(g + i + 1, half ? widen_f16(high) : _mm512_castsi512_ps(_mm512_slli_epi32(high, 16)));
    }
  }
}

}  // namespace
}  // namespace mlxf::kernels::avx512
