// StoredMatrix: where a weight matrix lies in the model's files and how it is encoded, before anything is
// read.
//
// Resolves a name to the tensors behind it: one tensor for plain and GGUF types; weight + scales [+ biases]
// for MLX-quantised safetensors, with the bits and group of `quantization` in config.json or its per-layer
// overrides; weight + weight_scale_inv for DeepSeek's f8; blocks + scales for the mxfp4 of gpt-oss. Stacked
// experts [experts, rows, cols] appear as one tall matrix of experts * rows rows, to be sliced.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"
#include "formats/manifest.h"
#include "tensor/matrix.h"

namespace mlxf::weights {

struct StoredMatrix {
  MatrixView layout;  // Format, rows, cols and strides; the pointers are null.
  const formats::TensorEntry* data = nullptr;
  const formats::TensorEntry* scales = nullptr;
  const formats::TensorEntry* biases = nullptr;
  [[nodiscard]] uint64_t bytes() const;
};

// `name` without the ".weight" suffix finds "name.weight" first, then "name" itself (fused expert tensors).
// Errors: kNotFound naming the tensor; kCorrupt when shapes contradict the quantisation settings.
[[nodiscard]] Result<StoredMatrix> find_matrix(const formats::ModelManifest& manifest,
                                               const std::string& name);

// The layout of a matrix whose slices [cols, rows] are transposed to [rows, cols], one below the other. kUnsupported
// for other formats than f32, f16 and bf16.
[[nodiscard]] Result<MatrixView> transposed_layout(const StoredMatrix& stored);

}  // namespace mlxf::weights
