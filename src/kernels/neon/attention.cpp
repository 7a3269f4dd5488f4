// Attention of several queries over one key/value head: pages of 64 positions in ascending order, online softmax.
//
// Scores: keys are stored transposed, [head_dim][64], so a vector holds four positions and each (query, position) is
// one chain of FMAs over ascending dimensions. A tile is 4 queries x 16 positions: 16 accumulators, 4 vectors of keys.
// Softmax weights of a page are summed in 4 lanes (position mod 4), ascending, then halves and quarters. Values: lanes
// are dimensions, a tile is 4 queries x 16 dimensions, one chain over ascending positions. So a query's result does not
// depend on which queries share the call, and the bits of a longer context begin with those of a shorter one.
// Rows of a latent cache are read along their dimensions instead: a tile is 4 queries x 4 positions, of which 4 loads
// of keys and 4 of queries feed 16 FMAs; the four lanes of a sum are added pairwise.
#include <arm_neon.h>

#include <cstdint>

#include "kernels/neon/exp.h"
#include "kernels/neon/neon.h"

namespace mlxf::kernels::neon {
namespace {

constexpr uint32_t kTile = 4;
constexpr uint32_t kPage = kPagePositions;
constexpr float kMinusInfinity = -__builtin_inff();

struct Running {
  float max;
  float sum;
};

inline float32x4_t load_kv(const float* values) { return vld1q_f32(values); }
inline float32x4_t load_kv(const uint16_t* values) {
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(values)));
}

// scores[Q][64], positions [first, last) rounded out to multiples of 16.
template <uint32_t Q, typename Element>
void score_page(const Element* keys, const float* const* q, uint32_t head_dim, uint32_t first, uint32_t last,
                float (*scores)[kPage]) {
  for (uint32_t p = first / 16 * 16; p < last; p += 16) {
    float32x4_t sum[Q][4];
    for (uint32_t i = 0; i < Q; ++i)
      for (uint32_t v = 0; v < 4; ++v) sum[i][v] = vdupq_n_f32(0.0f);
    for (uint32_t d = 0; d < head_dim; ++d) {
      float32x4_t k[4];
#pragma GCC unroll 4
      for (uint32_t v = 0; v < 4; ++v) k[v] = load_kv(keys + d * kPage + p + v * 4);
#pragma GCC unroll 4
      for (uint32_t i = 0; i < Q; ++i)
#pragma GCC unroll 4
        for (uint32_t v = 0; v < 4; ++v) sum[i][v] = vfmaq_n_f32(sum[i][v], k[v], q[i][d]);
    }
    for (uint32_t i = 0; i < Q; ++i)
      for (uint32_t v = 0; v < 4; ++v) vst1q_f32(scores[i] + p + v * 4, sum[i][v]);
  }
}

// The same over rows, [64][head_dim]: lanes are dimensions, a tile is Q queries x 4 positions.
template <uint32_t Q, typename Element>
void score_rows(const Element* rows, const float* const* q, uint32_t head_dim, uint32_t first, uint32_t last,
                float (*scores)[kPage]) {
  for (uint32_t p = first / 4 * 4; p < last; p += 4) {
    const Element* row = rows + uint64_t{p} * head_dim;
    float32x4_t sum[Q][4];
    for (uint32_t i = 0; i < Q; ++i)
      for (uint32_t v = 0; v < 4; ++v) sum[i][v] = vdupq_n_f32(0.0f);
    for (uint32_t d = 0; d < head_dim; d += 4) {
      float32x4_t k[4];
#pragma GCC unroll 4
      for (uint32_t v = 0; v < 4; ++v) k[v] = load_kv(row + uint64_t{v} * head_dim + d);
#pragma GCC unroll 4
      for (uint32_t i = 0; i < Q; ++i) {
        const float32x4_t dimensions = vld1q_f32(q[i] + d);
#pragma GCC unroll 4
        for (uint32_t v = 0; v < 4; ++v) sum[i][v] = vfmaq_f32(sum[i][v], dimensions, k[v]);
      }
    }
    for (uint32_t i = 0; i < Q; ++i)
      vst1q_f32(scores[i] + p,
                vpaddq_f32(vpaddq_f32(sum[i][0], sum[i][1]), vpaddq_f32(sum[i][2], sum[i][3])));
  }
}

// Keys by dimension and values beside them, or rows that are both.
enum class Layout : uint8_t { kKeysAndValues, kLatent };

template <Layout kLayout, uint32_t Q, typename Element>
void score(const Element* keys, const float* const* q, uint32_t head_dim, uint32_t first, uint32_t last,
           float (*scores)[kPage]) {
  if constexpr (kLayout == Layout::kLatent) {
    score_rows<Q>(keys, q, head_dim, first, last, scores);
  } else {
    score_page<Q>(keys, q, head_dim, first, last, scores);
  }
}

// out[i][d] = fma chain over positions [first, last) of weights[i][p] * values[p][d], starting from out.
template <uint32_t Q, typename Element>
void add_values(const Element* values, uint32_t stride, uint32_t value_dim, uint32_t first, uint32_t last,
                const float (*weights)[kPage], float* const* out) {
  for (uint32_t d = 0; d < value_dim; d += 16) {
    float32x4_t sum[Q][4];
    for (uint32_t i = 0; i < Q; ++i)
      for (uint32_t v = 0; v < 4; ++v) sum[i][v] = vld1q_f32(out[i] + d + v * 4);
    for (uint32_t p = first; p < last; ++p) {
      float32x4_t row[4];
#pragma GCC unroll 4
      for (uint32_t v = 0; v < 4; ++v) row[v] = load_kv(values + uint64_t{p} * stride + d + v * 4);
#pragma GCC unroll 4
      for (uint32_t i = 0; i < Q; ++i)
#pragma GCC unroll 4
        for (uint32_t v = 0; v < 4; ++v) sum[i][v] = vfmaq_n_f32(sum[i][v], row[v], weights[i][p]);
    }
    for (uint32_t i = 0; i < Q; ++i)
      for (uint32_t v = 0; v < 4; ++v) vst1q_f32(out[i] + d + v * 4, sum[i][v]);
  }
}

// Scales and masks one query's scores of a page, turns them into softmax weights against the running maximum and
// rescales `out` to it. Positions outside [first, last) get weight 0.
void soften(const AttentionArgs& args, uint32_t first, uint32_t last, float* scores, Running& running,
            float* out) {
  const uint32x4_t lane = {0, 1, 2, 3};
  const float32x4_t one = vdupq_n_f32(1.0f), minus_infinity = vdupq_n_f32(kMinusInfinity);
  float32x4_t largest = minus_infinity;
  for (uint32_t p = 0; p < kPage; p += 4) {
    const uint32x4_t position = vaddq_u32(lane, vdupq_n_u32(p));
    const uint32x4_t inside =
        vandq_u32(vcgeq_u32(position, vdupq_n_u32(first)), vcltq_u32(position, vdupq_n_u32(last)));
    float32x4_t s = vmulq_n_f32(vld1q_f32(scores + p), args.scale);
    if (args.soft_cap > 0.0f) {
      // cap * tanh(s / cap), tanh(x) = 1 - 2 / (1 + exp(2 x)).
      const float32x4_t e = exp_ps(vmulq_n_f32(s, 2.0f / args.soft_cap));
      const float32x4_t tanh = vsubq_f32(one, vdivq_f32(vdupq_n_f32(2.0f), vaddq_f32(one, e)));
      s = vmulq_n_f32(tanh, args.soft_cap);
    }
    s = vbslq_f32(inside, s, minus_infinity);
    vst1q_f32(scores + p, s);
    largest = vmaxq_f32(largest, s);
  }
  const float page_max = vmaxvq_f32(largest);
  const float max = page_max > running.max ? page_max : running.max;
  const float32x4_t offset = vdupq_n_f32(max);
  float32x4_t sum = vdupq_n_f32(0.0f);
  for (uint32_t p = 0; p < kPage; p += 4) {
    const float32x4_t s = vld1q_f32(scores + p);
    const uint32x4_t masked = vceqq_f32(s, minus_infinity);
    const uint32x4_t weight = vbicq_u32(vreinterpretq_u32_f32(exp_ps(vsubq_f32(s, offset))), masked);
    vst1q_f32(scores + p, vreinterpretq_f32_u32(weight));
    sum = vaddq_f32(sum, vreinterpretq_f32_u32(weight));
  }
  if (max > running.max) {
    const float rescale =
        running.max == kMinusInfinity ? 0.0f : vgetq_lane_f32(exp_ps(vdupq_n_f32(running.max - max)), 0);
    running.sum *= rescale;
    for (uint32_t d = 0; d < args.value_dim; d += 4)
      vst1q_f32(out + d, vmulq_n_f32(vld1q_f32(out + d), rescale));
    running.max = max;
  }
  const float32x2_t pair = vadd_f32(vget_low_f32(sum), vget_high_f32(sum));
  running.sum += vget_lane_f32(pair, 0) + vget_lane_f32(pair, 1);
}

// Up to kTile queries and one page.
template <Layout kLayout, typename Element>
void attend_page(const AttentionArgs& args, uint32_t page, const AttentionQuery* queries, uint32_t count,
                 Running* running) {
  const uint32_t start = page * kPage;
  const float* q[kTile] = {};
  float* out[kTile] = {};
  uint32_t first[kTile] = {}, last[kTile] = {}, index[kTile] = {};
  uint32_t active = 0, lowest = kPage, highest = 0;
  for (uint32_t i = 0; i < count; ++i) {
    if (queries[i].end <= start || queries[i].begin >= start + kPage) continue;
    first[active] = queries[i].begin > start ? queries[i].begin - start : 0;
    last[active] = queries[i].end < start + kPage ? queries[i].end - start : kPage;
    lowest = first[active] < lowest ? first[active] : lowest;
    highest = last[active] > highest ? last[active] : highest;
    q[active] = queries[i].q;
    out[active] = queries[i].out;
    index[active++] = i;
  }
  if (active == 0) return;
  const auto* keys = reinterpret_cast<const Element*>(args.key_pages[page]) + args.key_offset;
  constexpr bool kRows = kLayout == Layout::kLatent;
  const Element* values =
      kRows ? keys : reinterpret_cast<const Element*>(args.value_pages[page]) + args.value_offset;
  const uint32_t value_stride = kRows ? args.head_dim : args.value_dim;
  constexpr decltype(&score<kLayout, 1, Element>) kScore[kTile] = {
      score<kLayout, 1, Element>, score<kLayout, 2, Element>, score<kLayout, 3, Element>,
      score<kLayout, 4, Element>};
  constexpr decltype(&add_values<1, Element>) kAdd[kTile] = {add_values<1, Element>, add_values<2, Element>,
                                                             add_values<3, Element>, add_values<4, Element>};
  float scores[kTile][kPage] = {};
  kScore[active - 1](keys, q, args.head_dim, lowest, highest, scores);
  for (uint32_t i = 0; i < active; ++i) soften(args, first[i], last[i], scores[i], running[index[i]], out[i]);
  kAdd[active - 1](values, value_stride, args.value_dim, lowest, highest, scores, out);
}

template <Layout kLayout>
void attend_pages(const AttentionArgs& args, const AttentionQuery* queries, uint32_t count, void* scratch) {
  auto* running = static_cast<Running*>(scratch);
  const auto attend = args.kv_f32 ? attend_page<kLayout, float> : attend_page<kLayout, uint16_t>;
  constexpr uint32_t kQueriesMax = kMatmulScratchBytes / sizeof(Running);
  for (uint32_t base = 0; base < count; base += kQueriesMax) {
    const uint32_t n = count - base < kQueriesMax ? count - base : kQueriesMax;
    uint32_t page_begin = UINT32_MAX, page_end = 0;
    for (uint32_t i = 0; i < n; ++i) {
      const AttentionQuery& query = queries[base + i];
      // A sink takes part in the softmax like a position with that logit and no value.
      running[i] = {query.sink, query.sink > kMinusInfinity ? 1.0f : 0.0f};
      for (uint32_t d = 0; d < args.value_dim; ++d) query.out[d] = 0.0f;
      if (query.begin / kPage < page_begin) page_begin = query.begin / kPage;
      if ((query.end + kPage - 1) / kPage > page_end) page_end = (query.end + kPage - 1) / kPage;
    }
    for (uint32_t page = page_begin; page < page_end; ++page)
      for (uint32_t i = 0; i < n; i += kTile)
        attend(args, page, queries + base + i, n - i < kTile ? n - i : kTile, running + i);
    for (uint32_t i = 0; i < n; ++i) {
      const float inverse = 1.0f / running[i].sum;
      float* out = queries[base + i].out;
      for (uint32_t d = 0; d < args.value_dim; d += 4)
        vst1q_f32(out + d, vmulq_n_f32(vld1q_f32(out + d), inverse));
    }
  }
}

}  // namespace

void attention(const AttentionArgs& args, const AttentionQuery* queries, uint32_t count, void* scratch) {
  attend_pages<Layout::kKeysAndValues>(args, queries, count, scratch);
}

void latent_attention(const AttentionArgs& args, const AttentionQuery* queries, uint32_t count,
                      void* scratch) {
  attend_pages<Layout::kLatent>(args, queries, count, scratch);
}

}  // namespace mlxf::kernels::neon
