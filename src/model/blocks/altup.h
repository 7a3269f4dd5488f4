// Altup: alternating updates: a residual stream of several widths, of which a layer computes one.
//
// Before a layer every stream is predicted from all of them, with coefficients that a small router takes from the
// active one; behind it every stream is corrected by what the layer changed, with coefficients from its output. Owned
// by Forward; the engine's thread. The streams lie in the pass's scratch memory.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "compute/cpu.h"
#include "model/arena.h"
#include "model/blocks/linear.h"
#include "model/spec.h"
#include "tensor/matrix.h"

namespace mlxf::model {

struct BoundAltup {
  std::vector<MatrixView> projections, merge;
};

struct BoundAltupLayer {
  MatrixView router;
  Vector router_norm, prediction, correction, output_scale;

  [[nodiscard]] std::array<MatrixView*, 1> matrices() { return {&router}; }
  [[nodiscard]] std::array<const MatrixView*, 1> matrices() const { return {&router}; }
  [[nodiscard]] std::array<Vector*, 4> vectors() {
    return {&router_norm, &prediction, &correction, &output_scale};
  }
};

class Altup {
 public:
  struct Scratch {
    float* streams = nullptr;  // [streams, rows, hidden]
    float* normed = nullptr;   // [rows, hidden]
    float* scores = nullptr;   // [rows, streams]

    [[nodiscard]] static Scratch place(Arena& arena, const ModelSpec& spec, uint32_t rows);
  };

  // Outlive this.
  Altup(compute::Cpu& cpu, const ModelSpec& spec) : cpu_(cpu), spec_(spec) {}

  // The streams of x [rows, hidden], the embeddings.
  void expand(const BoundAltup& weights, const Scratch& scratch, const float* x, uint32_t rows);
  // Predicts all streams; x becomes the active one.
  void predict(const BoundAltupLayer& weights, const Scratch& scratch, uint32_t rows, float* x);
  // Corrects all streams by x, what the layer made of the active one; x becomes the active one, scaled for the
  // per-layer embedding.
  void correct(const BoundAltupLayer& weights, const Scratch& scratch, uint32_t rows, float* x);
  // Adds x to all streams but the first.
  void add_to_others(const Scratch& scratch, const float* x, uint32_t rows);
  // x becomes the mean of the streams, all of the first one's magnitude.
  void merge(const BoundAltup& weights, const Scratch& scratch, uint32_t rows, float* x);

 private:
  [[nodiscard]] float* stream(const Scratch& scratch, uint32_t index, uint32_t rows) const {
    return scratch.streams + uint64_t{index} * rows * spec_.hidden;
  }
  void route(const BoundAltupLayer& weights, const Scratch& scratch, const float* x, uint32_t rows);
  template <typename Fn>
  void for_rows(uint32_t rows, const Fn& fn);

  compute::Cpu& cpu_;
  const ModelSpec& spec_;
};

}  // namespace mlxf::model
