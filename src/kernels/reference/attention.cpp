#include <cmath>
#include <limits>

#include "kernels/reference/reference.h"
#include "tensor/float16.h"

namespace mlxf::kernels::reference {
namespace {

float load(const AttentionArgs& args, const uint16_t* page, uint64_t index) {
  return args.kv_f32 ? reinterpret_cast<const float*>(page)[index] : f32_from_f16(page[index]);
}

// Keys by dimension and values beside them, or rows that are both.
enum class Layout : uint8_t { kKeysAndValues, kLatent };

// One query over the positions [first, last) of one page, against the running maximum and sum.
template <Layout kLayout>
void attend_page(const AttentionArgs& args, uint32_t page, uint32_t first, uint32_t last,
                 const AttentionQuery& query, float& max, float& sum) {
  constexpr bool kRows = kLayout == Layout::kLatent;
  const auto key = [&](uint64_t p, uint64_t d) {
    return load(args, args.key_pages[page],
                args.key_offset + (kRows ? p * args.head_dim + d : d * kPagePositions + p));
  };
  const auto value = [&](uint64_t p, uint64_t d) {
    return kRows ? key(p, d) : load(args, args.value_pages[page], args.value_offset + p * args.value_dim + d);
  };
  float scores[kPagePositions];
  float page_max = -std::numeric_limits<float>::infinity();
  for (uint32_t p = first; p < last; ++p) {
    float score = 0.0f;
    for (uint32_t d = 0; d < args.head_dim; ++d) score = std::fma(query.q[d], key(p, d), score);
    score *= args.scale;
    if (args.soft_cap > 0.0f) score = args.soft_cap * std::tanh(score / args.soft_cap);
    scores[p] = score;
    page_max = std::fmax(page_max, score);
  }
  if (page_max > max) {
    const float rescale = std::isinf(max) ? 0.0f : std::exp(max - page_max);
    sum *= rescale;
    for (uint32_t d = 0; d < args.value_dim; ++d) query.out[d] *= rescale;
    max = page_max;
  }
  for (uint32_t p = first; p < last; ++p) {
    const float weight = std::exp(scores[p] - max);
    sum += weight;
    for (uint32_t d = 0; d < args.value_dim; ++d) query.out[d] = std::fma(weight, value(p, d), query.out[d]);
  }
}

template <Layout kLayout>
void attend(const AttentionArgs& args, const AttentionQuery* queries, uint32_t count) {
  for (uint32_t i = 0; i < count; ++i) {
    const AttentionQuery& query = queries[i];
    float max = query.sink;
    float sum = std::isinf(query.sink) ? 0.0f : 1.0f;
    for (uint32_t d = 0; d < args.value_dim; ++d) query.out[d] = 0.0f;
    for (uint32_t position = query.begin; position < query.end;) {
      const uint32_t page = position / kPagePositions;
      const uint32_t page_end = (page + 1) * kPagePositions;
      const uint32_t last = query.end < page_end ? query.end : page_end;
      attend_page<kLayout>(args, page, position % kPagePositions, last - page * kPagePositions, query, max,
                           sum);
      position = last;
    }
    for (uint32_t d = 0; d < args.value_dim; ++d) query.out[d] *= 1.0f / sum;
  }
}

}  // namespace

void attention(const AttentionArgs& args, const AttentionQuery* queries, uint32_t count, void*) {
  attend<Layout::kKeysAndValues>(args, queries, count);
}

void latent_attention(const AttentionArgs& args, const AttentionQuery* queries, uint32_t count, void*) {
  attend<Layout::kLatent>(args, queries, count);
}

}  // namespace mlxf::kernels::reference
