// CRC-32C (Castagnoli), the checksum of iSCSI and ext4: detects damage, not intent.
//
// Fed in pieces: crc32c(b, crc32c(a)) is that of a and b together. Stateless; any thread; about two bytes a cycle.
// Defined for every byte string; that of no bytes is 0.
#pragma once

#include <cstdint>
#include <span>

namespace mlxf {

[[nodiscard]] uint32_t crc32c(std::span<const uint8_t> bytes, uint32_t before = 0);

}  // namespace mlxf
