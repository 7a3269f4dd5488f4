// Integer decoding of rows of 256-element blocks (kernels/code_row.h): Q4_K and Q6_K here, the layouts of Q2_K, Q3_K,
// Q5_K and IQ4_XS in k_codes.h.
//
// Q4_K, 144 bytes: d f16, dmin f16, 12 bytes of 6-bit scales and minima, 128 bytes of nibbles: bytes
// 32c..32c+31 hold sub-block 2c in their low and 2c + 1 in their high halves. Q6_K, 210 bytes: 128 bytes of
// low nibbles, 64 of high bit pairs, 16 int8 scales, d f16; each half of a block spreads 4 x 32 elements over
// the low and high nibbles of 64 bytes and the four bit pairs of 32.
#include <immintrin.h>

#include <cstdint>

#include "kernels/avx2/avx2.h"
#include "kernels/avx2/k_codes.h"
#include "kernels/avx2/k_scales.h"

namespace mlxf::kernels::avx2 {
namespace {

__m256i load(const uint8_t* bytes) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes)); }
void store(uint8_t* bytes, __m256i value) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(bytes), value); }

template <typename Format>
void decode_blocks(const MatrixView& w, uint32_t row, uint32_t block_begin, uint32_t block_end,
                   const CodeRow& out) {
  constexpr uint32_t kSubs = 256 / Format::kSub;
  const auto store_words = [](int16_t* to, __m256i words) {
    if constexpr (kSubs == 16)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), words);
    else
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(words));
  };
  const uint8_t* block = w.data + row * w.row_bytes + uint64_t{block_begin} * Format::kBytes;
  for (uint32_t b = 0; b < block_end - block_begin; ++b, block += Format::kBytes) {
    const SubScales subs = Format::scales(block);
    store_words(out.scales + b * kSubs, subs.scales);
    if constexpr (Format::kKind != MinimumKind::kNone) store_words(out.minimums + b * kSubs, subs.minima);
    out.d[b] = load_f16(block + Format::kHead);
    if constexpr (Format::kKind == MinimumKind::kAffine) out.e[b] = -load_f16(block + Format::kHead + 2);
    for (uint32_t half = 0; half < 2; ++half) {
      __m256i codes[4];
      Format::codes(block, half, codes);
      for (uint32_t c = 0; c < 4; ++c) store(out.codes + b * 256 + half * 128 + c * 32, codes[c]);
    }
  }
}

}  // namespace

void decode_codes_q2_k(const MatrixView& w, uint32_t row, uint32_t block_begin, uint32_t block_end,
                       const CodeRow& out) {
  decode_blocks<Q2K>(w, row, block_begin, block_end, out);
}
void decode_codes_q3_k(const MatrixView& w, uint32_t row, uint32_t block_begin, uint32_t block_end,
                       const CodeRow& out) {
  decode_blocks<Q3K>(w, row, block_begin, block_end, out);
}
void decode_codes_q5_k(const MatrixView& w, uint32_t row, uint32_t block_begin, uint32_t block_end,
                       const CodeRow& out) {
  decode_blocks<Q5K>(w, row, block_begin, block_end, out);
}
void decode_codes_iq4_xs(const MatrixView& w, uint32_t row, uint32_t block_begin, uint32_t block_end,
                         const CodeRow& out) {
  decode_blocks<Iq4Xs>(w, row, block_begin, block_end, out);
}

void decode_codes_q4_k(const MatrixView& w, uint32_t row, uint32_t block_begin, uint32_t block_end,
                       const CodeRow& out) {
  const __m256i nibble = _mm256_set1_epi8(0x0f);
  const uint8_t* block = w.data + row * w.row_bytes + uint64_t{block_begin} * kQ4KBytes;
  for (uint32_t b = 0; b < block_end - block_begin; ++b, block += kQ4KBytes) {
    const KScales scales = load_k_scales(block + 4);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out.scales + b * 8), scales.scales);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out.minimums + b * 8), scales.minima);
    out.d[b] = load_f16(block);
    out.e[b] = -load_f16(block + 2);
    for (uint32_t c = 0; c < 4; ++c) {
      const __m256i codes = load(block + 16 + c * 32);
      store(out.codes + b * 256 + c * 64, _mm256_and_si256(codes, nibble));
      store(out.codes + b * 256 + c * 64 + 32, _mm256_and_si256(_mm256_srli_epi16(codes, 4), nibble));
    }
  }
}

void decode_codes_q6_k(const MatrixView& w, uint32_t row, uint32_t block_begin, uint32_t block_end,
                       const CodeRow& out) {
  const uint8_t* block = w.data + row * w.row_bytes + uint64_t{block_begin} * kQ6KBytes;
  for (uint32_t b = 0; b < block_end - block_begin; ++b, block += kQ6KBytes) {
    const __m256i scales =
        _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(block + 192)));
    store(reinterpret_cast<uint8_t*>(out.scales + b * 16), scales);
    store(reinterpret_cast<uint8_t*>(out.minimums + b * 16),
          _mm256_sub_epi16(_mm256_setzero_si256(), _mm256_slli_epi16(scales, 5)));
    out.d[b] = load_f16(block + 208);
    for (uint32_t half = 0; half < 2; ++half) {
      __m256i codes[4];
      load_q6_k_codes(block, half, codes);
      for (uint32_t c = 0; c < 4; ++c) store(out.codes + b * 256 + half * 128 + c * 32, codes[c]);
    }
  }
}

}  // namespace mlxf::kernels::avx2
