// Element types of stored tensors: plain ones and the block-quantised ones of GGUF.
//
// A block type packs `block_elements` consecutive elements of the innermost dimension into `block_bytes`
// bytes; a plain type is a block of one. Byte layouts are described in docs/formats/ and in
// kernels/reference/.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace mlxf {

enum class DType : uint8_t {
  kF64,
  kF32,
  kF16,
  kBF16,
  kF8E4M3,
  kF8E5M2,
  kI64,
  kU64,
  kI32,
  kU32,
  kI16,
  kU16,
  kI8,
  kU8,
  kBool,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ8_0,
  kQ2_K,
  kQ3_K,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kIQ4_NL,
  kIQ4_XS,
  kMXFP4,
};
inline constexpr int kDTypeCount = static_cast<int>(DType::kMXFP4) + 1;

struct DTypeTraits {
  std::string_view name;  // As users write it: "bf16", "Q4_K".
  uint32_t block_elements;
  uint32_t block_bytes;
};

[[nodiscard]] const DTypeTraits& traits(DType type);

// Bytes of a row of `elements`; empty when `elements` is not a whole number of blocks or the product
// overflows.
[[nodiscard]] std::optional<uint64_t> row_bytes(DType type, uint64_t elements);

[[nodiscard]] inline bool is_block_quantised(DType type) { return type >= DType::kQ4_0; }

}  // namespace mlxf
