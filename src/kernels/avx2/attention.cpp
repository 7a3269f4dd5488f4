// Attention of several queries over one key/value head: pages of 64 positions in ascending order, online
// softmax.
//
// Scores: keys are stored transposed, [head_dim][64], so a vector holds eight positions and each (query,
// position) is one chain of FMAs over ascending dimensions. A tile is 4 queries x 16 positions: 8
// accumulators, 2 loads of keys and 4 broadcasts feed 8 FMAs. Values: lanes are dimensions, a tile is 4
// queries x 16 dimensions, one chain over ascending positions. So a query's result does not depend on which
// queries share the call, and the bits of a longer context begin with those of a shorter one. Bytes: 2 *
// (head_dim + value_dim) per position, read once for up to 4 queries; decoding is bound by them. Rows of a latent
// cache are read along their dimensions instead, 2 * head_dim bytes per position: with a head's few hundred of them
// the sum over lanes at the end is a small part, and 2 loads of keys and 4 of queries feed 8 FMAs.
#include <immintrin.h>

#include <cstdint>

#include "kernels/avx2/avx2.h"
#include "kernels/avx2/exp.h"
#include "kernels/avx2/reduce.h"

namespace mlxf::kernels::avx2 {
namespace {

constexpr uint32_t kTile = 4;
constexpr uint32_t kPage = kPagePositions;
constexpr float kMinusInfinity = -__builtin_inff();

struct Running {
  float max;
  float sum;
};

__m256 load_kv(const float* values) { return _mm256_loadu_ps(values); }
__m256 load_kv(const uint16_t* values) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(values)));
}

// scores[Q][64], positions [first, last) rounded out to multiples of 16.
template <uint32_t Q, typename Element>
void score_page(const Element* keys, const float* const* q, uint32_t head_dim, uint32_t first, uint32_t last,
                float (*scores)[kPage]) {
  for (uint32_t p = first / 16 * 16; p < last; p += 16) {
    __m256 sum[Q][2];
    for (uint32_t i = 0; i < Q; ++i) sum[i][0] = sum[i][1] = _mm256_setzero_ps();
    for (uint32_t d = 0; d < head_dim; ++d) {
      const __m256 k0 = load_kv(keys + d * kPage + p);
      const __m256 k1 = load_kv(keys + d * kPage + p + 8);
#pragma GCC unroll 4
      for (uint32_t i = 0; i < Q; ++i) {
        const __m256 v = _mm256_set1_ps(q[i][d]);
        sum[i][0] = _mm256_fmadd_ps(v, k0, sum[i][0]);
        sum[i][1] = _mm256_fmadd_ps(v, k1, sum[i][1]);
      }
    }
    for (uint32_t i = 0; i < Q; ++i) {
      _mm256_storeu_ps(scores[i] + p, sum[i][0]);
      _mm256_storeu_ps(scores[i] + p + 8, sum[i][1]);
    }
  }
}

// The same over rows, [64][head_dim]: lanes are dimensions, a tile is Q queries x 2 positions.
template <uint32_t Q, typename Element>
void score_rows(const Element* rows, const float* const* q, uint32_t head_dim, uint32_t first, uint32_t last,
                float (*scores)[kPage]) {
  for (uint32_t p = first / 2 * 2; p < last; p += 2) {
    const Element* row = rows + uint64_t{p} * head_dim;
    __m256 sum[kTile][2];
    for (auto& of_query : sum) of_query[0] = of_query[1] = _mm256_setzero_ps();
    for (uint32_t d = 0; d < head_dim; d += 8) {
      const __m256 k0 = load_kv(row + d);
      const __m256 k1 = load_kv(row + head_dim + d);
#pragma GCC unroll 4
      for (uint32_t i = 0; i < Q; ++i) {
        const __m256 v = _mm256_loadu_ps(q[i] + d);
        sum[i][0] = _mm256_fmadd_ps(v, k0, sum[i][0]);
        sum[i][1] = _mm256_fmadd_ps(v, k1, sum[i][1]);
      }
    }
    // Each sum of lanes is the same tree, however many queries there are.
    float pair[kTile * 2];
    for (uint32_t i = 0; i < Q; i += 2) {
      const __m256 halves =
          _mm256_hadd_ps(_mm256_hadd_ps(sum[i][0], sum[i][1]), _mm256_hadd_ps(sum[i + 1][0], sum[i + 1][1]));
      _mm_storeu_ps(pair + 2 * i,
                    _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1)));
    }
    for (uint32_t i = 0; i < Q; ++i) {
      scores[i][p] = pair[2 * i];
      scores[i][p + 1] = pair[2 * i + 1];
    }
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
    __m256 sum[Q][2];
    for (uint32_t i = 0; i < Q; ++i) {
      sum[i][0] = _mm256_loadu_ps(out[i] + d);
      sum[i][1] = _mm256_loadu_ps(out[i] + d + 8);
    }
    for (uint32_t p = first; p < last; ++p) {
      const __m256 v0 = load_kv(values + uint64_t{p} * stride + d);
      const __m256 v1 = load_kv(values + uint64_t{p} * stride + d + 8);
#pragma GCC unroll 4
      for (uint32_t i = 0; i < Q; ++i) {
        const __m256 weight = _mm256_set1_ps(weights[i][p]);
        sum[i][0] = _mm256_fmadd_ps(weight, v0, sum[i][0]);
        sum[i][1] = _mm256_fmadd_ps(weight, v1, sum[i][1]);
      }
    }
    for (uint32_t i = 0; i < Q; ++i) {
      _mm256_storeu_ps(out[i] + d, sum[i][0]);
      _mm256_storeu_ps(out[i] + d + 8, sum[i][1]);
    }
  }
}

// Scales and masks one query's scores of a page, turns them into softmax weights against the running maximum
// and rescales `out` to it. Positions outside [first, last) get weight 0.
void soften(const AttentionArgs& args, uint32_t first, uint32_t last, float* scores, Running& running,
            float* out) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256 scale = _mm256_set1_ps(args.scale);
  __m256 largest = _mm256_set1_ps(kMinusInfinity);
  for (uint32_t p = 0; p < kPage; p += 8) {
    const __m256i position = _mm256_add_epi32(lane, _mm256_set1_epi32(static_cast<int>(p)));
    const __m256i inside =
        _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(first)), position),
                            _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(last)), position));
    __m256 s = _mm256_mul_ps(_mm256_loadu_ps(scores + p), scale);
    if (args.soft_cap > 0.0f) {
      // cap * tanh(s / cap), tanh(x) = 1 - 2 / (1 + exp(2 x)).
      const __m256 e = exp_ps(_mm256_mul_ps(s, _mm256_set1_ps(2.0f / args.soft_cap)));
      const __m256 one = _mm256_set1_ps(1.0f);
      const __m256 tanh = _mm256_sub_ps(one, _mm256_div_ps(_mm256_set1_ps(2.0f), _mm256_add_ps(one, e)));
      s = _mm256_mul_ps(_mm256_set1_ps(args.soft_cap), tanh);
    }
    s = _mm256_blendv_ps(_mm256_set1_ps(kMinusInfinity), s, _mm256_castsi256_ps(inside));
    _mm256_storeu_ps(scores + p, s);
    largest = _mm256_max_ps(s, largest);
  }
  const float page_max = max_lanes(largest);
  const float max = page_max > running.max ? page_max : running.max;
  __m256 sum = _mm256_setzero_ps();
  const __m256 offset = _mm256_set1_ps(max);
  for (uint32_t p = 0; p < kPage; p += 8) {
    const __m256 s = _mm256_loadu_ps(scores + p);
    const __m256 masked = _mm256_cmp_ps(s, _mm256_set1_ps(kMinusInfinity), _CMP_EQ_OQ);
    const __m256 weight = _mm256_andnot_ps(masked, exp_ps(_mm256_sub_ps(s, offset)));
    _mm256_storeu_ps(scores + p, weight);
    sum = _mm256_add_ps(sum, weight);
  }
  if (max > running.max) {
    const __m256 rescale =
        running.max == kMinusInfinity ? _mm256_setzero_ps() : exp_ps(_mm256_set1_ps(running.max - max));
    running.sum *= _mm256_cvtss_f32(rescale);
    for (uint32_t d = 0; d < args.value_dim; d += 8)
      _mm256_storeu_ps(out + d, _mm256_mul_ps(_mm256_loadu_ps(out + d), rescale));
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
  const auto* keys = reinterpret_cast<const Element*>(args.key_pages[page]) + args.key_offset;
  constexpr bool kRows = kLayout == Layout::kLatent;
  const Element* values =
      kRows ? keys : reinterpret_cast<const Element*>(args.value_pages[page]) + args.value_offset;
  const uint32_t value_stride = kRows ? args.head_dim : args.value_dim;
  float scores[kTile][kPage] = {};
  switch (active) {
    case 1:
      score<kLayout, 1>(keys, q, args.head_dim, lowest, highest, scores);
      break;
    case 2:
      score<kLayout, 2>(keys, q, args.head_dim, lowest, highest, scores);
      break;
    case 3:
      score<kLayout, 3>(keys, q, args.head_dim, lowest, highest, scores);
      break;
    default:
      score<kLayout, 4>(keys, q, args.head_dim, lowest, highest, scores);
      break;
  }
  for (uint32_t i = 0; i < active; ++i) soften(args, first[i], last[i], scores[i], running[index[i]], out[i]);
  switch (active) {
    case 1:
      add_values<1>(values, value_stride, args.value_dim, lowest, highest, scores, out);
      break;
    case 2:
      add_values<2>(values, value_stride, args.value_dim, lowest, highest, scores, out);
      break;
    case 3:
      add_values<3>(values, value_stride, args.value_dim, lowest, highest, scores, out);
      break;
    default:
      add_values<4>(values, value_stride, args.value_dim, lowest, highest, scores, out);
      break;
  }
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
      const __m256 inverse = _mm256_set1_ps(1.0f / running[i].sum);
      float* out = queries[base + i].out;
      for (uint32_t d = 0; d < args.value_dim; d += 8)
        _mm256_storeu_ps(out + d, _mm256_mul_ps(_mm256_loadu_ps(out + d), inverse));
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

}  // namespace mlxf::kernels::avx2
