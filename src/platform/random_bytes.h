// random_bytes: bytes that nobody can guess, from the operating system.
//
// For salts and the like, never for what a seed has to repeat (decode/philox.h). Any thread; does not block once the
// system has started.
#pragma once

#include <cstdint>
#include <span>

#include "base/result.h"

namespace mlxf::platform {

// REQUIRES: at most 256 bytes.
[[nodiscard]] Status fill_random(std::span<uint8_t> bytes);

}  // namespace mlxf::platform
