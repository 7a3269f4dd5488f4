// Conversions between the 16- and 8-bit floating point encodings and f32: exact widening,
// round-to-nearest-even narrowing. Scalar code for set-up paths and references; kernels have their own vector
// forms.
#pragma once

#include <cstdint>

namespace mlxf {

[[nodiscard]] float f32_from_f16(uint16_t bits);
[[nodiscard]] uint16_t f16_from_f32(float value);
[[nodiscard]] float f32_from_bf16(uint16_t bits);
[[nodiscard]] uint16_t bf16_from_f32(float value);
[[nodiscard]] float f32_from_f8e4m3(uint8_t bits);  // OCP FP8 E4M3FN: no infinities, 0x7f and 0xff are NaN.
[[nodiscard]] float f32_from_f8e5m2(uint8_t bits);
[[nodiscard]] float f32_from_e8m0(uint8_t bits);  // OCP MX scale: 2^(bits - 127); 0 is 2^-127, 255 is NaN.

}  // namespace mlxf
