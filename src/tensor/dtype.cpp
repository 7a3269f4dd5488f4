#include "tensor/dtype.h"

#include "base/checked.h"

namespace mlxf {
namespace {

// Indexed by DType. Block sizes: ggml-common.h's structures, spelled out in docs/formats/gguf.md.
constexpr DTypeTraits kTraits[kDTypeCount] = {
    {"f64", 1, 8},      {"f32", 1, 4},        {"f16", 1, 2},      {"bf16", 1, 2},     {"f8_e4m3", 1, 1},
    {"f8_e5m2", 1, 1},  {"i64", 1, 8},        {"u64", 1, 8},      {"i32", 1, 4},      {"u32", 1, 4},
    {"i16", 1, 2},      {"u16", 1, 2},        {"i8", 1, 1},       {"u8", 1, 1},       {"bool", 1, 1},
    {"Q4_0", 32, 18},   {"Q4_1", 32, 20},     {"Q5_0", 32, 22},   {"Q5_1", 32, 24},   {"Q8_0", 32, 34},
    {"Q2_K", 256, 84},  {"Q3_K", 256, 110},   {"Q4_K", 256, 144}, {"Q5_K", 256, 176}, {"Q6_K", 256, 210},
    {"IQ4_NL", 32, 18}, {"IQ4_XS", 256, 136}, {"MXFP4", 32, 17},
};

}  // namespace

const DTypeTraits& traits(DType type) { return kTraits[static_cast<int>(type)]; }

std::optional<uint64_t> row_bytes(DType type, uint64_t elements) {
  const DTypeTraits& t = traits(type);
  if (elements % t.block_elements != 0) return std::nullopt;
  return checked_mul(elements / t.block_elements, t.block_bytes);
}

}  // namespace mlxf
