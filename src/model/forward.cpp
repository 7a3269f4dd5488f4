#include "model/forward.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "model/blocks/linear.h"

namespace mlxf::model {

using compute::Cpu;
using compute::MatmulJob;

Forward::Forward(const ModelSpec& spec, BoundWeights& weights, const std::vector<Rope>& ropes, Cpu& cpu,
                 WeightStream* stream)
    : spec_(spec),
      weights_(weights),
      cpu_(cpu),
      stream_(stream),
      ropes_(ropes),
      attention_(cpu, ropes_),
      latent_attention_(cpu, ropes_),
      delta_net_(cpu),
      moe_(cpu, stream),
      altup_(cpu, spec),
      per_layer_(cpu, spec),
      look_ahead_(spec, weights, cpu, stream) {
  moe_.reads_asked = [this](uint32_t layer) {
    if (rows_ == 1) look_ahead_.guess(layer + 1, scratch_.x);
  };
}

Forward::Scratch Forward::Scratch::place(Arena& arena, const ModelSpec& spec, uint32_t rows) {
  uint64_t mlp_width = 0;
  for (const LayerSpec& layer : spec.layers)
    if (const auto* mlp = std::get_if<MlpSpec>(&layer.ffn))
      mlp_width = std::max<uint64_t>(mlp_width, mlp->width);
  Scratch scratch;
  scratch.x = arena.take<float>(uint64_t{rows} * spec.hidden);
  scratch.normed = arena.take<float>(uint64_t{rows} * spec.hidden);
  scratch.sublayer = arena.take<float>(uint64_t{rows} * spec.hidden);
  scratch.ropes = RopeTables::place(arena, spec, rows);
  scratch.altup = Altup::Scratch::place(arena, spec, rows);
  scratch.per_layer = PerLayerInputs::Scratch::place(arena, spec, rows);
  const Arena common = arena;
  const auto in_turn = [&](const auto& place) {
    Arena turn = common;
    const auto placed = place(turn);
    arena.cover(turn);
    return placed;
  };
  scratch.attention = in_turn([&](Arena& turn) { return Attention::Scratch::place(turn, spec, rows); });
  scratch.latent_attention =
      in_turn([&](Arena& turn) { return LatentAttention::Scratch::place(turn, spec, rows); });
  scratch.delta_net = in_turn([&](Arena& turn) { return DeltaNet::Scratch::place(turn, spec, rows); });
  scratch.mlp = in_turn([&](Arena& turn) { return MlpScratch::place(turn, mlp_width, rows); });
  scratch.moe = in_turn([&](Arena& turn) { return Moe::Scratch::place(turn, spec, rows); });
  scratch.laurel = in_turn([&](Arena& turn) { return LaurelScratch::place(turn, spec, rows); });
  return scratch;
}

uint64_t Forward::scratch_bytes(const ModelSpec& spec, uint32_t rows, uint32_t threads) {
  Arena arena;
  static_cast<void>(Scratch::place(arena, spec, rows));
  // What one call of products reads is part of this, and its quantised form takes at most 1.5 bytes an element. Buffers
  // grow by a quarter more than they must.
  const uint64_t quantised = arena.bytes() / sizeof(float) * 3 / 2;
  return (arena.bytes() + quantised) * 5 / 4 + threads * kernels::kMatmulScratchBytes;
}

void Forward::place_scratch(uint32_t rows) {
  Arena size;
  static_cast<void>(Scratch::place(size, spec_, rows));
  Arena arena(memory_.at_least(size.bytes()));
  scratch_ = Scratch::place(arena, spec_, rows);
  rows_ = rows;
}

Status Forward::run(std::span<const Chunk> chunks, float* logits, const HiddenObserver& hidden) {
  uint32_t rows = 0;
  for (const Chunk& chunk : chunks) rows += static_cast<uint32_t>(chunk.tokens.size());
  place_scratch(rows);
  RETURN_IF_ERROR(embed(chunks));
  ropes_.fill(chunks, rows, scratch_.ropes);
  if (spec_.per_layer_inputs)
    RETURN_IF_ERROR(per_layer_.fill(weights_.per_layer_inputs,
                                    stream_ != nullptr ? stream_->per_layer_rows() : nullptr,
                                    scratch_.per_layer, chunks, scratch_.x, rows_));
  if (spec_.altup) altup_.expand(weights_.altup, scratch_.altup, scratch_.x, rows_);
  const float* residual = spec_.altup ? scratch_.altup.streams : scratch_.x;
  if (hidden) hidden(0, residual, rows_, spec_.hidden);
  for (uint32_t i = 0; i < spec_.layers.size(); ++i) {
    if (interrupt && interrupt()) return fail(ErrorCode::kCancelled, "interrupted");
    RETURN_IF_ERROR(run_layer(i, chunks));
    if (hidden) hidden(i + 1, residual, rows_, spec_.hidden);
  }
  if (spec_.altup) altup_.merge(weights_.altup, scratch_.altup, rows_, scratch_.x);
  // A file that was written to in between may have given bytes of both states.
  if (stream_ != nullptr && stream_->reads()) RETURN_IF_ERROR(stream_->check_files());
  for (const Chunk& chunk : chunks) chunk.sequence->advance(static_cast<uint32_t>(chunk.tokens.size()));
  head(chunks, logits);
  return {};
}

Status Forward::run_layer(uint32_t index, std::span<const Chunk> chunks) {
  const LayerSpec& layer = spec_.layers[index];
  BoundLayer& bound = weights_.layers[index];
  if (stream_ != nullptr && stream_->has_layer(index)) {
    ASSIGN_OR_RETURN(const auto matrices, stream_->acquire_layer(index));
    set_matrices(layer, matrices, bound);
  }
  const auto run_kind = [&](const auto& spec, const auto& weights) {
    using Bound = typename std::remove_cvref_t<decltype(spec)>::Bound;
    return run_sublayer(index, spec, *std::get_if<Bound>(&weights), chunks);
  };
  if (layer.altup) altup_.predict(bound.altup, scratch_.altup, rows_, scratch_.x);
  normalise(bound.mixer_norm);
  RETURN_IF_ERROR(std::visit([&](const auto& spec) { return run_kind(spec, bound.mixer); }, layer.mixer));
  add_residual(bound.mixer_post_norm);
  if (layer.laurel)
    add_laurel(cpu_, bound.laurel, scratch_.laurel, scratch_.normed, rows_, spec_.norm_eps, scratch_.x);
  normalise(bound.ffn_norm);
  RETURN_IF_ERROR(std::visit([&](const auto& spec) { return run_kind(spec, bound.ffn); }, layer.ffn));
  add_residual(bound.ffn_post_norm);
  finish_layer(index);
  if (stream_ == nullptr) return {};
  const auto kept = stream_->finish_layer(index);
  if (!kept.empty()) set_matrices(layer, kept, bound);
  return {};
}

void Forward::finish_layer(uint32_t index) {
  const LayerSpec& layer = spec_.layers[index];
  const BoundLayer& bound = weights_.layers[index];
  if (layer.altup) altup_.correct(bound.altup, scratch_.altup, rows_, scratch_.x);
  if (layer.per_layer) {
    per_layer_.run(index, *layer.per_layer, bound.per_layer, scratch_.per_layer, scratch_.x, rows_,
                   scratch_.sublayer);
    if (layer.altup)
      altup_.add_to_others(scratch_.altup, scratch_.sublayer, rows_);
    else
      add_residual({});
  }
  if (bound.output_scale.empty()) return;
  for (uint64_t i = 0; i < uint64_t{rows_} * spec_.hidden; ++i) scratch_.x[i] *= bound.output_scale[0];
}

Status Forward::embed(std::span<const Chunk> chunks) {
  const auto decode = [&](const MatrixView& table, uint32_t table_row, size_t row) {
    float* out = scratch_.x + row * spec_.hidden;
    cpu_.decode_row(table, table_row, out);
    if (spec_.embedding_scale != 1.0f)
      for (uint32_t i = 0; i < spec_.hidden; ++i) out[i] *= spec_.embedding_scale;
  };
  embedding_rows_.clear();
  for (const Chunk& chunk : chunks)
    for (const TokenId token : chunk.tokens) embedding_rows_.push_back(static_cast<uint32_t>(token));
  if (stream_ != nullptr && stream_->has_embedding())
    return stream_->read_embedding(embedding_rows_,
                                   [&](size_t row, const MatrixView& view) { decode(view, 0, row); });
  for (size_t row = 0; row < embedding_rows_.size(); ++row)
    decode(weights_.embedding, embedding_rows_[row], row);
  return {};
}

Status Forward::run_sublayer(uint32_t layer, const AttentionSpec& spec, const BoundAttention& weights,
                             std::span<const Chunk> chunks) {
  attention_.run({layer, spec, weights, spec_.norm_eps}, scratch_.attention, chunks, scratch_.normed, rows_,
                 scratch_.sublayer);
  return {};
}

Status Forward::run_sublayer(uint32_t layer, const LatentAttentionSpec& spec,
                             const BoundLatentAttention& weights, std::span<const Chunk> chunks) {
  latent_attention_.run({layer, spec, weights}, scratch_.latent_attention, chunks, scratch_.normed, rows_,
                        scratch_.sublayer);
  return {};
}

Status Forward::run_sublayer(uint32_t layer, const DeltaNetSpec& spec, const BoundDeltaNet& weights,
                             std::span<const Chunk> chunks) {
  delta_net_.run({layer, spec, weights, spec_.norm_eps}, scratch_.delta_net, chunks, scratch_.normed, rows_,
                 scratch_.sublayer);
  return {};
}

Status Forward::run_sublayer(uint32_t, const MlpSpec& spec, const BoundMlp& weights, std::span<const Chunk>) {
  run_mlp(cpu_, spec, weights, scratch_.mlp, scratch_.normed, rows_, scratch_.sublayer);
  return {};
}

Status Forward::run_sublayer(uint32_t layer, const MoeSpec& spec, const BoundMoe& weights,
                             std::span<const Chunk>) {
  return moe_.run({layer, spec, weights, scratch_.x, spec_.norm_eps}, scratch_.moe, scratch_.normed, rows_,
                  scratch_.sublayer);
}

void Forward::normalise(const Vector& norm) {
  cpu_.rms_norm({scratch_.x, spec_.hidden, scratch_.normed, spec_.hidden, rows_, spec_.hidden}, norm.data(),
                spec_.norm_eps);
}

void Forward::add_residual(const Vector& post_norm) {
  if (!post_norm.empty())
    cpu_.rms_norm({scratch_.sublayer, spec_.hidden, scratch_.sublayer, spec_.hidden, rows_, spec_.hidden},
                  post_norm.data(), spec_.norm_eps);
  for (uint64_t i = 0; i < uint64_t{rows_} * spec_.hidden; ++i) scratch_.x[i] += scratch_.sublayer[i];
}

void Forward::head(std::span<const Chunk> chunks, float* logits) {
  uint32_t row = 0, wanted = 0;
  for (const Chunk& chunk : chunks) {
    const auto count = static_cast<uint32_t>(chunk.tokens.size());
    if (chunk.state != nullptr) {
      cpu_.rms_norm({scratch_.x + uint64_t{row + count - 1} * spec_.hidden, spec_.hidden, chunk.state,
                     spec_.hidden, 1, spec_.hidden},
                    weights_.final_norm.data(), spec_.norm_eps);
      row += count;
      continue;
    }
    for (uint32_t t = chunk.all_logits ? 0 : count - 1; t < count; ++t)
      std::copy_n(scratch_.x + uint64_t{row + t} * spec_.hidden, spec_.hidden,
                  scratch_.normed + uint64_t{wanted++} * spec_.hidden);
    row += count;
  }
  if (wanted == 0) return;
  cpu_.rms_norm({scratch_.normed, spec_.hidden, scratch_.normed, spec_.hidden, wanted, spec_.hidden},
                weights_.final_norm.data(), spec_.norm_eps);
  const MatmulJob job = product(weights_.head, scratch_.normed, wanted, logits);
  cpu_.matmul({&job, 1});
  if (spec_.final_soft_cap <= 0.0f) return;
  for (uint64_t i = 0; i < uint64_t{wanted} * spec_.vocab; ++i)
    logits[i] = spec_.final_soft_cap * std::tanh(logits[i] / spec_.final_soft_cap);
}

}  // namespace mlxf::model
