// Unpacking 16 rows of every integer format to a panel (panel.h) of the int8 product.
//
// The stored bytes are transposed first, four bytes of each row to a lane, and then unpacked in that form: for 4-bit
// codes a transposed vector gives two panel vectors, and the scales come out with a row per lane. A 16 x 16 transpose
// takes 64 shuffles for 1 KiB, one a cycle on Zen 4: about 9 bytes of Q4_K or MLX 4 bits a cycle with the rest.
// Block layouts: kernels/reference/blocks.cpp.
#include <immintrin.h>

#include <cstdint>

#include "kernels/avx512/avx512.h"
#include "kernels/avx512/codebooks.h"
#include "kernels/avx512/columns.h"
#include "kernels/avx512/k_head.h"
#include "kernels/avx512/panel.h"
#include "kernels/side_by_side.h"

namespace mlxf::kernels::avx512 {
namespace {

// The panel's vector of elements k .. k + 3.
void store_codes(const Panel& panel, uint32_t k, __m512i codes) {
  _mm512_store_si512(panel.codes + uint64_t{k} * kPanelRows, codes);
}
void store_row(void* out, uint32_t index, __m512i v) {
  _mm512_store_si512(static_cast<int32_t*>(out) + index * kPanelRows, v);
}
void store_row(float* out, uint32_t index, __m512 v) { _mm512_store_ps(out + index * kPanelRows, v); }

// Four byte-sized scales of each row to dwords.
void store_scales(const Panel& panel, uint32_t j, __m512i four) {
  const __m512i low = _mm512_set1_epi32(0xff);
  store_row(panel.scales, j, _mm512_and_si512(four, low));
  store_row(panel.scales, j + 1, _mm512_and_si512(_mm512_srli_epi32(four, 8), low));
  store_row(panel.scales, j + 2, _mm512_and_si512(_mm512_srli_epi32(four, 16), low));
  store_row(panel.scales, j + 3, _mm512_srli_epi32(four, 24));
}
void store_signed_scales(const Panel& panel, uint32_t j, __m512i four) {
  store_row(panel.scales, j, _mm512_srai_epi32(_mm512_slli_epi32(four, 24), 24));
  store_row(panel.scales, j + 1, _mm512_srai_epi32(_mm512_slli_epi32(four, 16), 24));
  store_row(panel.scales, j + 2, _mm512_srai_epi32(_mm512_slli_epi32(four, 8), 24));
  store_row(panel.scales, j + 3, _mm512_srai_epi32(four, 24));
}

// Four byte-sized minima of each row to two pairs of words.
void store_minima(const Panel& panel, uint32_t j, __m512i four) {
  __m512i pairs[2];
  widen_pairs(four, pairs);
  store_row(panel.minima, j / 2, pairs[0]);
  store_row(panel.minima, j / 2 + 1, pairs[1]);
}

// d, dmin and the 6-bit scales and minima that open the blocks of Q4_K and Q5_K.
void store_k_head(const KHead& head, uint32_t b, const Panel& panel) {
  store_row(panel.d, b, head.d);
  store_row(panel.e, b, head.e);
  for (uint32_t h = 0; h < 2; ++h) {
    store_scales(panel, b * 8 + h * 4, head.scales[h]);
    store_minima(panel, b * 8 + h * 4, head.minima[h]);
  }
}

void unpack_q4_k(const MatrixView& w, uint32_t row, uint32_t count, uint32_t col, uint32_t cols,
                 const Panel& panel) {
  const Rows rows = rows_of(w.data + uint64_t{col} / 256 * 144, w.row_bytes, row, count);
  for (uint32_t b = 0; b < cols / 256; ++b) {
    const uint64_t block = uint64_t{b} * 144;
    prefetch_next(rows, block, 144);
    store_k_head(load_k_head(rows, block), b, panel);
    for (uint32_t half = 0; half < 2; ++half) {
      __m512i v[16];
      load_columns16(rows, block + 16 + half * 64, v);
      for (uint32_t i = 0; i < 16; ++i) {
        const uint32_t k = b * 256 + half * 128 + i / 8 * 64 + i % 8 * 4;
        store_codes(panel, k, nibbles_low(v[i]));
        store_codes(panel, k + 32, nibbles_high(v[i]));
      }
    }
  }
}

// Dword `index` of a block of sixteen rows side by side.
__m512i load_dwords(const uint8_t* block, uint32_t index) {
  return _mm512_loadu_si512(block + uint64_t{index} * 64);
}

void unpack_q4_k_x16(const MatrixView& w, uint32_t row, uint32_t, uint32_t col, uint32_t cols,
                     const Panel& panel) {
  const uint8_t* group = w.data + row * w.row_bytes + uint64_t{col} / 256 * 144 * kPanelRows;
  for (uint32_t b = 0; b < cols / 256; ++b) {
    const uint8_t* block = group + uint64_t{b} * 144 * kPanelRows;
    const __m512i head[4] = {load_dwords(block, 0), load_dwords(block, 1), load_dwords(block, 2),
                             load_dwords(block, 3)};
    store_k_head(k_head_of(head), b, panel);
    for (uint32_t i = 0; i < 32; ++i) {
      const __m512i v = load_dwords(block, 4 + i);
      const uint32_t k = b * 256 + i / 8 * 64 + i % 8 * 4;
      store_codes(panel, k, nibbles_low(v));
      store_codes(panel, k + 32, nibbles_high(v));
    }
  }
}

void unpack_q5_k(const MatrixView& w, uint32_t row, uint32_t count, uint32_t col, uint32_t cols,
                 const Panel& panel) {
  const Rows rows = rows_of(w.data + uint64_t{col} / 256 * 176, w.row_bytes, row, count);
  const __m512i fifth = bytes(0x10);
  for (uint32_t b = 0; b < cols / 256; ++b) {
    const uint64_t block = uint64_t{b} * 176;
    prefetch_next(rows, block, 176);
    store_k_head(load_k_head(rows, block), b, panel);
    __m512i high[8];  // Bit c of element i's byte belongs to element 32 c + i.
    load_columns4(rows, block + 16, high);
    load_columns4(rows, block + 32, high + 4);
    for (uint32_t half = 0; half < 2; ++half) {
      __m512i v[16];
      load_columns16(rows, block + 48 + half * 64, v);
      for (uint32_t i = 0; i < 16; ++i) {
        const uint32_t k = b * 256 + half * 128 + i / 8 * 64 + i % 8 * 4;
        const uint32_t bit = half * 4 + i / 8 * 2;
        const __m512i both =
            _mm512_srli_epi32(high[i % 8], bit);  // Bits 0 and 1; what crosses bytes is masked off.
        store_codes(panel, k,
                    _mm512_or_si512(nibbles_low(v[i]), _mm512_and_si512(_mm512_slli_epi32(both, 4), fifth)));
        store_codes(panel, k + 32,
                    _mm512_or_si512(nibbles_high(v[i]), _mm512_and_si512(_mm512_slli_epi32(both, 3), fifth)));
      }
    }
  }
}

// The codes of Q6_K: four low bits of each in `low`, two high ones in `high`.
void store_q6_codes(const __m512i low[32], const __m512i high[16], uint32_t b, const Panel& panel) {
  const __m512i pair = bytes(0x30);
  const auto join = [pair](__m512i nibble, __m512i pairs) {
    return _mm512_or_si512(nibble, _mm512_and_si512(pairs, pair));
  };
  for (uint32_t half = 0; half < 2; ++half)
    for (uint32_t i = 0; i < 8; ++i) {
      const uint32_t k = b * 256 + half * 128 + i * 4;
      const __m512i h = high[half * 8 + i], first = low[half * 16 + i], second = low[half * 16 + 8 + i];
      store_codes(panel, k, join(nibbles_low(first), _mm512_slli_epi16(h, 4)));
      store_codes(panel, k + 32, join(nibbles_low(second), _mm512_slli_epi16(h, 2)));
      store_codes(panel, k + 64, join(nibbles_high(first), h));
      store_codes(panel, k + 96, join(nibbles_high(second), _mm512_srli_epi16(h, 2)));
    }
}

void unpack_q6_k(const MatrixView& w, uint32_t row, uint32_t count, uint32_t col, uint32_t cols,
                 const Panel& panel) {
  const Rows rows = rows_of(w.data + uint64_t{col} / 256 * 210, w.row_bytes, row, count);
  for (uint32_t b = 0; b < cols / 256; ++b) {
    const uint64_t block = uint64_t{b} * 210;
    prefetch_next(rows, block, 210);
    store_row(panel.d, b, load_f16(rows, block + 208));
    __m512i scales[4];
    load_columns4(rows, block + 192, scales);
    for (uint32_t i = 0; i < 4; ++i) store_signed_scales(panel, b * 16 + i * 4, scales[i]);
    __m512i low[32], high[16];
    load_columns16(rows, block + 128, high);
    load_columns16(rows, block, low);
    load_columns16(rows, block + 64, low + 16);
    store_q6_codes(low, high, b, panel);
  }
}

void unpack_q6_k_x16(const MatrixView& w, uint32_t row, uint32_t, uint32_t col, uint32_t cols,
                     const Panel& panel) {
  const uint8_t* group = w.data + row * w.row_bytes;
  const uint8_t* d = group + uint64_t{w.cols} / 256 * 208 * kPanelRows + uint64_t{col} / 256 * 2 * kPanelRows;
  const auto at = [](const uint8_t* block, uint32_t dword) {
    return load_dwords(block, dword_place(WeightFormat::kQ6_K, dword));
  };
  for (uint32_t b = 0; b < cols / 256; ++b) {
    const uint8_t* block = group + (uint64_t{col} / 256 + b) * 208 * kPanelRows;
    store_row(panel.d, b,
              _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(d + uint64_t{b} * 32))));
    for (uint32_t i = 0; i < 4; ++i) store_signed_scales(panel, b * 16 + i * 4, at(block, 48 + i));
    __m512i low[32], high[16];
    for (uint32_t i = 0; i < 32; ++i) low[i] = at(block, i);
    for (uint32_t i = 0; i < 16; ++i) high[i] = at(block, 32 + i);
    store_q6_codes(low, high, b, panel);
  }
}

// The 256 codes of two bits of Q2_K and Q3_K; high holds the bytes whose bit c is the third one of elements
// 32 c .. 32 c + 31.
template <bool THIRD_BIT>
void unpack_pairs(const __m512i pairs[16], const __m512i high[8], uint32_t k0, const Panel& panel) {
  const __m512i two = bytes(3), third = bytes(4);
  for (uint32_t c = 0; c < 8; ++c)
    for (uint32_t i = 0; i < 8; ++i) {
      __m512i codes = _mm512_and_si512(_mm512_srli_epi32(pairs[c / 4 * 8 + i], c % 4 * 2), two);
      if constexpr (THIRD_BIT) {
        const __m512i bit = _mm512_slli_epi32(_mm512_srli_epi32(high[i], c), 2);
        codes = _mm512_or_si512(codes, _mm512_and_si512(bit, third));
      }
      store_codes(panel, k0 + c * 32 + i * 4, codes);
    }
}

void unpack_q2_k(const MatrixView& w, uint32_t row, uint32_t count, uint32_t col, uint32_t cols,
                 const Panel& panel) {
  const Rows rows = rows_of(w.data + uint64_t{col} / 256 * 84, w.row_bytes, row, count);
  for (uint32_t b = 0; b < cols / 256; ++b) {
    const uint64_t block = uint64_t{b} * 84;
    prefetch_next(rows, block, 84);
    store_row(panel.d, b, load_f16(rows, block + 80));
    store_row(panel.e, b, negate(load_f16(rows, block + 82)));
    __m512i scales[4], pairs[16];
    load_columns4(rows, block, scales);
    for (uint32_t i = 0; i < 4; ++i) {
      store_scales(panel, b * 16 + i * 4, nibbles_low(scales[i]));
      store_minima(panel, b * 16 + i * 4, nibbles_high(scales[i]));
    }
    load_columns16(rows, block + 16, pairs);
    unpack_pairs<false>(pairs, nullptr, b * 256, panel);
  }
}

void unpack_q3_k(const MatrixView& w, uint32_t row, uint32_t count, uint32_t col, uint32_t cols,
                 const Panel& panel) {
  const Rows rows = rows_of(w.data + uint64_t{col} / 256 * 110, w.row_bytes, row, count);
  const __m512i two = bytes(0x30), offset = bytes(32);
  for (uint32_t b = 0; b < cols / 256; ++b) {
    const uint64_t block = uint64_t{b} * 110;
    prefetch_next(rows, block, 110);
    store_row(panel.d, b, load_f16(rows, block + 108));
    __m512i
        tail[4];  // The last four bytes of codes, then 12 of scales: low nibbles in the first 8, pairs in 4.
    load_columns4(rows, block + 92, tail);
    const auto scales = [&](__m512i nibble, __m512i pairs) {
      return _mm512_sub_epi8(_mm512_or_si512(nibble, _mm512_and_si512(pairs, two)), offset);
    };
    store_signed_scales(panel, b * 16, scales(nibbles_low(tail[1]), _mm512_slli_epi16(tail[3], 4)));
    store_signed_scales(panel, b * 16 + 4, scales(nibbles_low(tail[2]), _mm512_slli_epi16(tail[3], 2)));
    store_signed_scales(panel, b * 16 + 8, scales(nibbles_high(tail[1]), tail[3]));
    store_signed_scales(panel, b * 16 + 12, scales(nibbles_high(tail[2]), _mm512_srli_epi16(tail[3], 2)));
    __m512i high[8], pairs[16];
    load_columns4(rows, block, high);
    load_columns4(rows, block + 16, high + 4);
    load_columns16(rows, block + 32, pairs);
    unpack_pairs<true>(pairs, high, b * 256, panel);
  }
}

// 16 bytes whose low nibbles are elements 0 .. 15 and whose high ones 16 .. 31.
void unpack_nibbles32(const Rows& rows, uint64_t offset, __m512i table, uint32_t k, const Panel& panel) {
  __m512i v[4];
  load_columns4(rows, offset, v);
  for (uint32_t i = 0; i < 4; ++i) {
    store_codes(panel, k + i * 4, _mm512_shuffle_epi8(table, nibbles_low(v[i])));
    store_codes(panel, k + 16 + i * 4, _mm512_shuffle_epi8(table, nibbles_high(v[i])));
  }
}

void unpack_iq4_xs(const MatrixView& w, uint32_t row, uint32_t count, uint32_t col, uint32_t cols,
                   const Panel& panel) {
  const Rows rows = rows_of(w.data + uint64_t{col} / 256 * 136, w.row_bytes, row, count);
  const __m512i table = load_table(kIq4);
  const __m512i four = _mm512_set1_epi32(15), two = _mm512_set1_epi32(0x30), offset = _mm512_set1_epi32(32);
  for (uint32_t b = 0; b < cols / 256; ++b) {
    const uint64_t block = uint64_t{b} * 136;
    prefetch_next(rows, block, 136);
    __m512i head[4];  // d and the high pairs of the scales, their low nibbles, the first codes
    load_columns4(rows, block, head);
    store_row(panel.d, b, widen_f16(head[0]));
    for (uint32_t j = 0; j < 8; ++j) {
      const __m512i low = _mm512_and_si512(_mm512_srli_epi32(head[1], 4 * j), four);
      const __m512i high =
          _mm512_and_si512(_mm512_slli_epi32(_mm512_srli_epi32(head[0], 16 + 2 * j), 4), two);
      store_row(panel.scales, b * 8 + j, _mm512_sub_epi32(_mm512_or_si512(low, high), offset));
    }
    for (uint32_t j = 0; j < 8; ++j)
      unpack_nibbles32(rows, block + 8 + j * 16, table, b * 256 + j * 32, panel);
  }
}

// Blocks of 32 in BYTES bytes: f16 d, f16 e (AFFINE), a dword of fifth bits (FIFTH), 16 bytes of nibbles.
template <uint32_t BYTES, bool AFFINE, bool FIFTH>
void unpack_blocks32(const MatrixView& w, uint32_t row, uint32_t count, uint32_t col, uint32_t cols,
                     const void* codebook, const Panel& panel) {
  const Rows rows = rows_of(w.data + uint64_t{col} / 32 * BYTES, w.row_bytes, row, count);
  const __m512i table = load_table(codebook);
  // Bits 0 .. 3 of either dword of a quadword, a byte each.
  const __m512i spread = _mm512_set1_epi64(0x2322212003020100);
  const __m512i one = bytes(1);
  for (uint32_t b = 0; b < cols / 32; ++b) {
    const uint64_t block = uint64_t{b} * BYTES;
    if (b % 4 == 0) prefetch_next(rows, block, 4 * BYTES);
    store_row(panel.d, b, load_f16(rows, block));
    if constexpr (AFFINE) store_row(panel.e, b, load_f16(rows, block + 2));
    if constexpr (!FIFTH) {
      unpack_nibbles32(rows, block + (AFFINE ? 4 : 2), table, b * 32, panel);
    } else {
      const uint32_t at = AFFINE ? 4 : 2;
      __m512i head[4], v[4];
      load_columns4(rows, block + at, head);
      load_columns4(rows, block + at + 4, v);
      for (uint32_t i = 0; i < 8; ++i) {
        const __m512i bits =
            _mm512_and_si512(_mm512_multishift_epi64_epi8(spread, _mm512_srli_epi32(head[0], 4 * i)), one);
        const __m512i nibble = i < 4 ? nibbles_low(v[i]) : nibbles_high(v[i - 4]);
        store_codes(panel, b * 32 + i * 4, _mm512_or_si512(nibble, _mm512_slli_epi16(bits, 4)));
      }
    }
  }
}

void unpack_q4_0(const MatrixView& w, uint32_t row, uint32_t rows, uint32_t col, uint32_t cols,
                 const Panel& panel) {
  unpack_blocks32<18, false, false>(w, row, rows, col, cols, kIdentity, panel);
}
void unpack_q4_1(const MatrixView& w, uint32_t row, uint32_t rows, uint32_t col, uint32_t cols,
                 const Panel& panel) {
  unpack_blocks32<20, true, false>(w, row, rows, col, cols, kIdentity, panel);
}
void unpack_q5_0(const MatrixView& w, uint32_t row, uint32_t rows, uint32_t col, uint32_t cols,
                 const Panel& panel) {
  unpack_blocks32<22, false, true>(w, row, rows, col, cols, kIdentity, panel);
}
void unpack_q5_1(const MatrixView& w, uint32_t row, uint32_t rows, uint32_t col, uint32_t cols,
                 const Panel& panel) {
  unpack_blocks32<24, true, true>(w, row, rows, col, cols, kIdentity, panel);
}
void unpack_iq4_nl(const MatrixView& w, uint32_t row, uint32_t rows, uint32_t col, uint32_t cols,
                   const Panel& panel) {
  unpack_blocks32<18, false, false>(w, row, rows, col, cols, kIq4, panel);
}

void unpack_mxfp4(const MatrixView& w, uint32_t row, uint32_t count, uint32_t col, uint32_t cols,
                  const Panel& panel) {
  const Rows rows = rows_of(w.data + uint64_t{col} / 32 * 17, w.row_bytes, row, count);
  const __m512i table = load_table(kE2m1);
  for (uint32_t b = 0; b < cols / 32; ++b) {
    if (b % 4 == 0) prefetch_next(rows, uint64_t{b} * 17, 68);
    store_row(panel.d, b, half_e8m0(load_bytes(rows, uint64_t{b} * 17)));
    unpack_nibbles32(rows, uint64_t{b} * 17 + 1, table, b * 32, panel);
  }
}

void unpack_q8_0(const MatrixView& w, uint32_t row, uint32_t count, uint32_t col, uint32_t cols,
                 const Panel& panel) {
  const Rows rows = rows_of(w.data + uint64_t{col} / 32 * 34, w.row_bytes, row, count);
  const __m512i flip = bytes(0x80);
  for (uint32_t b = 0; b < cols / 32; b += 2) {
    const uint64_t block = uint64_t{b} * 34;
    const bool both = b + 1 < cols / 32;
    const uint64_t second = both ? block + 34 : block;
    prefetch_next(rows, block, 68);
    store_row(panel.d, b, load_f16(rows, block));
    if (both) store_row(panel.d, b + 1, load_f16(rows, second));
    __m512i v[16];
    for (uint32_t r = 0; r < kPanelRows; ++r) {
      const auto load = [&](uint64_t at) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows.at[r] + at + 2));
      };
      v[r] = _mm512_xor_si512(_mm512_inserti64x4(_mm512_castsi256_si512(load(block)), load(second), 1), flip);
    }
    transpose_16x16_epi32(v);
    for (uint32_t i = 0; i < (both ? 16u : 8u); ++i) store_codes(panel, b * 32 + i * 4, v[i]);
  }
}

void unpack_i8_row(const MatrixView& w, uint32_t row, uint32_t count, uint32_t col, uint32_t cols,
                   const Panel& panel) {
  const Rows rows = rows_of(w.data + col, w.row_bytes, row, count);
  const Rows scales = rows_of(w.scales + uint64_t{col} / 32 * 4, w.scale_row_bytes, row, count);
  const __m512i flip = bytes(0x80);
  for (uint32_t k = 0; k < cols; k += 64) {
    const uint32_t n = cols - k < 64 ? (cols - k) / 4 : 16;
    prefetch_next(rows, k, 64);
    __m512i v[16];
    load_columns16(rows, k, n, v);
    for (uint32_t i = 0; i < n; ++i) store_codes(panel, k + i * 4, _mm512_xor_si512(v[i], flip));
  }
  spread_scales(scales, DType::kF32, 0, cols / 32, panel.d);
}

// Codes of BITS bits in one stream: 512 of them are 16 * BITS dwords of each row. Four codes start at any bit.
template <uint32_t BITS>
void unpack_stream(const Rows& rows, uint32_t cols, __m512i table, const Panel& panel) {
  // Where four codes begin in either dword of a quadword.
  constexpr uint64_t kFour = (uint64_t{BITS} << 8) + (uint64_t{2 * BITS} << 16) + (uint64_t{3 * BITS} << 24);
  const __m512i spread = _mm512_set1_epi64(static_cast<int64_t>(kFour + ((kFour + 0x20202020u) << 32)));
  const __m512i mask = bytes((1 << BITS) - 1);
  for (uint32_t k0 = 0; k0 < cols; k0 += 512) {
    const uint32_t elements = cols - k0 < 512 ? cols - k0 : 512;
    const uint32_t dwords = elements * BITS / 32;
    const uint64_t offset = uint64_t{k0} * BITS / 8;
    prefetch_next(rows, offset, elements * BITS / 8);
    __m512i v[16 * BITS + 1];
    for (uint32_t i = 0; i < dwords; i += 16)
      load_columns16(rows, offset + i * 4, dwords - i < 16 ? dwords - i : 16, v + i);
    for (uint32_t k = 0; k < elements; k += 32)
#pragma GCC unroll 8
      for (uint32_t i = 0; i < 8; ++i) {
        const uint32_t bit = 4 * i * BITS, shift = bit % 32;
        const __m512i* word = v + k / 32 * BITS + bit / 32;
        __m512i codes = word[0];
        if constexpr (BITS < 8) {
          codes = _mm512_srli_epi32(codes, shift);
          if (shift + 4 * BITS > 32) codes = _mm512_or_si512(codes, _mm512_slli_epi32(word[1], 32 - shift));
          codes = _mm512_and_si512(_mm512_multishift_epi64_epi8(spread, codes), mask);
        }
        if constexpr (BITS == 4) codes = _mm512_shuffle_epi8(table, codes);
        store_codes(panel, k0 + k + i * 4, codes);
      }
  }
}

void unpack_mlx(const MatrixView& w, uint32_t row, uint32_t count, uint32_t col, uint32_t cols,
                const Panel& panel) {
  const Rows rows = rows_of(w.data + uint64_t{col} * w.bits / 8, w.row_bytes, row, count);
  const __m512i table = load_table(kIdentity);
  spread_scales(rows_of(w.scales, w.scale_row_bytes, row, count), w.scale_type, col / w.group, cols / w.group,
                panel.d);
  spread_scales(rows_of(w.biases, w.scale_row_bytes, row, count), w.scale_type, col / w.group, cols / w.group,
                panel.e);
  switch (w.bits) {
    case 2:
      return unpack_stream<2>(rows, cols, table, panel);
    case 3:
      return unpack_stream<3>(rows, cols, table, panel);
    case 4:
      return unpack_stream<4>(rows, cols, table, panel);
    case 5:
      return unpack_stream<5>(rows, cols, table, panel);
    case 6:
      return unpack_stream<6>(rows, cols, table, panel);
    default:
      return unpack_stream<8>(rows, cols, table, panel);
  }
}

void unpack_mlx_mxfp4(const MatrixView& w, uint32_t row, uint32_t count, uint32_t col, uint32_t cols,
                      const Panel& panel) {
  const Rows rows = rows_of(w.data + uint64_t{col} / 2, w.row_bytes, row, count);
  const Rows scales = rows_of(w.scales + uint64_t{col} / 32, w.scale_row_bytes, row, count);
  for (uint32_t b = 0; b < cols / 32; ++b) store_row(panel.d, b, half_e8m0(load_bytes(scales, b)));
  unpack_stream<4>(rows, cols, load_table(kE2m1), panel);
}

}  // namespace

UnpackFn panel_unpacker(WeightFormat format) {
  switch (format) {
    case WeightFormat::kQ4_0:
      return unpack_q4_0;
    case WeightFormat::kQ4_1:
      return unpack_q4_1;
    case WeightFormat::kQ5_0:
      return unpack_q5_0;
    case WeightFormat::kQ5_1:
      return unpack_q5_1;
    case WeightFormat::kQ8_0:
      return unpack_q8_0;
    case WeightFormat::kQ2_K:
      return unpack_q2_k;
    case WeightFormat::kQ3_K:
      return unpack_q3_k;
    case WeightFormat::kQ4_K:
      return unpack_q4_k;
    case WeightFormat::kQ4_Kx16:
      return unpack_q4_k_x16;
    case WeightFormat::kQ5_K:
      return unpack_q5_k;
    case WeightFormat::kQ6_K:
      return unpack_q6_k;
    case WeightFormat::kQ6_Kx16:
      return unpack_q6_k_x16;
    case WeightFormat::kIQ4_NL:
      return unpack_iq4_nl;
    case WeightFormat::kIQ4_XS:
      return unpack_iq4_xs;
    case WeightFormat::kMXFP4:
      return unpack_mxfp4;
    case WeightFormat::kMlxAffine:
      return unpack_mlx;
    case WeightFormat::kMlxMxfp4:
      return unpack_mlx_mxfp4;
    case WeightFormat::kI8Row:
      return unpack_i8_row;
    default:
      return nullptr;
  }
}

}  // namespace mlxf::kernels::avx512
