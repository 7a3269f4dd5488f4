// The gated delta rule and the causal convolution before it.
//
// A vector holds eight columns of the state. A full tile of 32 columns is four of them: two passes over its rows, each
// with four independent chains of FMAs, which is what the latency of an FMA (4 cycles) at two products a row and column
// (decay, then k or q) needs. 10 cycles a row: 1280 for a tile of 128 rows, bound by arithmetic while the tile is in
// L1, by memory for a single position.
#include <immintrin.h>

#include <cstdint>

#include "kernels/avx2/avx2.h"
#include "kernels/avx2/exp.h"

namespace mlxf::kernels::avx2 {
namespace {

constexpr uint32_t kLanes = 8;

// Eight lanes, or the first of them.
struct Whole {
  [[nodiscard]] __m256 load(const float* p) const { return _mm256_loadu_ps(p); }
  void store(float* p, __m256 v) const { _mm256_storeu_ps(p, v); }
};
struct Part {
  __m256i mask;
  explicit Part(uint32_t lanes)
      : mask(_mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(lanes)),
                                _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))) {}
  [[nodiscard]] __m256 load(const float* p) const { return _mm256_maskload_ps(p, mask); }
  void store(float* p, __m256 v) const { _mm256_maskstore_ps(p, mask, v); }
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
  const __m256 decay = _mm256_set1_ps(a.decay[t * a.gate_stride]);
  const __m256 beta = _mm256_set1_ps(a.beta[t * a.gate_stride]);
  __m256 sum[V], delta[V];
#pragma GCC unroll 4
  for (uint32_t j = 0; j < V; ++j) sum[j] = _mm256_setzero_ps();
  for (uint32_t i = 0; i < a.key_dim; ++i) {
    const __m256 key = _mm256_set1_ps(k[i]);
#pragma GCC unroll 4
    for (uint32_t j = 0; j < V; ++j)
      sum[j] = _mm256_fmadd_ps(_mm256_mul_ps(lanes.load(before + uint64_t{i} * cols + j * kLanes), decay),
                               key, sum[j]);
  }
#pragma GCC unroll 4
  for (uint32_t j = 0; j < V; ++j) {
    delta[j] = _mm256_mul_ps(_mm256_sub_ps(lanes.load(v + j * kLanes), sum[j]), beta);
    sum[j] = _mm256_setzero_ps();
  }
  for (uint32_t i = 0; i < a.key_dim; ++i) {
    const __m256 key = _mm256_set1_ps(k[i]), query = _mm256_set1_ps(q[i]);
#pragma GCC unroll 4
    for (uint32_t j = 0; j < V; ++j) {
      const uint64_t at = uint64_t{i} * cols + j * kLanes;
      const __m256 s = _mm256_fmadd_ps(key, delta[j], _mm256_mul_ps(lanes.load(before + at), decay));
      lanes.store(after + at, s);
      sum[j] = _mm256_fmadd_ps(s, query, sum[j]);
    }
  }
#pragma GCC unroll 4
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
  if (j < cols) all_positions<1>(a, begin + j, tile + j, cols, Part(cols - j));
}

void conv_silu(const ConvArgs& a) {
  const __m256 one = _mm256_set1_ps(1.0f);
  const auto lanes_at = [&](uint32_t i, const auto& lanes) {
    __m256 sum = _mm256_setzero_ps();
    for (uint32_t j = 0; j < a.taps; ++j)
      sum = _mm256_fmadd_ps(lanes.load(a.weights + j * a.stride + i), lanes.load(a.rows[j] + i), sum);
    const __m256 denominator = _mm256_add_ps(one, exp_ps(_mm256_sub_ps(_mm256_setzero_ps(), sum)));
    lanes.store(a.out + i, _mm256_div_ps(sum, denominator));
  };
  uint32_t i = 0;
  for (; i + kLanes <= a.channels; i += kLanes) lanes_at(i, Whole());
  if (i < a.channels) lanes_at(i, Part(a.channels - i));
}

}  // namespace mlxf::kernels::avx2
