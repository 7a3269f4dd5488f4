// MlpSpec: a gated feed-forward layer, as data.
//
// blocks/mlp.h computes it. BoundMlp lists matrices and vectors in the order in which they stand here.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "model/spec/tensor_source.h"

namespace mlxf::model {

enum class Activation : uint8_t {
  kSilu,
  kGeluTanh,
  kClampedSwiglu,  // (up + 1) * gate * sigmoid(1.702 gate), gate at most 7 and up within [-7, 7].
};

struct BoundMlp;

// down(act(gate x) * up x).
struct MlpSpec {
  using Bound = BoundMlp;
  uint32_t width = 0;
  Activation activation = Activation::kSilu;
  // Gates below their row's mean plus this many standard deviations are zero, and the rest count from there.
  std::optional<float> cutoff_deviations;
  MatrixSource gate, up, down;
  VectorSource gate_bias, up_bias, down_bias;

  [[nodiscard]] std::array<const MatrixSource*, 3> matrices() const { return {&gate, &up, &down}; }
  [[nodiscard]] std::array<const VectorSource*, 3> vectors() const {
    return {&gate_bias, &up_bias, &down_bias};
  }
};

}  // namespace mlxf::model
