// Decode products (one token) of every integer format on the stored layout, four rows at a time.
//
// Codes meet x in sdot: lane i of an accumulator holds the products of elements 4 i .. 4 i + 3 (mod 16), signed. Codes
// of up to 7 bits are signed as they are; those of 8 bits unsigned are flipped to code - 128, and 128 times the sum
// of x is added to S. Four rows end in the four lanes of one vector (a transposing sum), in which the f32 chain runs.
// Per row and chunk of 32: 2 sdot, 2 loads of x and 1-8 operations of unpacking; K-quants multiply each sub-block's sum
// by its scale (1 or 2 mla).
#include <arm_neon.h>

#include <cstdint>

#include "kernels/neon/blocks.h"
#include "kernels/neon/neon.h"

namespace mlxf::kernels::neon {
namespace {

// Codes as the signed bytes that sdot wants.
template <bool FLIP>
MLXF_INLINE int8x16_t signed_codes(uint8x16_t codes) {
  return vreinterpretq_s8_u8(FLIP ? veorq_u8(codes, vdupq_n_u8(0x80)) : codes);
}

// The sums of the four lanes of each of four vectors.
MLXF_INLINE int32x4_t sum_lanes4(const int32x4_t v[4]) {
  return vpaddq_s32(vpaddq_s32(v[0], v[1]), vpaddq_s32(v[2], v[3]));
}

template <typename Format>
struct Gemv {
  static constexpr bool kAffine = Format::kKind == MinimumKind::kAffine;
  static constexpr bool kFlip =
      !Format::kSigned && Format::kChunks == 0 && Format::kBytes == 32;  // MLX 8 bits.
  // What every code of a block without sub-blocks is short of.
  static constexpr int32_t kOffset = kFlip                                      ? 128
                                     : Format::kKind == MinimumKind::kSymmetric ? Format::kMinimum
                                                                                : 0;

  // Four lanes whose sum is a block's sum of scale * (code . x), and for symmetric minima of minimum * sum(x); for
  // affine ones that goes to `m`.
  MLXF_INLINE static int32x4_t scaled_block(const uint8_t* block, const int8_t* x, const int16_t* sums,
                                            int32x4_t& m) {
    const SubScales subs = Format::scales(block);
    int32_t scales[16];
    vst1q_s32(scales, vmovl_s16(vget_low_s16(subs.scales[0])));
    vst1q_s32(scales + 4, vmovl_high_s16(subs.scales[0]));
    int32x4_t minima = vdupq_n_s32(0);
    if constexpr (Format::kSub == 16) {
      vst1q_s32(scales + 8, vmovl_s16(vget_low_s16(subs.scales[1])));
      vst1q_s32(scales + 12, vmovl_high_s16(subs.scales[1]));
    }
    if constexpr (Format::kKind != MinimumKind::kNone) {
      for (uint32_t i = 0; i < (Format::kSub == 16 ? 2 : 1); ++i) {
        const int16x8_t x_sums = vld1q_s16(sums + i * 8);
        minima = vmlal_s16(minima, vget_low_s16(subs.minima[i]), vget_low_s16(x_sums));
        minima = vmlal_high_s16(minima, subs.minima[i], x_sums);
      }
    }
    int32x4_t s = vdupq_n_s32(0);
    if constexpr (kAffine)
      m = minima;
    else
      s = minima;
#pragma GCC unroll 8
    for (uint32_t c = 0; c < 8; ++c) {
      const Codes32 codes = Format::codes(block, c);
      const int8x16_t x0 = vld1q_s8(x + c * 32), x1 = vld1q_s8(x + c * 32 + 16);
      const int32x4_t first = vdotq_s32(vdupq_n_s32(0), vreinterpretq_s8_u8(codes.low), x0);
      if constexpr (Format::kSub == 16) {
        const int32x4_t second = vdotq_s32(vdupq_n_s32(0), vreinterpretq_s8_u8(codes.high), x1);
        s = vmlaq_n_s32(s, first, scales[2 * c]);
        s = vmlaq_n_s32(s, second, scales[2 * c + 1]);
      } else {
        s = vmlaq_n_s32(s, vdotq_s32(first, vreinterpretq_s8_u8(codes.high), x1), scales[c]);
      }
    }
    return s;
  }

  MLXF_INLINE static int32x4_t plain_block(const uint8_t* block, uint32_t chunks, const int8_t* x) {
    int32x4_t s = vdupq_n_s32(0);
    for (uint32_t c = 0; c < chunks; ++c) {
      const Codes32 codes = Format::codes(block, c);
      s = vdotq_s32(s, signed_codes<kFlip>(codes.low), vld1q_s8(x + c * 32));
      s = vdotq_s32(s, signed_codes<kFlip>(codes.high), vld1q_s8(x + c * 32 + 16));
    }
    return s;
  }

  static void run(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                  float* y) {
    const uint32_t chunks = Format::kChunks == 0 ? w.group / 32u : Format::kChunks;
    const uint32_t block_bytes = Format::kChunks == 0 ? chunks * Format::kBytes : Format::kBytes;
    const uint32_t blocks = w.cols / (chunks * 32);
    for (uint32_t row = row_begin; row < row_end; row += 4) {
      const uint32_t count = row_end - row < 4 ? row_end - row : 4;
      RowBytes rows[4];  // Past the end the last row repeats.
      for (uint32_t r = 0; r < 4; ++r) rows[r] = row_bytes(w, row + (r < count ? r : count - 1));
      float32x4_t s_total = vdupq_n_f32(0.0f), m_total = vdupq_n_f32(0.0f);
      for (uint32_t b = 0; b < blocks; ++b) {
        const int8_t* codes = x.codes + uint64_t{b} * chunks * 32;
        const float dx = x.scales[b];
        int32x4_t s4[4], m4[4];
        float d[4], e[4];
        for (uint32_t r = 0; r < 4; ++r) {
          const uint8_t* block = rows[r].data + uint64_t{b} * block_bytes;
          d[r] = Format::d(rows[r], b);
          if constexpr (kAffine) e[r] = Format::e(rows[r], b);
          if constexpr (Format::kSub != 0)
            s4[r] =
                scaled_block(block, codes, Format::kSub == 16 ? x.sums16 + b * 16 : x.sums32 + b * 8, m4[r]);
          else
            s4[r] = plain_block(block, chunks, codes);
        }
        int32x4_t s = sum_lanes4(s4), m = vdupq_n_s32(0);
        if constexpr (Format::kSub != 0) {
          if constexpr (kAffine) m = sum_lanes4(m4);
        } else if constexpr (kAffine || kOffset != 0) {
          int32_t sum = 0;
          for (uint32_t c = 0; c < chunks; ++c) sum += x.sums32[b * chunks + c];
          s = vaddq_s32(s, vdupq_n_s32(kOffset * sum));
          m = vdupq_n_s32(sum);
        }
        s_total = vfmaq_f32(s_total, vcvtq_f32_s32(s), vmulq_n_f32(vld1q_f32(d), dx));
        if constexpr (kAffine) m_total = vfmaq_f32(m_total, vld1q_f32(e), vmulq_n_f32(vcvtq_f32_s32(m), dx));
      }
      if constexpr (kAffine) s_total = vaddq_f32(s_total, m_total);
      float lanes[4];
      vst1q_f32(lanes, s_total);
      for (uint32_t r = 0; r < count; ++r) y[row + r] = lanes[r];
    }
  }
};

}  // namespace

void gemv(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y) {
  with_format(w, [&](auto format) { Gemv<decltype(format)>::run(w, row_begin, row_end, x, y); });
}

}  // namespace mlxf::kernels::neon
