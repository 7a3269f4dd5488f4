#include "convert/random_blocks.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "tensor/float16.h"

namespace mlxf::convert {
namespace {

constexpr int kVariants = 256;

uint64_t splitmix64(uint64_t& state) {
  uint64_t z = (state += 0x9e3779b97f4a7c15ull);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

uint64_t rotl(uint64_t value, int count) { return (value << count) | (value >> (64 - count)); }

// The 16-bit encodings of kVariants scales between 0.75 and 1.25 of `middle`, and of `factor` times each.
struct ScaleTable {
  std::array<uint16_t, kVariants> scale;
  std::array<uint16_t, kVariants> offset;
};

template <typename Narrow>
ScaleTable make_scales(double middle, double factor, Narrow narrow) {
  ScaleTable table{};
  for (int i = 0; i < kVariants; ++i) {
    const double scale = middle * (0.75 + 0.5 * (i + 0.5) / kVariants);
    table.scale[i] = narrow(static_cast<float>(scale));
    table.offset[i] = narrow(static_cast<float>(scale * factor));
  }
  return table;
}

void put_u16(uint8_t* at, uint16_t value) { std::memcpy(at, &value, sizeof value); }

// Root mean square of 0 … n - 1, and the standard deviation of the same.
double rms_below(double n) { return std::sqrt((n - 1) * (2 * n - 1) / 6.0); }
double deviation_below(double n) { return std::sqrt((n * n - 1) / 12.0); }
// E[s^2] = 1 + 1/48 for scales uniform between 0.75 and 1.25.
const double kScaleSpread = std::sqrt(1.0 + 1.0 / 48.0);

// What fix_block needs: scales for ordinary blocks and for those of the positive columns.
struct BlockScales {
  ScaleTable zero_mean;
  ScaleTable positive;
};

double codes_of(DType dtype) { return dtype == DType::kQ5_K ? 32 : 16; }

BlockScales block_scales(const RandomRows& rows) {
  const auto narrow = [](float value) { return f16_from_f32(value); };
  double deviation = 1.0;      // Of one element when d is 1.
  double positive_mean = 1.0;  // Likewise, over positive columns.
  double offset = 0.0;
  switch (rows.dtype) {
    case DType::kQ4_0:
      deviation = deviation_below(16);
      positive_mean = 3.5;
      break;
    case DType::kQ5_0:
      deviation = deviation_below(32);
      positive_mean = 7.5;
      break;
    case DType::kQ8_0:
      deviation = deviation_below(256);
      positive_mean = 63.5;
      break;
    case DType::kQ4_K:
    case DType::kQ5_K:
      deviation = rms_below(64) * deviation_below(codes_of(rows.dtype));
      positive_mean = 31.5 * (codes_of(rows.dtype) - 1) / 2;
      offset = (codes_of(rows.dtype) - 1) / 2;
      break;
    case DType::kQ6_K:
      deviation = deviation_below(256) * deviation_below(64);
      positive_mean = 63.5 * 15.5;
      break;
    default:
      CHECK(false);
  }
  return {make_scales(rows.sigma / (deviation * kScaleSpread), offset, narrow),
          make_scales(rows.positive_mean / positive_mean, offset, narrow)};
}

// Q4_K and Q5_K: minimum_j = scale_j, and dmin = d times the mean code, or 0 where values are to be positive.
void fix_k_header(uint8_t* block, const ScaleTable& table, bool positive) {
  const uint8_t variant = block[0];
  put_u16(block, table.scale[variant]);
  put_u16(block + 2, positive ? uint16_t{0} : table.offset[variant]);
  uint8_t* packed = block + 4;
  std::memcpy(packed + 4, packed, 4);
  for (int i = 8; i < 12; ++i) packed[i] = static_cast<uint8_t>((packed[i] & 0x0f) * 0x11);
}

void fix_block(DType dtype, uint8_t* block, const BlockScales& scales, bool positive) {
  const ScaleTable& table = positive ? scales.positive : scales.zero_mean;
  switch (dtype) {
    case DType::kQ4_0: {
      // Codes are offset by 8, so their mean is -0.5: a random sign of d evens that out.
      const uint16_t sign = !positive && (block[1] & 1) != 0 ? 0x8000 : 0;
      put_u16(block, table.scale[block[0]] | sign);
      if (positive) {
        for (int i = 2; i < 18; ++i) block[i] |= 0x88;
      }
      break;
    }
    case DType::kQ5_0: {
      // As Q4_0, with codes offset by 16 whose upper bits are bytes 2 to 5.
      const uint16_t sign = !positive && (block[1] & 1) != 0 ? 0x8000 : 0;
      put_u16(block, table.scale[block[0]] | sign);
      if (positive) std::memset(block + 2, 0xff, 4);
      break;
    }
    case DType::kQ8_0:
      put_u16(block, table.scale[block[0]]);
      for (int i = 2; i < 34; ++i) {
        // No quantiser writes -128, and kernels may rely on that.
        if (positive) block[i] &= 0x7f;
        block[i] = block[i] == 0x80 ? uint8_t{0x81} : block[i];
      }
      break;
    case DType::kQ6_K:
      // The codes' mean is -0.5; the sub-scales have random signs.
      put_u16(block + 208, table.scale[block[208]]);
      if (positive) {
        for (int i = 128; i < 192; ++i) block[i] |= 0xaa;
        for (int i = 192; i < 208; ++i) block[i] &= 0x7f;
      }
      break;
    default:
      fix_k_header(block, table, positive);
      break;
  }
}

// MXFP4: an exponent, then codes of a sign and one of eight magnitudes 0, 0.5, 1, 1.5, 2, 3, 4, 6. Scales are powers of
// two, so that blocks take one of two neighbours in the proportion that gives the wanted variance or mean.
void fix_mxfp4(const RandomRows& rows, std::span<uint8_t> out) {
  constexpr double kMeanSquare = 68.5 / 8;
  constexpr double kMeanMagnitude = 18.0 / 8;
  constexpr int kBias = 127;
  struct Exponent {
    int low = 0;
    double upper_share = 0.0;
  };
  const auto exponent_of = [](double scale, double power) {
    Exponent exponent;
    exponent.low = static_cast<int>(std::floor(std::log2(scale)));
    const double ratio = std::pow(scale / std::ldexp(1.0, exponent.low), power);
    exponent.upper_share = (ratio - 1.0) / (std::pow(2.0, power) - 1.0);
    return exponent;
  };
  const Exponent usual = exponent_of(rows.sigma / std::sqrt(kMeanSquare), 2.0);
  const Exponent positive =
      rows.positive_cols > 0 ? exponent_of(rows.positive_mean / kMeanMagnitude, 1.0) : Exponent{};
  const DTypeTraits& type = traits(DType::kMXFP4);
  const uint64_t row_blocks = rows.cols / type.block_elements;
  const uint64_t positive_blocks = rows.positive_cols / type.block_elements;
  for (uint64_t i = 0; i < out.size() / type.block_bytes; ++i) {
    uint8_t* block = out.data() + i * type.block_bytes;
    const bool is_positive = i % row_blocks < positive_blocks;
    const Exponent& exponent = is_positive ? positive : usual;
    const int upper = (block[0] + 0.5) / 256.0 < exponent.upper_share ? 1 : 0;
    block[0] = static_cast<uint8_t>(std::clamp(exponent.low + upper + kBias, 1, 254));
    if (is_positive)
      for (uint32_t byte = 1; byte < type.block_bytes; ++byte) block[byte] &= 0x77;
  }
}

// Plain floats: uniform over an interval, or over its positive half.
template <typename Element, typename Narrow>
void fill_plain(const RandomRows& rows, RandomBytes& random, std::span<uint8_t> out, Narrow narrow) {
  const uint64_t elements = out.size() / sizeof(Element);
  std::vector<int16_t> noise(rows.cols);
  const auto step = static_cast<float>(rows.sigma * std::sqrt(3.0) / 32768.0);
  const auto positive_step = static_cast<float>(rows.positive_mean * 2.0 / 65536.0);
  for (uint64_t begin = 0; begin < elements; begin += rows.cols) {
    random.fill({reinterpret_cast<uint8_t*>(noise.data()), noise.size() * sizeof(int16_t)});
    uint8_t* row = out.data() + begin * sizeof(Element);
    for (uint64_t col = 0; col < rows.cols; ++col) {
      const bool positive = col < rows.positive_cols;
      const float value = positive ? static_cast<float>(static_cast<uint16_t>(noise[col])) * positive_step
                                   : (static_cast<float>(noise[col]) + 0.5f) * step;
      const Element element = narrow(value);
      std::memcpy(row + col * sizeof(Element), &element, sizeof element);
    }
  }
}

}  // namespace

RandomBytes::RandomBytes(uint64_t seed, uint64_t stream, uint64_t block) {
  uint64_t state = seed;
  state = splitmix64(state) ^ stream;
  state = splitmix64(state) ^ block;
  for (auto& words : state_) {
    for (uint64_t& word : words) word = splitmix64(state);
  }
}

void RandomBytes::step(uint64_t* out) {
  for (int lane = 0; lane < kLanes; ++lane) {
    uint64_t s0 = state_[0][lane];
    uint64_t s1 = state_[1][lane];
    uint64_t s2 = state_[2][lane];
    uint64_t s3 = state_[3][lane];
    out[lane] = rotl(s0 + s3, 23) + s0;
    const uint64_t shifted = s1 << 17;
    s2 ^= s0;
    s3 ^= s1;
    s1 ^= s2;
    s0 ^= s3;
    s2 ^= shifted;
    s3 = rotl(s3, 45);
    state_[0][lane] = s0;
    state_[1][lane] = s1;
    state_[2][lane] = s2;
    state_[3][lane] = s3;
  }
}

void RandomBytes::fill(std::span<uint8_t> out) {
  uint64_t words[kLanes];
  while (out.size() >= sizeof words) {
    step(words);
    std::memcpy(out.data(), words, sizeof words);
    out = out.subspan(sizeof words);
  }
  if (!out.empty()) {
    step(words);
    std::memcpy(out.data(), words, out.size());
  }
}

bool has_random_form(DType dtype) {
  switch (dtype) {
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
    case DType::kQ4_0:
    case DType::kQ5_0:
    case DType::kQ8_0:
    case DType::kQ4_K:
    case DType::kQ5_K:
    case DType::kQ6_K:
    case DType::kMXFP4:
      return true;
    default:
      return false;
  }
}

void fill_rows(const RandomRows& rows, RandomBytes& random, std::span<uint8_t> out) {
  CHECK(has_random_form(rows.dtype));
  if (rows.dtype == DType::kF32) return fill_plain<float>(rows, random, out, [](float v) { return v; });
  if (rows.dtype == DType::kF16) return fill_plain<uint16_t>(rows, random, out, f16_from_f32);
  if (rows.dtype == DType::kBF16) {
    // Truncation, which vectorises; the values are random in the first place.
    return fill_plain<uint16_t>(rows, random, out, [](float value) {
      uint32_t bits = 0;
      std::memcpy(&bits, &value, sizeof bits);
      return static_cast<uint16_t>(bits >> 16);
    });
  }
  random.fill(out);
  if (rows.dtype == DType::kMXFP4) return fix_mxfp4(rows, out);
  const DTypeTraits& type = traits(rows.dtype);
  const BlockScales scales = block_scales(rows);
  const uint64_t row_blocks = rows.cols / type.block_elements;
  const uint64_t positive_blocks = rows.positive_cols / type.block_elements;
  for (uint64_t block = 0; block < out.size() / type.block_bytes; ++block)
    fix_block(rows.dtype, out.data() + block * type.block_bytes, scales,
              block % row_blocks < positive_blocks);
}

void fill_groups(const RandomGroups& groups, RandomBytes& random, std::span<uint16_t> scales,
                 std::span<uint16_t> biases) {
  const auto narrow = [](float value) { return bf16_from_f32(value); };
  const double codes = std::ldexp(1.0, static_cast<int>(groups.bits));
  const double mean = (codes - 1) / 2;
  const ScaleTable zero_mean =
      make_scales(groups.sigma / (deviation_below(codes) * kScaleSpread), -mean, narrow);
  const ScaleTable positive = make_scales(groups.positive_mean / mean, 0.0, narrow);
  const uint64_t row_groups = groups.cols / groups.group;
  const uint64_t positive_groups = groups.positive_cols / groups.group;
  std::vector<uint8_t> variants(scales.size());
  random.fill(variants);
  for (uint64_t i = 0; i < scales.size(); ++i) {
    const ScaleTable& table = i % row_groups < positive_groups ? positive : zero_mean;
    scales[i] = table.scale[variants[i]];
    biases[i] = table.offset[variants[i]];
  }
}

}  // namespace mlxf::convert
