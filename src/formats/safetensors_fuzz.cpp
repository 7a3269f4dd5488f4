// Any bytes as a safetensors file: refused, or accepted with tensors that cover the data exactly.
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "formats/safetensors_header.h"
#include "formats/test_bytes.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  namespace formats = mlxf::formats;
  const formats::MemorySource source("fuzz.safetensors", {reinterpret_cast<const char*>(data), size});
  const auto tensors = formats::parse_safetensors_header(source);
  if (!tensors) return 0;
  CHECK(formats::testing::tensors_fault(*tensors, size).empty());
  if (!tensors->empty()) CHECK(tensors->back().offset + tensors->back().bytes == size);
  return 0;
}
