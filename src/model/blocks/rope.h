// Rotary position embeddings: frequencies of every scaling method, tables of cosines and sines, the rotation.
//
// A Rope is immutable after make_rope(). Which of the length-dependent frequencies apply (longrope's short or long
// factors, dynamic scaling) is decided by the sequence's context_max and not by its current length: keys in the
// cache were rotated once and all must agree, so that prefill in chunks equals prefill in one piece.
// Angles are f32 products, as in the reference implementations.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "base/result.h"
#include "model/spec.h"

namespace mlxf::model {

class Rope {
 public:
  // `read` loads a named vector of divisors (GGUF).
  using ReadVector = std::function<Result<std::vector<float>>(const VectorSource&)>;
  [[nodiscard]] static Result<Rope> make(const RopeSpec& spec, const ReadVector& read);

  // Pairs of elements rotated: a table row is [2, pairs()], cosines then sines.
  [[nodiscard]] uint32_t pairs() const { return spec_.dims / 2; }

  // Fills the table row of `position` in a sequence of `context_max`.
  void fill_row(uint32_t position, uint32_t context_max, float* row) const;

  // Rotates one head in place.
  void rotate(const float* table_row, float* head) const;

  // The angle per position of each pair.
  [[nodiscard]] std::vector<float> frequencies(uint32_t context_max) const;

 private:
  explicit Rope(const RopeSpec& spec) : spec_(spec) {}
  [[nodiscard]] bool stretches(uint32_t context_max) const {
    return static_cast<float>(context_max) > spec_.original_positions;
  }
  [[nodiscard]] float dynamic_frequency(uint32_t pair, uint32_t context_max) const;

  RopeSpec spec_;
  std::vector<float> short_frequencies_;
  std::vector<float> long_frequencies_;  // kLongRope only.
};

}  // namespace mlxf::model
