// Moe: the mixture-of-experts block: routed experts, resident or streamed, and a shared one.
//
// Experts are computed in the order in which their weights arrive, the shared one while the first are on their way, and
// summed in expert order, so that results do not depend on what is cached. Owned by Forward; the engine's thread. Its
// scratch memory is laid out by place() and belongs to the pass.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "base/result.h"
#include "compute/cpu.h"
#include "model/arena.h"
#include "model/blocks/mlp.h"
#include "model/blocks/router.h"
#include "model/spec.h"
#include "tensor/matrix.h"

namespace mlxf::model {

class WeightStream;

struct BoundMoe {
  MatrixView router, shared_gate;
  Vector router_bias, choice_bias;
  std::vector<BoundMlp> experts;
  Vector gate_bias, up_bias, down_bias;  // [experts, width], [experts, hidden]
  BoundMlp shared;
  Vector router_norm, routed_norm, routed_post_norm, shared_post_norm, expert_scales;

  // Those that every token uses: all but the routed experts'.
  [[nodiscard]] std::vector<const MatrixView*> matrices() const {
    return {&router, &shared_gate, &shared.gate, &shared.up, &shared.down};
  }
  [[nodiscard]] std::array<Vector*, 10> vectors() {
    return {&router_bias, &choice_bias, &gate_bias,        &up_bias,          &down_bias,
            &router_norm, &routed_norm, &routed_post_norm, &shared_post_norm, &expert_scales};
  }
};

class Moe {
 public:
  struct Scratch {
    float* scores = nullptr;       // Of the router.
    float* out = nullptr;          // [pairs, hidden]
    float* shared_out = nullptr;   // [rows, hidden]
    float* shared_gate = nullptr;  // [rows]
    float* routed = nullptr;       // [rows, hidden] what router and experts read through norms of their own
    MlpScratch experts;            // [pairs, width]
    MlpScratch shared;             // In the same memory: it runs before the experts.

    [[nodiscard]] static Scratch place(Arena& arena, const ModelSpec& spec, uint32_t rows);
  };

  // `stream` brings experts that are not resident; null: all are. Both outlive this.
  Moe(compute::Cpu& cpu, WeightStream* stream) : cpu_(cpu), stream_(stream), router_(cpu) {}

  // One layer of a pass.
  struct Layer {
    uint32_t index;
    const MoeSpec& spec;
    const BoundMoe& weights;
    const float* residual;  // [rows, hidden] what x is the norm of
    float norm_eps;
  };
  // out [rows, hidden] from x [rows, hidden]. Fails only where a streamed expert cannot be read.
  [[nodiscard]] Status run(const Layer& layer, const Scratch& scratch, const float* x, uint32_t rows,
                           float* out);

  void observe_routing(RoutingObserver observer) { router_.observer = std::move(observer); }

  // Called in run() when all reads of streamed experts have been asked for, before any is waited for.
  std::function<void(uint32_t layer)> reads_asked;

 private:
  // What one run() works on.
  struct Work {
    const MoeSpec& spec;
    const BoundMoe& weights;
    const Scratch& scratch;
    const float* x;  // Of the routed experts.
    uint32_t rows;
    float* out;
  };
  // An expert that tokens chose, its weights in memory.
  struct ExpertWeights {
    uint32_t expert;
    const MatrixView* gate;
    const MatrixView* up;
    const MatrixView* down;
  };
  [[nodiscard]] Status stream_experts(const Layer& layer, const Work& work, const float* x);
  void compute_experts(std::span<const ExpertWeights> experts, const Work& work);
  void adjust_pairs(uint32_t begin, uint32_t count, const Work& work);
  void sum_experts(const Work& work);
  // The shared expert's rows and how much of them counts, if there is one; then their place in the sum.
  void compute_shared(const Layer& layer, const Work& work, const float* x);
  void add_shared(const Work& work);
  void normalise(const float* in, const Vector& weight, float eps, uint32_t rows, float* out);

  compute::Cpu& cpu_;
  WeightStream* stream_;
  Router router_;
  std::vector<ExpertWeights> batch_;
  std::vector<compute::MatmulJob> jobs_;
};

}  // namespace mlxf::model
