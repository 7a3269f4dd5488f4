// Rows of quantised weights as integers (kernels/code_row.h) and as f32: the codes, scales and minima in pieces that
// stay in L1, then multiplied and added in the order of the reference, so that the bits agree. And F8E4M3, whose codes
// are numbers.
#include <arm_neon.h>

#include <cstdint>

#include "kernels/neon/blocks.h"
#include "kernels/neon/neon.h"

namespace mlxf::kernels::neon {
namespace {

constexpr uint32_t kPieceCols = 1024;  // A multiple of every block; 5 KiB of arrays.

template <typename Format>
void decode_format(const MatrixView& w, uint32_t row, uint32_t block_begin, uint32_t block_end,
                   const CodeRow& out) {
  const RowBytes bytes = row_bytes(w, row);
  const uint32_t chunks = Format::kChunks == 0 ? w.group / 32u : Format::kChunks;
  const uint32_t block_bytes = Format::kChunks == 0 ? chunks * Format::kBytes : Format::kBytes;
  const uint32_t subs = Format::kSub == 16 ? 16 : chunks;
  for (uint32_t b = block_begin; b < block_end; ++b) {
    const uint32_t at = b - block_begin;
    const uint8_t* block = bytes.data + uint64_t{b} * block_bytes;
    out.d[at] = Format::d(bytes, b);
    if constexpr (Format::kKind == MinimumKind::kAffine) out.e[at] = Format::e(bytes, b);
    for (uint32_t c = 0; c < chunks; ++c) {
      const Codes32 codes = Format::codes(block, c);
      uint8_t* target = out.codes + (uint64_t{at} * chunks + c) * 32;
      vst1q_u8(target, codes.low);
      vst1q_u8(target + 16, codes.high);
    }
    int16_t* scales = out.scales + at * subs;
    int16_t* minimums = out.minimums + at * subs;
    if constexpr (Format::kSub != 0) {
      const SubScales both = Format::scales(block);
      for (uint32_t i = 0; i < subs / 8; ++i) {
        vst1q_s16(scales + i * 8, both.scales[i]);
        if constexpr (Format::kKind != MinimumKind::kNone) vst1q_s16(minimums + i * 8, both.minima[i]);
      }
    } else {
      for (uint32_t j = 0; j < subs; ++j) {
        scales[j] = 1;
        if constexpr (Format::kKind != MinimumKind::kNone) minimums[j] = Format::kMinimum;
      }
    }
  }
}

void decode_codes(const MatrixView& w, uint32_t row, uint32_t block_begin, uint32_t block_end,
                  const CodeRow& out) {
  with_format(w, [&](auto format) { decode_format<decltype(format)>(w, row, block_begin, block_end, out); });
}

// Stores 16 codes * scale, + minimum for affine formats. Codes after their offset are signed bytes; affine ones are
// unsigned and go up to 255.
template <bool AFFINE>
void store_16(uint8x16_t codes, float scale, float minimum, float* out) {
  int16x8_t words[2];
  if constexpr (AFFINE) {
    words[0] = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(codes)));
    words[1] = vreinterpretq_s16_u16(vmovl_high_u8(codes));
  } else {
    words[0] = vmovl_s8(vget_low_s8(vreinterpretq_s8_u8(codes)));
    words[1] = vmovl_high_s8(vreinterpretq_s8_u8(codes));
  }
  for (uint32_t half = 0; half < 2; ++half) {
    const int32x4_t wide[2] = {vmovl_s16(vget_low_s16(words[half])), vmovl_high_s16(words[half])};
    for (uint32_t i = 0; i < 2; ++i) {
      float32x4_t values = vmulq_n_f32(vcvtq_f32_s32(wide[i]), scale);
      if constexpr (AFFINE) values = vaddq_f32(values, vdupq_n_f32(minimum));
      vst1q_f32(out + half * 8 + i * 4, values);
    }
  }
}

// What a symmetric minimum adds to each code. A scale of 0 hides it; the reference then leaves the code as it is.
int32_t code_offset(int32_t scale, int32_t minimum) {
  if (scale == 1) return minimum;
  return scale == 0 ? 0 : minimum / scale;
}

void widen(const CodeTraits& t, const CodeRow& codes, uint32_t blocks, float* out) {
  const uint32_t subs = t.block / t.sub;
  for (uint32_t j = 0; j < blocks * subs; ++j) {
    const float scale = codes.d[j / subs] * static_cast<float>(codes.scales[j]);
    if (t.minimum == MinimumKind::kAffine) {
      const float minimum = codes.e[j / subs] * static_cast<float>(codes.minimums[j]);
      for (uint32_t k = j * t.sub; k < (j + 1) * t.sub; k += 16)
        store_16<true>(vld1q_u8(codes.codes + k), scale, minimum, out + k);
    } else {
      const int32_t offset =
          t.minimum == MinimumKind::kSymmetric ? code_offset(codes.scales[j], codes.minimums[j]) : 0;
      for (uint32_t k = j * t.sub; k < (j + 1) * t.sub; k += 16)
        store_16<false>(vaddq_u8(vld1q_u8(codes.codes + k), vdupq_n_u8(static_cast<uint8_t>(offset))), scale,
                        0.0f, out + k);
    }
  }
}

// e4m3's exponent and fraction, moved to those of an f32, are the number times 2^-120: exact for subnormals too.
float32x4_t widen_f8(uint32x4_t bits) {
  const uint32x4_t sign = vshlq_n_u32(vandq_u32(bits, vdupq_n_u32(0x80)), 24);
  const uint32x4_t rest = vandq_u32(bits, vdupq_n_u32(0x7f));
  const float32x4_t magnitude = vmulq_n_f32(vreinterpretq_f32_u32(vshlq_n_u32(rest, 20)), 0x1p120f);
  const uint32x4_t nan = vandq_u32(vceqq_u32(rest, vdupq_n_u32(0x7f)), vdupq_n_u32(0x7fc00000));
  return vreinterpretq_f32_u32(vorrq_u32(vorrq_u32(vreinterpretq_u32_f32(magnitude), sign), nan));
}

}  // namespace

DecodeCodesFn code_decoder(WeightFormat format) {
  return reference_code_decoder(format) == nullptr ? nullptr : decode_codes;
}

void decode_blocks(const MatrixView& w, uint32_t row, uint32_t col_begin, uint32_t col_end, float* out) {
  const CodeTraits t = code_traits(w);
  uint8_t codes[kPieceCols];
  int16_t scales[kPieceCols / 16], minimums[kPieceCols / 16];
  float d[kPieceCols / 32], e[kPieceCols / 32];
  const CodeRow piece{codes, scales, minimums, d, e};
  for (uint32_t col = col_begin; col < col_end; col += kPieceCols) {
    const uint32_t end = col_end - col < kPieceCols ? col_end : col + kPieceCols;
    decode_codes(w, row, col / t.block, end / t.block, piece);
    widen(t, piece, (end - col) / t.block, out + (col - col_begin));
  }
}

void decode_f8e4m3(const MatrixView& w, uint32_t row, uint32_t col_begin, uint32_t col_end, float* out) {
  const uint8_t* data = w.data + row * w.row_bytes;
  for (uint32_t col = col_begin; col < col_end;) {
    // One scale per block of 128 x 128.
    const uint32_t block_end = (col / 128 + 1) * 128;
    const uint32_t end = col_end < block_end ? col_end : block_end;
    float scale = 1.0f;
    if (w.scales != nullptr)
      __builtin_memcpy(&scale, w.scales + row / 128 * w.scale_row_bytes + uint64_t{col} / 128 * 4, 4);
    for (; col < end; col += 4) {
      const uint32_t n = end - col < 4 ? end - col : 4;
      uint8_t bytes[4] = {};
      float values[4];
      __builtin_memcpy(bytes, data + col, n);
      const uint32x4_t bits = {bytes[0], bytes[1], bytes[2], bytes[3]};
      vst1q_f32(values, vmulq_n_f32(widen_f8(bits), scale));
      __builtin_memcpy(out + (col - col_begin), values, n * sizeof(float));
    }
    col = end;
  }
}

}  // namespace mlxf::kernels::neon
