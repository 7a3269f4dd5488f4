// SafetensorsWriter: writes one safetensors file as a stream. Declare all tensors, then append their data in
// the declared order; nothing but the chunk at hand is kept in memory.
//
// The file appears under its name only when finish() succeeds: until then a temporary file beside it holds
// the data, and it is removed by the destructor. The header is padded with spaces so that data begins at a
// multiple of `data_alignment`; since the format allows no holes, a tensor is aligned to its element only if
// callers declare wider types first. One thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "formats/tensor_spec.h"

namespace mlxf::formats {

class SafetensorsWriter {
 public:
  // Refuses duplicate or empty names, block-quantised types, and an existing file unless told to replace it.
  [[nodiscard]] static Result<SafetensorsWriter> create(
      const std::string& path, std::vector<TensorSpec> tensors,
      const std::map<std::string, std::string>& metadata = {}, Overwrite overwrite = Overwrite::kRefuse,
      uint64_t data_alignment = 8);
  SafetensorsWriter(SafetensorsWriter&&) noexcept;
  SafetensorsWriter& operator=(SafetensorsWriter&&) noexcept;
  ~SafetensorsWriter();

  // The next bytes of `tensor`, which must be the first one not yet complete. In chunks of any size.
  [[nodiscard]] Status append(std::string_view tensor, std::span<const uint8_t> bytes);
  // Moves the file to its name. Refused while data is missing.
  [[nodiscard]] Status finish();

 private:
  struct State;
  explicit SafetensorsWriter(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace mlxf::formats
