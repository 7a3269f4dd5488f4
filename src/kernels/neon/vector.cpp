// Element-wise and reduction kernels over rows of f32: quantising activations, norms, gated activations, narrowing.
// The exponential: exp.h. rms_norm sums 16 lanes (four vectors), ascending, then the vectors pairwise, then halves.
#include <arm_neon.h>

#include <cstdint>

#include "kernels/neon/exp.h"
#include "kernels/neon/neon.h"

namespace mlxf::kernels::neon {
namespace {

// Applies f to n elements of two inputs; the tail goes through a zero-padded vector.
template <typename F>
void map2(const float* a, const float* b, uint32_t n, float* out, const F& f) {
  uint32_t i = 0;
  for (; i + 4 <= n; i += 4) vst1q_f32(out + i, f(vld1q_f32(a + i), vld1q_f32(b + i)));
  if (i == n) return;
  float ta[4] = {}, tb[4] = {};
  __builtin_memcpy(ta, a + i, (n - i) * sizeof(float));
  __builtin_memcpy(tb, b + i, (n - i) * sizeof(float));
  vst1q_f32(ta, f(vld1q_f32(ta), vld1q_f32(tb)));
  __builtin_memcpy(out + i, ta, (n - i) * sizeof(float));
}

float32x4_t cleared(float32x4_t v, uint32x4_t mask) {
  return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(v), mask));
}

// 16 codes; what is not finite becomes -128, as in the reference.
int8x16_t quantize_16(const float* x, float inverse) {
  int16x8_t words[2];
  for (uint32_t half = 0; half < 2; ++half) {
    int32x4_t v[2];
    for (uint32_t i = 0; i < 2; ++i) {
      const float32x4_t scaled = vmulq_n_f32(vld1q_f32(x + half * 8 + i * 4), inverse);
      const uint32x4_t finite = vcleq_f32(vabsq_f32(scaled), vdupq_n_f32(3.402823466e38f));
      v[i] = vbslq_s32(finite, vcvtnq_s32_f32(scaled), vdupq_n_s32(-128));
    }
    words[half] = vqmovn_high_s32(vqmovn_s32(v[0]), v[1]);
  }
  return vqmovn_high_s16(vqmovn_s16(words[0]), words[1]);
}

}  // namespace

void quantize(const float* x, uint32_t cols, uint32_t block, int8_t* codes, float* scales, int16_t* sums16,
              int16_t* sums32) {
  for (uint32_t b = 0; b < cols; b += block) {
    float32x4_t largest = vdupq_n_f32(0.0f);
    uint32x4_t ordered = vdupq_n_u32(UINT32_MAX);
    for (uint32_t k = b; k < b + block; k += 4) {
      const float32x4_t v = vld1q_f32(x + k);
      const uint32x4_t here = vceqq_f32(v, v);
      ordered = vandq_u32(ordered, here);
      largest = vmaxq_f32(largest, cleared(vabsq_f32(v), here));
    }
    const float max = vmaxvq_f32(largest);
    // A NaN must not vanish in the integers: it becomes the block's scale.
    scales[b / block] = vminvq_u32(ordered) == 0 ? __builtin_nanf("") : max / 127.0f;
    const float inverse = max > 0.0f ? 127.0f / max : 0.0f;
    for (uint32_t k = b; k < b + block; k += 32) {
      const int8x16_t low = quantize_16(x + k, inverse), high = quantize_16(x + k + 16, inverse);
      vst1q_s8(codes + k, low);
      vst1q_s8(codes + k + 16, high);
      sums16[k / 16] = vaddlvq_s8(low);
      sums16[k / 16 + 1] = vaddlvq_s8(high);
      sums32[k / 32] = static_cast<int16_t>(sums16[k / 16] + sums16[k / 16 + 1]);
    }
  }
}

void rms_norm(const float* x, const float* weight, uint32_t n, float eps, float* out) {
  float32x4_t sum[4] = {vdupq_n_f32(0.0f), vdupq_n_f32(0.0f), vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)};
  uint32_t i = 0;
  for (; i + 16 <= n; i += 16)
    for (uint32_t j = 0; j < 4; ++j) {
      const float32x4_t v = vld1q_f32(x + i + j * 4);
      sum[j] = vfmaq_f32(sum[j], v, v);
    }
  const float32x4_t lanes = vaddq_f32(vaddq_f32(sum[0], sum[1]), vaddq_f32(sum[2], sum[3]));
  const float32x2_t pair = vadd_f32(vget_low_f32(lanes), vget_high_f32(lanes));
  float total = vget_lane_f32(pair, 0) + vget_lane_f32(pair, 1);
  for (; i < n; ++i) total += x[i] * x[i];
  const float scale = 1.0f / __builtin_sqrtf(total / static_cast<float>(n) + eps);
  if (weight == nullptr) {
    map2(x, x, n, out, [scale](float32x4_t v, float32x4_t) { return vmulq_n_f32(v, scale); });
  } else {
    map2(x, weight, n, out,
         [scale](float32x4_t v, float32x4_t w) { return vmulq_f32(vmulq_n_f32(v, scale), w); });
  }
}

void silu_mul(const float* gate, const float* up, uint32_t n, float* out) {
  map2(gate, up, n, out, [](float32x4_t g, float32x4_t u) {
    const float32x4_t denominator = vaddq_f32(vdupq_n_f32(1.0f), exp_ps(vnegq_f32(g)));
    return vmulq_f32(vdivq_f32(g, denominator), u);
  });
}

void gelu_mul(const float* gate, const float* up, uint32_t n, float* out) {
  // gelu(g) = g * sigmoid(2 sqrt(2 / pi) (g + 0.044715 g^3)): the tanh form written with exp.
  map2(gate, up, n, out, [](float32x4_t g, float32x4_t u) {
    const float32x4_t inner = vfmaq_f32(g, vmulq_n_f32(g, 0.044715f), vmulq_f32(g, g));
    const float32x4_t denominator =
        vaddq_f32(vdupq_n_f32(1.0f), exp_ps(vmulq_n_f32(inner, -1.5957691216057308f)));
    return vmulq_f32(vdivq_f32(g, denominator), u);
  });
}

void sigmoid_mul(const float* gate, const float* up, uint32_t n, float* out) {
  map2(gate, up, n, out, [](float32x4_t g, float32x4_t u) {
    return vdivq_f32(u, vaddq_f32(vdupq_n_f32(1.0f), exp_ps(vnegq_f32(g))));
  });
}

void clamped_swiglu(const float* gate, const float* up, uint32_t n, float* out) {
  map2(gate, up, n, out, [](float32x4_t gate4, float32x4_t up4) {
    const float32x4_t limit = vdupq_n_f32(7.0f), one = vdupq_n_f32(1.0f);
    const float32x4_t g = vminq_f32(gate4, limit);
    const float32x4_t u = vmaxq_f32(vminq_f32(up4, limit), vdupq_n_f32(-7.0f));
    const float32x4_t denominator = vaddq_f32(one, exp_ps(vmulq_n_f32(g, -1.702f)));
    return vmulq_f32(vdivq_f32(g, denominator), vaddq_f32(u, one));
  });
}

void add_scaled(const float* x, float a, uint32_t n, float* y) {
  map2(x, y, n, y, [a](float32x4_t v, float32x4_t sum) { return vfmaq_n_f32(sum, v, a); });
}

void narrow_f16(const float* x, uint32_t n, uint16_t* out) {
  uint32_t i = 0;
  for (; i + 4 <= n; i += 4) vst1_u16(out + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(x + i))));
  if (i == n) return;
  float tail[4] = {};
  uint16_t halves[4];
  __builtin_memcpy(tail, x + i, (n - i) * sizeof(float));
  vst1_u16(halves, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(tail))));
  __builtin_memcpy(out + i, halves, (n - i) * sizeof(uint16_t));
}

}  // namespace mlxf::kernels::neon
