// fit_codes(): the inner loop of every encoder: codes for a group of weights under one scale, and how well they fit.
//
// Eight sums side by side so that compilers use vectors without being allowed to reorder; the result depends
// on the input alone. Pure functions; any thread.
#pragma once

#include <cstdint>

namespace mlxf::convert {

// code = round(clamp((w - offset) * inverse, low, high)), ties to even; it stands for scale * code + bias.
struct CodeRule {
  float inverse = 0.0f;
  float offset = 0.0f;
  float low = 0.0f;
  float high = 0.0f;
  float scale = 0.0f;
  float bias = 0.0f;
};

struct CodeFit {
  float error = 0.0f;     // Sum of (scale * code + bias - w)^2
  float codes = 0.0f;     // Sum of code
  float squares = 0.0f;   // Sum of code^2
  float products = 0.0f;  // Sum of code * w
};

// REQUIRES: n a multiple of 8.
[[nodiscard]] CodeFit fit_codes(const float* w, uint32_t n, const CodeRule& rule, float* codes);

// The nearest integer, ties to even, of |x| < 2^22; the addition does the rounding, so it vectorises on every
// machine.
[[nodiscard]] inline float round_even(float x) {
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23
  return (x + kShift) - kShift;
}

}  // namespace mlxf::convert
