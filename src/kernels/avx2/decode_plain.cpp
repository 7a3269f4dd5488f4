// Integer decoding of rows whose codes are stored as plain bytes, nibbles or a stream of bits: Q8_0, int8 rows, MLX.
#include <immintrin.h>

#include <cstdint>

#include "kernels/avx2/avx2.h"
#include "kernels/avx2/mlx_codes.h"
#include "kernels/avx2/mlx_scales.h"

namespace mlxf::kernels::avx2 {
namespace {

constexpr uint32_t kQ80Bytes = 34;

void fill(int16_t* out, uint32_t count, int16_t value) {
  for (uint32_t i = 0; i < count; ++i) out[i] = value;
}

template <uint32_t BITS>
void unpack(const uint8_t* packed, uint32_t elements, uint8_t* out) {
  for (uint32_t k = 0; k < elements; k += 32, packed += 4 * BITS)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + k), load_packed<BITS>(packed));
}

}  // namespace

void decode_codes_q8_0(const MatrixView& w, uint32_t row, uint32_t block_begin, uint32_t block_end,
                       const CodeRow& out) {
  const uint8_t* block = w.data + row * w.row_bytes + uint64_t{block_begin} * kQ80Bytes;
  for (uint32_t b = 0; b < block_end - block_begin; ++b, block += kQ80Bytes) {
    uint16_t d;
    __builtin_memcpy(&d, block, 2);
    out.d[b] = _cvtsh_ss(d);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out.codes + b * 32),
                        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + 2)));
  }
  fill(out.scales, block_end - block_begin, 1);
}

void decode_codes_i8_row(const MatrixView& w, uint32_t row, uint32_t block_begin, uint32_t block_end,
                         const CodeRow& out) {
  const uint32_t blocks = block_end - block_begin;
  __builtin_memcpy(out.codes, w.data + row * w.row_bytes + uint64_t{block_begin} * 32, uint64_t{blocks} * 32);
  __builtin_memcpy(out.d, w.scales + row * w.scale_row_bytes + uint64_t{block_begin} * 4,
                   uint64_t{blocks} * 4);
  fill(out.scales, blocks, 1);
}

void decode_codes_mlx(const MatrixView& w, uint32_t row, uint32_t block_begin, uint32_t block_end,
                      const CodeRow& out) {
  const uint32_t blocks = block_end - block_begin;
  const uint32_t elements = blocks * w.group;
  const uint8_t* codes = w.data + row * w.row_bytes + uint64_t{block_begin} * w.group * w.bits / 8;
  const uint8_t* scales = w.scales + row * w.scale_row_bytes;
  const uint8_t* biases = w.biases + row * w.scale_row_bytes;
  fill(out.scales, elements / 32, 1);
  fill(out.minimums, elements / 32, 1);
  for (uint32_t b = 0; b < blocks; ++b) {
    out.d[b] = load_scale(scales, w.scale_type, block_begin + b);
    out.e[b] = load_scale(biases, w.scale_type, block_begin + b);
  }
  if (w.bits == 8) {
    __builtin_memcpy(out.codes, codes, elements);
    return;
  }
  if (w.bits != 4) {
    switch (w.bits) {
      case 2:
        return unpack<2>(codes, elements, out.codes);
      case 3:
        return unpack<3>(codes, elements, out.codes);
      case 5:
        return unpack<5>(codes, elements, out.codes);
      default:
        return unpack<6>(codes, elements, out.codes);
    }
  }
  const __m128i nibble = _mm_set1_epi8(0x0f);
  for (uint32_t k = 0; k < elements; k += 32) {
    const __m128i pairs = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + k / 2));
    const __m128i even = _mm_and_si128(pairs, nibble);
    const __m128i odd = _mm_and_si128(_mm_srli_epi16(pairs, 4), nibble);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out.codes + k), _mm_unpacklo_epi8(even, odd));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out.codes + k + 16), _mm_unpackhi_epi8(even, odd));
  }
}

}  // namespace mlxf::kernels::avx2
