// PerLayerInputsSpec, PerLayerSpec: per-layer embeddings, as data.
//
// Beside its embedding, a token has a small vector for each layer: one row of a second table holds those of all layers.
// blocks/per_layer.h computes both forms. Bound forms list matrices and vectors in the order in which they stand here.
#pragma once

#include <array>
#include <cstdint>

#include "model/spec/mlp.h"
#include "model/spec/tensor_source.h"

namespace mlxf::model {

struct BoundPerLayerInputs;
struct BoundPerLayer;

// Of the model: inputs [layers, width] = (norm(projection x * projection_scale) + table[token] * table_scale) *
// sum_scale.
struct PerLayerInputsSpec {
  using Bound = BoundPerLayerInputs;
  uint32_t width = 0;  // Of one layer's part.
  float projection_scale = 1.0f, table_scale = 1.0f, sum_scale = 1.0f;
  MatrixSource table;  // [tokens, layers * width]; tokens beyond its rows have row 0.
  MatrixSource projection;
  VectorSource norm;  // Over each layer's part.
};

// Of a layer: x += norm(projection(act(gate x) * the layer's input)).
struct PerLayerSpec {
  using Bound = BoundPerLayer;
  Activation activation = Activation::kGeluTanh;
  MatrixSource gate, projection;
  VectorSource norm;

  [[nodiscard]] std::array<const MatrixSource*, 2> matrices() const { return {&gate, &projection}; }
  [[nodiscard]] std::array<const VectorSource*, 1> vectors() const { return {&norm}; }
};

}  // namespace mlxf::model
