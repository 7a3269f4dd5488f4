#include "formats/gguf_types.h"

#include <array>

namespace mlxf::formats {
namespace {

struct TypeRow {
  std::string_view name;
  std::optional<DType> dtype;
};

// Indexed by ggml's type code. Codes without a DType are named so that a refusal can say what they are:
// codebook formats, ternary formats, layouts that were withdrawn (4, 5, 31-33, 36-38) and types of
// intermediate results.
constexpr std::array<TypeRow, 40> kTypes = {{
    {"F32", DType::kF32},
    {"F16", DType::kF16},
    {"Q4_0", DType::kQ4_0},
    {"Q4_1", DType::kQ4_1},
    {"Q4_2", {}},
    {"Q4_3", {}},
    {"Q5_0", DType::kQ5_0},
    {"Q5_1", DType::kQ5_1},
    {"Q8_0", DType::kQ8_0},
    {"Q8_1", {}},
    {"Q2_K", DType::kQ2_K},
    {"Q3_K", DType::kQ3_K},
    {"Q4_K", DType::kQ4_K},
    {"Q5_K", DType::kQ5_K},
    {"Q6_K", DType::kQ6_K},
    {"Q8_K", {}},
    {"IQ2_XXS", {}},
    {"IQ2_XS", {}},
    {"IQ3_XXS", {}},
    {"IQ1_S", {}},
    {"IQ4_NL", DType::kIQ4_NL},
    {"IQ3_S", {}},
    {"IQ2_S", {}},
    {"IQ4_XS", DType::kIQ4_XS},
    {"I8", DType::kI8},
    {"I16", DType::kI16},
    {"I32", DType::kI32},
    {"I64", DType::kI64},
    {"F64", DType::kF64},
    {"IQ1_M", {}},
    {"BF16", DType::kBF16},
    {"Q4_0_4_4", {}},
    {"Q4_0_4_8", {}},
    {"Q4_0_8_8", {}},
    {"TQ1_0", {}},
    {"TQ2_0", {}},
    {"IQ4_NL_4_4", {}},
    {"IQ4_NL_4_8", {}},
    {"IQ4_NL_8_8", {}},
    {"MXFP4", DType::kMXFP4},
}};

}  // namespace

std::optional<DType> dtype_of_gguf(uint32_t code) {
  return code < kTypes.size() ? kTypes[code].dtype : std::nullopt;
}

std::string_view gguf_type_name(uint32_t code) { return code < kTypes.size() ? kTypes[code].name : ""; }

std::optional<uint32_t> gguf_code_of(DType dtype) {
  for (uint32_t code = 0; code < kTypes.size(); ++code) {
    if (kTypes[code].dtype == dtype) return code;
  }
  return std::nullopt;
}

}  // namespace mlxf::formats
