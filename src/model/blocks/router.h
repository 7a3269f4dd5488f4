// Router: which experts each row of a pass goes to, with what weight, and which rows each expert gets.
//
// Owned by Moe; the engine's thread. What select() decided holds until its next call. A pair is one (expert, row);
// pairs are numbered by expert, then by row, so that an expert's pairs are neighbours and so are those of
// neighbouring experts.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "compute/cpu.h"
#include "model/arena.h"
#include "model/blocks/linear.h"
#include "model/chunk.h"
#include "model/spec.h"
#include "tensor/matrix.h"

namespace mlxf::model {

// An expert that a row goes to.
struct Selection {
  int32_t expert = 0;
  float weight = 0.0f;
  uint32_t pair = 0;
};

class Router {
 public:
  // `cpu` outlives this.
  explicit Router(compute::Cpu& cpu) : cpu_(cpu) {}

  // Memory for select(): [rows, experts].
  [[nodiscard]] static float* place(Arena& arena, const ModelSpec& spec, uint32_t rows);

  struct Weights {
    const MatrixView& matrix;   // [experts, hidden]
    const Vector& bias;         // [experts], or none.
    const Vector& choice_bias;  // The same.
  };
  // x [rows, hidden].
  void select(uint32_t layer, const MoeSpec& spec, const Weights& weights, const float* x, uint32_t rows,
              float* scores);

  // Of one row, by expert id.
  [[nodiscard]] std::span<const Selection> row(uint32_t row) const {
    return {selections_.data() + uint64_t{row} * top_k_, top_k_};
  }
  // Experts that any row goes to, ascending.
  [[nodiscard]] std::span<const uint32_t> chosen() const { return chosen_; }
  [[nodiscard]] uint32_t first_pair(uint32_t expert) const { return pair_begin_[expert]; }
  // The rows of an expert's pairs, ascending.
  [[nodiscard]] std::span<const uint32_t> rows_of(uint32_t expert) const {
    return {pair_rows_.data() + pair_begin_[expert], pair_begin_[expert + 1] - pair_begin_[expert]};
  }

  [[nodiscard]] uint32_t expert_of(uint32_t pair) const { return pair_experts_[pair]; }
  [[nodiscard]] float weight_of(uint32_t pair) const { return pair_weights_[pair]; }

  RoutingObserver observer;

 private:
  void choose(uint32_t layer, const MoeSpec& spec, const Vector& bias, uint32_t row, float* scores);
  [[nodiscard]] const float* rank_by(const MoeSpec& spec, const Vector& bias, const float* scores);
  void leave_groups_out(const MoeSpec& spec);
  void number_pairs(uint32_t rows, uint32_t experts);

  compute::Cpu& cpu_;
  uint32_t top_k_ = 0;
  std::vector<Selection> selections_;  // [rows, top_k]
  std::vector<uint32_t> pair_rows_;    // By pair,
  std::vector<uint32_t> pair_experts_;
  std::vector<float> pair_weights_;
  std::vector<uint32_t> pair_begin_;  // [experts + 1]
  std::vector<uint32_t> pair_next_;
  std::vector<int32_t> order_;
  std::vector<float> ranked_;        // What one row's experts are chosen by, where that is not their scores.
  std::vector<float> group_scores_;  // [groups]
  std::vector<uint32_t> chosen_;
};

}  // namespace mlxf::model
