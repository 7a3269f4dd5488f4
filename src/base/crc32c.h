// CRC-32C (Castagnoli), the checksum of iSCSI and ext4: detects damage, not intent.
//
// Fed in pieces: crc32c(b, crc32c(a)) is that of a and b together. Stateless; any thread. By the processor's own
// instruction where it has one (x86 with SSE 4.2: 8 bytes in 3 cycles), else by tables, several times slower. Defined
// for every byte string; that of no bytes is 0.
#pragma once

#include <cstdint>
#include <span>

namespace mlxf {

[[nodiscard]] uint32_t crc32c(std::span<const uint8_t> bytes, uint32_t before = 0);
// The same, by tables on every machine: what the other is compared with.
[[nodiscard]] uint32_t crc32c_by_tables(std::span<const uint8_t> bytes, uint32_t before = 0);

}  // namespace mlxf
