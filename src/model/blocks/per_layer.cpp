#include "model/blocks/per_layer.h"

#include "model/blocks/mlp.h"

namespace mlxf::model {

using compute::MatmulJob;

PerLayerInputs::Scratch PerLayerInputs::Scratch::place(Arena& arena, const ModelSpec& spec, uint32_t rows) {
  if (!spec.per_layer_inputs) return {};
  const uint64_t width = spec.per_layer_inputs->width;
  const uint64_t all = spec.layers.size() * width;
  return {arena.take<float>(rows * all), arena.take<float>(all), arena.take<float>(rows * width)};
}

Status PerLayerInputs::fill(const BoundPerLayerInputs& weights, weights::RowReader* reader,
                            const Scratch& scratch, std::span<const Chunk> chunks, const float* x,
                            uint32_t rows) {
  const PerLayerInputsSpec& spec = *spec_.per_layer_inputs;
  table_rows_.clear();
  for (const Chunk& chunk : chunks)
    for (const TokenId token : chunk.tokens) {
      const auto row = static_cast<uint32_t>(token);
      table_rows_.push_back(row < spec.table.rows ? row : 0);
    }
  // The reader names the row, which is the token.
  const auto named = [](const Error& error) {
    return tl::unexpected<Error>(error.within("per-layer embeddings"));
  };
  if (reader != nullptr)
    if (const Status status = reader->begin(table_rows_); !status) return named(status.error());

  const uint32_t width = weights.projection.rows;
  const MatmulJob job = product(weights.projection, x, rows, scratch.inputs);
  cpu_.matmul({&job, 1});
  for (uint64_t i = 0; i < uint64_t{rows} * width; ++i) scratch.inputs[i] *= spec.projection_scale;
  cpu_.rms_norm(
      {scratch.inputs, spec.width, scratch.inputs, spec.width, rows * (width / spec.width), spec.width},
      weights.norm.data(), spec_.norm_eps);
  for (uint32_t row = 0; row < rows; ++row) {
    if (reader != nullptr) {
      const auto view = reader->next();
      if (!view) return named(view.error());
      cpu_.decode_row(*view, 0, scratch.row);
    } else {
      cpu_.decode_row(weights.table, table_rows_[row], scratch.row);
    }
    float* input = scratch.inputs + uint64_t{row} * width;
    for (uint32_t i = 0; i < width; ++i)
      input[i] = (input[i] + scratch.row[i] * spec.table_scale) * spec.sum_scale;
  }
  return {};
}

void PerLayerInputs::run(uint32_t layer, const PerLayerSpec& spec, const BoundPerLayer& weights,
                         const Scratch& scratch, const float* x, uint32_t rows, float* out) {
  const uint32_t width = weights.gate.rows;
  const MatmulJob gate = product(weights.gate, x, rows, scratch.gate);
  cpu_.matmul({&gate, 1});
  const uint64_t stride = spec_.layers.size() * uint64_t{width};
  for (uint32_t row = 0; row < rows; ++row) {
    float* values = scratch.gate + uint64_t{row} * width;
    cpu_.gated_activation(cpu_activation(spec.activation), values,
                          scratch.inputs + row * stride + uint64_t{layer} * width, values, width, 1, width);
  }
  const MatmulJob projection = product(weights.projection, scratch.gate, rows, out);
  cpu_.matmul({&projection, 1});
  cpu_.rms_norm({out, spec_.hidden, out, spec_.hidden, rows, spec_.hidden}, weights.norm.data(),
                spec_.norm_eps);
}

}  // namespace mlxf::model
