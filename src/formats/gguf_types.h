// The type codes of GGUF tensors and their DTypes, in both directions.
//
// Pure tables, for the parser and the writer alike; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "tensor/dtype.h"

namespace mlxf::formats {

// The DType of GGUF tensor type `code`; empty for types that cannot be computed with.
[[nodiscard]] std::optional<DType> dtype_of_gguf(uint32_t code);

// The name of GGUF tensor type `code`, supported or not; empty if no release of the format defined it.
[[nodiscard]] std::string_view gguf_type_name(uint32_t code);

// The GGUF tensor type of `dtype`; empty for those that only safetensors has.
[[nodiscard]] std::optional<uint32_t> gguf_code_of(DType dtype);

}  // namespace mlxf::formats
