#include "convert/gguf_blocks.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "convert/code_fit.h"
#include "tensor/float16.h"

namespace mlxf::convert {
namespace {

constexpr uint32_t kBlock = 32;   // Elements of Q4_0, Q5_0, Q8_0, and of a sub-block of Q4_K and Q5_K.
constexpr uint32_t kSuper = 256;  // Elements of the K types.
constexpr float kHalfMax = 65504.0f;

void put_f16(uint16_t bits, uint8_t* out) { std::memcpy(out, &bits, sizeof bits); }

// The f16 that a scale is stored as; finite, so that no weight becomes infinite or NaN.
uint16_t half(float value) { return f16_from_f32(std::clamp(value, -kHalfMax, kHalfMax)); }

// The element of largest magnitude, with its sign.
float extreme(const float* w, uint32_t n) {
  float result = 0.0f;
  for (uint32_t i = 0; i < n; ++i)
    if (std::fabs(w[i]) > std::fabs(result)) result = w[i];
  return result;
}

CodeRule symmetric_rule(float scale, float low, float high) {
  return {.inverse = scale == 0.0f ? 0.0f : 1.0f / scale, .low = low, .high = high, .scale = scale};
}

// ---- one f16 scale per block of 32: Q4_0, Q5_0, Q8_0 ----

struct SymmetricBlock {
  uint16_t scale = 0;
  std::array<float, kBlock> codes;  // -half … half - 1
  float error = HUGE_VALF;
};

// The edge that has one code more takes the largest weight; from there narrower and wider ranges, each with the
// scale of least squares for its codes.
SymmetricBlock fit_symmetric(const float* w, float low, float high) {
  constexpr int kTrials = 15;
  SymmetricBlock best;
  const float largest = extreme(w, kBlock);
  const auto attempt = [&](float scale) {
    const uint16_t bits = half(scale);
    std::array<float, kBlock> codes;
    const CodeFit fit = fit_codes(w, kBlock, symmetric_rule(f32_from_f16(bits), low, high), codes.data());
    if (fit.error < best.error) best = {bits, codes, fit.error};
    return fit.squares > 0.0f ? fit.products / fit.squares : scale;
  };
  for (int trial = 0; trial < kTrials; ++trial) {
    // Steps of a fifth of a code, from the extreme itself to a range that is up to 1.4 codes narrower or wider.
    const float shift = 0.2f * static_cast<float>((trial + 1) / 2) * (trial % 2 == 0 ? 1.0f : -1.0f);
    float scale = largest / (low + shift);
    for (int round = 0; round < 2; ++round) scale = attempt(scale);
  }
  return best;
}

double encode_q4_0(const float* w, uint8_t* out) {
  const SymmetricBlock block = fit_symmetric(w, -8.0f, 7.0f);
  put_f16(block.scale, out);
  for (uint32_t i = 0; i < kBlock / 2; ++i) {
    const auto low = static_cast<uint8_t>(block.codes[i] + 8.0f);
    const auto high = static_cast<uint8_t>(block.codes[i + kBlock / 2] + 8.0f);
    out[2 + i] = static_cast<uint8_t>(low | high << 4);
  }
  return block.error;
}

double encode_q5_0(const float* w, uint8_t* out) {
  const SymmetricBlock block = fit_symmetric(w, -16.0f, 15.0f);
  put_f16(block.scale, out);
  uint32_t fifth_bits = 0;
  for (uint32_t i = 0; i < kBlock / 2; ++i) {
    const auto low = static_cast<uint32_t>(block.codes[i] + 16.0f);
    const auto high = static_cast<uint32_t>(block.codes[i + kBlock / 2] + 16.0f);
    out[6 + i] = static_cast<uint8_t>((low & 15) | (high & 15) << 4);
    fifth_bits |= (low >> 4) << i | (high >> 4) << (i + kBlock / 2);
  }
  std::memcpy(out + 2, &fifth_bits, sizeof fifth_bits);
  return block.error;
}

double encode_q8_0(const float* w, uint8_t* out) {
  const uint16_t scale = half(std::fabs(extreme(w, kBlock)) / 127.0f);
  std::array<float, kBlock> codes;
  const CodeFit fit =
      fit_codes(w, kBlock, symmetric_rule(f32_from_f16(scale), -127.0f, 127.0f), codes.data());
  put_f16(scale, out);
  for (uint32_t i = 0; i < kBlock; ++i) out[2 + i] = static_cast<uint8_t>(static_cast<int8_t>(codes[i]));
  return fit.error;
}

// ---- Q4_K and Q5_K: d * sc * code - dmin * m, with 6-bit sc and m per sub-block of 32 ----

constexpr uint32_t kSubBlocks = kSuper / kBlock;
constexpr float kSixBits = 63.0f;

struct SubBlock {
  float scale = 0.0f;  // Both not negative:
  float least = 0.0f;  // w = scale * code - least.
};

struct AffineSuperBlock {
  uint16_t d = 0;
  uint16_t dmin = 0;
  std::array<uint8_t, kSubBlocks> scales{};
  std::array<uint8_t, kSubBlocks> mins{};
  std::array<float, kSuper> codes{};
  double error = HUGE_VAL;
};

CodeRule affine_rule(float scale, float least, float top) {
  return {.inverse = scale == 0.0f ? 0.0f : 1.0f / scale,
          .offset = -least,
          .low = 0.0f,
          .high = top,
          .scale = scale,
          .bias = -least};
}

// Scale and offset of least squared error for codes that are held fixed, with the offset at most zero.
SubBlock least_squares(const CodeFit& fit, float w_sum, const SubBlock& before) {
  const double n = kBlock;
  const double determinant = double{fit.squares} * n - double{fit.codes} * fit.codes;
  if (determinant <= 0.0) return before;
  const double scale = (double{fit.products} * n - double{fit.codes} * w_sum) / determinant;
  const double least = (scale * fit.codes - w_sum) / n;
  if (scale <= 0.0) return before;
  if (least >= 0.0) return {static_cast<float>(scale), static_cast<float>(least)};
  return {std::max(0.0f, fit.products / fit.squares), 0.0f};
}

// The ideal scale and offset of one sub-block, before they are stored in 6 bits.
SubBlock fit_sub_block(const float* w, float top) {
  const auto [lowest, highest] = std::minmax_element(w, w + kBlock);
  const float low = std::min(*lowest, 0.0f);
  const float high = std::max(*highest, 0.0f);
  if (high <= low) return {};
  float w_sum = 0.0f;
  for (uint32_t i = 0; i < kBlock; ++i) w_sum += w[i];
  SubBlock best;
  float best_error = HUGE_VALF;
  for (int trial = 0; trial < 6; ++trial) {
    // From the extremes to a range a fifth narrower.
    const float keep = 1.0f - 0.04f * static_cast<float>(trial);
    SubBlock sub = {(high - low) * keep / top, -low * keep};
    for (int round = 0; round < 2; ++round) {
      std::array<float, kBlock> codes;
      const CodeFit fit = fit_codes(w, kBlock, affine_rule(sub.scale, sub.least, top), codes.data());
      if (fit.error < best_error) {
        best_error = fit.error;
        best = sub;
      }
      sub = least_squares(fit, w_sum, sub);
    }
  }
  return best;
}

// The best 6-bit scale and offset of one sub-block for the given d and dmin, near the ideal ones.
double choose_six_bits(const float* w, float top, const SubBlock& ideal, uint32_t index,
                       AffineSuperBlock& block) {
  const float d = f32_from_f16(block.d);
  const float dmin = f32_from_f16(block.dmin);
  const float scale_at = d == 0.0f ? 0.0f : std::min(round_even(ideal.scale / d), kSixBits);
  const float min_at = dmin == 0.0f ? 0.0f : std::min(round_even(ideal.least / dmin), kSixBits);
  float best = HUGE_VALF;
  for (float sc = std::max(0.0f, scale_at - 1); sc <= std::min(kSixBits, scale_at + 1); ++sc) {
    for (float m = std::max(0.0f, min_at - 1); m <= std::min(kSixBits, min_at + 1); ++m) {
      std::array<float, kBlock> codes;
      const CodeFit fit = fit_codes(w, kBlock, affine_rule(d * sc, dmin * m, top), codes.data());
      if (fit.error >= best) continue;
      best = fit.error;
      block.scales[index] = static_cast<uint8_t>(sc);
      block.mins[index] = static_cast<uint8_t>(m);
      std::copy(codes.begin(), codes.end(), block.codes.begin() + index * kBlock);
    }
  }
  return best;
}

// d and dmin of least squared error for the codes, scales and offsets that the block holds.
SubBlock refit_super(const float* w, const AffineSuperBlock& block) {
  double aa = 0, ab = 0, bb = 0, aw = 0, bw = 0;
  for (uint32_t i = 0; i < kSuper; ++i) {
    const double a = double{block.codes[i]} * block.scales[i / kBlock];
    const double b = block.mins[i / kBlock];
    aa += a * a;
    ab += a * b;
    bb += b * b;
    aw += a * w[i];
    bw += b * w[i];
  }
  const double determinant = aa * bb - ab * ab;
  if (determinant <= 1e-9 * aa * bb) return {aa > 0 ? static_cast<float>(aw / aa) : 0.0f, 0.0f};
  return {static_cast<float>((aw * bb - bw * ab) / determinant),
          static_cast<float>((aw * ab - bw * aa) / determinant)};
}

AffineSuperBlock fit_affine_super(const float* w, float top) {
  std::array<SubBlock, kSubBlocks> ideal;
  float scale_max = 0.0f;
  float least_max = 0.0f;
  for (uint32_t i = 0; i < kSubBlocks; ++i) {
    ideal[i] = fit_sub_block(w + i * kBlock, top);
    scale_max = std::max(scale_max, ideal[i].scale);
    least_max = std::max(least_max, ideal[i].least);
  }
  AffineSuperBlock best;
  SubBlock super = {scale_max / kSixBits, least_max / kSixBits};
  for (int round = 0; round < 2; ++round) {
    AffineSuperBlock block;
    block.d = half(std::max(0.0f, super.scale));
    block.dmin = half(std::max(0.0f, super.least));
    block.error = 0.0;
    for (uint32_t i = 0; i < kSubBlocks; ++i)
      block.error += choose_six_bits(w + i * kBlock, top, ideal[i], i, block);
    if (block.error < best.error) best = block;
    super = refit_super(w, block);
  }
  return best;
}

// Twelve bytes: six bits of scale and offset of the first four sub-blocks, whose upper two bits hold those of the
// last four.
void put_six_bits(const AffineSuperBlock& block, uint8_t* out) {
  for (uint32_t i = 0; i < 4; ++i) {
    const uint32_t scale = block.scales[i + 4];
    const uint32_t least = block.mins[i + 4];
    out[i] = static_cast<uint8_t>(block.scales[i] | (scale >> 4) << 6);
    out[i + 4] = static_cast<uint8_t>(block.mins[i] | (least >> 4) << 6);
    out[i + 8] = static_cast<uint8_t>((scale & 15) | (least & 15) << 4);
  }
}

void put_affine_head(const AffineSuperBlock& block, uint8_t* out) {
  put_f16(block.d, out);
  put_f16(block.dmin, out + 2);
  put_six_bits(block, out + 4);
}

double encode_q4_k(const float* w, uint8_t* out) {
  const AffineSuperBlock block = fit_affine_super(w, 15.0f);
  put_affine_head(block, out);
  for (uint32_t i = 0; i < kSuper / 2; ++i) {
    const float* pair = block.codes.data() + i / kBlock * 2 * kBlock + i % kBlock;
    out[16 + i] =
        static_cast<uint8_t>(static_cast<uint32_t>(pair[0]) | static_cast<uint32_t>(pair[kBlock]) << 4);
  }
  return block.error;
}

double encode_q5_k(const float* w, uint8_t* out) {
  const AffineSuperBlock block = fit_affine_super(w, 31.0f);
  put_affine_head(block, out);
  std::fill_n(out + 16, kBlock, uint8_t{0});
  for (uint32_t i = 0; i < kSuper / 2; ++i) {
    const uint32_t half_index = i / kBlock;
    const float* pair = block.codes.data() + half_index * 2 * kBlock + i % kBlock;
    const auto low = static_cast<uint32_t>(pair[0]);
    const auto high = static_cast<uint32_t>(pair[kBlock]);
    out[48 + i] = static_cast<uint8_t>((low & 15) | (high & 15) << 4);
    out[16 + i % kBlock] = static_cast<uint8_t>(out[16 + i % kBlock] | (low >> 4) << (2 * half_index) |
                                                (high >> 4) << (2 * half_index + 1));
  }
  return block.error;
}

// ---- Q6_K: d * sc * code, with 8-bit sc per sub-block of 16 ----

constexpr uint32_t kSixteen = 16;
constexpr uint32_t kSixteens = kSuper / kSixteen;

struct ScaledSuperBlock {
  uint16_t d = 0;
  std::array<int8_t, kSixteens> scales{};
  std::array<float, kSuper> codes{};  // -32 … 31
  double error = HUGE_VAL;
};

float fit_sixteen(const float* w) {
  const float largest = extreme(w, kSixteen);
  float best = 0.0f;
  float best_error = HUGE_VALF;
  for (int trial = -6; trial <= 6; ++trial) {
    float scale = largest / (-32.0f + 0.2f * static_cast<float>(trial));
    for (int round = 0; round < 2; ++round) {
      std::array<float, kSixteen> codes;
      const CodeFit fit = fit_codes(w, kSixteen, symmetric_rule(scale, -32.0f, 31.0f), codes.data());
      if (fit.error < best_error) {
        best_error = fit.error;
        best = scale;
      }
      if (fit.squares > 0.0f) scale = fit.products / fit.squares;
    }
  }
  return best;
}

double choose_eight_bits(const float* w, float ideal, uint32_t index, ScaledSuperBlock& block) {
  const float d = f32_from_f16(block.d);
  const float at = d == 0.0f ? 0.0f : std::clamp(round_even(ideal / d), -128.0f, 127.0f);
  float best = HUGE_VALF;
  for (float sc = std::max(-128.0f, at - 1); sc <= std::min(127.0f, at + 1); ++sc) {
    std::array<float, kSixteen> codes;
    const CodeFit fit = fit_codes(w, kSixteen, symmetric_rule(d * sc, -32.0f, 31.0f), codes.data());
    if (fit.error >= best) continue;
    best = fit.error;
    block.scales[index] = static_cast<int8_t>(sc);
    std::copy(codes.begin(), codes.end(), block.codes.begin() + index * kSixteen);
  }
  return best;
}

ScaledSuperBlock fit_scaled_super(const float* w) {
  std::array<float, kSixteens> ideal;
  for (uint32_t i = 0; i < kSixteens; ++i) ideal[i] = fit_sixteen(w + i * kSixteen);
  float d = extreme(ideal.data(), kSixteens) / -128.0f;
  ScaledSuperBlock best;
  for (int round = 0; round < 2; ++round) {
    ScaledSuperBlock block;
    block.d = half(d);
    block.error = 0.0;
    for (uint32_t i = 0; i < kSixteens; ++i)
      block.error += choose_eight_bits(w + i * kSixteen, ideal[i], i, block);
    if (block.error < best.error) best = block;
    double squares = 0.0;
    double products = 0.0;
    for (uint32_t i = 0; i < kSuper; ++i) {
      const double code = double{block.codes[i]} * block.scales[i / kSixteen];
      squares += code * code;
      products += code * w[i];
    }
    if (squares > 0.0) d = static_cast<float>(products / squares);
  }
  return best;
}

double encode_q6_k(const float* w, uint8_t* out) {
  const ScaledSuperBlock block = fit_scaled_super(w);
  for (uint32_t part = 0; part < 2; ++part) {
    for (uint32_t i = 0; i < 32; ++i) {
      uint32_t code[4];
      for (uint32_t k = 0; k < 4; ++k)
        code[k] = static_cast<uint32_t>(block.codes[128 * part + 32 * k + i] + 32.0f);
      uint8_t* low = out + 64 * part + i;
      low[0] = static_cast<uint8_t>((code[0] & 15) | (code[2] & 15) << 4);
      low[32] = static_cast<uint8_t>((code[1] & 15) | (code[3] & 15) << 4);
      out[128 + 32 * part + i] = static_cast<uint8_t>(code[0] >> 4 | (code[1] >> 4) << 2 |
                                                      (code[2] >> 4) << 4 | (code[3] >> 4) << 6);
    }
  }
  for (uint32_t i = 0; i < kSixteens; ++i) out[192 + i] = static_cast<uint8_t>(block.scales[i]);
  put_f16(block.d, out + 208);
  return block.error;
}

// ---- plain types ----

double encode_f32(const float* w, uint8_t* out) {
  std::memcpy(out, w, sizeof *w);
  return 0.0;
}

double encode_half(float value, uint16_t bits, float stored, uint8_t* out) {
  put_f16(bits, out);
  return double{stored - value} * (stored - value);
}

double encode_f16(const float* w, uint8_t* out) {
  const uint16_t bits = f16_from_f32(*w);
  return encode_half(*w, bits, f32_from_f16(bits), out);
}

double encode_bf16(const float* w, uint8_t* out) {
  const uint16_t bits = bf16_from_f32(*w);
  return encode_half(*w, bits, f32_from_bf16(bits), out);
}

// One block; returns its squared error.
using BlockEncoder = double (*)(const float* w, uint8_t* out);

BlockEncoder encoder_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return encode_f32;
    case DType::kF16:
      return encode_f16;
    case DType::kBF16:
      return encode_bf16;
    case DType::kQ4_0:
      return encode_q4_0;
    case DType::kQ5_0:
      return encode_q5_0;
    case DType::kQ8_0:
      return encode_q8_0;
    case DType::kQ4_K:
      return encode_q4_k;
    case DType::kQ5_K:
      return encode_q5_k;
    case DType::kQ6_K:
      return encode_q6_k;
    default:
      return nullptr;
  }
}

}  // namespace

bool has_gguf_encoder(DType dtype) { return encoder_of(dtype) != nullptr; }

double encode_gguf_row(DType dtype, std::span<const float> row, std::span<uint8_t> out) {
  const BlockEncoder encode = encoder_of(dtype);
  CHECK(encode != nullptr);
  const uint32_t elements = traits(dtype).block_elements;
  const uint32_t bytes = traits(dtype).block_bytes;
  CHECK(row.size() % elements == 0 && out.size() == row.size() / elements * bytes);
  double error = 0.0;
  for (size_t block = 0; block < row.size() / elements; ++block)
    error += encode(row.data() + block * elements, out.data() + block * bytes);
  return error;
}

}  // namespace mlxf::convert
