// Parses the header of one GGUF file (versions 2 and 3, little-endian): metadata, tensor table, layout.
//
// The file is hostile until proven otherwise. Limits: strings 16 MiB, arrays 64 Mi elements, 1e6 keys, 1e6
// tensors, 4 dimensions, 128 MiB of header; every count is compared with the bytes that remain before memory
// is spent on it. Arrays of arrays do not occur in models and are refused, so nothing recurses. The header is
// read in growing pieces; tensor data only as far as the last piece overlaps it. Format notes:
// docs/formats/gguf.md.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "formats/byte_source.h"
#include "formats/gguf_metadata.h"
#include "formats/manifest.h"

namespace mlxf::formats {

inline constexpr uint64_t kGgufHeaderBytesMax = uint64_t{128} << 20;
inline constexpr uint64_t kGgufStringBytesMax = uint64_t{16} << 20;
inline constexpr uint64_t kGgufArrayElementsMax = uint64_t{64} << 20;
inline constexpr uint64_t kGgufKeysMax = 1'000'000;
inline constexpr uint64_t kGgufKeyBytesMax = 65'535;
inline constexpr uint64_t kGgufTensorsMax = 1'000'000;
inline constexpr uint64_t kGgufNameBytesMax = 63;  // ggml's tensor names have room for 64 with the final NUL.
inline constexpr uint32_t kGgufDimensionsMax = 4;
inline constexpr uint64_t kGgufFilePaddingMax = uint64_t{64}
                                                << 10;  // Zeros at the end of the file are fewer.

struct GgufHeader {
  uint32_t version = 0;
  uint64_t alignment = 32;
  uint64_t data_offset = 0;  // Where tensor data starts.
  GgufMetadata metadata;
  std::vector<TensorEntry> tensors;  // Ordered by offset, with `file` 0.
};

[[nodiscard]] Result<GgufHeader> parse_gguf_header(const ByteSource& source);

// Bytes of one value of a scalar type; 0 for strings, arrays and codes that are not types.
[[nodiscard]] uint32_t gguf_scalar_bytes(GgufType type);

}  // namespace mlxf::formats
