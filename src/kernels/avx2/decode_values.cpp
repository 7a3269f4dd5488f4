// Rows of quantised weights as f32: the integer decoders' codes, scales and minima in pieces that stay in L1, then
// multiplied and added in the order of the reference, so that the bits agree. And F8E4M3, whose codes are numbers.
//
// Per 16 elements: two conversions of 8 codes, two multiplications, for affine formats two additions.
#include <immintrin.h>

#include <cstdint>

#include "kernels/avx2/avx2.h"

namespace mlxf::kernels::avx2 {
namespace {

constexpr uint32_t kPieceCols = 1024;  // A multiple of every block; 5 KiB of arrays.

// Stores 16 codes * scale, + minimum for affine formats. Codes after their offset are signed bytes; affine ones are
// unsigned and go up to 255.
template <bool AFFINE>
void store_16(__m128i codes, float scale, float minimum, float* out) {
  for (uint32_t half = 0; half < 2; ++half) {
    const __m128i eight = half == 0 ? codes : _mm_srli_si128(codes, 8);
    const __m256i wide = AFFINE ? _mm256_cvtepu8_epi32(eight) : _mm256_cvtepi8_epi32(eight);
    __m256 values = _mm256_mul_ps(_mm256_set1_ps(scale), _mm256_cvtepi32_ps(wide));
    if constexpr (AFFINE) values = _mm256_add_ps(values, _mm256_set1_ps(minimum));
    _mm256_storeu_ps(out + half * 8, values);
  }
}

// What a symmetric minimum adds to each code. A scale of 0 hides it; the reference then leaves the code as it is.
int32_t code_offset(int32_t scale, int32_t minimum) {
  if (scale == 1) return minimum;
  return scale == 0 ? 0 : minimum / scale;
}

void widen_affine(const CodeTraits& t, const CodeRow& codes, uint32_t blocks, float* out) {
  const uint32_t subs = t.block / t.sub;
  for (uint32_t j = 0; j < blocks * subs; ++j) {
    const float scale = codes.d[j / subs] * static_cast<float>(codes.scales[j]);
    const float minimum = codes.e[j / subs] * static_cast<float>(codes.minimums[j]);
    for (uint32_t k = j * t.sub; k < (j + 1) * t.sub; k += 16)
      store_16<true>(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes.codes + k)), scale, minimum,
                     out + k);
  }
}

void widen_symmetric(const CodeTraits& t, const CodeRow& codes, uint32_t blocks, float* out) {
  const uint32_t subs = t.block / t.sub;
  for (uint32_t j = 0; j < blocks * subs; ++j) {
    const float scale = codes.d[j / subs] * static_cast<float>(codes.scales[j]);
    const int32_t offset =
        t.minimum == MinimumKind::kSymmetric ? code_offset(codes.scales[j], codes.minimums[j]) : 0;
    for (uint32_t k = j * t.sub; k < (j + 1) * t.sub; k += 16) {
      const __m128i raw = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes.codes + k));
      store_16<false>(_mm_add_epi8(raw, _mm_set1_epi8(static_cast<char>(offset))), scale, 0.0f, out + k);
    }
  }
}

// e4m3's exponent and fraction, moved to those of an f32, are the number times 2^-120: exact for subnormals too.
__m256 widen_f8(__m128i eight) {
  const __m256i bits = _mm256_cvtepu8_epi32(eight);
  const __m256i sign = _mm256_slli_epi32(_mm256_and_si256(bits, _mm256_set1_epi32(0x80)), 24);
  const __m256i rest = _mm256_and_si256(bits, _mm256_set1_epi32(0x7f));
  const __m256 magnitude =
      _mm256_mul_ps(_mm256_castsi256_ps(_mm256_slli_epi32(rest, 20)), _mm256_set1_ps(0x1p120f));
  const __m256i nan =
      _mm256_and_si256(_mm256_cmpeq_epi32(rest, _mm256_set1_epi32(0x7f)), _mm256_set1_epi32(0x7fc00000));
  return _mm256_castsi256_ps(_mm256_or_si256(_mm256_or_si256(_mm256_castps_si256(magnitude), sign), nan));
}

}  // namespace

void decode_blocks(const MatrixView& w, uint32_t row, uint32_t col_begin, uint32_t col_end, float* out) {
  const CodeTraits t = code_traits(w);
  const DecodeCodesFn decode = code_decoder(w.format);
  uint8_t codes[kPieceCols];
  int16_t scales[kPieceCols / 16], minimums[kPieceCols / 16];
  float d[kPieceCols / 32], e[kPieceCols / 32];
  const CodeRow piece{codes, scales, minimums, d, e};
  for (uint32_t col = col_begin; col < col_end; col += kPieceCols) {
    const uint32_t end = col_end - col < kPieceCols ? col_end : col + kPieceCols;
    const uint32_t blocks = (end - col) / t.block;
    decode(w, row, col / t.block, end / t.block, piece);
    if (t.minimum == MinimumKind::kAffine)
      widen_affine(t, piece, blocks, out + (col - col_begin));
    else
      widen_symmetric(t, piece, blocks, out + (col - col_begin));
  }
}

void decode_f8e4m3(const MatrixView& w, uint32_t row, uint32_t col_begin, uint32_t col_end, float* out) {
  const uint8_t* data = w.data + row * w.row_bytes;
  for (uint32_t col = col_begin; col < col_end;) {
    // One scale per block of 128 x 128.
    const uint32_t block_end = (col / 128 + 1) * 128;
    const uint32_t end = col_end < block_end ? col_end : block_end;
    float scale = 1.0f;
    if (w.scales != nullptr)
      __builtin_memcpy(&scale, w.scales + row / 128 * w.scale_row_bytes + uint64_t{col} / 128 * 4, 4);
    for (; col < end; col += 8) {
      const uint32_t n = end - col < 8 ? end - col : 8;
      uint64_t bytes = 0;
      if (n == 8)
        __builtin_memcpy(&bytes, data + col, 8);
      else
        __builtin_memcpy(&bytes, data + col, n);
      const __m256 values =
          _mm256_mul_ps(widen_f8(_mm_cvtsi64_si128(static_cast<long long>(bytes))), _mm256_set1_ps(scale));
      if (n == 8) {
        _mm256_storeu_ps(out + (col - col_begin), values);
      } else {
        float tail[8];
        _mm256_storeu_ps(tail, values);
        __builtin_memcpy(out + (col - col_begin), tail, n * sizeof(float));
      }
    }
    col = end;
  }
}

}  // namespace mlxf::kernels::avx2
