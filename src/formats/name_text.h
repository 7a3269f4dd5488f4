// Checks and quoting of names that a file supplied: keys, tensors, shards.
//
// Pure functions; any thread. Offsets are bytes.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace mlxf::formats {

// The offset of the first byte that is not part of valid UTF-8 (overlong forms and surrogates are invalid),
// if any.
[[nodiscard]] std::optional<size_t> find_invalid_utf8(std::string_view text);

// What is wrong with `name` as a key or tensor name of at most `bytes_max` bytes; null if nothing is. Names
// are UTF-8, not empty and free of control characters, so that they can be printed and compared.
[[nodiscard]] const char* name_fault(std::string_view name, size_t bytes_max);

// `name` in double quotes for a message: at most 80 bytes of it, with everything but printable ASCII as \xNN.
[[nodiscard]] std::string quoted_name(std::string_view name);

}  // namespace mlxf::formats
