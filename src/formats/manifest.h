// ModelManifest: what a model on disk consists of, from its headers alone. Tensor data is never read.
//
// open_model() accepts a folder with config.json and safetensors (one file, or shards with their index), one
// .safetensors file beside its config.json, a GGUF file (one part of a split model opens all parts), or a
// folder that holds exactly one GGUF model. Files are told apart by content, not by name.
//
// What a manifest guarantees: (1) names are unique; (2) `bytes` is exactly what dtype and shape imply; (3)
// every tensor lies within its file and no two overlap; (4) files hold nothing but header, tensors and (GGUF)
// alignment padding. Offsets and sizes are bytes. A value type without synchronisation; nothing stays open.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "formats/gguf_metadata.h"
#include "formats/name_index.h"
#include "tensor/dtype.h"

namespace mlxf::formats {

struct TensorEntry {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<uint64_t> shape;  // Outermost first; GGUF's dimensions are reversed. Empty for a scalar.
  uint32_t file = 0;            // Index into ModelManifest::files.
  uint64_t offset = 0;          // Absolute in that file. safetensors promises no alignment, GGUF its own.
  uint64_t bytes = 0;
};

enum class Container : uint8_t { kSafetensors, kGguf };

struct ModelManifest {
  Container container = Container::kSafetensors;
  std::string path;                  // As given to open_model().
  std::vector<std::string> files;    // In shard order.
  std::vector<uint64_t> file_bytes;  // Sizes when the headers were read, parallel to `files`.
  std::vector<TensorEntry> tensors;  // Ordered by file, then by offset.
  Json config = Json::object();      // config.json of a safetensors model; {} for GGUF.
  GgufMetadata metadata;             // GGUF only; of the first part of a split model.
  NameIndex tensor_index;            // Over `tensors`; find() depends on it.

  // The tensor of that name, or null. Logarithmic.
  [[nodiscard]] const TensorEntry* find(std::string_view name) const;
};

// Opens the model at `path` (a file or a folder) and reads its headers.
[[nodiscard]] Result<ModelManifest> open_model(const std::string& path);

}  // namespace mlxf::formats
