// SynthPlan: the tensors of a synthetic model with the statistics of their values, whatever the container.
//
// Pure functions; any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "convert/shapes.h"
#include "convert/tensor_role.h"

namespace mlxf::convert {

struct PlannedTensor {
  TensorRole role = TensorRole::kEmbedding;
  uint32_t layer = 0;
  std::vector<uint64_t> shape;  // [width], [rows, cols] or [experts, rows, cols]
  double sigma = 0.0;           // 0: a norm, all ones.
  uint64_t positive_cols = 0;   // As in RandomRows.
  double positive_mean = 0.0;
};

[[nodiscard]] std::vector<PlannedTensor> plan_tensors(const ModelShape& shape, bool skewed);

// The router of `layer`, f32 [experts, width]: random directions of unit logit variance, plus each expert's
// standing preference along the embedding's common direction.
[[nodiscard]] std::vector<float> router_weights(const ModelShape& shape, uint32_t layer, double routing_skew,
                                                uint64_t seed);

}  // namespace mlxf::convert
