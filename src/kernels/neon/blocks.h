// Every integer format as a type that the NEON decoders and the one-token products share: what the bytes of a block are
// as codes, scales and minima, 32 codes at a time.
//
// A type has
//   kChunks          chunks of 32 elements in a block; 0: group / 32 of the matrix
//   kBytes           bytes of a block where they do not depend on the group (kChunks > 0); else bytes of a chunk
//   kKind, kSigned   as in kernels/code_row.h
//   kSub             elements per scale where a block has several (16 or 32); 0: none, the scale is 1
//   kMinimum         the minimum of a block without several (0 for kNone)
//   codes(block, c)  the 32 codes of chunk c in order
//   scales(block)    where kSub > 0
//   d(row, b), e(row, b)   the floats of block b; e for kAffine
// Everything here has internal linkage: each object file carries its own copy. Pure functions; any thread. No function
// reads past a block.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "kernels/code_row.h"
#include "tensor/matrix.h"

namespace mlxf::kernels::neon {
namespace {

#define MLXF_INLINE [[maybe_unused]] inline __attribute__((always_inline))

// Where the parts of one row lie.
struct RowBytes {
  const uint8_t* data;
  const uint8_t* scales;
  const uint8_t* biases;
  DType scale_type;
};

MLXF_INLINE RowBytes row_bytes(const MatrixView& w, uint32_t row) {
  const uint64_t at = row * w.scale_row_bytes;
  return {w.data + row * w.row_bytes, w.scales == nullptr ? nullptr : w.scales + at,
          w.biases == nullptr ? nullptr : w.biases + at, w.scale_type};
}

struct Codes32 {
  uint8x16_t low;   // Elements 0-15,
  uint8x16_t high;  // 16-31.
};

// 16 scales and minima in order; only the first vector where a block has 8.
struct SubScales {
  int16x8_t scales[2];
  int16x8_t minima[2];
};

MLXF_INLINE float float_from_bits(uint32_t bits) { return vget_lane_f32(vcreate_f32(bits), 0); }

MLXF_INLINE float load_f16(const uint8_t* bytes) {
  uint16_t half;
  __builtin_memcpy(&half, bytes, 2);
  return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(half))), 0);
}

MLXF_INLINE uint32_t load_u32(const uint8_t* bytes) {
  uint32_t word;
  __builtin_memcpy(&word, bytes, 4);
  return word;
}

// 2^(exponent - 128), the scale of doubled e2m1 codes: exact, subnormal below an exponent of 2; 255 is NaN.
MLXF_INLINE float half_e8m0(uint8_t exponent) {
  if (exponent == 255) return __builtin_nanf("");
  return float_from_bits(exponent < 2 ? uint32_t{0x00200000} << exponent : (exponent - 1u) << 23);
}

// Element `index` of a row of MLX scales or biases.
MLXF_INLINE float load_scale(const uint8_t* row, DType type, uint32_t index) {
  if (type == DType::kF32) return float_from_bits(load_u32(row + uint64_t{index} * 4));
  if (type == DType::kF16) return load_f16(row + uint64_t{index} * 2);
  uint16_t half;
  __builtin_memcpy(&half, row + uint64_t{index} * 2, 2);
  return float_from_bits(uint32_t{half} << 16);
}

MLXF_INLINE uint8x16_t low_nibbles(uint8x16_t q) { return vandq_u8(q, vdupq_n_u8(0x0f)); }
MLXF_INLINE uint8x16_t high_nibbles(uint8x16_t q) { return vshrq_n_u8(q, 4); }

// Shifts every byte right by `count` (a constant once inlined) and keeps the bits of `mask`.
MLXF_INLINE uint8x16_t field(uint8x16_t q, uint32_t count, uint8_t mask) {
  return vandq_u8(vshlq_u8(q, vdupq_n_s8(static_cast<int8_t>(-static_cast<int32_t>(count)))),
                  vdupq_n_u8(mask));
}

// 16 bytes whose low nibbles are elements 0-15 and whose high ones 16-31.
MLXF_INLINE Codes32 split_nibbles(const uint8_t* bytes) {
  const uint8x16_t q = vld1q_u8(bytes);
  return {low_nibbles(q), high_nibbles(q)};
}

// 16 bytes whose low and high nibbles alternate.
MLXF_INLINE Codes32 interleaved_nibbles(const uint8_t* bytes) {
  const uint8x16_t q = vld1q_u8(bytes);
  return {vzip1q_u8(low_nibbles(q), high_nibbles(q)), vzip2q_u8(low_nibbles(q), high_nibbles(q))};
}

MLXF_INLINE Codes32 look_up(const uint8_t table[16], Codes32 nibbles) {
  const uint8x16_t values = vld1q_u8(table);
  return {vqtbl1q_u8(values, nibbles.low), vqtbl1q_u8(values, nibbles.high)};
}

// The values of e2m1 doubled, plus 12; and the codebook of IQ4_NL and IQ4_XS.
constexpr uint8_t kE2m1Codes[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};
constexpr uint8_t kIq4Codes[16] = {0x81, 0x98, 0xad, 0xbf, 0xcf, 0xdd, 0xea, 0xf6,
                                   1,    13,   25,   38,   53,   69,   89,   113};

// Bit i of four bytes as 0x10 in byte i.
MLXF_INLINE Codes32 fifth_bits(const uint8_t* bytes) {
  const uint8x8_t select = vcreate_u8(0x8040201008040201u);
  const uint8x16_t both = vcombine_u8(select, select);
  const uint8x16_t low = vcombine_u8(vdup_n_u8(bytes[0]), vdup_n_u8(bytes[1]));
  const uint8x16_t high = vcombine_u8(vdup_n_u8(bytes[2]), vdup_n_u8(bytes[3]));
  const uint8x16_t bit = vdupq_n_u8(0x10);
  return {vandq_u8(vtstq_u8(low, both), bit), vandq_u8(vtstq_u8(high, both), bit)};
}

MLXF_INLINE Codes32 merge(Codes32 a, Codes32 b) { return {vorrq_u8(a.low, b.low), vorrq_u8(a.high, b.high)}; }

// The 8 scales and 8 minima of Q4_K and Q5_K, 6 bits each in 12 bytes: the first four of either are the low 6 bits of
// bytes 0-3 and 4-7; the last four have their low nibbles in bytes 8-11 and their high bits on top of bytes 0-7.
MLXF_INLINE SubScales k_scales(const uint8_t* bytes) {
  const uint32_t a = load_u32(bytes), b = load_u32(bytes + 4), c = load_u32(bytes + 8);
  const uint64_t scales = (a & 0x3f3f3f3fu) | uint64_t{(c & 0x0f0f0f0fu) | ((a >> 2) & 0x30303030u)} << 32;
  const uint64_t minima = (b & 0x3f3f3f3fu) | uint64_t{((c >> 4) & 0x0f0f0f0fu) | ((b >> 2) & 0x30303030u)}
                                                  << 32;
  const int16x8_t zero = vdupq_n_s16(0);
  return {{vreinterpretq_s16_u16(vmovl_u8(vcreate_u8(scales))), zero},
          {vreinterpretq_s16_u16(vmovl_u8(vcreate_u8(minima))), zero}};
}

// ---- 32 elements a block ----------------------------------------------------------------------------------------

template <uint32_t BYTES, MinimumKind KIND, int16_t MINIMUM>
struct Legacy {
  static constexpr uint32_t kChunks = 1, kBytes = BYTES, kSub = 0;
  static constexpr MinimumKind kKind = KIND;
  static constexpr bool kSigned = false;
  static constexpr int16_t kMinimum = MINIMUM;
  MLXF_INLINE static float d(const RowBytes& row, uint32_t b) {
    return load_f16(row.data + uint64_t{b} * BYTES);
  }
  MLXF_INLINE static float e(const RowBytes& row, uint32_t b) {
    return load_f16(row.data + uint64_t{b} * BYTES + 2);
  }
};

struct Q40 : Legacy<18, MinimumKind::kSymmetric, -8> {
  MLXF_INLINE static Codes32 codes(const uint8_t* block, uint32_t) { return split_nibbles(block + 2); }
};
struct Q41 : Legacy<20, MinimumKind::kAffine, 1> {
  MLXF_INLINE static Codes32 codes(const uint8_t* block, uint32_t) { return split_nibbles(block + 4); }
};
struct Q50 : Legacy<22, MinimumKind::kSymmetric, -16> {
  MLXF_INLINE static Codes32 codes(const uint8_t* block, uint32_t) {
    return merge(split_nibbles(block + 6), fifth_bits(block + 2));
  }
};
struct Q51 : Legacy<24, MinimumKind::kAffine, 1> {
  MLXF_INLINE static Codes32 codes(const uint8_t* block, uint32_t) {
    return merge(split_nibbles(block + 8), fifth_bits(block + 4));
  }
};
struct Iq4Nl : Legacy<18, MinimumKind::kNone, 0> {
  static constexpr bool kSigned = true;
  MLXF_INLINE static Codes32 codes(const uint8_t* block, uint32_t) {
    return look_up(kIq4Codes, split_nibbles(block + 2));
  }
};
struct Q80 : Legacy<34, MinimumKind::kNone, 0> {
  static constexpr bool kSigned = true;
  MLXF_INLINE static Codes32 codes(const uint8_t* block, uint32_t) {
    return {vld1q_u8(block + 2), vld1q_u8(block + 18)};
  }
};
struct Mxfp4 : Legacy<17, MinimumKind::kSymmetric, -12> {
  MLXF_INLINE static Codes32 codes(const uint8_t* block, uint32_t) {
    return look_up(kE2m1Codes, split_nibbles(block + 1));
  }
  MLXF_INLINE static float d(const RowBytes& row, uint32_t b) {
    return half_e8m0(row.data[uint64_t{b} * kBytes]);
  }
};
struct MlxMxfp4 : Legacy<16, MinimumKind::kSymmetric, -12> {
  MLXF_INLINE static Codes32 codes(const uint8_t* block, uint32_t) {
    return look_up(kE2m1Codes, interleaved_nibbles(block));
  }
  MLXF_INLINE static float d(const RowBytes& row, uint32_t b) { return half_e8m0(row.scales[b]); }
};
struct I8Row : Legacy<32, MinimumKind::kNone, 0> {
  static constexpr bool kSigned = true;
  MLXF_INLINE static Codes32 codes(const uint8_t* block, uint32_t) {
    return {vld1q_u8(block), vld1q_u8(block + 16)};
  }
  MLXF_INLINE static float d(const RowBytes& row, uint32_t b) {
    return load_scale(row.scales, DType::kF32, b);
  }
};

// ---- 256 elements a block ---------------------------------------------------------------------------------------

// HEAD: where d, for affine formats d and dmin, are.
template <uint32_t BYTES, uint32_t SUB, MinimumKind KIND, uint32_t HEAD>
struct KQuant {
  static constexpr uint32_t kChunks = 8, kBytes = BYTES, kSub = SUB;
  static constexpr MinimumKind kKind = KIND;
  static constexpr bool kSigned = false;
  static constexpr int16_t kMinimum = 0;
  MLXF_INLINE static float d(const RowBytes& row, uint32_t b) {
    return load_f16(row.data + uint64_t{b} * BYTES + HEAD);
  }
  MLXF_INLINE static float e(const RowBytes& row, uint32_t b) {
    return -load_f16(row.data + uint64_t{b} * BYTES + HEAD + 2);
  }
};

// 16 of scales (low nibbles) and minima (high), 64 of bit pairs, d, dmin.
struct Q2K : KQuant<84, 16, MinimumKind::kAffine, 80> {
  MLXF_INLINE static SubScales scales(const uint8_t* block) {
    const uint8x16_t bytes = vld1q_u8(block);
    const uint8x16_t low = low_nibbles(bytes), high = high_nibbles(bytes);
    return {{vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(low))), vreinterpretq_s16_u16(vmovl_high_u8(low))},
            {vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(high))), vreinterpretq_s16_u16(vmovl_high_u8(high))}};
  }
  MLXF_INLINE static Codes32 codes(const uint8_t* block, uint32_t c) {
    const uint8_t* q = block + 16 + c / 4 * 32;
    return {field(vld1q_u8(q), c % 4 * 2, 3), field(vld1q_u8(q + 16), c % 4 * 2, 3)};
  }
};

// 32 of third bits, 64 of bit pairs, 12 of 6-bit scales (offset 32), d.
struct Q3K : KQuant<110, 16, MinimumKind::kSymmetric, 108> {
  MLXF_INLINE static SubScales scales(const uint8_t* block) {
    const uint8x8_t q = vld1_u8(block + 96);
    const uint8x16_t low = vcombine_u8(vand_u8(q, vdup_n_u8(0x0f)), vshr_n_u8(q, 4));
    const uint32x4_t pairs = vdupq_n_u32(load_u32(block + 104));
    const int32x4_t shifts = {0, -2, -4, -6};
    const uint8x16_t high = vandq_u8(vreinterpretq_u8_u32(vshlq_u32(pairs, shifts)), vdupq_n_u8(3));
    const int8x16_t bytes = vsubq_s8(vreinterpretq_s8_u8(vorrq_u8(low, vshlq_n_u8(high, 4))), vdupq_n_s8(32));
    const int16x8_t first = vmovl_s8(vget_low_s8(bytes)), second = vmovl_high_s8(bytes);
    return {{first, second}, {vmulq_n_s16(first, -4), vmulq_n_s16(second, -4)}};
  }
  MLXF_INLINE static Codes32 codes(const uint8_t* block, uint32_t c) {
    const uint8_t* q = block + 32 + c / 4 * 32;
    const uint8x16_t third0 = field(vld1q_u8(block), c, 1), third1 = field(vld1q_u8(block + 16), c, 1);
    return {vorrq_u8(field(vld1q_u8(q), c % 4 * 2, 3), vshlq_n_u8(third0, 2)),
            vorrq_u8(field(vld1q_u8(q + 16), c % 4 * 2, 3), vshlq_n_u8(third1, 2))};
  }
};

// The nibbles of chunk c of Q4_K and Q5_K: low ones of 32 bytes for even chunks, high ones for odd.
MLXF_INLINE Codes32 k_nibbles(const uint8_t* bytes, uint32_t c) {
  const uint8_t* q = bytes + c / 2 * 32;
  if (c % 2 == 0) return {low_nibbles(vld1q_u8(q)), low_nibbles(vld1q_u8(q + 16))};
  return {high_nibbles(vld1q_u8(q)), high_nibbles(vld1q_u8(q + 16))};
}

// d, dmin, 12 of scales, 128 of nibbles.
struct Q4K : KQuant<144, 32, MinimumKind::kAffine, 0> {
  MLXF_INLINE static SubScales scales(const uint8_t* block) { return k_scales(block + 4); }
  MLXF_INLINE static Codes32 codes(const uint8_t* block, uint32_t c) { return k_nibbles(block + 16, c); }
};

// d, dmin, 12 of scales as in Q4_K, 32 of fifth bits, 128 of nibbles.
struct Q5K : KQuant<176, 32, MinimumKind::kAffine, 0> {
  MLXF_INLINE static SubScales scales(const uint8_t* block) { return k_scales(block + 4); }
  MLXF_INLINE static Codes32 codes(const uint8_t* block, uint32_t c) {
    const uint8x16_t fifth0 = field(vld1q_u8(block + 16), c, 1), fifth1 = field(vld1q_u8(block + 32), c, 1);
    return merge(k_nibbles(block + 48, c), {vshlq_n_u8(fifth0, 4), vshlq_n_u8(fifth1, 4)});
  }
};

// 128 of low nibbles, 64 of bit pairs, 16 of int8 scales (offset of the codes 32), d.
struct Q6K : KQuant<210, 16, MinimumKind::kSymmetric, 208> {
  MLXF_INLINE static SubScales scales(const uint8_t* block) {
    const int8x16_t bytes = vreinterpretq_s8_u8(vld1q_u8(block + 192));
    const int16x8_t first = vmovl_s8(vget_low_s8(bytes)), second = vmovl_high_s8(bytes);
    return {{first, second}, {vmulq_n_s16(first, -32), vmulq_n_s16(second, -32)}};
  }
  MLXF_INLINE static Codes32 codes(const uint8_t* block, uint32_t c) {
    const uint32_t half = c / 4, quarter = c % 4;
    const uint8_t* low = block + half * 64 + quarter % 2 * 32;
    const uint8_t* pairs = block + 128 + half * 32;
    const Codes32 high = {vshlq_n_u8(field(vld1q_u8(pairs), 2 * quarter, 3), 4),
                          vshlq_n_u8(field(vld1q_u8(pairs + 16), 2 * quarter, 3), 4)};
    if (quarter < 2) return merge({low_nibbles(vld1q_u8(low)), low_nibbles(vld1q_u8(low + 16))}, high);
    return merge({high_nibbles(vld1q_u8(low)), high_nibbles(vld1q_u8(low + 16))}, high);
  }
};

// d, 8 x 2 high scale bits, 8 low scale nibbles (offset 32), 128 of codebook indices.
struct Iq4Xs : KQuant<136, 32, MinimumKind::kNone, 0> {
  static constexpr bool kSigned = true;
  MLXF_INLINE static SubScales scales(const uint8_t* block) {
    uint16_t pairs;
    __builtin_memcpy(&pairs, block + 2, 2);
    const uint8x8_t q = vcreate_u8(load_u32(block + 4));
    const uint8x8_t low = vzip1_u8(vand_u8(q, vdup_n_u8(0x0f)), vshr_n_u8(q, 4));
    const int16x8_t shifts = {0, -2, -4, -6, -8, -10, -12, -14};
    const uint16x8_t high = vandq_u16(vshlq_u16(vdupq_n_u16(pairs), shifts), vdupq_n_u16(3));
    const uint16x8_t words = vorrq_u16(vmovl_u8(low), vshlq_n_u16(high, 4));
    const int16x8_t zero = vdupq_n_s16(0);
    return {{vsubq_s16(vreinterpretq_s16_u16(words), vdupq_n_s16(32)), zero}, {zero, zero}};
  }
  MLXF_INLINE static Codes32 codes(const uint8_t* block, uint32_t c) {
    return look_up(kIq4Codes, split_nibbles(block + 8 + c * 16));
  }
};

// ---- MLX's affine codes, BITS each, packed little-endian ----------------------------------------------------------

// How 32 codes come to one byte each: `at` takes the two bytes around each code to a word, `shift` (negative: right)
// moves the code to the word's bottom. The bytes are loaded once from their start and once so that they end where
// they end; no other byte is read, so that the last row of a mapping is safe.
struct PackedLayout {
  alignas(16) uint8_t at[4][16];
  alignas(16) int16_t shift[4][8];
};

constexpr PackedLayout packed_layout(uint32_t bits) {
  PackedLayout layout{};
  const uint32_t load = bits < 4 ? 8 : 16, bytes = 4 * bits;
  for (uint32_t code = 0; code < 32; ++code) {
    const uint32_t byte = code * bits / 8, next = byte + 1 < bytes ? byte + 1 : byte;
    const auto place = [&](uint32_t n) {
      return static_cast<uint8_t>(n < load ? n : load + n - (bytes - load));
    };
    layout.at[code / 8][code % 8 * 2] = place(byte);
    layout.at[code / 8][code % 8 * 2 + 1] = place(next);
    layout.shift[code / 8][code % 8] = static_cast<int16_t>(-static_cast<int32_t>(code * bits % 8));
  }
  return layout;
}

template <uint32_t BITS>
MLXF_INLINE Codes32 load_packed(const uint8_t* packed) {
  static constexpr PackedLayout kLayout = packed_layout(BITS);
  uint8x16x2_t bytes;
  if constexpr (BITS < 4) {
    bytes.val[0] = vcombine_u8(vld1_u8(packed), vld1_u8(packed + 4 * BITS - 8));
    bytes.val[1] = vdupq_n_u8(0);
  } else {
    bytes.val[0] = vld1q_u8(packed);
    bytes.val[1] = vld1q_u8(packed + 4 * BITS - 16);
  }
  uint8x8_t codes[4];
  for (uint32_t v = 0; v < 4; ++v) {
    const uint16x8_t words = vreinterpretq_u16_u8(vqtbl2q_u8(bytes, vld1q_u8(kLayout.at[v])));
    const uint16x8_t moved = vshlq_u16(words, vld1q_s16(kLayout.shift[v]));
    codes[v] = vmovn_u16(vandq_u16(moved, vdupq_n_u16((1u << BITS) - 1)));
  }
  return {vcombine_u8(codes[0], codes[1]), vcombine_u8(codes[2], codes[3])};
}

template <uint32_t BITS>
struct MlxAffine {
  static constexpr uint32_t kChunks = 0, kBytes = 4 * BITS, kSub = 0;
  static constexpr MinimumKind kKind = MinimumKind::kAffine;
  static constexpr bool kSigned = false;
  static constexpr int16_t kMinimum = 1;
  MLXF_INLINE static Codes32 codes(const uint8_t* block, uint32_t c) {
    const uint8_t* at = block + c * kBytes;
    if constexpr (BITS == 8) return {vld1q_u8(at), vld1q_u8(at + 16)};
    if constexpr (BITS == 4) return interleaved_nibbles(at);
    if constexpr (BITS != 8 && BITS != 4) return load_packed<BITS>(at);
  }
  MLXF_INLINE static float d(const RowBytes& row, uint32_t b) {
    return load_scale(row.scales, row.scale_type, b);
  }
  MLXF_INLINE static float e(const RowBytes& row, uint32_t b) {
    return load_scale(row.biases, row.scale_type, b);
  }
};

// Calls f with an object of the type that `w` is made of; false when it has no integer form.
template <typename F>
MLXF_INLINE bool with_format(const MatrixView& w, const F& f) {
  switch (w.format) {
    case WeightFormat::kQ4_0:
      return f(Q40{}), true;
    case WeightFormat::kQ4_1:
      return f(Q41{}), true;
    case WeightFormat::kQ5_0:
      return f(Q50{}), true;
    case WeightFormat::kQ5_1:
      return f(Q51{}), true;
    case WeightFormat::kQ8_0:
      return f(Q80{}), true;
    case WeightFormat::kQ2_K:
      return f(Q2K{}), true;
    case WeightFormat::kQ3_K:
      return f(Q3K{}), true;
    case WeightFormat::kQ4_K:
      return f(Q4K{}), true;
    case WeightFormat::kQ5_K:
      return f(Q5K{}), true;
    case WeightFormat::kQ6_K:
      return f(Q6K{}), true;
    case WeightFormat::kIQ4_NL:
      return f(Iq4Nl{}), true;
    case WeightFormat::kIQ4_XS:
      return f(Iq4Xs{}), true;
    case WeightFormat::kMXFP4:
      return f(Mxfp4{}), true;
    case WeightFormat::kMlxMxfp4:
      return f(MlxMxfp4{}), true;
    case WeightFormat::kI8Row:
      return f(I8Row{}), true;
    case WeightFormat::kMlxAffine:
      switch (w.bits) {
        case 2:
          return f(MlxAffine<2>{}), true;
        case 3:
          return f(MlxAffine<3>{}), true;
        case 4:
          return f(MlxAffine<4>{}), true;
        case 5:
          return f(MlxAffine<5>{}), true;
        case 6:
          return f(MlxAffine<6>{}), true;
        default:
          return f(MlxAffine<8>{}), true;
      }
    default:
      return false;
  }
}

}  // namespace
}  // namespace mlxf::kernels::neon
