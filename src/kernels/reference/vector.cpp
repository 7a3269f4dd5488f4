#include <algorithm>
#include <cmath>

#include "kernels/philox.h"
#include "kernels/reference/reference.h"
#include "tensor/float16.h"

namespace mlxf::kernels::reference {

void quantize(const float* x, uint32_t cols, uint32_t block, int8_t* codes, float* scales, int16_t* sums16,
              int16_t* sums32) {
  for (uint32_t b = 0; b < cols; b += block) {
    float largest = 0.0f;
    bool nan = false;
    for (uint32_t k = b; k < b + block; ++k) {
      nan = nan || std::isnan(x[k]);
      largest = std::max(largest, std::fabs(x[k]));
    }
    // A NaN must not vanish in the integers: it becomes the block's scale.
    scales[b / block] = nan ? NAN : largest / 127.0f;
    const float inverse = largest > 0.0f ? 127.0f / largest : 0.0f;
    for (uint32_t k = b; k < b + block; ++k) {
      const float scaled = std::nearbyint(x[k] * inverse);
      codes[k] = static_cast<int8_t>(std::isfinite(scaled) ? std::clamp(scaled, -128.0f, 127.0f) : -128.0f);
    }
  }
  for (uint32_t j = 0; j < cols / 16; ++j) {
    int32_t sum = 0;
    for (uint32_t k = 0; k < 16; ++k) sum += codes[j * 16 + k];
    sums16[j] = static_cast<int16_t>(sum);
  }
  for (uint32_t j = 0; j < cols / 32; ++j)
    sums32[j] = static_cast<int16_t>(sums16[2 * j] + sums16[2 * j + 1]);
}

void rms_norm(const float* x, const float* weight, uint32_t n, float eps, float* out) {
  double sum = 0.0;
  for (uint32_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * x[i];
  const auto scale = static_cast<float>(1.0 / std::sqrt(sum / n + static_cast<double>(eps)));
  for (uint32_t i = 0; i < n; ++i) out[i] = x[i] * scale * (weight == nullptr ? 1.0f : weight[i]);
}

void silu_mul(const float* gate, const float* up, uint32_t n, float* out) {
  for (uint32_t i = 0; i < n; ++i) out[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
}

void gelu_mul(const float* gate, const float* up, uint32_t n, float* out) {
  constexpr float kSqrt2OverPi = 0.7978845608028654f;
  for (uint32_t i = 0; i < n; ++i) {
    const float g = gate[i];
    out[i] = 0.5f * g * (1.0f + std::tanh(kSqrt2OverPi * (g + 0.044715f * g * g * g))) * up[i];
  }
}

void sigmoid_mul(const float* gate, const float* up, uint32_t n, float* out) {
  for (uint32_t i = 0; i < n; ++i) out[i] = up[i] / (1.0f + std::exp(-gate[i]));
}

void clamped_swiglu(const float* gate, const float* up, uint32_t n, float* out) {
  for (uint32_t i = 0; i < n; ++i) {
    const float g = std::min(gate[i], 7.0f);
    out[i] = g / (1.0f + std::exp(-1.702f * g)) * (std::clamp(up[i], -7.0f, 7.0f) + 1.0f);
  }
}

void add_scaled(const float* x, float a, uint32_t n, float* y) {
  for (uint32_t i = 0; i < n; ++i) y[i] = std::fma(a, x[i], y[i]);
}

void narrow_f16(const float* x, uint32_t n, uint16_t* out) {
  for (uint32_t i = 0; i < n; ++i) out[i] = f16_from_f32(x[i]);
}

void random_words(uint64_t key, uint32_t position, uint32_t block, uint32_t blocks, uint32_t* out) {
  for (uint32_t i = 0; i < blocks; ++i) {
    const auto words = philox4x32(key, {position, block + i, 0, 0});
    std::copy(words.begin(), words.end(), out + uint64_t{i} * words.size());
  }
}

}  // namespace mlxf::kernels::reference
