#include "convert/mlx_affine.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "base/check.h"
#include "convert/code_fit.h"
#include "tensor/float16.h"

namespace mlxf::convert {
namespace {

constexpr uint32_t kGroupMax = 128;
constexpr float kScaleMin = 1e-7f;  // As in MLX: a constant group still gets a scale.

struct GroupCode {
  uint16_t scale = 0;
  uint16_t bias = 0;
  std::array<float, kGroupMax> codes;
  float error = 0.0f;
};

float widen(uint16_t bits, DType type) {
  return type == DType::kF16 ? f32_from_f16(bits) : f32_from_bf16(bits);
}
uint16_t narrow(float value, DType type) {
  return type == DType::kF16 ? f16_from_f32(value) : bf16_from_f32(value);
}

struct Affine {
  float scale = 0.0f;
  float bias = 0.0f;
};

// MLX's choice for values between `low` and `high`.
Affine mlx_choice(float low, float high, float steps) {
  const bool low_is_edge = std::abs(low) > std::abs(high);
  float scale = std::max((high - low) / steps, kScaleMin);
  if (!low_is_edge) scale = -scale;
  const float edge = low_is_edge ? low : high;
  const float zero_code = std::nearbyint(edge / scale);
  if (zero_code == 0.0f) return {scale, 0.0f};
  return {edge / zero_code, edge};
}

float top_code(const AffineFormat& format) { return static_cast<float>((1u << format.bits) - 1); }

// MLX's own codes: divided by the scale before it is rounded to the stored type.
GroupCode encode_plain(std::span<const float> w, const Affine& affine, const AffineFormat& format) {
  GroupCode result;
  result.scale = narrow(affine.scale, format.scale_type);
  result.bias = narrow(affine.bias, format.scale_type);
  const float scale = widen(result.scale, format.scale_type);
  const float bias = widen(result.bias, format.scale_type);
  for (size_t i = 0; i < w.size(); ++i) {
    // Division proper, and clamped before it is rounded, which keeps the addition in round_even() exact.
    const float code = round_even(std::clamp((w[i] - affine.bias) / affine.scale, 0.0f, top_code(format)));
    result.codes[i] = code;
    const float difference = scale * code + bias - w[i];
    result.error += difference * difference;
  }
  return result;
}

// One candidate of the refinement: replaces `best` when it is better, and returns the scale and bias of least
// squared error for its codes (the old ones where the codes are all equal).
Affine try_affine(std::span<const float> w, float w_sum, const Affine& affine, const AffineFormat& format,
                  GroupCode& best) {
  const uint16_t scale = narrow(affine.scale, format.scale_type);
  const uint16_t bias = narrow(affine.bias, format.scale_type);
  CodeRule rule{.high = top_code(format)};
  rule.scale = widen(scale, format.scale_type);
  rule.bias = rule.offset = widen(bias, format.scale_type);
  rule.inverse = rule.scale == 0.0f ? 0.0f : 1.0f / rule.scale;
  std::array<float, kGroupMax> codes;
  const auto n = static_cast<uint32_t>(w.size());
  const CodeFit fit = fit_codes(w.data(), n, rule, codes.data());
  if (fit.error < best.error) best = {scale, bias, codes, fit.error};
  const double determinant = double{fit.squares} * n - double{fit.codes} * fit.codes;
  if (determinant <= 0.0) return affine;
  const double slope = (double{fit.products} * n - double{fit.codes} * w_sum) / determinant;
  return {static_cast<float>(slope), static_cast<float>((w_sum - slope * fit.codes) / n)};
}

GroupCode refine(std::span<const float> w, float low, float high, const AffineFormat& format,
                 GroupCode best) {
  // With few codes the best range is much narrower than the extremes; with many it is the extremes.
  const int trials = format.bits <= 4 ? 10 : 3;
  const float shrink_max = format.bits <= 2 ? 0.55f : format.bits == 3 ? 0.35f : 0.2f;
  const float middle = 0.5f * (low + high);
  const float w_sum = std::accumulate(w.begin(), w.end(), 0.0f);
  for (int trial = 0; trial < trials; ++trial) {
    const float keep = 1.0f - shrink_max * static_cast<float>(trial) / static_cast<float>(trials);
    const float from = middle + (low - middle) * keep;
    const float to = middle + (high - middle) * keep;
    Affine affine = {std::max((to - from) / top_code(format), kScaleMin), from};
    for (int round = 0; round < 3; ++round) affine = try_affine(w, w_sum, affine, format, best);
  }
  return best;
}

GroupCode encode_group(std::span<const float> w, const AffineFormat& format, AffineEncoder encoder) {
  const auto [low, high] = std::minmax_element(w.begin(), w.end());
  const GroupCode plain = encode_plain(w, mlx_choice(*low, *high, top_code(format)), format);
  return encoder == AffineEncoder::kMlx ? plain : refine(w, *low, *high, format, plain);
}

// Appends codes of `bits` to a little-endian bit string.
class BitWriter {
 public:
  explicit BitWriter(std::span<uint8_t> out) : out_(out) {}
  void put(uint32_t code, uint32_t bits) {
    pending_ |= code << count_;
    count_ += bits;
    while (count_ >= 8) {
      out_[at_++] = static_cast<uint8_t>(pending_);
      pending_ >>= 8;
      count_ -= 8;
    }
  }

 private:
  std::span<uint8_t> out_;
  size_t at_ = 0;
  uint32_t pending_ = 0;
  uint32_t count_ = 0;
};

}  // namespace

double encode_affine_row(std::span<const float> row, const AffineFormat& format, AffineEncoder encoder,
                         std::span<uint8_t> codes, std::span<uint16_t> scales, std::span<uint16_t> biases) {
  CHECK(format.group <= kGroupMax && row.size() % format.group == 0);
  CHECK(codes.size() == affine_code_bytes(row.size(), format.bits));
  BitWriter writer(codes);
  double error = 0.0;
  for (size_t group = 0; group < row.size() / format.group; ++group) {
    const GroupCode coded = encode_group(row.subspan(group * format.group, format.group), format, encoder);
    error += coded.error;
    scales[group] = coded.scale;
    biases[group] = coded.bias;
    for (uint32_t i = 0; i < format.group; ++i)
      writer.put(static_cast<uint32_t>(coded.codes[i]), format.bits);
  }
  return error;
}

void decode_affine_row(std::span<const uint8_t> codes, std::span<const uint16_t> scales,
                       std::span<const uint16_t> biases, const AffineFormat& format, std::span<float> row) {
  uint32_t pending = 0;
  uint32_t count = 0;
  size_t at = 0;
  const uint32_t mask = (1u << format.bits) - 1;
  for (size_t i = 0; i < row.size(); ++i) {
    while (count < format.bits) {
      pending |= static_cast<uint32_t>(codes[at++]) << count;
      count += 8;
    }
    const size_t group = i / format.group;
    row[i] = widen(scales[group], format.scale_type) * static_cast<float>(pending & mask) +
             widen(biases[group], format.scale_type);
    pending >>= format.bits;
    count -= format.bits;
  }
}

}  // namespace mlxf::convert
