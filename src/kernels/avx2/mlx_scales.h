// Reading the scales and biases of MLX's affine quantisation.
// Everything here has internal linkage: each object file carries its own copy, so that none built with AVX2 can be
// picked for a program that runs on a machine without. Pure functions; any thread.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "tensor/dtype.h"

namespace mlxf::kernels::avx2 {
namespace {

[[maybe_unused]] inline float load_scale(const uint8_t* row, DType type, uint32_t index) {
  if (type == DType::kF32) {
    float value;
    __builtin_memcpy(&value, row + uint64_t{index} * 4, 4);
    return value;
  }
  uint16_t bits;
  __builtin_memcpy(&bits, row + uint64_t{index} * 2, 2);
  if (type == DType::kF16) return _cvtsh_ss(bits);
  return _mm_cvtss_f32(
      _mm_castsi128_ps(_mm_cvtsi32_si128(static_cast<int>(static_cast<uint32_t>(bits) << 16))));
}

// Eight consecutive values.
[[maybe_unused]] inline __m256 load_scales8(const uint8_t* row, DType type, uint32_t index) {
  if (type == DType::kF32) return _mm256_loadu_ps(reinterpret_cast<const float*>(row) + index);
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(row + uint64_t{index} * 2));
  if (type == DType::kF16) return _mm256_cvtph_ps(bits);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

}  // namespace
}  // namespace mlxf::kernels::avx2
