// The gated delta rule and the causal convolution before it.
//
// A vector holds four columns of the state. A full tile of 32 columns is eight of them: two passes over its rows, each
// with eight independent chains of FMAs, which the latency of an FMA (4 cycles) on two pipes needs. Rounded products
// and fused sums in the order of kernels/kernel_table.h: the bits of the reference.
#include <arm_neon.h>

#include <cstdint>

#include "kernels/neon/exp.h"
#include "kernels/neon/neon.h"

namespace mlxf::kernels::neon {
namespace {

constexpr uint32_t kLanes = 4;

// Four lanes, or the first of them; the others are zeros.
struct Whole {
  [[nodiscard]] static float32x4_t load(const float* p) { return vld1q_f32(p); }
  static void store(float* p, float32x4_t v) { vst1q_f32(p, v); }
};
struct Part {
  uint32_t lanes;  // 1 .. 3
  [[nodiscard]] float32x4_t load(const float* p) const {
    float32x4_t v = vsetq_lane_f32(p[0], vdupq_n_f32(0.0f), 0);
    if (lanes > 1) v = vsetq_lane_f32(p[1], v, 1);
    if (lanes > 2) v = vsetq_lane_f32(p[2], v, 2);
    return v;
  }
  void store(float* p, float32x4_t v) const {
    p[0] = vgetq_lane_f32(v, 0);
    if (lanes > 1) p[1] = vgetq_lane_f32(v, 1);
    if (lanes > 2) p[2] = vgetq_lane_f32(v, 2);
  }
};

// One position of V vectors of columns: of the value from `column` on, of the state from `before` on, whose rows are
// `cols` floats apart.
template <uint32_t V, typename Lanes>
inline __attribute__((always_inline)) void step(const DeltaRuleArgs& a, uint32_t t, uint32_t column,
                                                const float* before, float* after, uint32_t cols,
                                                const Lanes& lanes) {
  const float* k = a.k + t * a.key_stride;
  const float* q = a.q + t * a.key_stride;
  const float* v = a.v + t * a.value_stride + column;
  float* out = a.out + t * a.out_stride + column;
  const float decay = a.decay[t * a.gate_stride], beta = a.beta[t * a.gate_stride];
  float32x4_t sum[V], delta[V];
#pragma GCC unroll 8
  for (uint32_t j = 0; j < V; ++j) sum[j] = vdupq_n_f32(0.0f);
  for (uint32_t i = 0; i < a.key_dim; ++i) {
#pragma GCC unroll 8
    for (uint32_t j = 0; j < V; ++j) {
      const float32x4_t s = vmulq_n_f32(lanes.load(before + uint64_t{i} * cols + j * kLanes), decay);
      sum[j] = vfmaq_n_f32(sum[j], s, k[i]);
    }
  }
#pragma GCC unroll 8
  for (uint32_t j = 0; j < V; ++j) {
    delta[j] = vmulq_n_f32(vsubq_f32(lanes.load(v + j * kLanes), sum[j]), beta);
    sum[j] = vdupq_n_f32(0.0f);
  }
  for (uint32_t i = 0; i < a.key_dim; ++i) {
#pragma GCC unroll 8
    for (uint32_t j = 0; j < V; ++j) {
      const uint64_t at = uint64_t{i} * cols + j * kLanes;
      const float32x4_t s = vfmaq_n_f32(vmulq_n_f32(lanes.load(before + at), decay), delta[j], k[i]);
      lanes.store(after + at, s);
      sum[j] = vfmaq_n_f32(sum[j], s, q[i]);
    }
  }
#pragma GCC unroll 8
  for (uint32_t j = 0; j < V; ++j) lanes.store(out + j * kLanes, sum[j]);
}

template <uint32_t V, typename Lanes>
void all_positions(const DeltaRuleArgs& a, uint32_t column, uint64_t offset, uint32_t cols,
                   const Lanes& lanes) {
  for (uint32_t t = 0; t < a.positions; ++t)
    step<V>(a, t, column, (t == 0 ? a.state_before : a.state_after) + offset, a.state_after + offset, cols,
            lanes);
}

}  // namespace

void delta_rule(const DeltaRuleArgs& a) {
  uint32_t begin = 0;
  for (; begin + kDeltaTileCols <= a.value_dim; begin += kDeltaTileCols)
    all_positions<kDeltaTileCols / kLanes>(a, begin, uint64_t{begin} * a.key_dim, kDeltaTileCols, Whole());
  const uint32_t cols = a.value_dim - begin;
  const uint64_t tile = uint64_t{begin} * a.key_dim;
  uint32_t j = 0;
  for (; j + kLanes <= cols; j += kLanes) all_positions<1>(a, begin + j, tile + j, cols, Whole());
  if (j < cols) all_positions<1>(a, begin + j, tile + j, cols, Part{cols - j});
}

void conv_silu(const ConvArgs& a) {
  const float32x4_t one = vdupq_n_f32(1.0f);
  const auto lanes_at = [&](uint32_t i, const auto& lanes) {
    float32x4_t sum = vdupq_n_f32(0.0f);
    for (uint32_t j = 0; j < a.taps; ++j)
      sum = vfmaq_f32(sum, lanes.load(a.weights + j * a.stride + i), lanes.load(a.rows[j] + i));
    lanes.store(a.out + i, vdivq_f32(sum, vaddq_f32(one, exp_ps(vnegq_f32(sum)))));
  };
  uint32_t i = 0;
  for (; i + kLanes <= a.channels; i += kLanes) lanes_at(i, Whole());
  if (i < a.channels) lanes_at(i, Part{a.channels - i});
}

}  // namespace mlxf::kernels::neon
