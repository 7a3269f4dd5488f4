// AltupSpec, AltupLayerSpec, LaurelSpec: alternating updates and the learned augmented residual, as data.
//
// With alternating updates the residual stream is `streams` wide; a layer computes the active one, and predicts and
// corrects the others. blocks/altup.h and blocks/laurel.h compute them. Bound forms list matrices and vectors in the
// order in which they stand here.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "model/spec/tensor_source.h"

namespace mlxf::model {

struct BoundAltupLayer;
struct BoundLaurel;

// Of the model: how the streams are made from the embedding and merged before the final norm.
struct AltupSpec {
  uint32_t streams = 0;  // 2 … kStreamsMax
  uint32_t active = 0;
  float router_scale = 1.0f;                     // Of what the layers' routers read.
  std::vector<MatrixSource> projections, merge;  // One for each stream but the first.

  static constexpr uint32_t kStreamsMax = 16;
};

struct AltupLayerSpec {
  using Bound = BoundAltupLayer;
  MatrixSource router;  // [streams, hidden]
  VectorSource router_norm;
  VectorSource prediction;    // [streams * streams, streams]
  VectorSource correction;    // [streams, streams]
  VectorSource output_scale;  // Of the active stream, for the per-layer embedding.

  [[nodiscard]] std::array<const MatrixSource*, 1> matrices() const { return {&router}; }
  [[nodiscard]] std::array<const VectorSource*, 4> vectors() const {
    return {&router_norm, &prediction, &correction, &output_scale};
  }
};

// y + norm(right left y), y being the mixer's input; its mean with the mixer's result, times sqrt(2), goes on.
struct LaurelSpec {
  using Bound = BoundLaurel;
  MatrixSource left, right;
  VectorSource norm;

  [[nodiscard]] std::array<const MatrixSource*, 2> matrices() const { return {&left, &right}; }
  [[nodiscard]] std::array<const VectorSource*, 1> vectors() const { return {&norm}; }
};

}  // namespace mlxf::model
