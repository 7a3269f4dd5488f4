// MoeSpec: a mixture of experts of one layer, as data.
//
// blocks/moe.h computes it, blocks/router.h chooses the experts. All experts of a layer have the same shapes.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "model/spec/mlp.h"
#include "model/spec/tensor_source.h"

namespace mlxf::model {

struct ExpertSource {
  MatrixSource gate, up, down;

  [[nodiscard]] std::array<const MatrixSource*, 3> matrices() const { return {&gate, &up, &down}; }
};

enum class RouterScore : uint8_t { kSoftmax, kSigmoid };  // Over all experts; of each on its own.

// Experts in `count` groups of neighbours, of which a token uses the `used` best.
struct ExpertGroups {
  enum class Score : uint8_t { kLargest, kTwoLargest };  // The best expert's; the sum of the two best.
  uint32_t count = 1;
  uint32_t used = 1;
  Score score = Score::kLargest;
};

struct BoundMoe;

// The top_k experts by score, where biased and within the groups used; their scores (optionally scaled to sum to one)
// times routed_scale weight their outputs.
struct MoeSpec {
  using Bound = BoundMoe;
  uint32_t top_k = 0;
  uint32_t width = 0;
  Activation activation = Activation::kSilu;
  RouterScore score = RouterScore::kSoftmax;
  bool normalise_top_k = false;
  float routed_scale = 1.0f;
  bool weighs_input = false;  // Weights multiply the experts' inputs instead of their outputs.
  ExpertGroups groups;
  MatrixSource router;
  VectorSource router_bias;  // [experts], added to the router's logits.
  VectorSource choice_bias;  // [experts], added to the scores for choosing, not for weighting.
  std::vector<ExpertSource> experts;
  VectorSource gate_bias, up_bias, down_bias;  // Of all experts, one after the other.
  std::optional<MlpSpec> shared;               // Every token's expert,
  MatrixSource shared_gate;                    // scaled by the sigmoid of this row's product with x.
  // Where named, the router and the routed experts read the residual stream through norms of their own instead of x,
  VectorSource router_norm, routed_norm;
  float router_norm_scale = 1.0f;  // Of router_norm's weights.
  // and the outputs of the routed and of the shared expert are normalised before they are added.
  VectorSource routed_post_norm, shared_post_norm;
  VectorSource expert_scales;  // One per expert, of its output.

  // Those that every token uses: all but the routed experts'.
  [[nodiscard]] std::vector<const MatrixSource*> matrices() const {
    std::vector<const MatrixSource*> list{&router, &shared_gate};
    if (shared) list.insert(list.end(), {&shared->gate, &shared->up, &shared->down});
    return list;
  }
  [[nodiscard]] std::array<const VectorSource*, 10> vectors() const {
    return {&router_bias, &choice_bias, &gate_bias,        &up_bias,          &down_bias,
            &router_norm, &routed_norm, &routed_post_norm, &shared_post_norm, &expert_scales};
  }
};

}  // namespace mlxf::model
