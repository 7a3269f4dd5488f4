// Arithmetic on numbers that a file or a request supplied: every overflow is visible to the caller as an empty
// optional, never as a wrapped number.
// Pure functions; any thread.
#pragma once

#include <cstdint>
#include <optional>

namespace mlxf {

[[nodiscard]] inline std::optional<uint64_t> checked_mul(uint64_t a, uint64_t b) {
  uint64_t result = 0;
  if (__builtin_mul_overflow(a, b, &result)) return std::nullopt;
  return result;
}

[[nodiscard]] inline std::optional<uint64_t> checked_add(uint64_t a, uint64_t b) {
  uint64_t result = 0;
  if (__builtin_add_overflow(a, b, &result)) return std::nullopt;
  return result;
}

}  // namespace mlxf
