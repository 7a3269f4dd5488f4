#include "model/blocks/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace mlxf::model {
namespace {

using compute::MatmulJob;
using kv::padded_dim;

// The rotated query of one row, each head with zeros behind it.
void pad_heads(const AttentionSpec& a, const float* q, float* target) {
  const uint32_t padded = padded_dim(a.head_dim);
  for (uint32_t h = 0; h < a.heads; ++h, target += padded) {
    std::copy_n(q + h * a.head_dim, a.head_dim, target);
    std::fill(target + a.head_dim, target + padded, 0.0f);
  }
}

}  // namespace

kv::LayerShape cache_shape(const AttentionSpec& spec) {
  if (spec.keys_of != kOwnKeys) return kv::NoShape{};
  const uint32_t dim = padded_dim(spec.head_dim);
  return kv::PageShape{spec.kv_heads, dim, dim, spec.window, spec.chunk};
}

Attention::Scratch Attention::Scratch::place(Arena& arena, const ModelSpec& spec, uint32_t rows) {
  uint64_t heads = 0, q = 0, kv = 0, padded = 0, gate = 0;  // The largest of any layer, per row.
  for (const LayerSpec& layer : spec.layers) {
    const auto* a = std::get_if<AttentionSpec>(&layer.mixer);
    if (a == nullptr) continue;
    heads = std::max<uint64_t>(heads, a->heads);
    q = std::max<uint64_t>(q, a->q_width());
    kv = std::max<uint64_t>(kv, a->kv_width());
    if (a->output_gate) gate = std::max<uint64_t>(gate, a->q_width());
    padded = std::max<uint64_t>(padded, uint64_t{a->heads} * padded_dim(a->head_dim));
  }
  Scratch scratch;
  scratch.q = arena.take<float>(rows * q);
  scratch.k = arena.take<float>(rows * kv);
  scratch.v = arena.take<float>(rows * kv);
  scratch.gated_q = arena.take<float>(rows * 2 * gate);
  scratch.gate = arena.take<float>(rows * gate);
  scratch.padded_q = arena.take<float>(rows * padded);
  scratch.padded_out = arena.take<float>(rows * padded);
  scratch.queries = arena.take<kernels::AttentionQuery>(rows * heads);
  return scratch;
}

void Attention::run(const Layer& layer, const Scratch& scratch, std::span<const Chunk> chunks, const float* x,
                    uint32_t rows, float* out) {
  const AttentionSpec& a = layer.spec;
  project(layer, scratch, x, rows);
  normalise(layer, scratch, rows);
  rotate_and_store(layer, scratch, chunks);
  attend(layer, scratch, chunks);
  const uint32_t padded = padded_dim(a.head_dim);
  float* heads = scratch.padded_out;
  if (padded != a.head_dim) {
    for (uint64_t head = 0; head < uint64_t{rows} * a.heads; ++head)
      std::copy_n(scratch.padded_out + head * padded, a.head_dim, scratch.q + head * a.head_dim);
    heads = scratch.q;
  }
  if (a.output_gate)
    cpu_.gated_activation(compute::Cpu::Activation::kSigmoid, scratch.gate, heads, heads, a.q_width(), rows,
                          a.q_width());
  const MatmulJob job = product(layer.weights.o, heads, rows, out);
  cpu_.matmul({&job, 1});
  add_bias(out, rows, layer.weights.o.rows, layer.weights.o_bias);
}

void Attention::project(const Layer& layer, const Scratch& scratch, const float* x, uint32_t rows) {
  const BoundAttention& weights = layer.weights;
  const bool gated = layer.spec.output_gate;
  const bool own = layer.spec.keys_of == kOwnKeys;
  float* q = gated ? scratch.gated_q : scratch.q;
  const std::array jobs = {product(weights.q, x, rows, q), product(weights.k, x, rows, scratch.k),
                           product(weights.v, x, rows, scratch.v)};
  const size_t count = !own ? 1 : layer.spec.values_are_keys ? 2 : 3;
  cpu_.matmul({jobs.data(), count});
  add_bias(q, rows, layer.spec.q_rows(), weights.q_bias);
  if (gated) split_gate(layer.spec, scratch, rows);
  if (!own) return;
  add_bias(scratch.k, rows, layer.spec.kv_width(), weights.k_bias);
  if (layer.spec.values_are_keys)
    std::copy_n(scratch.k, uint64_t{rows} * layer.spec.kv_width(), scratch.v);
  else
    add_bias(scratch.v, rows, layer.spec.kv_width(), weights.v_bias);
}

void Attention::split_gate(const AttentionSpec& a, const Scratch& scratch, uint32_t rows) {
  for (uint64_t head = 0; head < uint64_t{rows} * a.heads; ++head) {
    const float* both = scratch.gated_q + head * 2 * a.head_dim;
    std::copy_n(both, a.head_dim, scratch.q + head * a.head_dim);
    std::copy_n(both + a.head_dim, a.head_dim, scratch.gate + head * a.head_dim);
  }
}

void Attention::normalise(const Layer& layer, const Scratch& scratch, uint32_t rows) {
  const AttentionSpec& a = layer.spec;
  const bool own = a.keys_of == kOwnKeys;
  const auto norm = [&](float* values, uint32_t count, uint32_t width, const Vector& weight) {
    cpu_.rms_norm({values, width, values, width, count, width}, weight.empty() ? nullptr : weight.data(),
                  layer.norm_eps);
  };
  if (a.qk_norm == QkNorm::kFullWidth) {
    norm(scratch.q, rows, a.q_width(), layer.weights.q_norm);
    if (own) norm(scratch.k, rows, a.kv_width(), layer.weights.k_norm);
  } else if (a.qk_norm == QkNorm::kPerHead) {
    norm(scratch.q, rows * a.heads, a.head_dim, layer.weights.q_norm);
    if (own) norm(scratch.k, rows * a.kv_heads, a.head_dim, layer.weights.k_norm);
  }
  if (a.value_norm && own) norm(scratch.v, rows * a.kv_heads, a.head_dim, {});
  if (a.clip_qkv <= 0.0f) return;
  for (const auto& [values, width] :
       {std::pair{scratch.q, a.q_width()}, {scratch.k, a.kv_width()}, {scratch.v, a.kv_width()}})
    for (uint64_t i = 0; i < uint64_t{rows} * width; ++i)
      values[i] = std::clamp(values[i], -a.clip_qkv, a.clip_qkv);
}

// One position's keys, as a column of each head's page, and values, as a row.
void Attention::store(const AttentionSpec& a, kv::Pages& pages, uint32_t position, const float* k,
                      const float* v) const {
  const uint64_t head_stride = uint64_t{kernels::kPagePositions} * padded_dim(a.head_dim);
  constexpr uint64_t kColumn = kernels::kPagePositions;
  if (pages.element() == kv::Element::kF32) {
    auto* key = pages.key<float>(position);
    auto* value = pages.value<float>(position);
    for (uint32_t h = 0; h < a.kv_heads; ++h) {
      for (uint32_t d = 0; d < a.head_dim; ++d) key[h * head_stride + d * kColumn] = k[h * a.head_dim + d];
      std::copy_n(v + h * a.head_dim, a.head_dim, value + h * head_stride);
    }
    return;
  }
  auto* key = pages.key<uint16_t>(position);
  auto* value = pages.value<uint16_t>(position);
  constexpr uint32_t kPiece = 256;
  uint16_t halves[kPiece];
  for (uint32_t h = 0; h < a.kv_heads; ++h) {
    for (uint32_t d = 0; d < a.head_dim; d += kPiece) {
      const uint32_t n = std::min(kPiece, a.head_dim - d);
      cpu_.kernels().narrow_f16(k + h * a.head_dim + d, n, halves);
      for (uint32_t i = 0; i < n; ++i) key[h * head_stride + (d + i) * kColumn] = halves[i];
    }
    cpu_.kernels().narrow_f16(v + h * a.head_dim, a.head_dim, value + h * head_stride);
  }
}

// All that depends on a row's position, and what comes behind it.
void Attention::rotate(const Layer& layer, uint32_t row, uint32_t position, float* q, float* k) const {
  const AttentionSpec& a = layer.spec;
  const uint32_t kv_heads = a.keys_of == kOwnKeys ? a.kv_heads : 0;
  if (a.rope != kNoRope) {
    for (uint32_t h = 0; h < a.heads; ++h) ropes_.rotate(a.rope, row, q + h * a.head_dim);
    for (uint32_t h = 0; h < kv_heads; ++h) ropes_.rotate(a.rope, row, k + h * a.head_dim);
  }
  if (a.qk_norm == QkNorm::kL2)
    for (const auto& [values, heads] : {std::pair{q, a.heads}, {k, kv_heads}})
      for (uint32_t h = 0; h < heads; ++h) {
        float* head = values + h * a.head_dim;
        cpu_.kernels().rms_norm(head, nullptr, a.head_dim, layer.norm_eps, head);
      }
  if (a.temperature == 0.0f) return;
  const float steps = std::floor((static_cast<float>(position) + 1.0f) / a.temperature_floor);
  const float scale = 1.0f + a.temperature * std::log1p(steps);
  for (uint32_t i = 0; i < a.q_width(); ++i) q[i] *= scale;
}

void Attention::rotate_and_store(const Layer& layer, const Scratch& scratch, std::span<const Chunk> chunks) {
  const AttentionSpec& a = layer.spec;
  const bool own = a.keys_of == kOwnKeys;
  const uint64_t padded_width = uint64_t{a.heads} * padded_dim(a.head_dim);
  uint32_t first_row = 0;
  for (const Chunk& chunk : chunks) {
    kv::Pages* pages = own ? &chunk.sequence->pages(layer.index) : nullptr;
    const uint32_t start = chunk.sequence->length();
    const auto count = static_cast<uint32_t>(chunk.tokens.size());
    const auto row_work = [&](uint32_t t, uint32_t) {
      const uint32_t row = first_row + t;
      float* q = scratch.q + uint64_t{row} * a.q_width();
      float* k = scratch.k + uint64_t{row} * a.kv_width();
      rotate(layer, row, start + t, q, k);
      if (own) store(a, *pages, start + t, k, scratch.v + uint64_t{row} * a.kv_width());
      pad_heads(a, q, scratch.padded_q + row * padded_width);
    };
    if (count == 1) {
      row_work(0, 0);
    } else {
      cpu_.for_each_row(count, row_work);
    }
    first_row += count;
  }
}

void Attention::attend(const Layer& layer, const Scratch& scratch, std::span<const Chunk> chunks) {
  const AttentionSpec& a = layer.spec;
  const uint32_t padded = padded_dim(a.head_dim);
  const uint32_t group = a.heads / a.kv_heads;
  const Vector& sinks = layer.weights.sinks;
  jobs_.clear();
  kernels::AttentionQuery* query = scratch.queries;
  uint32_t first_row = 0;
  for (const Chunk& chunk : chunks) {
    const kv::Pages& pages = chunk.sequence->pages(a.keys_of == kOwnKeys ? layer.index : a.keys_of);
    const uint32_t start = chunk.sequence->length();
    const auto count = static_cast<uint32_t>(chunk.tokens.size());
    for (uint32_t kv_head = 0; kv_head < a.kv_heads; ++kv_head) {
      compute::AttentionJob job;
      job.args.head_dim = padded;
      job.args.value_dim = padded;
      job.args.scale = a.scale;
      job.args.soft_cap = a.soft_cap;
      job.args.kv_f32 = pages.element() == kv::Element::kF32;
      job.args.key_pages = pages.key_pages();
      job.args.value_pages = pages.value_pages();
      job.args.key_offset = uint64_t{kv_head} * kernels::kPagePositions * padded;
      job.args.value_offset = job.args.key_offset;
      job.queries = query;
      job.count = count * group;
      for (uint32_t t = 0; t < count; ++t)
        for (uint32_t g = 0; g < group; ++g) {
          const uint32_t head = kv_head * group + g;
          const uint64_t at = (uint64_t{first_row + t} * a.heads + head) * padded;
          const uint32_t position = start + t;
          *query++ = {scratch.padded_q + at, scratch.padded_out + at, pages.first_visible(position),
                      position + 1, sinks.empty() ? -std::numeric_limits<float>::infinity() : sinks[head]};
        }
      jobs_.push_back(job);
    }
    first_row += count;
  }
  cpu_.attention(jobs_);
}

}  // namespace mlxf::model
