#include "model/blocks/latent_attention.h"

#include <algorithm>
#include <limits>

namespace mlxf::model {
namespace {

using compute::MatmulJob;
using kv::padded_dim;

// Rows that are attended for at once. An absorbed query is as wide as the latent, in DeepSeek-V3 three times the
// query, so a whole prompt's would take gigabytes.
constexpr uint32_t kPieceRows = 64;
// Rows that a decoded row of the keys' matrix is added to: their sums stay in the first cache.
constexpr uint32_t kAbsorbRows = 8;

}  // namespace

kv::LayerShape cache_shape(const LatentAttentionSpec& spec) {
  return kv::LatentShape{padded_dim(spec.latent_width())};
}

LatentAttention::Scratch LatentAttention::Scratch::place(Arena& arena, const ModelSpec& spec, uint32_t rows) {
  uint64_t q_latent = 0, q = 0, latent = 0, values = 0;  // The largest of any layer, per row.
  uint64_t absorbed = 0, gathered = 0, heads = 0;
  for (const LayerSpec& layer : spec.layers) {
    const auto* a = std::get_if<LatentAttentionSpec>(&layer.mixer);
    if (a == nullptr) continue;
    q_latent = std::max<uint64_t>(q_latent, a->query_rank);
    q = std::max<uint64_t>(q, a->q_width());
    latent = std::max<uint64_t>(latent, a->latent_width());
    values = std::max<uint64_t>(values, a->value_width());
    absorbed = std::max<uint64_t>(absorbed, uint64_t{a->heads} * padded_dim(a->latent_width()));
    gathered = std::max<uint64_t>(gathered, uint64_t{a->heads} * padded_dim(a->rank));
    heads = std::max<uint64_t>(heads, a->heads);
  }
  Scratch scratch;
  scratch.q_latent = arena.take<float>(rows * q_latent);
  scratch.q = arena.take<float>(rows * q);
  scratch.latent = arena.take<float>(rows * latent);
  scratch.values = arena.take<float>(rows * values);
  const uint64_t piece = std::min(rows, kPieceRows);
  scratch.absorbed = arena.take<float>(piece * absorbed);
  scratch.gathered = arena.take<float>(piece * gathered);
  scratch.queries = arena.take<kernels::AttentionQuery>(piece * heads);
  return scratch;
}

void LatentAttention::run(const Layer& layer, const Scratch& scratch, std::span<const Chunk> chunks,
                          const float* x, uint32_t rows, float* out) {
  project(layer, scratch, x, rows);
  rotate_and_store(layer, scratch, chunks);
  for (uint32_t begin = 0; begin < rows; begin += kPieceRows) {
    const Piece piece{begin, std::min(kPieceRows, rows - begin)};
    if (layer.weights.k_b.data != nullptr) {
      absorb(layer, scratch, piece);
    } else {
      absorb_transposed(layer, scratch, piece);
    }
    attend(layer, scratch, chunks, piece);
    expand_values(layer, scratch, piece);
  }
  const MatmulJob job = product(layer.weights.o, scratch.values, rows, out);
  cpu_.matmul({&job, 1});
  add_bias(out, rows, layer.weights.o.rows, layer.weights.o_bias);
}

void LatentAttention::project(const Layer& layer, const Scratch& scratch, const float* x, uint32_t rows) {
  const LatentAttentionSpec& a = layer.spec;
  const BoundLatentAttention& weights = layer.weights;
  const bool two_steps = a.query_rank != 0;
  const MatmulJob jobs[] = {
      two_steps ? product(weights.q_a, x, rows, scratch.q_latent) : product(weights.q, x, rows, scratch.q),
      product(weights.kv_a, x, rows, scratch.latent)};
  cpu_.matmul(jobs);
  add_bias(scratch.latent, rows, a.latent_width(), weights.kv_a_bias);
  cpu_.rms_norm({scratch.latent, a.latent_width(), scratch.latent, a.latent_width(), rows, a.rank},
                weights.kv_norm.data(), a.latent_eps);
  if (!two_steps) return;
  add_bias(scratch.q_latent, rows, a.query_rank, weights.q_a_bias);
  cpu_.rms_norm({scratch.q_latent, a.query_rank, scratch.q_latent, a.query_rank, rows, a.query_rank},
                weights.q_norm.data(), a.latent_eps);
  const MatmulJob job = product(weights.q, scratch.q_latent, rows, scratch.q);
  cpu_.matmul({&job, 1});
}

void LatentAttention::store(const LatentAttentionSpec& a, kv::LatentPages& pages, uint32_t position,
                            const float* latent) const {
  if (pages.element() == kv::Element::kF32) {
    std::copy_n(latent, a.latent_width(), pages.row<float>(position));
  } else {
    cpu_.kernels().narrow_f16(latent, a.latent_width(), pages.row<uint16_t>(position));
  }
}

void LatentAttention::rotate_and_store(const Layer& layer, const Scratch& scratch,
                                       std::span<const Chunk> chunks) {
  const LatentAttentionSpec& a = layer.spec;
  uint32_t first_row = 0;
  for (const Chunk& chunk : chunks) {
    kv::LatentPages& pages = chunk.sequence->latents(layer.index);
    const uint32_t start = chunk.sequence->length();
    const auto count = static_cast<uint32_t>(chunk.tokens.size());
    const auto row_work = [&](uint32_t t, uint32_t) {
      const uint32_t row = first_row + t;
      float* q = scratch.q + uint64_t{row} * a.q_width() + a.nope_dim;
      float* latent = scratch.latent + uint64_t{row} * a.latent_width();
      for (uint32_t h = 0; h < a.heads; ++h) ropes_.rotate(a.rope, row, q + uint64_t{h} * a.q_head_dim());
      ropes_.rotate(a.rope, row, latent + a.rank);
      store(a, pages, start + t, latent);
    };
    if (count == 1) {
      row_work(0, 0);
    } else {
      cpu_.for_each_row(count, row_work);
    }
    first_row += count;
  }
}

// The queries' first parts as products with the keys' matrix, stored the way that takes; the rotated parts as they are.
void LatentAttention::absorb(const Layer& layer, const Scratch& scratch, const Piece& piece) {
  const LatentAttentionSpec& a = layer.spec;
  const uint32_t padded = padded_dim(a.latent_width());
  const float* q = scratch.q + uint64_t{piece.begin} * a.q_width();
  products_.clear();
  for (uint32_t h = 0; h < a.heads; ++h) {
    MatmulJob job = product(layer.weights.k_b.row_slice(h * a.rank, a.rank), q + uint64_t{h} * a.q_head_dim(),
                            piece.count, scratch.absorbed + uint64_t{h} * padded);
    job.x_stride = a.q_width();
    job.y_stride = uint64_t{a.heads} * padded;
    products_.push_back(job);
  }
  cpu_.matmul(products_);
  for (uint64_t head = 0; head < uint64_t{piece.count} * a.heads; ++head) {
    float* target = scratch.absorbed + head * padded;
    std::copy_n(q + head * a.q_head_dim() + a.nope_dim, a.rope_dim, target + a.rank);
    std::fill(target + a.latent_width(), target + padded, 0.0f);
  }
}

// The same where the matrix is stored the other way round: an absorbed query is the sum over its rows, ascending, each
// scaled by an element of the query. A row is decoded once for kAbsorbRows queries.
void LatentAttention::absorb_transposed(const Layer& layer, const Scratch& scratch, const Piece& piece) {
  const LatentAttentionSpec& a = layer.spec;
  const uint32_t padded = padded_dim(a.latent_width());
  const auto block_work = [&](uint32_t index, uint32_t) {
    const uint32_t head = index % a.heads;
    const uint32_t begin = index / a.heads * kAbsorbRows;
    const uint32_t end = std::min(piece.count, begin + kAbsorbRows);
    const auto query = [&](uint32_t row) {
      return scratch.q + uint64_t{piece.begin + row} * a.q_width() + uint64_t{head} * a.q_head_dim();
    };
    const auto target = [&](uint32_t row) {
      return scratch.absorbed + (uint64_t{row} * a.heads + head) * padded;
    };
    for (uint32_t row = begin; row < end; ++row) {
      float* rope = std::fill_n(target(row), a.rank, 0.0f);
      std::fill(std::copy_n(query(row) + a.nope_dim, a.rope_dim, rope), target(row) + padded, 0.0f);
    }
    float weights[LatentAttentionSpec::kRankMax];
    for (uint32_t i = 0; i < a.nope_dim; ++i) {
      cpu_.decode_row(layer.weights.kv_b, head * (a.nope_dim + a.value_dim) + i, weights);
      for (uint32_t row = begin; row < end; ++row)
        cpu_.kernels().add_scaled(weights, query(row)[i], a.rank, target(row));
    }
  };
  cpu_.for_each_row((piece.count + kAbsorbRows - 1) / kAbsorbRows * a.heads, block_work);
}

void LatentAttention::attend(const Layer& layer, const Scratch& scratch, std::span<const Chunk> chunks,
                             const Piece& piece) {
  const LatentAttentionSpec& a = layer.spec;
  const uint32_t padded = padded_dim(a.latent_width());
  const uint32_t padded_rank = padded_dim(a.rank);
  jobs_.clear();
  kernels::AttentionQuery* query = scratch.queries;
  uint32_t first_row = 0;
  for (const Chunk& chunk : chunks) {
    const auto count = static_cast<uint32_t>(chunk.tokens.size());
    const uint32_t begin = std::max(first_row, piece.begin);
    const uint32_t end = std::min(first_row + count, piece.begin + piece.count);
    if (begin < end) {
      const kv::LatentPages& pages = chunk.sequence->latents(layer.index);
      compute::AttentionJob job;
      job.latent = true;
      job.args.head_dim = padded;
      job.args.value_dim = padded_rank;
      job.args.scale = a.scale;
      job.args.kv_f32 = pages.element() == kv::Element::kF32;
      job.args.key_pages = pages.pages();
      job.queries = query;
      job.count = (end - begin) * a.heads;
      for (uint32_t row = begin; row < end; ++row)
        for (uint32_t h = 0; h < a.heads; ++h) {
          const uint64_t head = uint64_t{row - piece.begin} * a.heads + h;
          *query++ = {scratch.absorbed + head * padded, scratch.gathered + head * padded_rank, 0,
                      chunk.sequence->length() + row - first_row + 1,
                      -std::numeric_limits<float>::infinity()};
        }
      jobs_.push_back(job);
    }
    first_row += count;
  }
  cpu_.attention(jobs_);
}

void LatentAttention::expand_values(const Layer& layer, const Scratch& scratch, const Piece& piece) {
  const LatentAttentionSpec& a = layer.spec;
  const uint32_t padded_rank = padded_dim(a.rank);
  const bool split = layer.weights.v_b.data != nullptr;
  products_.clear();
  for (uint32_t h = 0; h < a.heads; ++h) {
    const MatrixView matrix =
        split ? layer.weights.v_b.row_slice(h * a.value_dim, a.value_dim)
              : layer.weights.kv_b.row_slice(h * (a.nope_dim + a.value_dim) + a.nope_dim, a.value_dim);
    MatmulJob job =
        product(matrix, scratch.gathered + uint64_t{h} * padded_rank, piece.count,
                scratch.values + uint64_t{piece.begin} * a.value_width() + uint64_t{h} * a.value_dim);
    job.x_stride = uint64_t{a.heads} * padded_rank;
    job.y_stride = a.value_width();
    products_.push_back(job);
  }
  cpu_.matmul(products_);
}

}  // namespace mlxf::model
