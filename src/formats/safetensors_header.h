// Parses the header of one safetensors file: tensor table and layout.
//
// The file is hostile until proven otherwise. The header is scanned in one pass without recursion and without
// a JSON tree, since its shape is fixed: an object of tensors, each with dtype, shape and data_offsets, and
// __metadata__, an object of strings. Stricter than JSON allows: it starts with '{', names are unique,
// integers are plain digits, unknown members are refused. Limits: 100 MB of header (the format's own), 1e6
// tensors, 16 dimensions. Format notes: docs/formats/safetensors.md.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "formats/byte_source.h"
#include "formats/manifest.h"

namespace mlxf::formats {

inline constexpr uint64_t kSafetensorsHeaderBytesMax = 100'000'000;
inline constexpr uint64_t kSafetensorsTensorsMax = 1'000'000;
inline constexpr uint64_t kSafetensorsNameBytesMax = 4096;
inline constexpr size_t kSafetensorsDimensionsMax = 16;

// The tensors ordered by offset (absolute), with `file` 0. They cover the file after the header exactly.
[[nodiscard]] Result<std::vector<TensorEntry>> parse_safetensors_header(const ByteSource& source);

// "BF16" and its like, in both directions; empty where the other side has no such type.
[[nodiscard]] std::optional<DType> dtype_of_safetensors(std::string_view name);
[[nodiscard]] std::optional<std::string_view> safetensors_name_of(DType dtype);

}  // namespace mlxf::formats
