// MatrixSource, VectorSource: where a spec's tensors are stored, by name and shape.
//
// Plain data. That the tensors exist in these shapes is checked when they are bound (model/bound_weights.h).
#pragma once

#include <cstdint>
#include <string>

namespace mlxf::model {

// `rows` rows from row_begin on of the stored matrix `name` (without ".weight"), which has `stored_rows` rows.
struct MatrixSource {
  std::string name;  // Empty: the layer has no such matrix.
  uint32_t rows = 0;
  uint32_t cols = 0;
  uint32_t row_begin = 0;
  uint32_t stored_rows = 0;
  uint32_t row_step = 1;  // Every row_step-th row from row_begin on: 2 where gate and up alternate.
  // Stored as [cols, rows] in each slice of a tensor [slices, cols, rows]; `stored_rows` are those of all slices.
  bool transposed = false;
  bool by_row = false;  // Its rows are read or multiplied apart, not as a whole.
};

// `size` floats of a tensor, by its full name.
struct VectorSource {
  std::string name;  // Empty: the layer has no such vector.
  uint32_t size = 0;
  bool add_one = false;  // Stored as weight - 1 (gemma's norms in safetensors).
  // Of every `step` values stored, number `first`: 2 where those of gate and up alternate.
  uint32_t first = 0;
  uint32_t step = 1;
  uint32_t stored = 0;  // How many the tensor has, where several vectors share it; else size * step.
};

}  // namespace mlxf::model
