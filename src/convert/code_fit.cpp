#include "convert/code_fit.h"

namespace mlxf::convert {
namespace {

constexpr uint32_t kLanes = 8;

float sum(const float (&lanes)[kLanes]) {
  return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

}  // namespace

CodeFit fit_codes(const float* w, uint32_t n, const CodeRule& rule, float* codes) {
  const CodeRule r = rule;
  float error[kLanes] = {};
  float code_sum[kLanes] = {};
  float squares[kLanes] = {};
  float products[kLanes] = {};
  for (uint32_t i = 0; i < n; i += kLanes) {
    for (uint32_t lane = 0; lane < kLanes; ++lane) {
      const float value = w[i + lane];
      float code = (value - r.offset) * r.inverse;
      code = code < r.low ? r.low : code;
      code = code > r.high ? r.high : code;
      code = round_even(code);
      codes[i + lane] = code;
      const float difference = r.scale * code + r.bias - value;
      error[lane] += difference * difference;
      code_sum[lane] += code;
      squares[lane] += code * code;
      products[lane] += code * value;
    }
  }
  return {sum(error), sum(code_sum), sum(squares), sum(products)};
}

}  // namespace mlxf::convert
