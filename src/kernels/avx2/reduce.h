// Horizontal sums: of one vector, and of four rows at once.
// Everything here has internal linkage: each object file carries its own copy, so that none built with AVX2 can be
// picked for a program that runs on a machine without. Pure functions; any thread.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace mlxf::kernels::avx2 {
namespace {

// The sum and the maximum of eight lanes: halves, quarters, eighths.
[[maybe_unused]] inline float sum_lanes(__m256 v) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  s = _mm_add_ss(s, _mm_shuffle_ps(s, s, 1));
  return _mm_cvtss_f32(s);
}

[[maybe_unused]] inline float max_lanes(__m256 v) {
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  m = _mm_max_ss(m, _mm_shuffle_ps(m, m, 1));
  return _mm_cvtss_f32(m);
}

// The sums of the eight lanes of each of four vectors.
[[maybe_unused]] inline __m128i sum_lanes4(__m256i a, __m256i b, __m256i c, __m256i d) {
  const __m256i all = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
  return _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
}

[[maybe_unused]] inline __m128i sum_lanes4(__m128i a, __m128i b, __m128i c, __m128i d) {
  return _mm_hadd_epi32(_mm_hadd_epi32(a, b), _mm_hadd_epi32(c, d));
}

// Stores the first `count` lanes.
[[maybe_unused]] inline void store_rows(float* y, __m128 values, uint32_t count) {
  float lanes[4];
  _mm_storeu_ps(lanes, values);
  for (uint32_t i = 0; i < count; ++i) y[i] = lanes[i];
}

}  // namespace
}  // namespace mlxf::kernels::avx2
