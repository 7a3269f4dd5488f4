// GgufWriter: writes one GGUF v3 file as a stream. Declare metadata and all tensors, then append the data in
// the declared order; nothing but the chunk at hand is kept in memory.
//
// Tensors are padded to 32 bytes, general.alignment's default. The file appears under its name only when
// finish() succeeds: until then a temporary file beside it holds the data, and it is removed by the
// destructor. One thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/result.h"
#include "formats/tensor_spec.h"

namespace mlxf::formats {

// A metadata value; the alternative chooses the type in the file.
using GgufValue =
    std::variant<uint8_t, int8_t, uint16_t, int16_t, uint32_t, int32_t, uint64_t, int64_t, float, double,
                 bool, std::string, std::vector<std::string>, std::vector<uint32_t>, std::vector<int32_t>,
                 std::vector<float>, std::vector<uint8_t>, std::vector<bool>>;
// In file order.
using GgufPairs = std::vector<std::pair<std::string, GgufValue>>;

class GgufWriter {
 public:
  // Refuses what the reader would refuse: duplicate or empty names, names over 63 bytes, more than 4
  // dimensions, rows that are not whole blocks, types that GGUF lacks; and an existing file unless told to
  // replace it.
  [[nodiscard]] static Result<GgufWriter> create(const std::string& path, const GgufPairs& metadata,
                                                 std::vector<TensorSpec> tensors,
                                                 Overwrite overwrite = Overwrite::kRefuse);
  GgufWriter(GgufWriter&&) noexcept;
  GgufWriter& operator=(GgufWriter&&) noexcept;
  ~GgufWriter();

  // The next bytes of `tensor`, which must be the first one not yet complete. In chunks of any size.
  [[nodiscard]] Status append(std::string_view tensor, std::span<const uint8_t> bytes);
  // The whole of it as zeros that take no room on the disk.
  [[nodiscard]] Status append_hole(std::string_view tensor);
  // Moves the file to its name. Refused while data is missing.
  [[nodiscard]] Status finish();

 private:
  struct State;
  explicit GgufWriter(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace mlxf::formats
