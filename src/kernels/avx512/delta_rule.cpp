// The gated delta rule: two tiles of 32 columns at a time, four vectors of sixteen columns, so that four chains of FMAs
// cover the latency; see avx2/delta_rule.cpp. The remaining columns run vector by vector, the last one masked.
#include <immintrin.h>

#include <cstdint>

#include "kernels/avx512/avx512.h"

namespace mlxf::kernels::avx512 {
namespace {

constexpr uint32_t kLanes = 16;
constexpr uint32_t kTileVectors = kDeltaTileCols / kLanes;

// One position of V vectors of columns: of the value from `column` on, of the state from `before` on. Rows of the state
// are `cols` floats apart; vectors beyond the first kTileVectors lie in the next tile.
template <uint32_t V>
inline __attribute__((always_inline)) void step(const DeltaRuleArgs& a, uint32_t t, uint32_t column,
                                                const float* before, float* after, uint32_t cols,
                                                __mmask16 mask) {
  const float* k = a.k + t * a.key_stride;
  const float* q = a.q + t * a.key_stride;
  const float* v = a.v + t * a.value_stride + column;
  float* out = a.out + t * a.out_stride + column;
  const __m512 decay = _mm512_set1_ps(a.decay[t * a.gate_stride]);
  const __m512 beta = _mm512_set1_ps(a.beta[t * a.gate_stride]);
  const uint64_t next_tile = uint64_t{a.key_dim} * kDeltaTileCols;
  const auto offset = [&](uint32_t i, uint32_t j) {
    return j / kTileVectors * next_tile + uint64_t{i} * cols + j % kTileVectors * kLanes;
  };
  __m512 sum[V], delta[V];
#pragma GCC unroll 4
  for (uint32_t j = 0; j < V; ++j) sum[j] = _mm512_setzero_ps();
  for (uint32_t i = 0; i < a.key_dim; ++i) {
    const __m512 key = _mm512_set1_ps(k[i]);
#pragma GCC unroll 4
    for (uint32_t j = 0; j < V; ++j) {
      const __m512 s = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, before + offset(i, j)), decay);
      sum[j] = _mm512_fmadd_ps(s, key, sum[j]);
    }
  }
#pragma GCC unroll 4
  for (uint32_t j = 0; j < V; ++j) {
    delta[j] = _mm512_mul_ps(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, v + j * kLanes), sum[j]), beta);
    sum[j] = _mm512_setzero_ps();
  }
  for (uint32_t i = 0; i < a.key_dim; ++i) {
    const __m512 key = _mm512_set1_ps(k[i]), query = _mm512_set1_ps(q[i]);
#pragma GCC unroll 4
    for (uint32_t j = 0; j < V; ++j) {
      const uint64_t at = offset(i, j);
      const __m512 decayed = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, before + at), decay);
      const __m512 s = _mm512_fmadd_ps(key, delta[j], decayed);
      _mm512_mask_storeu_ps(after + at, mask, s);
      sum[j] = _mm512_fmadd_ps(s, query, sum[j]);
    }
  }
#pragma GCC unroll 4
  for (uint32_t j = 0; j < V; ++j) _mm512_mask_storeu_ps(out + j * kLanes, mask, sum[j]);
}

template <uint32_t V>
void all_positions(const DeltaRuleArgs& a, uint32_t column, uint64_t offset, uint32_t cols, __mmask16 mask) {
  for (uint32_t t = 0; t < a.positions; ++t)
    step<V>(a, t, column, (t == 0 ? a.state_before : a.state_after) + offset, a.state_after + offset, cols,
            mask);
}

}  // namespace

void delta_rule(const DeltaRuleArgs& a) {
  constexpr uint32_t kPair = 2 * kDeltaTileCols;
  uint32_t begin = 0;
  for (; begin + kPair <= a.value_dim; begin += kPair)
    all_positions<2 * kTileVectors>(a, begin, uint64_t{begin} * a.key_dim, kDeltaTileCols, 0xffff);
  for (; begin < a.value_dim; begin += kDeltaTileCols) {
    const uint32_t left = a.value_dim - begin;
    const uint32_t cols = left < kDeltaTileCols ? left : kDeltaTileCols;
    for (uint32_t j = 0; j < cols; j += kLanes) {
      const uint32_t lanes = cols - j;
      const auto mask = static_cast<__mmask16>(lanes >= kLanes ? 0xffff : (1u << lanes) - 1);
      all_positions<1>(a, begin + j, uint64_t{begin} * a.key_dim + j, cols, mask);
    }
  }
}

}  // namespace mlxf::kernels::avx512
