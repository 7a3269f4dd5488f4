// Element-wise and reduction kernels over rows of f32: quantising activations, norms, gated activations,
// narrowing.
//
// exp is 2^n * p(r) with r = x - n ln 2 in [-ln 2 / 2, ln 2 / 2] and p the degree-6 Taylor polynomial of
// Horner form (error below 2 ulp there); x is clamped to [-87.3, 88.7] so that the result is a normal number.
#include <immintrin.h>

#include <cstdint>

#include "kernels/avx2/avx2.h"
#include "kernels/avx2/exp.h"
#include "kernels/avx2/reduce.h"

namespace mlxf::kernels::avx2 {
namespace {

// 32 codes from four vectors of integers in [-127, 127].
__m256i pack32(__m256i a, __m256i b, __m256i c, __m256i d) {
  const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
  return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

// Applies f to n elements of up to two inputs; the tail goes through a zero-padded vector.
template <typename F>
void map2(const float* a, const float* b, uint32_t n, float* out, const F& f) {
  uint32_t i = 0;
  for (; i + 8 <= n; i += 8) _mm256_storeu_ps(out + i, f(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i)));
  if (i == n) return;
  float ta[8] = {}, tb[8] = {};
  __builtin_memcpy(ta, a + i, (n - i) * sizeof(float));
  __builtin_memcpy(tb, b + i, (n - i) * sizeof(float));
  _mm256_storeu_ps(ta, f(_mm256_loadu_ps(ta), _mm256_loadu_ps(tb)));
  __builtin_memcpy(out + i, ta, (n - i) * sizeof(float));
}

}  // namespace

void quantize(const float* x, uint32_t cols, uint32_t block, int8_t* codes, float* scales, int16_t* sums16,
              int16_t* sums32) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  const __m256i ones8 = _mm256_set1_epi8(1);
  const __m256i ones16 = _mm256_set1_epi16(1);
  for (uint32_t b = 0; b < cols; b += block) {
    __m256 largest = _mm256_setzero_ps(), unordered = _mm256_setzero_ps();
    for (uint32_t k = b; k < b + block; k += 8) {
      const __m256 v = _mm256_loadu_ps(x + k);
      unordered = _mm256_or_ps(unordered, _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
      largest = _mm256_max_ps(_mm256_andnot_ps(sign, v), largest);
    }
    const float max = max_lanes(largest);
    // A NaN must not vanish in the integers: it becomes the block's scale.
    scales[b / block] = _mm256_movemask_ps(unordered) != 0 ? __builtin_nanf("") : max / 127.0f;
    const __m256 inverse = _mm256_set1_ps(max > 0.0f ? 127.0f / max : 0.0f);
    for (uint32_t k = b; k < b + block; k += 32) {
      __m256i v[4];
      for (uint32_t i = 0; i < 4; ++i)
        v[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + k + i * 8), inverse));
      const __m256i bytes = pack32(v[0], v[1], v[2], v[3]);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + k), bytes);
      // Pairs, then quads; each 128-bit half holds the four quads of one sum of 16.
      const __m256i quads = _mm256_madd_epi16(_mm256_maddubs_epi16(ones8, bytes), ones16);
      const __m256i pairs = _mm256_hadd_epi32(quads, quads);
      const __m256i sums = _mm256_hadd_epi32(pairs, pairs);
      const int low = _mm_cvtsi128_si32(_mm256_castsi256_si128(sums));
      const int high = _mm_cvtsi128_si32(_mm256_extracti128_si256(sums, 1));
      sums16[k / 16] = static_cast<int16_t>(low);
      sums16[k / 16 + 1] = static_cast<int16_t>(high);
      sums32[k / 32] = static_cast<int16_t>(low + high);
    }
  }
}

void rms_norm(const float* x, const float* weight, uint32_t n, float eps, float* out) {
  __m256 sum[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
  uint32_t i = 0;
  for (; i + 32 <= n; i += 32)
    for (uint32_t j = 0; j < 4; ++j) {
      const __m256 v = _mm256_loadu_ps(x + i + j * 8);
      sum[j] = _mm256_fmadd_ps(v, v, sum[j]);
    }
  float total = sum_lanes(_mm256_add_ps(_mm256_add_ps(sum[0], sum[1]), _mm256_add_ps(sum[2], sum[3])));
  for (; i < n; ++i) total += x[i] * x[i];
  const float scale = 1.0f / __builtin_sqrtf(total / static_cast<float>(n) + eps);
  const __m256 factor = _mm256_set1_ps(scale);
  if (weight == nullptr) {
    map2(x, x, n, out, [factor](__m256 v, __m256) { return _mm256_mul_ps(v, factor); });
  } else {
    map2(x, weight, n, out,
         [factor](__m256 v, __m256 w) { return _mm256_mul_ps(_mm256_mul_ps(v, factor), w); });
  }
}

void silu_mul(const float* gate, const float* up, uint32_t n, float* out) {
  const __m256 one = _mm256_set1_ps(1.0f);
  map2(gate, up, n, out, [one](__m256 g, __m256 u) {
    const __m256 denominator = _mm256_add_ps(one, exp_ps(_mm256_sub_ps(_mm256_setzero_ps(), g)));
    return _mm256_mul_ps(_mm256_div_ps(g, denominator), u);
  });
}

void gelu_mul(const float* gate, const float* up, uint32_t n, float* out) {
  // gelu(g) = g * sigmoid(2 sqrt(2 / pi) (g + 0.044715 g^3)): the tanh form written with exp.
  const __m256 one = _mm256_set1_ps(1.0f);
  const __m256 cubic = _mm256_set1_ps(0.044715f);
  const __m256 factor = _mm256_set1_ps(-1.5957691216057308f);
  map2(gate, up, n, out, [=](__m256 g, __m256 u) {
    const __m256 inner = _mm256_fmadd_ps(_mm256_mul_ps(cubic, g), _mm256_mul_ps(g, g), g);
    const __m256 denominator = _mm256_add_ps(one, exp_ps(_mm256_mul_ps(factor, inner)));
    return _mm256_mul_ps(_mm256_div_ps(g, denominator), u);
  });
}

void sigmoid_mul(const float* gate, const float* up, uint32_t n, float* out) {
  const __m256 one = _mm256_set1_ps(1.0f);
  map2(gate, up, n, out, [one](__m256 g, __m256 u) {
    return _mm256_div_ps(u, _mm256_add_ps(one, exp_ps(_mm256_sub_ps(_mm256_setzero_ps(), g))));
  });
}

void clamped_swiglu(const float* gate, const float* up, uint32_t n, float* out) {
  const __m256 one = _mm256_set1_ps(1.0f);
  const __m256 limit = _mm256_set1_ps(7.0f);
  const __m256 lower = _mm256_set1_ps(-7.0f);
  const __m256 factor = _mm256_set1_ps(-1.702f);
  // min and max give their second operand where one is not a number, so that it does not vanish.
  map2(gate, up, n, out, [=](__m256 gate_in, __m256 up_in) {
    const __m256 g = _mm256_min_ps(limit, gate_in);
    const __m256 u = _mm256_max_ps(lower, _mm256_min_ps(limit, up_in));
    const __m256 denominator = _mm256_add_ps(one, exp_ps(_mm256_mul_ps(factor, g)));
    return _mm256_mul_ps(_mm256_div_ps(g, denominator), _mm256_add_ps(u, one));
  });
}

void add_scaled(const float* x, float a, uint32_t n, float* y) {
  const __m256 factor = _mm256_set1_ps(a);
  map2(x, y, n, y, [factor](__m256 v, __m256 sum) { return _mm256_fmadd_ps(factor, v, sum); });
}

void narrow_f16(const float* x, uint32_t n, uint16_t* out) {
  uint32_t i = 0;
  for (; i + 8 <= n; i += 8)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
  if (i == n) return;
  float tail[8] = {};
  uint16_t halves[8];
  __builtin_memcpy(tail, x + i, (n - i) * sizeof(float));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(halves),
                   _mm256_cvtps_ph(_mm256_loadu_ps(tail), _MM_FROUND_TO_NEAREST_INT));
  __builtin_memcpy(out + i, halves, (n - i) * sizeof(uint16_t));
}

}  // namespace mlxf::kernels::avx2
