#include "kernels/reference/blocks.h"

#include "base/check.h"
#include "kernels/code_row.h"
#include "kernels/side_by_side.h"

namespace mlxf::kernels::reference {
namespace {

void set_all(int32_t* values, uint32_t count, int32_t value) {
  for (uint32_t i = 0; i < count; ++i) values[i] = value;
}

int32_t signed_byte(uint8_t byte) { return byte < 128 ? byte : byte - 256; }

// Formats of 32 elements whose nibbles hold element i (low) and i + 16 (high).
void read_nibbles(const uint8_t* q, Block& block) {
  for (uint32_t i = 0; i < 16; ++i) {
    block.codes[i] = q[i] & 15;
    block.codes[i + 16] = q[i] >> 4;
  }
}

void add_fifth_bits(const uint8_t* high, Block& block) {
  uint32_t bits;
  std::memcpy(&bits, high, 4);
  for (uint32_t i = 0; i < 32; ++i) block.codes[i] |= static_cast<int32_t>((bits >> i) & 1u) << 4;
}

void read_q4_0(const uint8_t* b, Block& block) {
  block.d = read_f16(b);
  read_nibbles(b + 2, block);
  block.minimums[0] = -8;
}

void read_q4_1(const uint8_t* b, Block& block) {
  block.d = read_f16(b);
  block.e = read_f16(b + 2);
  read_nibbles(b + 4, block);
  block.minimums[0] = 1;
}

void read_q5_0(const uint8_t* b, Block& block) {
  block.d = read_f16(b);
  read_nibbles(b + 6, block);
  add_fifth_bits(b + 2, block);
  block.minimums[0] = -16;
}

void read_q5_1(const uint8_t* b, Block& block) {
  block.d = read_f16(b);
  block.e = read_f16(b + 2);
  read_nibbles(b + 8, block);
  add_fifth_bits(b + 4, block);
  block.minimums[0] = 1;
}

void read_q8_0(const uint8_t* b, Block& block) {
  block.d = read_f16(b);
  for (uint32_t i = 0; i < 32; ++i) block.codes[i] = signed_byte(b[2 + i]);
}

void read_mxfp4(uint8_t exponent, const uint8_t* q, bool sequential, Block& block) {
  block.d = f32_from_e8m0(exponent) * 0.5f;
  for (uint32_t i = 0; i < 16; ++i) {
    const uint32_t low = sequential ? 2 * i : i, high = sequential ? 2 * i + 1 : i + 16;
    block.codes[low] = kE2m1Doubled[q[i] & 15] + 12;
    block.codes[high] = kE2m1Doubled[q[i] >> 4] + 12;
  }
  block.minimums[0] = -12;
}

void read_iq4_nl(const uint8_t* b, Block& block) {
  block.d = read_f16(b);
  read_nibbles(b + 2, block);
  for (uint32_t i = 0; i < 32; ++i) block.codes[i] = kIq4Codebook[block.codes[i]];
}

// 84 bytes: 16 scale bytes (scale low, minimum high nibble), 64 bytes of bit pairs, d, dmin.
void read_q2_k(const uint8_t* b, Block& block) {
  block.d = read_f16(b + 80);
  block.e = -read_f16(b + 82);
  for (uint32_t j = 0; j < 16; ++j) {
    block.scales[j] = b[j] & 15;
    block.minimums[j] = b[j] >> 4;
  }
  for (uint32_t k = 0; k < 256; ++k)
    block.codes[k] = (b[16 + k / 128 * 32 + k % 32] >> (k % 128 / 32 * 2)) & 3;
}

// 110 bytes: 32 bytes of high bits, 64 of low bit pairs, 12 of 6-bit scales (offset 32), d.
void read_q3_k(const uint8_t* b, Block& block) {
  block.d = read_f16(b + 108);
  const uint8_t* s = b + 96;
  for (uint32_t j = 0; j < 16; ++j) {
    const uint32_t low = j < 8 ? s[j] & 15u : s[j - 8] >> 4;
    const uint32_t high = (s[8 + j % 4] >> (j / 4 * 2)) & 3u;
    block.scales[j] = static_cast<int32_t>(low | (high << 4)) - 32;
    block.minimums[j] = -4 * block.scales[j];
  }
  for (uint32_t k = 0; k < 256; ++k) {
    const uint32_t low = (b[32 + k / 128 * 32 + k % 32] >> (k % 128 / 32 * 2)) & 3u;
    const uint32_t high = (b[k % 32] >> (k / 32)) & 1u;
    block.codes[k] = static_cast<int32_t>(low | (high << 2));
  }
}

// The 6-bit scales and minima that Q4_K and Q5_K share.
void read_k_scales(const uint8_t* s, Block& block) {
  for (uint32_t j = 0; j < 4; ++j) {
    block.scales[j] = s[j] & 63;
    block.minimums[j] = s[j + 4] & 63;
    block.scales[j + 4] = (s[j + 8] & 15) | ((s[j] >> 6) << 4);
    block.minimums[j + 4] = (s[j + 8] >> 4) | ((s[j + 4] >> 6) << 4);
  }
}

void read_q4_k(const uint8_t* b, Block& block) {
  block.d = read_f16(b);
  block.e = -read_f16(b + 2);
  read_k_scales(b + 4, block);
  for (uint32_t k = 0; k < 256; ++k) {
    const uint8_t pair = b[16 + k / 64 * 32 + k % 32];
    block.codes[k] = k % 64 < 32 ? pair & 15 : pair >> 4;
  }
}

void read_q5_k(const uint8_t* b, Block& block) {
  block.d = read_f16(b);
  block.e = -read_f16(b + 2);
  read_k_scales(b + 4, block);
  for (uint32_t k = 0; k < 256; ++k) {
    const uint8_t pair = b[48 + k / 64 * 32 + k % 32];
    const int32_t high = (b[16 + k % 32] >> (k / 32)) & 1;
    block.codes[k] = (k % 64 < 32 ? pair & 15 : pair >> 4) | (high << 4);
  }
}

void read_q6_k(const uint8_t* b, Block& block) {
  block.d = read_f16(b + 208);
  for (uint32_t j = 0; j < 16; ++j) {
    block.scales[j] = signed_byte(b[192 + j]);
    block.minimums[j] = -32 * block.scales[j];
  }
  for (uint32_t k = 0; k < 256; ++k) {
    const uint32_t half = k / 128, quarter = k % 128 / 32;
    const uint8_t low = b[half * 64 + quarter % 2 * 32 + k % 32];
    const uint8_t high = b[128 + half * 32 + k % 32];
    block.codes[k] = (quarter < 2 ? low & 15 : low >> 4) | (((high >> (2 * quarter)) & 3) << 4);
  }
}

// 136 bytes: d, u16 of high scale bits, 4 bytes of low scale nibbles, 128 bytes of codebook indices.
void read_iq4_xs(const uint8_t* b, Block& block) {
  block.d = read_f16(b);
  uint16_t high;
  std::memcpy(&high, b + 2, 2);
  for (uint32_t j = 0; j < 8; ++j) {
    const uint32_t low = (b[4 + j / 2] >> (j % 2 * 4)) & 15u;
    block.scales[j] = static_cast<int32_t>(low | (((high >> (2 * j)) & 3u) << 4)) - 32;
  }
  for (uint32_t k = 0; k < 256; ++k) {
    const uint8_t pair = b[8 + k / 32 * 16 + k % 16];
    block.codes[k] = kIq4Codebook[k % 32 < 16 ? pair & 15 : pair >> 4];
  }
}

float read_scale(const uint8_t* row, DType type, uint32_t index) {
  if (type == DType::kF32) {
    float value;
    std::memcpy(&value, row + uint64_t{index} * 4, 4);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, row + uint64_t{index} * 2, 2);
  return type == DType::kF16 ? f32_from_f16(bits) : f32_from_bf16(bits);
}

// Codes packed little-endian into one bit stream per row.
void read_mlx_affine(const MatrixView& w, uint32_t row, uint32_t index, Block& block) {
  const uint8_t* data = w.data + row * w.row_bytes;
  for (uint32_t i = 0; i < w.group; ++i) {
    const uint64_t bit = (uint64_t{index} * w.group + i) * w.bits;
    uint32_t window = data[bit / 8];
    if (bit % 8 + w.bits > 8) window |= static_cast<uint32_t>(data[bit / 8 + 1]) << 8;
    block.codes[i] = static_cast<int32_t>((window >> (bit % 8)) & ((1u << w.bits) - 1));
  }
  set_all(block.minimums, w.group / 32u, 1);
  block.d = read_scale(w.scales + row * w.scale_row_bytes, w.scale_type, index);
  block.e = read_scale(w.biases + row * w.scale_row_bytes, w.scale_type, index);
}

void read_i8_row(const MatrixView& w, uint32_t row, uint32_t index, Block& block) {
  block.d = read_scale(w.scales + row * w.scale_row_bytes, DType::kF32, index);
  for (uint32_t i = 0; i < 32; ++i)
    block.codes[i] = signed_byte(w.data[row * w.row_bytes + uint64_t{index} * 32 + i]);
}

void (*gguf_reader(WeightFormat format))(const uint8_t*, Block&) {
  switch (format) {
    case WeightFormat::kQ4_0:
      return read_q4_0;
    case WeightFormat::kQ4_1:
      return read_q4_1;
    case WeightFormat::kQ5_0:
      return read_q5_0;
    case WeightFormat::kQ5_1:
      return read_q5_1;
    case WeightFormat::kQ8_0:
      return read_q8_0;
    case WeightFormat::kQ2_K:
      return read_q2_k;
    case WeightFormat::kQ3_K:
      return read_q3_k;
    case WeightFormat::kQ4_K:
      return read_q4_k;
    case WeightFormat::kQ5_K:
      return read_q5_k;
    case WeightFormat::kQ6_K:
      return read_q6_k;
    case WeightFormat::kIQ4_NL:
      return read_iq4_nl;
    case WeightFormat::kIQ4_XS:
      return read_iq4_xs;
    default:
      return nullptr;
  }
}

}  // namespace

void read_block(const MatrixView& w, uint32_t row, uint32_t index, Block& block) {
  const CodeTraits t = code_traits(w);
  CHECK(t.block != 0);
  set_all(block.scales, t.block / t.sub, 1);
  if (w.format == WeightFormat::kMlxAffine) return read_mlx_affine(w, row, index, block);
  if (w.format == WeightFormat::kI8Row) return read_i8_row(w, row, index, block);
  if (const WeightFormat format = row_by_row(w.format); format != w.format) {
    uint8_t gathered[kGatheredBytesMax];
    gather_block(w, row, index, gathered);
    return gguf_reader(format)(gathered, block);
  }
  const uint8_t* data = w.data + row * w.row_bytes;
  if (w.format == WeightFormat::kMlxMxfp4)
    return read_mxfp4(w.scales[row * w.scale_row_bytes + index], data + uint64_t{index} * 16, true, block);
  if (w.format == WeightFormat::kMXFP4)
    return read_mxfp4(data[uint64_t{index} * 17], data + uint64_t{index} * 17 + 1, false, block);
  gguf_reader(w.format)(data + uint64_t{index} * (w.row_bytes / (w.cols / t.block)), block);
}

}  // namespace mlxf::kernels::reference
