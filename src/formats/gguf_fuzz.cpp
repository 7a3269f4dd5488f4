// Any bytes as a GGUF file: refused, or accepted with tensors that lie in the file and metadata that can be read.
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "formats/gguf_header.h"
#include "formats/test_bytes.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  namespace formats = mlxf::formats;
  const formats::MemorySource source("fuzz.gguf", {reinterpret_cast<const char*>(data), size});
  const auto header = formats::parse_gguf_header(source);
  if (!header) {
    CHECK(header.error().message.starts_with("fuzz.gguf: ") ||
          header.error().message.starts_with("metadata "));
    return 0;
  }
  CHECK(formats::testing::tensors_fault(header->tensors, size).empty());
  CHECK(formats::testing::visit_metadata(header->metadata) == 0);
  return 0;
}
