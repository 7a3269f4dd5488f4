// Integer decoding of rows of 32-element blocks (kernels/code_row.h): Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL, MXFP4 and MLX's
// mxfp4.
//
// A block is its scale (f16, for the _1 formats a second one; for MXFP4 an E8M0 byte), for Q5 32 fifth bits, and 16
// bytes whose low nibbles are elements 0-15 and whose high ones are 16-31. MLX keeps the E8M0 bytes apart and its
// nibbles in sequence.
#include <immintrin.h>

#include <cstdint>

#include "kernels/avx2/avx2.h"
#include "kernels/avx2/legacy_codes.h"

namespace mlxf::kernels::avx2 {
namespace {

void fill(int16_t* out, uint32_t count, int16_t value) {
  for (uint32_t i = 0; i < count; ++i) out[i] = value;
}

void store(uint8_t* bytes, __m256i value) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(bytes), value); }

// Four scales at a time; past the end the last block repeats.
template <typename Format>
void load_scales(const uint8_t* block, uint32_t count, float* out) {
  for (uint32_t b = 0; b < count; b += 4) {
    const uint32_t n = count - b < 4 ? count - b : 4;
    const uint8_t* blocks[4];
    for (uint32_t i = 0; i < 4; ++i) blocks[i] = block + uint64_t{b + (i < n ? i : n - 1)} * Format::kBytes;
    float lanes[4];
    _mm_storeu_ps(lanes, Format::scales(blocks));
    __builtin_memcpy(out + b, lanes, n * sizeof(float));
  }
}

template <typename Format>
void decode_blocks(const MatrixView& w, uint32_t row, uint32_t block_begin, uint32_t block_end,
                   const CodeRow& out) {
  const uint8_t* first = w.data + row * w.row_bytes + uint64_t{block_begin} * Format::kBytes;
  const uint32_t blocks = block_end - block_begin;
  const uint8_t* block = first;
  for (uint32_t b = 0; b < blocks; ++b, block += Format::kBytes) {
    store(out.codes + b * 32, Format::codes(block));
    if constexpr (Format::kKind == MinimumKind::kAffine) out.e[b] = load_f16(block + 2);
  }
  load_scales<Format>(first, blocks, out.d);
  fill(out.scales, blocks, 1);
  if constexpr (Format::kKind != MinimumKind::kNone) fill(out.minimums, blocks, Format::kMinimum);
}

struct E8m0Bytes {
  static constexpr uint32_t kBytes = 1;
  static __m128 scales(const uint8_t* const blocks[4]) { return load_half_e8m0x4(blocks); }
};

}  // namespace

void decode_codes_q4_0(const MatrixView& w, uint32_t row, uint32_t block_begin, uint32_t block_end,
                       const CodeRow& out) {
  decode_blocks<Q40>(w, row, block_begin, block_end, out);
}
void decode_codes_q4_1(const MatrixView& w, uint32_t row, uint32_t block_begin, uint32_t block_end,
                       const CodeRow& out) {
  decode_blocks<Q41>(w, row, block_begin, block_end, out);
}
void decode_codes_q5_0(const MatrixView& w, uint32_t row, uint32_t block_begin, uint32_t block_end,
                       const CodeRow& out) {
  decode_blocks<Q50>(w, row, block_begin, block_end, out);
}
void decode_codes_q5_1(const MatrixView& w, uint32_t row, uint32_t block_begin, uint32_t block_end,
                       const CodeRow& out) {
  decode_blocks<Q51>(w, row, block_begin, block_end, out);
}
void decode_codes_iq4_nl(const MatrixView& w, uint32_t row, uint32_t block_begin, uint32_t block_end,
                         const CodeRow& out) {
  decode_blocks<Iq4Nl>(w, row, block_begin, block_end, out);
}
void decode_codes_mxfp4(const MatrixView& w, uint32_t row, uint32_t block_begin, uint32_t block_end,
                        const CodeRow& out) {
  decode_blocks<Mxfp4>(w, row, block_begin, block_end, out);
}

void decode_codes_mlx_mxfp4(const MatrixView& w, uint32_t row, uint32_t block_begin, uint32_t block_end,
                            const CodeRow& out) {
  const uint32_t blocks = block_end - block_begin;
  const uint8_t* bytes = w.data + row * w.row_bytes + uint64_t{block_begin} * 16;
  for (uint32_t b = 0; b < blocks; ++b) {
    const __m256i split =
        e2m1_codes(load_nibbles(bytes + uint64_t{b} * 16));  // Even elements, then odd ones.
    const __m128i even = _mm256_castsi256_si128(split), odd = _mm256_extracti128_si256(split, 1);
    store(out.codes + b * 32, _mm256_set_m128i(_mm_unpackhi_epi8(even, odd), _mm_unpacklo_epi8(even, odd)));
  }
  load_scales<E8m0Bytes>(w.scales + row * w.scale_row_bytes + block_begin, blocks, out.d);
  fill(out.scales, blocks, 1);
  fill(out.minimums, blocks, -12);
}

}  // namespace mlxf::kernels::avx2
