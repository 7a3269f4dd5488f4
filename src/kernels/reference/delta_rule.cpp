#include <algorithm>
#include <cmath>

#include "kernels/reference/reference.h"

namespace mlxf::kernels::reference {
namespace {

// Column j of the state at position `t`: `tile` is [key_dim, cols].
void step(const DeltaRuleArgs& a, uint32_t t, uint32_t column, const float* before, float* after,
          uint32_t cols) {
  const float* k = a.k + t * a.key_stride;
  const float* q = a.q + t * a.key_stride;
  const float decay = a.decay[t * a.gate_stride];
  float seen = 0.0f;
  for (uint32_t i = 0; i < a.key_dim; ++i) seen = std::fma(before[uint64_t{i} * cols] * decay, k[i], seen);
  const float delta = (a.v[t * a.value_stride + column] - seen) * a.beta[t * a.gate_stride];
  float out = 0.0f;
  for (uint32_t i = 0; i < a.key_dim; ++i) {
    const float s = std::fma(k[i], delta, before[uint64_t{i} * cols] * decay);
    after[uint64_t{i} * cols] = s;
    out = std::fma(s, q[i], out);
  }
  a.out[t * a.out_stride + column] = out;
}

}  // namespace

void delta_rule(const DeltaRuleArgs& a) {
  for (uint32_t begin = 0; begin < a.value_dim; begin += kDeltaTileCols) {
    const uint32_t cols = std::min(kDeltaTileCols, a.value_dim - begin);
    const uint64_t tile = uint64_t{begin} * a.key_dim;
    for (uint32_t j = 0; j < cols; ++j)
      for (uint32_t t = 0; t < a.positions; ++t)
        step(a, t, begin + j, (t == 0 ? a.state_before : a.state_after) + tile + j, a.state_after + tile + j,
             cols);
  }
}

void conv_silu(const ConvArgs& a) {
  for (uint32_t i = 0; i < a.channels; ++i) {
    float sum = 0.0f;
    for (uint32_t j = 0; j < a.taps; ++j) sum = std::fma(a.weights[j * a.stride + i], a.rows[j][i], sum);
    a.out[i] = sum / (1.0f + std::exp(-sum));
  }
}

}  // namespace mlxf::kernels::reference
