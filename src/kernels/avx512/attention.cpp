// Attention of several queries over one key/value head: pages of 64 positions in ascending order, online softmax.
//
// Scores: keys are stored transposed, [head_dim][64], so a vector holds 16 positions and each (query, position) is
// one chain of FMAs over ascending dimensions. A tile is 4 queries x 32 positions (8 accumulators, 2 vectors of
// keys, the queries from memory), or 1 query x 64 positions. Softmax weights: lane j holds the weights of positions
// j, 16 + j, 32 + j, 48 + j of the page, added in that order; the 16 lanes are then added as halves, quarters,
// eighths, and the page's sum goes to the running sum. Values: lanes are dimensions; a tile is 4 queries x 32
// dimensions or 1 query x 64, one chain over ascending positions. So a query's result does not depend on which
// queries share the call, and the bits of a longer context begin with those of a shorter one. A NaN among the scores
// reaches the result.
//
// Bytes: 2 * (head_dim + value_dim) per position, read once for up to 4 queries; decoding is bound by them.
//
// Rows of a latent cache are read along their dimensions instead: lanes are dimensions, a tile is 4 queries x 4
// positions, of which 4 loads of keys and 4 of queries feed 16 FMAs, and one tree adds up the lanes of all sixteen.
// Many heads share the rows, 128 of DeepSeek's: bound by arithmetic, 70 FMAs a position and query of 576 dimensions.
#include <immintrin.h>

#include <cstdint>

#include "kernels/avx512/avx512.h"
#include "kernels/avx512/exp.h"

namespace mlxf::kernels::avx512 {
namespace {

constexpr uint32_t kTile = 4;
constexpr uint32_t kPage = kPagePositions;
constexpr uint32_t kVectors = kPage / 16;  // Of the scores of a page.
constexpr uint32_t kRowTile = 4;           // Rows of a latent cache at a time.
constexpr float kMinusInfinity = -__builtin_inff();

struct Running {
  float max;
  float sum;
};

__m512 load_kv(const float* values) { return _mm512_loadu_ps(values); }
__m512 load_kv(const uint16_t* values) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(values)));
}

// The sum and the maximum of sixteen lanes: halves, quarters, eighths.
float sum_lanes(__m512 v) {
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}
float max_lanes(__m512 v) {
  const __m256 half = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
}

// Lane 4 i + v: the sum of the lanes of v[i][v].
__m512 sum_lanes16(const __m512 v[kTile][kRowTile]) {
  __m512 u[kTile];  // Lane 4 q + j of u[i]: the sum of 128-bit lane q of v[i][j].
#pragma GCC unroll 4
  for (uint32_t i = 0; i < kTile; ++i) {
    const __m512* a = v[i];
    const __m512 t0 = _mm512_add_ps(_mm512_unpacklo_ps(a[0], a[1]), _mm512_unpackhi_ps(a[0], a[1]));
    const __m512 t1 = _mm512_add_ps(_mm512_unpacklo_ps(a[2], a[3]), _mm512_unpackhi_ps(a[2], a[3]));
    const __m512d low = _mm512_unpacklo_pd(_mm512_castps_pd(t0), _mm512_castps_pd(t1));
    const __m512d high = _mm512_unpackhi_pd(_mm512_castps_pd(t0), _mm512_castps_pd(t1));
    u[i] = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
  }
  const __m512 ab =
      _mm512_add_ps(_mm512_shuffle_f32x4(u[0], u[1], 0x88), _mm512_shuffle_f32x4(u[0], u[1], 0xdd));
  const __m512 cd =
      _mm512_add_ps(_mm512_shuffle_f32x4(u[2], u[3], 0x88), _mm512_shuffle_f32x4(u[2], u[3], 0xdd));
  return _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
}

// scores[Q][64] of V vectors of positions at a time, [first, last) rounded out to multiples of 16 * V.
template <uint32_t Q, uint32_t V, typename Element>
void score_page(const Element* keys, const float* const* q, uint32_t head_dim, uint32_t first, uint32_t last,
                float (*scores)[kPage]) {
  for (uint32_t p = first / (16 * V) * (16 * V); p < last; p += 16 * V) {
    __m512 sum[Q][V];
#pragma GCC unroll 4
    for (uint32_t i = 0; i < Q; ++i)
#pragma GCC unroll 4
      for (uint32_t v = 0; v < V; ++v) sum[i][v] = _mm512_setzero_ps();
    for (uint32_t d = 0; d < head_dim; ++d) {
      __m512 k[V];
#pragma GCC unroll 4
      for (uint32_t v = 0; v < V; ++v) k[v] = load_kv(keys + uint64_t{d} * kPage + p + v * 16);
#pragma GCC unroll 4
      for (uint32_t i = 0; i < Q; ++i) {
        const __m512 dimension = _mm512_set1_ps(q[i][d]);
#pragma GCC unroll 4
        for (uint32_t v = 0; v < V; ++v) sum[i][v] = _mm512_fmadd_ps(dimension, k[v], sum[i][v]);
      }
    }
#pragma GCC unroll 4
    for (uint32_t i = 0; i < Q; ++i)
#pragma GCC unroll 4
      for (uint32_t v = 0; v < V; ++v) _mm512_storeu_ps(scores[i] + p + v * 16, sum[i][v]);
  }
}

// The same over rows, [64][head_dim]: Q queries x kRowTile positions at a time. The tree is the same for each of them,
// however many queries there are.
template <uint32_t Q, typename Element>
void score_rows(const Element* rows, const float* const* q, uint32_t head_dim, uint32_t first, uint32_t last,
                float (*scores)[kPage]) {
  for (uint32_t p = first / kRowTile * kRowTile; p < last; p += kRowTile) {
    const Element* row = rows + uint64_t{p} * head_dim;
    __m512 sum[kTile][kRowTile];
    for (auto& of_query : sum)
      for (__m512& of_position : of_query) of_position = _mm512_setzero_ps();
    for (uint32_t d = 0; d < head_dim; d += 16) {
      __m512 k[kRowTile];
#pragma GCC unroll 4
      for (uint32_t v = 0; v < kRowTile; ++v) k[v] = load_kv(row + uint64_t{v} * head_dim + d);
#pragma GCC unroll 4
      for (uint32_t i = 0; i < Q; ++i) {
        const __m512 dimensions = _mm512_loadu_ps(q[i] + d);
#pragma GCC unroll 4
        for (uint32_t v = 0; v < kRowTile; ++v) sum[i][v] = _mm512_fmadd_ps(dimensions, k[v], sum[i][v]);
      }
    }
    const __m512 all = sum_lanes16(sum);
    _mm_storeu_ps(scores[0] + p, _mm512_castps512_ps128(all));
    if constexpr (Q > 1) _mm_storeu_ps(scores[1] + p, _mm512_extractf32x4_ps(all, 1));
    if constexpr (Q > 2) _mm_storeu_ps(scores[2] + p, _mm512_extractf32x4_ps(all, 2));
    if constexpr (Q > 3) _mm_storeu_ps(scores[3] + p, _mm512_extractf32x4_ps(all, 3));
  }
}

// V vectors of dimensions from `d`: out[i][d] = fma chain over positions [first, last) of weights[i][p] * values[p][d],
// starting from out.
template <uint32_t Q, uint32_t V, typename Element>
void add_dimensions(const Element* values, uint32_t stride, uint32_t d, uint32_t first, uint32_t last,
                    const float (*weights)[kPage], float* const* out) {
  __m512 sum[Q][V];
#pragma GCC unroll 4
  for (uint32_t i = 0; i < Q; ++i)
#pragma GCC unroll 4
    for (uint32_t v = 0; v < V; ++v) sum[i][v] = _mm512_loadu_ps(out[i] + d + v * 16);
  for (uint32_t p = first; p < last; ++p) {
    __m512 row[V];
#pragma GCC unroll 4
    for (uint32_t v = 0; v < V; ++v) row[v] = load_kv(values + uint64_t{p} * stride + d + v * 16);
#pragma GCC unroll 4
    for (uint32_t i = 0; i < Q; ++i) {
      const __m512 weight = _mm512_set1_ps(weights[i][p]);
#pragma GCC unroll 4
      for (uint32_t v = 0; v < V; ++v) sum[i][v] = _mm512_fmadd_ps(weight, row[v], sum[i][v]);
    }
  }
#pragma GCC unroll 4
  for (uint32_t i = 0; i < Q; ++i)
#pragma GCC unroll 4
    for (uint32_t v = 0; v < V; ++v) _mm512_storeu_ps(out[i] + d + v * 16, sum[i][v]);
}

// Keys by dimension and values beside them, or rows that are both.
enum class Layout : uint8_t { kKeysAndValues, kLatent };

template <Layout kLayout, uint32_t Q, typename Element>
void score(const Element* keys, const float* const* q, uint32_t head_dim, uint32_t first, uint32_t last,
           float (*scores)[kPage]) {
  if constexpr (kLayout == Layout::kLatent) {
    score_rows<Q>(keys, q, head_dim, first, last, scores);
  } else {
    score_page<Q, Q == 1 ? 4 : 2>(keys, q, head_dim, first, last, scores);
  }
}

template <Layout kLayout, uint32_t Q, typename Element>
void add_values(const Element* values, uint32_t stride, uint32_t value_dim, uint32_t first, uint32_t last,
                const float (*weights)[kPage], float* const* out) {
  // One query alone takes more dimensions, so that its chains cover the latency of an FMA; and so do rows in L2, the
  // loads of which are then whole lines.
  constexpr uint32_t kWide = Q == 1 || kLayout == Layout::kLatent ? 4 : 2;
  uint32_t d = 0;
  for (; d + 16 * kWide <= value_dim; d += 16 * kWide)
    add_dimensions<Q, kWide>(values, stride, d, first, last, weights, out);
  for (; d < value_dim; d += 16) add_dimensions<Q, 1>(values, stride, d, first, last, weights, out);
}

// Scales and masks one query's scores of a page, turns them into softmax weights against the running maximum and
// rescales `out` to it. Positions outside [first, last) get weight 0.
void soften(const AttentionArgs& args, uint32_t first, uint32_t last, float* scores, Running& running,
            float* out) {
  const __m512 one = _mm512_set1_ps(1.0f), scale = _mm512_set1_ps(args.scale);
  const uint64_t inside = (~uint64_t{0} >> (kPage - (last - first))) << first;
  __m512 s[kVectors];
  __m512 largest = _mm512_set1_ps(kMinusInfinity);
#pragma GCC unroll 4
  for (uint32_t v = 0; v < kVectors; ++v) {
    s[v] = _mm512_mul_ps(_mm512_loadu_ps(scores + v * 16), scale);
    if (args.soft_cap > 0.0f) {
      // cap * tanh(s / cap), tanh(x) = 1 - 2 / (1 + exp(2 x)).
      const __m512 e = exp_ps(_mm512_mul_ps(s[v], _mm512_set1_ps(2.0f / args.soft_cap)));
      const __m512 tanh = _mm512_sub_ps(one, _mm512_div_ps(_mm512_set1_ps(2.0f), _mm512_add_ps(one, e)));
      s[v] = _mm512_mul_ps(_mm512_set1_ps(args.soft_cap), tanh);
    }
    largest = _mm512_mask_max_ps(largest, static_cast<__mmask16>(inside >> (v * 16)), s[v], largest);
  }
  const float page_max = max_lanes(largest);
  const float max = page_max > running.max ? page_max : running.max;
  // A page whose scores are all minus infinity, before any other: every weight is 0.
  const __m512 offset = _mm512_set1_ps(max == kMinusInfinity ? 0.0f : max);
  const __m512 minus_infinity = _mm512_set1_ps(kMinusInfinity);
  __m512 sum = _mm512_setzero_ps();
#pragma GCC unroll 4
  for (uint32_t v = 0; v < kVectors; ++v) {
    const __mmask16 counts = _mm512_mask_cmp_ps_mask(static_cast<__mmask16>(inside >> (v * 16)), s[v],
                                                     minus_infinity, _CMP_NEQ_UQ);
    const __m512 weight = _mm512_maskz_mov_ps(counts, exp_ps(_mm512_sub_ps(s[v], offset)));
    _mm512_storeu_ps(scores + v * 16, weight);
    sum = _mm512_add_ps(sum, weight);
  }
  if (max > running.max) {
    const __m512 rescale =
        running.max == kMinusInfinity ? _mm512_setzero_ps() : exp_ps(_mm512_set1_ps(running.max - max));
    running.sum *= _mm512_cvtss_f32(rescale);
    for (uint32_t d = 0; d < args.value_dim; d += 16)
      _mm512_storeu_ps(out + d, _mm512_mul_ps(_mm512_loadu_ps(out + d), rescale));
    running.max = max;
  }
  running.sum += sum_lanes(sum);
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
  using Score = void (*)(const Element*, const float* const*, uint32_t, uint32_t, uint32_t, float(*)[kPage]);
  using Add =
      void (*)(const Element*, uint32_t, uint32_t, uint32_t, uint32_t, const float(*)[kPage], float* const*);
  constexpr Score kScore[kTile] = {score<kLayout, 1, Element>, score<kLayout, 2, Element>,
                                   score<kLayout, 3, Element>, score<kLayout, 4, Element>};
  constexpr Add kAdd[kTile] = {add_values<kLayout, 1, Element>, add_values<kLayout, 2, Element>,
                               add_values<kLayout, 3, Element>, add_values<kLayout, 4, Element>};
  constexpr bool kRows = kLayout == Layout::kLatent;
  const auto* keys = reinterpret_cast<const Element*>(args.key_pages[page]) + args.key_offset;
  const Element* values =
      kRows ? keys : reinterpret_cast<const Element*>(args.value_pages[page]) + args.value_offset;
  const uint32_t value_stride = kRows ? args.head_dim : args.value_dim;
  alignas(64) float scores[kTile][kPage] = {};
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
      const __m512 inverse = _mm512_set1_ps(1.0f / running[i].sum);
      float* out = queries[base + i].out;
      for (uint32_t d = 0; d < args.value_dim; d += 16)
        _mm512_storeu_ps(out + d, _mm512_mul_ps(_mm512_loadu_ps(out + d), inverse));
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

}  // namespace mlxf::kernels::avx512
