// The int8 matrix product for several tokens (prefill, batches): one core for every integer format.
//
// Weights of 8 rows are unpacked once into a panel and multiplied with every token of the call.
//   codes  [cols / 4][8 rows][4] u8: one 32-byte vector holds 4 consecutive elements of each row, so an int32
//   lane of
//          a product belongs to one row and no horizontal sum is ever needed. Codes of 8 bits are split into
//          two planes of nibbles (w + 128 = low + 16 high), because vpmaddubsw saturates on 8-bit codes.
//   scales [planes][cols / sub][8][2] i16, each value twice: vpmaddwd widens the i16 pair sums and scales
//   them at once. minima [cols / (2 sub)][8][2] i16: two neighbouring sub-blocks, multiplied with two
//   neighbouring sums of x.
// i16 accumulators hold `fold` steps of vpmaddubsw: 2 * fold * code_max * 127 * 2 <= 32767, so codes up to 15
// fold 8 steps (32 elements), up to 31 four, up to 63 two. A tile is 2 panels x 3 tokens: 6 i16 + 6 i32
// accumulators, two weight vectors and a broadcast are 15 of 16 registers, and 5 loads feed 6 products.
// Bound: 12 vector operations per 192 products on four pipes = 64 products a cycle less folds and scales.
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels/avx2/avx2.h"
#include "kernels/avx2/transpose.h"

namespace mlxf::kernels::avx2 {
namespace {

constexpr uint32_t kPanelRows = 8;
constexpr uint32_t kGroupPanels =
    4;  // Panels unpacked together: 32 rows share one pass over the activations.
constexpr uint32_t kSegmentCols =
    2048;  // Unpacked columns: 4 panels of codes are then 64 KiB, x of 64 tokens 128.
constexpr uint32_t kTokenBlock = 64;   // Tokens whose codes stay in L2 while the panels pass over them.
constexpr uint32_t kTokensMax = 1024;  // Tokens per pass: bounds the accumulators in scratch.

struct Panel {
  uint8_t* codes;
  int16_t* scales;
  int16_t* symmetric;  // Minima folded into S.
  int16_t* affine;     // Minima that give M.
  float* d;            // [blocks][8]
  float* e;
};

// Per-panel memory for one segment, in bytes; sub >= 16, block >= 32, two planes.
constexpr uint64_t kCodesBytes = uint64_t{2} * kPanelRows * kSegmentCols;
constexpr uint64_t kScalesBytes = uint64_t{2} * (kSegmentCols / 16) * kPanelRows * 2 * sizeof(int16_t);
constexpr uint64_t kMinimaBytes = uint64_t{kSegmentCols / 16} * kPanelRows * 2 * sizeof(int16_t);
constexpr uint64_t kFloatsBytes = uint64_t{kSegmentCols / 32} * kPanelRows * sizeof(float);
constexpr uint64_t kPanelBytes = kCodesBytes + kScalesBytes + 2 * kMinimaBytes + 2 * kFloatsBytes;
constexpr uint64_t kAccumulatorBytes = uint64_t{2} * kGroupPanels * kTokensMax * kPanelRows * sizeof(float);
constexpr uint64_t kSumsBytes = uint64_t{kTokensMax} * (kSegmentCols / 32) * sizeof(float);
constexpr uint64_t kRowBytes = kSegmentCols + 2 * (kSegmentCols / 16) * 2 + 2 * (kSegmentCols / 32) * 4;
static_assert(kGroupPanels * kPanelBytes + kAccumulatorBytes + kSumsBytes + kPanelRows * kRowBytes <=
              kMatmulScratchBytes);

// What the tile kernel of a format does per block.
struct Shape {
  uint32_t block, sub, planes, fold;
  bool symmetric;
  bool affine;
  bool unit;  // Affine with every minimum 1: M is the same for all rows.
};

Shape shape_of(const CodeTraits& t, bool unit) {
  Shape s{};
  s.block = t.block;
  s.sub = t.sub;
  s.planes = t.is_signed || t.code_max > 63 ? 2 : 1;
  const uint32_t code_max = s.planes == 2 ? 15 : t.code_max;
  s.fold = code_max <= 15 ? 8 : code_max <= 31 ? 4 : 2;
  if (s.fold * 4 > t.sub) s.fold = t.sub / 4;
  s.symmetric = t.is_signed || t.minimum == MinimumKind::kSymmetric;
  s.affine = t.minimum == MinimumKind::kAffine;
  s.unit = unit;
  return s;
}

// Transposes 8 rows of `count` words (stride `stride`) to [count][8][2] with each word twice.
void spread_scales(const int16_t* rows, uint32_t stride, uint32_t count, int16_t multiplier, int16_t* out) {
  const __m128i factor = _mm_set1_epi16(multiplier);
  for (uint32_t j = 0; j < count; j += 8) {
    const uint32_t n = count - j < 8 ? count - j : 8;
    __m128i v[8];
    for (uint32_t r = 0; r < 8; ++r)
      v[r] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows + r * stride + j));
    transpose_8x8_epi16(v);
    for (uint32_t i = 0; i < n; ++i) {
      const __m128i scaled = _mm_mullo_epi16(v[i], factor);
      auto* target = reinterpret_cast<__m128i*>(out + (j + i) * 16);
      _mm_storeu_si128(target, _mm_unpacklo_epi16(scaled, scaled));
      _mm_storeu_si128(target + 1, _mm_unpackhi_epi16(scaled, scaled));
    }
  }
}

// Transposes 8 rows of words to pairs of neighbours [count / 2][8][2]; with pairs == false to [count][8][(m,
// 0)].
void spread_minima(const int16_t* rows, uint32_t stride, uint32_t count, bool pairs, int16_t* out) {
  for (uint32_t j = 0; j < count; j += 8) {
    const uint32_t n = count - j < 8 ? count - j : 8;
    __m128i v[8];
    for (uint32_t r = 0; r < 8; ++r)
      v[r] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows + r * stride + j));
    transpose_8x8_epi16(v);
    for (uint32_t i = 0; i < n; i += pairs ? 2 : 1) {
      const __m128i second = pairs ? v[i + 1] : _mm_setzero_si128();
      auto* target = reinterpret_cast<__m128i*>(out + (pairs ? (j + i) / 2 : j + i) * 16);
      _mm_storeu_si128(target, _mm_unpacklo_epi16(v[i], second));
      _mm_storeu_si128(target + 1, _mm_unpackhi_epi16(v[i], second));
    }
  }
}

void spread_floats(const float* rows, uint32_t stride, uint32_t count, float* out) {
  uint32_t j = 0;
  for (; j + 8 <= count; j += 8) {
    __m256i v[8];
    for (uint32_t r = 0; r < 8; ++r)
      v[r] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows + r * stride + j));
    transpose_8x8_epi32(v);
    for (uint32_t i = 0; i < 8; ++i) _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + (j + i) * 8), v[i]);
  }
  for (; j < count; ++j)
    for (uint32_t r = 0; r < 8; ++r) out[j * 8 + r] = rows[r * stride + j];
}

void spread_codes(const uint8_t* rows, uint32_t cols, bool planes, bool is_signed, uint8_t* out) {
  const __m256i flip = _mm256_set1_epi8(is_signed ? static_cast<char>(0x80) : 0);
  const __m256i nibble = _mm256_set1_epi8(0x0f);
  for (uint32_t k = 0; k < cols; k += 32) {
    __m256i v[8];
    for (uint32_t r = 0; r < 8; ++r) {
      v[r] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows + uint64_t{r} * kSegmentCols + k));
      v[r] = _mm256_xor_si256(v[r], flip);
    }
    transpose_8x8_epi32(v);
    auto* target = reinterpret_cast<__m256i*>(out + uint64_t{k} * 8);
    if (!planes) {
      for (int i = 0; i < 8; ++i) _mm256_store_si256(target + i, v[i]);
      continue;
    }
    auto* high = reinterpret_cast<__m256i*>(out + uint64_t{cols} * 8 + uint64_t{k} * 8);
    for (int i = 0; i < 8; ++i) {
      _mm256_store_si256(target + i, _mm256_and_si256(v[i], nibble));
      _mm256_store_si256(high + i, _mm256_and_si256(_mm256_srli_epi16(v[i], 4), nibble));
    }
  }
}

// Decoded rows before they are spread over panels.
struct RowBuffers {
  uint8_t* codes;   // [8][kSegmentCols]
  int16_t* scales;  // [8][kSegmentCols / 16]
  int16_t* minimums;
  float* d;  // [8][kSegmentCols / 32]
  float* e;
};

constexpr uint32_t kScaleStride = kSegmentCols / 16;
constexpr uint32_t kFloatStride = kSegmentCols / 32;

void build_panel(const MatrixView& w, const Shape& s, DecodeCodesFn decode, uint32_t row, uint32_t rows,
                 uint32_t col, uint32_t cols, const RowBuffers& buffers, const Panel& panel) {
  for (uint32_t r = 0; r < kPanelRows; ++r) {
    // Rows past the end repeat the last one; their results are not stored.
    const uint32_t source = row + (r < rows ? r : rows - 1);
    const CodeRow out{buffers.codes + r * kSegmentCols, buffers.scales + r * kScaleStride,
                      buffers.minimums + r * kScaleStride, buffers.d + r * kFloatStride,
                      buffers.e + r * kFloatStride};
    decode(w, source, col / s.block, (col + cols) / s.block, out);
  }
  const uint32_t subs = cols / s.sub;
  const bool pairs = s.block > s.sub;
  spread_codes(buffers.codes, cols, s.planes == 2, s.planes == 2 && s.symmetric, panel.codes);
  spread_scales(buffers.scales, kScaleStride, subs, 1, panel.scales);
  if (s.planes == 2) spread_scales(buffers.scales, kScaleStride, subs, 16, panel.scales + subs * 16);
  if (s.affine && !s.unit) spread_minima(buffers.minimums, kScaleStride, subs, pairs, panel.affine);
  if (s.planes == 2 &&
      s.symmetric) {  // The offset of the unsigned nibble planes: -128 * scale, folded into S.
    for (uint32_t r = 0; r < kPanelRows; ++r)
      for (uint32_t j = 0; j < subs; ++j)
        buffers.minimums[r * kScaleStride + j] =
            static_cast<int16_t>(-128 * buffers.scales[r * kScaleStride + j]);
  }
  if (s.symmetric) spread_minima(buffers.minimums, kScaleStride, subs, pairs, panel.symmetric);
  spread_floats(buffers.d, kFloatStride, cols / s.block, panel.d);
  if (s.affine) spread_floats(buffers.e, kFloatStride, cols / s.block, panel.e);
}

// The activations of one tile.
struct TokenTile {
  const int8_t* codes;
  const float* scales;
  const int16_t* sums;  // Per sub-block.
  uint64_t code_stride, scale_stride, sum_stride;
  const float* unit_sums;  // float(M) * dx per block, when all minima are 1.
  uint64_t unit_stride;
};

// Makes the compiler produce `value` here, in a register: GCC 12 otherwise turns the chain of additions into
// a tree, which needs 48 registers, and spills them all.
inline void keep(__m256i& value) { __asm__("" : "+x"(value)); }

inline __m256i broadcast4(const int8_t* codes) {
  int32_t four;
  __builtin_memcpy(&four, codes, 4);
  return _mm256_set1_epi32(four);
}

inline __m256i broadcast_sums(const int16_t* sums, bool pair) {
  if (!pair) return _mm256_set1_epi16(*sums);
  int32_t two;
  __builtin_memcpy(&two, sums, 4);
  return _mm256_set1_epi32(two);
}

// Accumulators of a token: S of 8 rows, then M of 8 rows.
constexpr uint32_t kAccToken = 2 * kPanelRows;
constexpr uint64_t kAccPanel = uint64_t{kTokensMax} * kAccToken;

__m256i load_words(const int16_t* words) {
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(words));
}

// The S chains of P panels x T tokens over `blocks` blocks; acc: [P][kAccPanel] + [T][kAccToken], read and
// written.
template <uint32_t SUB, uint32_t SUBS, uint32_t PLANES, uint32_t FOLD, bool SYMMETRIC, uint32_t P, uint32_t T>
void tile_products(const Panel* panels, uint32_t cols, uint32_t blocks, const TokenTile& x, float* acc) {
  constexpr bool kPairs = SUBS > 1;
  constexpr uint32_t kSteps = kPairs ? SUBS / 2 : 1;
  const uint32_t plane_scales = cols / SUB * 16;
  __m256 total[P][T];
  for (uint32_t p = 0; p < P; ++p)
    for (uint32_t t = 0; t < T; ++t) total[p][t] = _mm256_load_ps(acc + p * kAccPanel + t * kAccToken);
  for (uint32_t b = 0; b < blocks; ++b) {
    __m256i s[P][T];
    for (uint32_t p = 0; p < P; ++p)
      for (uint32_t t = 0; t < T; ++t) s[p][t] = _mm256_setzero_si256();
    for (uint32_t j = 0; j < SUBS; ++j) {
      const uint32_t k0 = (b * SUBS + j) * SUB;
      for (uint32_t plane = 0; plane < PLANES; ++plane) {
        for (uint32_t f = 0; f < SUB; f += 4 * FOLD) {
          __m256i sum[P][T];
#pragma GCC unroll 8
          for (uint32_t i = 0; i < FOLD; ++i) {
            const uint32_t k = k0 + f + 4 * i;
            __m256i weights[P];
            for (uint32_t p = 0; p < P; ++p)
              weights[p] = _mm256_load_si256(
                  reinterpret_cast<const __m256i*>(panels[p].codes + (uint64_t{plane} * cols + k) * 8));
#pragma GCC unroll 6
            for (uint32_t t = 0; t < T; ++t) {
              const __m256i codes = broadcast4(x.codes + t * x.code_stride + k);
#pragma GCC unroll 2
              for (uint32_t p = 0; p < P; ++p) {
                const __m256i product = _mm256_maddubs_epi16(weights[p], codes);
                sum[p][t] = i == 0 ? product : _mm256_add_epi16(sum[p][t], product);
                keep(sum[p][t]);
              }
            }
          }
          for (uint32_t p = 0; p < P; ++p) {
            const __m256i scale = load_words(panels[p].scales + plane * plane_scales + (b * SUBS + j) * 16);
            for (uint32_t t = 0; t < T; ++t)
              s[p][t] = _mm256_add_epi32(s[p][t], _mm256_madd_epi16(sum[p][t], scale));
          }
        }
      }
    }
    if constexpr (SYMMETRIC) {
      for (uint32_t j = 0; j < kSteps; ++j)
        for (uint32_t t = 0; t < T; ++t) {
          const __m256i sums = broadcast_sums(x.sums + t * x.sum_stride + b * SUBS + j * 2, kPairs);
          for (uint32_t p = 0; p < P; ++p)
            s[p][t] = _mm256_add_epi32(
                s[p][t], _mm256_madd_epi16(load_words(panels[p].symmetric + (b * kSteps + j) * 16), sums));
        }
    }
    for (uint32_t t = 0; t < T; ++t) {
      const __m256 dx = _mm256_set1_ps(x.scales[t * x.scale_stride + b]);
      for (uint32_t p = 0; p < P; ++p) {
        const __m256 d = _mm256_mul_ps(_mm256_load_ps(panels[p].d + b * 8), dx);
        total[p][t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(s[p][t]), d, total[p][t]);
      }
    }
  }
  for (uint32_t p = 0; p < P; ++p)
    for (uint32_t t = 0; t < T; ++t) _mm256_store_ps(acc + p * kAccPanel + t * kAccToken, total[p][t]);
}

// The M chains of the same tile: integer minima times sums of x.
template <uint32_t SUBS, uint32_t P, uint32_t T>
void tile_minima(const Panel* panels, uint32_t, uint32_t blocks, const TokenTile& x, float* acc) {
  constexpr bool kPairs = SUBS > 1;
  constexpr uint32_t kSteps = kPairs ? SUBS / 2 : 1;
  __m256 total[P][T];
  for (uint32_t p = 0; p < P; ++p)
    for (uint32_t t = 0; t < T; ++t)
      total[p][t] = _mm256_load_ps(acc + p * kAccPanel + t * kAccToken + kPanelRows);
  for (uint32_t b = 0; b < blocks; ++b) {
    __m256i m[P][T];
    for (uint32_t j = 0; j < kSteps; ++j)
      for (uint32_t t = 0; t < T; ++t) {
        const __m256i sums = broadcast_sums(x.sums + t * x.sum_stride + b * SUBS + j * 2, kPairs);
        for (uint32_t p = 0; p < P; ++p) {
          const __m256i product =
              _mm256_madd_epi16(load_words(panels[p].affine + (b * kSteps + j) * 16), sums);
          m[p][t] = j == 0 ? product : _mm256_add_epi32(m[p][t], product);
          keep(m[p][t]);
        }
      }
    for (uint32_t t = 0; t < T; ++t) {
      const __m256 dx = _mm256_set1_ps(x.scales[t * x.scale_stride + b]);
      for (uint32_t p = 0; p < P; ++p)
        total[p][t] = _mm256_fmadd_ps(_mm256_load_ps(panels[p].e + b * 8),
                                      _mm256_mul_ps(_mm256_cvtepi32_ps(m[p][t]), dx), total[p][t]);
    }
  }
  for (uint32_t p = 0; p < P; ++p)
    for (uint32_t t = 0; t < T; ++t)
      _mm256_store_ps(acc + p * kAccPanel + t * kAccToken + kPanelRows, total[p][t]);
}

// The M chains when every minimum is 1: x.unit_sums holds float(M) * dx.
template <uint32_t P, uint32_t T>
void tile_unit_minima(const Panel* panels, uint32_t, uint32_t blocks, const TokenTile& x, float* acc) {
  __m256 total[P][T];
  for (uint32_t p = 0; p < P; ++p)
    for (uint32_t t = 0; t < T; ++t)
      total[p][t] = _mm256_load_ps(acc + p * kAccPanel + t * kAccToken + kPanelRows);
  for (uint32_t b = 0; b < blocks; ++b)
    for (uint32_t t = 0; t < T; ++t) {
      const __m256 sum = _mm256_set1_ps(x.unit_sums[t * x.unit_stride + b]);
      for (uint32_t p = 0; p < P; ++p)
        total[p][t] = _mm256_fmadd_ps(_mm256_load_ps(panels[p].e + b * 8), sum, total[p][t]);
    }
  for (uint32_t p = 0; p < P; ++p)
    for (uint32_t t = 0; t < T; ++t)
      _mm256_store_ps(acc + p * kAccPanel + t * kAccToken + kPanelRows, total[p][t]);
}

using TileFn = void (*)(const Panel*, uint32_t, uint32_t, const TokenTile&, float*);

// Tiles by [panels - 1][tokens - 1].
struct TileSet {
  TileFn fn[2][3];
};

template <uint32_t SUB, uint32_t SUBS, uint32_t PLANES, uint32_t FOLD, bool SYMMETRIC>
constexpr TileSet products() {
  return {{{tile_products<SUB, SUBS, PLANES, FOLD, SYMMETRIC, 1, 1>,
            tile_products<SUB, SUBS, PLANES, FOLD, SYMMETRIC, 1, 2>,
            tile_products<SUB, SUBS, PLANES, FOLD, SYMMETRIC, 1, 3>},
           {tile_products<SUB, SUBS, PLANES, FOLD, SYMMETRIC, 2, 1>,
            tile_products<SUB, SUBS, PLANES, FOLD, SYMMETRIC, 2, 2>,
            tile_products<SUB, SUBS, PLANES, FOLD, SYMMETRIC, 2, 3>}}};
}

template <uint32_t SUBS>
constexpr TileSet minima() {
  return {{{tile_minima<SUBS, 1, 1>, tile_minima<SUBS, 1, 2>, tile_minima<SUBS, 1, 3>},
           {tile_minima<SUBS, 2, 1>, tile_minima<SUBS, 2, 2>, tile_minima<SUBS, 2, 3>}}};
}

constexpr TileSet kUnitMinima = {{{tile_unit_minima<1, 1>, tile_unit_minima<1, 2>, tile_unit_minima<1, 3>},
                                  {tile_unit_minima<2, 1>, tile_unit_minima<2, 2>, tile_unit_minima<2, 3>}}};
constexpr TileSet kMinima1 = minima<1>();
constexpr TileSet kMinima8 = minima<8>();
constexpr TileSet kMinima16 = minima<16>();

struct TileChoice {
  uint32_t block, sub, planes, fold;
  bool symmetric;
  TileSet tiles;
};

// Every shape that a format of kernels/code_row.h has.
constexpr TileChoice kTiles[] = {
    {256, 32, 1, 8, false, products<32, 8, 1, 8, false>()},   // Q4_K
    {256, 32, 1, 4, false, products<32, 8, 1, 4, false>()},   // Q5_K
    {256, 16, 1, 2, true, products<16, 16, 1, 2, true>()},    // Q6_K
    {256, 16, 1, 4, false, products<16, 16, 1, 4, false>()},  // Q2_K
    {256, 16, 1, 4, true, products<16, 16, 1, 4, true>()},    // Q3_K
    {256, 32, 2, 8, true, products<32, 8, 2, 8, true>()},     // IQ4_XS
    {32, 32, 2, 8, true, products<32, 1, 2, 8, true>()},      // Q8_0, IQ4_NL, int8 rows
    {32, 32, 1, 8, true, products<32, 1, 1, 8, true>()},      // Q4_0
    {32, 32, 1, 4, true, products<32, 1, 1, 4, true>()},      // Q5_0, MXFP4
    {32, 32, 1, 8, false, products<32, 1, 1, 8, false>()},    // Q4_1, MLX 2-4 bits in groups of 32
    {32, 32, 1, 4, false, products<32, 1, 1, 4, false>()},    // Q5_1, MLX 5 bits
    {32, 32, 1, 2, false, products<32, 1, 1, 2, false>()},    // MLX 6 bits
    {32, 32, 2, 8, false, products<32, 1, 2, 8, false>()},    // MLX 8 bits
    {64, 32, 1, 8, false, products<32, 2, 1, 8, false>()},    // The same in groups of 64
    {64, 32, 1, 4, false, products<32, 2, 1, 4, false>()},
    {64, 32, 1, 2, false, products<32, 2, 1, 2, false>()},
    {64, 32, 2, 8, false, products<32, 2, 2, 8, false>()},
    {128, 32, 1, 8, false, products<32, 4, 1, 8, false>()},  // and of 128
    {128, 32, 1, 4, false, products<32, 4, 1, 4, false>()},
    {128, 32, 1, 2, false, products<32, 4, 1, 2, false>()},
    {128, 32, 2, 8, false, products<32, 4, 2, 8, false>()},
};

const TileSet* find_products(const Shape& s) {
  for (const TileChoice& c : kTiles)
    if (c.block == s.block && c.sub == s.sub && c.planes == s.planes && c.fold == s.fold &&
        c.symmetric == s.symmetric)
      return &c.tiles;
  return nullptr;
}

const TileSet* find_minima(const Shape& s) {
  if (!s.affine) return nullptr;
  if (s.unit) return &kUnitMinima;
  return s.block == s.sub ? &kMinima1 : s.sub == 32 ? &kMinima8 : &kMinima16;
}

// float(sum of a block's codes) * dx for the blocks of one segment of one token.
void sum_blocks(const int16_t* sums32, const float* scales, uint32_t blocks, uint32_t block, float* out) {
  const uint32_t subs = block / 32;
  for (uint32_t b = 0; b < blocks; ++b) {
    int32_t sum = 0;
    for (uint32_t j = 0; j < subs; ++j) sum += sums32[b * subs + j];
    out[b] = static_cast<float>(sum) * scales[b];
  }
}

}  // namespace

void matmul_panels(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                   float* y, uint64_t y_stride, void* scratch, DecodeCodesFn decode) {
  const Shape s = shape_of(code_traits(w), w.format == WeightFormat::kMlxAffine);
  const TileSet* products = find_products(s);
  const TileSet* minima = find_minima(s);
  auto* memory = static_cast<uint8_t*>(scratch);
  const auto take = [&memory](uint64_t bytes) {
    uint8_t* taken = memory;
    memory += bytes;
    return taken;
  };
  Panel panels[kGroupPanels];
  for (Panel& panel : panels) {
    panel.codes = take(kCodesBytes);
    panel.scales = reinterpret_cast<int16_t*>(take(kScalesBytes));
    panel.symmetric = reinterpret_cast<int16_t*>(take(kMinimaBytes));
    panel.affine = reinterpret_cast<int16_t*>(take(kMinimaBytes));
    panel.d = reinterpret_cast<float*>(take(kFloatsBytes));
    panel.e = reinterpret_cast<float*>(take(kFloatsBytes));
  }
  auto* acc = reinterpret_cast<float*>(take(kAccumulatorBytes));
  auto* unit_sums = reinterpret_cast<float*>(take(kSumsBytes));
  RowBuffers buffers{};
  buffers.codes = take(uint64_t{kPanelRows} * kSegmentCols);
  buffers.scales = reinterpret_cast<int16_t*>(take(kPanelRows * kScaleStride * 2));
  buffers.minimums = reinterpret_cast<int16_t*>(take(kPanelRows * kScaleStride * 2));
  buffers.d = reinterpret_cast<float*>(take(kPanelRows * kFloatStride * 4));
  buffers.e = reinterpret_cast<float*>(take(kPanelRows * kFloatStride * 4));

  const int16_t* sums = s.sub == 16 ? x.sums16 : x.sums32;
  const uint64_t code_stride = x.cols, scale_stride = x.cols / s.block, sum_stride = x.cols / s.sub;
  for (uint32_t group = row_begin; group < row_end; group += kGroupPanels * kPanelRows) {
    const uint32_t rows =
        row_end - group < kGroupPanels * kPanelRows ? row_end - group : kGroupPanels * kPanelRows;
    const uint32_t panel_count = (rows + kPanelRows - 1) / kPanelRows;
    for (uint32_t token = 0; token < x.tokens; token += kTokensMax) {
      const uint32_t tokens = x.tokens - token < kTokensMax ? x.tokens - token : kTokensMax;
      for (uint32_t p = 0; p < panel_count; ++p)
        __builtin_memset(acc + p * kAccPanel, 0, uint64_t{tokens} * kAccToken * sizeof(float));
      for (uint32_t col = 0; col < x.cols; col += kSegmentCols) {
        const uint32_t cols = x.cols - col < kSegmentCols ? x.cols - col : kSegmentCols;
        for (uint32_t p = 0; p < panel_count; ++p) {
          const uint32_t first = p * kPanelRows;
          build_panel(w, s, decode, group + first, rows - first < kPanelRows ? rows - first : kPanelRows, col,
                      cols, buffers, panels[p]);
        }
        const uint32_t blocks = cols / s.block;
        if (s.unit)
          for (uint32_t t = 0; t < tokens; ++t)
            sum_blocks(x.sums32 + (token + t) * (x.cols / 32) + col / 32,
                       x.scales + (token + t) * scale_stride + col / s.block, blocks, s.block,
                       unit_sums + t * kFloatStride);
        for (uint32_t t0 = 0; t0 < tokens; t0 += kTokenBlock) {
          const uint32_t t1 = t0 + kTokenBlock < tokens ? t0 + kTokenBlock : tokens;
          for (uint32_t p = 0; p < panel_count; p += 2) {
            const uint32_t width = panel_count - p < 2 ? 1 : 2;
            for (uint32_t t = t0; t < t1;) {
              const uint32_t n = t1 - t < 3 ? t1 - t : 3;
              const uint64_t at = token + t;
              const TokenTile tile{x.codes + at * code_stride + col,
                                   x.scales + at * scale_stride + col / s.block,
                                   sums + at * sum_stride + col / s.sub,
                                   code_stride,
                                   scale_stride,
                                   sum_stride,
                                   unit_sums + t * kFloatStride,
                                   kFloatStride};
              float* tile_acc = acc + p * kAccPanel + uint64_t{t} * kAccToken;
              products->fn[width - 1][n - 1](panels + p, cols, blocks, tile, tile_acc);
              if (minima != nullptr) minima->fn[width - 1][n - 1](panels + p, cols, blocks, tile, tile_acc);
              t += n;
            }
          }
        }
      }
      for (uint32_t p = 0; p < panel_count; ++p) {
        const uint32_t first = p * kPanelRows;
        const uint32_t n = rows - first < kPanelRows ? rows - first : kPanelRows;
        for (uint32_t t = 0; t < tokens; ++t) {
          const float* totals = acc + p * kAccPanel + uint64_t{t} * kAccToken;
          __m256 result = _mm256_load_ps(totals);
          if (s.affine) result = _mm256_add_ps(result, _mm256_load_ps(totals + kPanelRows));
          alignas(32) float lanes[kPanelRows];
          _mm256_store_ps(lanes, result);
          __builtin_memcpy(y + (token + t) * y_stride + group + first, lanes, n * sizeof(float));
        }
      }
    }
  }
}

}  // namespace mlxf::kernels::avx2
