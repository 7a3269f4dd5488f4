// Ollama's manifest of one model: which blob holds its weights.
//
// Format: https://github.com/ollama/ollama (an OCI image manifest: layers with mediaType, digest, size). Pure.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace mlxf::hub {

struct OllamaBlob {
  std::string file_name;  // "sha256-" and 64 hexadecimal digits.
  uint64_t bytes = 0;
};

// The layer of the weights. kCorrupt, or kUnsupported where the model is not one GGUF file.
[[nodiscard]] Result<OllamaBlob> parse_ollama_manifest(std::string_view text);

}  // namespace mlxf::hub
