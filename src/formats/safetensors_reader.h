// Reads one safetensors file: its header, and a single tensor's bytes. For files that are not models (logits,
// oracles, routing traces) and for tests; models go through open_model(), which keeps the same checks.
//
// Stateless functions; any thread. Errors name the file, the field and the byte offset.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "formats/manifest.h"

namespace mlxf::formats {

// The tensors of the file, ordered by offset, with `file` set to 0.
[[nodiscard]] Result<std::vector<TensorEntry>> read_safetensors_header(const std::string& path);

// The bytes of tensor `name`, as stored.
[[nodiscard]] Result<std::vector<uint8_t>> read_safetensors_tensor(const std::string& path,
                                                                   std::string_view name);

struct FloatTensor {
  std::vector<uint64_t> shape;
  std::vector<float> values;
};

// Tensor `name` widened to f32; refused for types that f32 cannot hold exactly (F64, 32- and 64-bit
// integers).
[[nodiscard]] Result<FloatTensor> load_tensor_f32(const std::string& path, std::string_view name);

}  // namespace mlxf::formats
