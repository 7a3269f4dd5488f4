// SynthPlan: the tensors of a synthetic model with the statistics of their values, whatever the container.
//
// Pure functions; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "convert/shapes.h"
#include "convert/tensor_role.h"

namespace mlxf::convert {

struct PlannedTensor {
  TensorRole role = TensorRole::kEmbedding;  // Which type it gets.
  uint32_t layer = 0;
  std::vector<uint64_t> shape;               // [width], [rows, cols] or [experts, rows, cols]
  std::string gguf = {};                     // Its name in GGUF where the role does not tell it.
  std::optional<DType> type = std::nullopt;  // Whatever the role says.
  std::vector<float> values = {};            // All of them, f32; else `sigma` or `constant`.
  double constant = 1.0;                     // Of all elements when sigma is 0: a norm's are ones.
  double sigma = 0.0;
  uint64_t positive_cols = 0;  // As in RandomRows.
  double positive_mean = 0.0;
};

[[nodiscard]] std::vector<PlannedTensor> plan_tensors(const ModelShape& shape, bool skewed);

// The router of `layer`, f32 [experts, width]: random directions of unit logit variance, plus each expert's
// standing preference along the embedding's common direction.
[[nodiscard]] std::vector<float> router_weights(const ModelShape& shape, uint32_t layer, double routing_skew,
                                                uint64_t seed);

}  // namespace mlxf::convert
