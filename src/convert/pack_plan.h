// PackPlan: where everything of a mixture of experts lies in its packed form: each expert in one extent.
//
// The packed form is an ordinary safetensors folder (docs/formats/packed.md): first what every token uses, then a file
// per layer with its experts one after the other, each expert's gate, up and down with their scales side by side from a
// multiple of 4096 bytes on. Made from headers alone; nothing is read or written. Plain data: points into the manifest
// that it was made from.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "formats/manifest.h"
#include "formats/tensor_spec.h"

namespace mlxf::convert {

inline constexpr uint64_t kPackAlignment = 4096;

// A tensor of the packed form: bytes [offset, offset + bytes) of a stored one, or zeros.
struct PackPiece {
  formats::TensorSpec spec;
  const formats::TensorEntry* source = nullptr;  // Null: padding.
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

// Pieces that are read together: an expert, or a tensor of what every token uses.
struct PackExtent {
  std::string name;     // "layer 3 expert 7", or the tensor's.
  uint64_t offset = 0;  // From the file's first tensor on, which is aligned.
  uint64_t bytes = 0;
};

struct PackFile {
  std::string name;
  std::vector<PackPiece> pieces;  // In file order.
  std::vector<PackExtent> extents;
  uint64_t bytes = 0;  // Of all pieces.
};

struct PackPlan {  // NOLINT(bugprone-exception-escape): what moving a Json could throw is its own assertions.
  std::vector<PackFile> files;
  Json config;  // The model's, with quantisation settings under the experts' new names.
  uint64_t bytes = 0;
  // Of all experts: how many, and what reading each of them once takes as stored and as packed.
  uint64_t experts = 0;
  uint64_t reads_before = 0, read_bytes_before = 0;
  uint64_t read_bytes_after = 0;
};

// kUnsupported for what cannot be packed: GGUF, dense models.
[[nodiscard]] Result<PackPlan> plan_pack(const formats::ModelManifest& manifest);

}  // namespace mlxf::convert
