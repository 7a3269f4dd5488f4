// The int8 matrix product for several tokens (prefill, batches): one core for every integer format.
//
// Weights of 16 rows are unpacked once into a panel (panel.h) and multiplied with every token of the call. A tile is
// 2 panels x 6 tokens: 12 accumulators of the sub-block and 12 of the block, two weight vectors and a broadcast;
// 8 loads feed 12 vpdpbusd.
// Bound: one vpdpbusd of 64 products a cycle (Zen 4; Sapphire Rapids has two). The same pipes take a vpmulld per
// sub-block and two float operations per block, which leaves 80 % of that for Q4_K and Q8_0 and 78 % for Q6_K.
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels/avx512/avx512.h"
#include "kernels/avx512/panel.h"

namespace mlxf::kernels::avx512 {
namespace {

constexpr uint32_t kGroupPanels = 4;  // Panels unpacked together: 64 rows share one copy of the activations.
constexpr uint32_t kTileCols = 512;   // Columns that a tile runs over: two panels of codes are 16 KiB of L1.
constexpr uint32_t kTokenBlock = 64;  // Tokens whose codes stay in L2 while the panels pass over them.
constexpr uint32_t kTokensMax = 512;  // Tokens per pass: bounds the accumulators in scratch.
constexpr uint32_t kTileTokens = 6;
constexpr uint32_t kSegmentCols = 2048;  // Columns unpacked at a time: two panels of codes are 64 KiB.
constexpr uint32_t kScaleStride = kSegmentCols / 16;
constexpr uint32_t kFloatStride = kSegmentCols / 32;

// Per-panel memory for one segment, in bytes; sub >= 16, block >= 32.
constexpr uint64_t kCodesBytes = uint64_t{kPanelRows} * kSegmentCols;
constexpr uint64_t kScalesBytes = uint64_t{kScaleStride} * kPanelRows * 4;
constexpr uint64_t kMinimaBytes = kScalesBytes / 2;
constexpr uint64_t kFloatsBytes = uint64_t{kFloatStride} * kPanelRows * 4;
constexpr uint64_t kPanelBytes = kCodesBytes + kScalesBytes + kMinimaBytes + 2 * kFloatsBytes;
// The chains of one panel: S of 16 rows for every token, then M.
constexpr uint64_t kAccMinima = uint64_t{kTokensMax} * kPanelRows;
constexpr uint64_t kAccPanel = 2 * kAccMinima;
constexpr uint64_t kAccumulatorBytes = kGroupPanels * kAccPanel * sizeof(float);
constexpr uint64_t kStartBytes = uint64_t{kTokenBlock} * kScaleStride * sizeof(int32_t);
constexpr uint64_t kSumsBytes = uint64_t{kTokenBlock} * kFloatStride * sizeof(float);
static_assert(kGroupPanels * kPanelBytes + kAccumulatorBytes + kStartBytes + kSumsBytes <=
              kMatmulScratchBytes);

// Makes the compiler produce `value` here, in a register: GCC 12 otherwise reorders the products and spills.
inline void keep(__m512i& value) { __asm__("" : "+v"(value)); }

__m512i load(const void* vector) { return _mm512_load_si512(vector); }

__m512i broadcast4(const void* bytes) {
  int32_t four;
  __builtin_memcpy(&four, bytes, 4);
  return _mm512_set1_epi32(four);
}

// The activations of one tile.
struct TokenTile {
  const int8_t* codes;
  const float* scales;
  const int16_t* sums;  // Per sub-block.
  uint64_t code_stride, scale_stride, sum_stride;
  const int32_t* starts;   // -offset * sum per sub-block at stride kScaleStride, of formats with an offset.
  const float* unit_sums;  // float(M) * dx per block at stride kFloatStride, when all minima are 1.
};

template <uint32_t P, uint32_t T>
void add_block(const Panel* panels, uint32_t b, const TokenTile& x, const __m512i (&s)[P][T],
               __m512 (&total)[P][T]) {
  for (uint32_t t = 0; t < T; ++t) {
    const __m512 dx = _mm512_set1_ps(x.scales[t * x.scale_stride + b]);
    for (uint32_t p = 0; p < P; ++p) {
      const __m512 d = _mm512_mul_ps(_mm512_load_ps(panels[p].d + b * kPanelRows), dx);
      total[p][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(s[p][t]), d, total[p][t]);
    }
  }
}

// sum += the products of elements k .. k + 4 * STEPS.
template <uint32_t STEPS, uint32_t P, uint32_t T>
inline __attribute__((always_inline)) void add_products(const Panel* panels, uint32_t k, const TokenTile& x,
                                                        __m512i (&sum)[P][T]) {
#pragma GCC unroll 8
  for (uint32_t i = 0; i < STEPS; ++i) {
    __m512i weights[P];
    for (uint32_t p = 0; p < P; ++p) weights[p] = load(panels[p].codes + uint64_t{k + 4 * i} * kPanelRows);
#pragma GCC unroll 6
    for (uint32_t t = 0; t < T; ++t) {
      const __m512i codes = broadcast4(x.codes + t * x.code_stride + k + 4 * i);
#pragma GCC unroll 2
      for (uint32_t p = 0; p < P; ++p) {
        sum[p][t] = _mm512_dpbusd_epi32(sum[p][t], weights[p], codes);
        keep(sum[p][t]);
      }
    }
  }
}

// The sums of sub-block j before any product.
template <bool AFFINE, uint32_t P, uint32_t T>
inline __attribute__((always_inline)) void start(const TokenTile& x, uint32_t j, __m512i (&s)[P][T]) {
  for (uint32_t t = 0; t < T; ++t) {
    const __m512i first = AFFINE ? _mm512_setzero_si512() : broadcast4(x.starts + t * kScaleStride + j);
    for (uint32_t p = 0; p < P; ++p) s[p][t] = first;
  }
}

// The S chains of P panels x T tokens over `blocks` blocks of SUBS sub-blocks with scales;
// acc: [P] at stride kAccPanel, [T][16], read and written.
template <uint32_t SUB, uint32_t SUBS, bool AFFINE, uint32_t P, uint32_t T>
void tile_scaled(const Panel* panels, uint32_t blocks, const TokenTile& x, float* acc) {
  for (uint32_t b = 0; b < blocks; ++b) {
    __m512i s[P][T];
    for (uint32_t p = 0; p < P; ++p)
      for (uint32_t t = 0; t < T; ++t) s[p][t] = _mm512_setzero_si512();
    for (uint32_t j = b * SUBS; j < (b + 1) * SUBS; ++j) {
      __m512i sum[P][T];
      start<AFFINE>(x, j, sum);
      add_products<SUB / 4>(panels, j * SUB, x, sum);
      for (uint32_t p = 0; p < P; ++p) {
        const __m512i scale = load(panels[p].scales + j * kPanelRows);
        for (uint32_t t = 0; t < T; ++t)
          s[p][t] = _mm512_add_epi32(s[p][t], _mm512_mullo_epi32(sum[p][t], scale));
      }
    }
    // Not before here: kept in registers over the block, the chains would push out its sums.
    __asm__ volatile("" ::: "memory");
    __m512 total[P][T];
    for (uint32_t p = 0; p < P; ++p)
      for (uint32_t t = 0; t < T; ++t) total[p][t] = _mm512_load_ps(acc + p * kAccPanel + t * kPanelRows);
    add_block(panels, b, x, s, total);
    for (uint32_t p = 0; p < P; ++p)
      for (uint32_t t = 0; t < T; ++t) _mm512_store_ps(acc + p * kAccPanel + t * kPanelRows, total[p][t]);
  }
}

// The same for blocks of BLOCK elements without sub-block scales.
template <uint32_t BLOCK, bool AFFINE, uint32_t P, uint32_t T>
void tile_unit(const Panel* panels, uint32_t blocks, const TokenTile& x, float* acc) {
  __m512 total[P][T];
  for (uint32_t p = 0; p < P; ++p)
    for (uint32_t t = 0; t < T; ++t) total[p][t] = _mm512_load_ps(acc + p * kAccPanel + t * kPanelRows);
  for (uint32_t b = 0; b < blocks; ++b) {
    __m512i s[P][T];
    start<AFFINE>(x, b, s);
    for (uint32_t k = b * BLOCK; k < (b + 1) * BLOCK; k += 32) add_products<8>(panels, k, x, s);
    add_block(panels, b, x, s, total);
  }
  for (uint32_t p = 0; p < P; ++p)
    for (uint32_t t = 0; t < T; ++t) _mm512_store_ps(acc + p * kAccPanel + t * kPanelRows, total[p][t]);
}

// The M chains of a tile whose sub-blocks have minima: integer minima times sums of x.
template <uint32_t SUBS, uint32_t P, uint32_t T>
void tile_minima(const Panel* panels, uint32_t blocks, const TokenTile& x, float* acc) {
  constexpr uint32_t kSteps = SUBS / 2;
  __m512 total[P][T];
  for (uint32_t p = 0; p < P; ++p)
    for (uint32_t t = 0; t < T; ++t)
      total[p][t] = _mm512_load_ps(acc + p * kAccPanel + kAccMinima + t * kPanelRows);
  for (uint32_t b = 0; b < blocks; ++b) {
    __m512i m[P][T];
    for (uint32_t p = 0; p < P; ++p)
      for (uint32_t t = 0; t < T; ++t) m[p][t] = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (uint32_t j = 0; j < kSteps; ++j)
      for (uint32_t t = 0; t < T; ++t) {
        const __m512i sums = broadcast4(x.sums + t * x.sum_stride + b * SUBS + j * 2);
        for (uint32_t p = 0; p < P; ++p) {
          m[p][t] =
              _mm512_dpwssd_epi32(m[p][t], load(panels[p].minima + (b * kSteps + j) * kPanelRows), sums);
          keep(m[p][t]);
        }
      }
    for (uint32_t t = 0; t < T; ++t) {
      const __m512 dx = _mm512_set1_ps(x.scales[t * x.scale_stride + b]);
      for (uint32_t p = 0; p < P; ++p)
        total[p][t] = _mm512_fmadd_ps(_mm512_load_ps(panels[p].e + b * kPanelRows),
                                      _mm512_mul_ps(_mm512_cvtepi32_ps(m[p][t]), dx), total[p][t]);
    }
  }
  for (uint32_t p = 0; p < P; ++p)
    for (uint32_t t = 0; t < T; ++t)
      _mm512_store_ps(acc + p * kAccPanel + kAccMinima + t * kPanelRows, total[p][t]);
}

// The M chains when every minimum is 1: x.unit_sums holds float(M) * dx.
template <uint32_t P, uint32_t T>
void tile_unit_minima(const Panel* panels, uint32_t blocks, const TokenTile& x, float* acc) {
  __m512 total[P][T];
  for (uint32_t p = 0; p < P; ++p)
    for (uint32_t t = 0; t < T; ++t)
      total[p][t] = _mm512_load_ps(acc + p * kAccPanel + kAccMinima + t * kPanelRows);
  for (uint32_t b = 0; b < blocks; ++b)
    for (uint32_t t = 0; t < T; ++t) {
      const __m512 sum = _mm512_set1_ps(x.unit_sums[t * kFloatStride + b]);
      for (uint32_t p = 0; p < P; ++p)
        total[p][t] = _mm512_fmadd_ps(_mm512_load_ps(panels[p].e + b * kPanelRows), sum, total[p][t]);
    }
  for (uint32_t p = 0; p < P; ++p)
    for (uint32_t t = 0; t < T; ++t)
      _mm512_store_ps(acc + p * kAccPanel + kAccMinima + t * kPanelRows, total[p][t]);
}

using TileFn = void (*)(const Panel*, uint32_t, const TokenTile&, float*);

// Tiles by [panels - 1][tokens - 1].
struct TileSet {
  TileFn fn[2][kTileTokens];
};

// FAMILY<P, T>::kFn for all sizes of tile.
template <template <uint32_t, uint32_t> class FAMILY>
constexpr TileSet all_sizes() {
  return {{{FAMILY<1, 1>::kFn, FAMILY<1, 2>::kFn, FAMILY<1, 3>::kFn, FAMILY<1, 4>::kFn, FAMILY<1, 5>::kFn,
            FAMILY<1, 6>::kFn},
           {FAMILY<2, 1>::kFn, FAMILY<2, 2>::kFn, FAMILY<2, 3>::kFn, FAMILY<2, 4>::kFn, FAMILY<2, 5>::kFn,
            FAMILY<2, 6>::kFn}}};
}

template <uint32_t SUB, bool AFFINE>
struct Scaled {
  template <uint32_t P, uint32_t T>
  struct Size {
    static constexpr TileFn kFn = tile_scaled<SUB, 256 / SUB, AFFINE, P, T>;
  };
};
template <uint32_t BLOCK, bool AFFINE>
struct Unit {
  template <uint32_t P, uint32_t T>
  struct Size {
    static constexpr TileFn kFn = tile_unit<BLOCK, AFFINE, P, T>;
  };
};
template <uint32_t SUBS>
struct Minima {
  template <uint32_t P, uint32_t T>
  struct Size {
    static constexpr TileFn kFn = tile_minima<SUBS, P, T>;
  };
};
template <uint32_t P, uint32_t T>
struct UnitMinima {
  static constexpr TileFn kFn = tile_unit_minima<P, T>;
};

struct TileChoice {
  uint32_t block, sub;
  bool affine;
  TileSet tiles;
};

// Every shape that a format of kernels/code_row.h has.
constexpr TileChoice kTiles[] = {
    {256, 32, true, all_sizes<Scaled<32, true>::Size>()},    // Q4_K, Q5_K
    {256, 32, false, all_sizes<Scaled<32, false>::Size>()},  // IQ4_XS
    {256, 16, true, all_sizes<Scaled<16, true>::Size>()},    // Q2_K
    {256, 16, false, all_sizes<Scaled<16, false>::Size>()},  // Q6_K, Q3_K
    {32, 32, false, all_sizes<Unit<32, false>::Size>()},     // Q8_0, Q4_0, Q5_0, IQ4_NL, MXFP4, int8 rows
    {32, 32, true, all_sizes<Unit<32, true>::Size>()},       // Q4_1, Q5_1, MLX in groups of 32
    {64, 32, true, all_sizes<Unit<64, true>::Size>()},       // of 64
    {128, 32, true, all_sizes<Unit<128, true>::Size>()},     // and of 128
};
constexpr TileSet kUnitMinima = all_sizes<UnitMinima>();
constexpr TileSet kMinima8 = all_sizes<Minima<8>::Size>();
constexpr TileSet kMinima16 = all_sizes<Minima<16>::Size>();

const TileSet* find_products(const Shape& s) {
  for (const TileChoice& c : kTiles)
    if (c.block == s.block && c.sub == s.sub && c.affine == s.affine) return &c.tiles;
  return nullptr;
}

const TileSet* find_minima(const Shape& s) {
  if (!s.affine) return nullptr;
  if (s.unit) return &kUnitMinima;
  return s.sub == 32 ? &kMinima8 : &kMinima16;
}

// What the sums of `count` sub-blocks of one token start with.
void fill_starts(const int16_t* sums, uint32_t count, int32_t offset, int32_t* out) {
  const __m512i factor = _mm512_set1_epi32(-offset);
  for (uint32_t j = 0; j < count; j += 16) {
    const auto mask = static_cast<__mmask16>(count - j < 16 ? (1u << (count - j)) - 1 : 0xffff);
    const __m512i wide = _mm512_cvtepi16_epi32(_mm256_maskz_loadu_epi16(mask, sums + j));
    _mm512_store_si512(out + j, _mm512_mullo_epi32(wide, factor));
  }
}

// The memory of one call, carved out of its scratch.
struct Workspace {
  Panel panels[kGroupPanels];
  float* acc;
  int32_t* starts;  // [kTokenBlock][kScaleStride]
  float* unit_sums;
};

Workspace carve(void* scratch) {
  auto* memory = static_cast<uint8_t*>(scratch);
  const auto take = [&memory](uint64_t bytes) {
    uint8_t* taken = memory;
    memory += bytes;
    return taken;
  };
  Workspace space{};
  for (Panel& panel : space.panels) {
    panel.codes = take(kCodesBytes);
    panel.scales = reinterpret_cast<int32_t*>(take(kScalesBytes));
    panel.minima = reinterpret_cast<int32_t*>(take(kMinimaBytes));
    panel.d = reinterpret_cast<float*>(take(kFloatsBytes));
    panel.e = reinterpret_cast<float*>(take(kFloatsBytes));
  }
  space.acc = reinterpret_cast<float*>(take(kAccumulatorBytes));
  space.starts = reinterpret_cast<int32_t*>(take(kStartBytes));
  space.unit_sums = reinterpret_cast<float*>(take(kSumsBytes));
  return space;
}

// The part of a panel from column `col` on.
Panel panel_from(const Panel& panel, const Shape& s, uint32_t col) {
  return {panel.codes + uint64_t{col} * kPanelRows, panel.scales + col / s.sub * kPanelRows,
          panel.minima + col / s.sub / 2 * kPanelRows, panel.d + col / s.block * kPanelRows,
          panel.e + col / s.block * kPanelRows};
}

// One product: the constants of a call, and its steps from the outside in.
struct Product {
  const MatrixView& w;
  const ActivationView& x;
  UnpackFn unpack;
  Shape s;
  const TileSet* products;
  const TileSet* minima;
  Workspace space;

  // Tokens [token, token + count) of a segment, whose sums `multiply_segment` has prepared.
  // acc belongs to the first of them.
  void multiply_tokens(uint32_t panel_count, uint32_t col, uint32_t cols, uint32_t token, uint32_t count,
                       float* acc) const {
    const uint64_t scale_stride = x.cols / s.block, sum_stride = x.cols / s.sub;
    const int16_t* sums = s.sub == 16 ? x.sums16 : x.sums32;
    for (uint32_t p = 0; p < panel_count; p += 2) {
      const uint32_t width = panel_count - p < 2 ? 1 : 2;
      for (uint32_t part = 0; part < cols; part += kTileCols) {
        const Panel panels[2] = {panel_from(space.panels[p], s, part),
                                 panel_from(space.panels[p + width - 1], s, part)};
        const uint32_t blocks = (cols - part < kTileCols ? cols - part : kTileCols) / s.block;
        for (uint32_t t = 0; t < count;) {
          // The last tokens are halved: two tiles of four are faster than one of six and one of two.
          const uint32_t left = count - t;
          const uint32_t n = left >= 2 * kTileTokens ? kTileTokens
                             : left > kTileTokens    ? (left + 1) / 2
                                                     : left;
          const uint64_t at = token + t;
          const TokenTile tile{x.codes + at * x.cols + col + part,
                               x.scales + at * scale_stride + (col + part) / s.block,
                               sums + at * sum_stride + (col + part) / s.sub,
                               x.cols,
                               scale_stride,
                               sum_stride,
                               space.starts + t * kScaleStride + part / s.sub,
                               space.unit_sums + t * kFloatStride + part / s.block};
          float* tile_acc = acc + p * kAccPanel + uint64_t{t} * kPanelRows;
          products->fn[width - 1][n - 1](panels, blocks, tile, tile_acc);
          if (minima != nullptr) minima->fn[width - 1][n - 1](panels, blocks, tile, tile_acc);
          t += n;
        }
      }
    }
  }

  // Rows [row, row + rows) times tokens [token, token + tokens) over one segment of columns.
  void multiply_segment(uint32_t row, uint32_t rows, uint32_t col, uint32_t cols, uint32_t token,
                        uint32_t tokens) const {
    const uint32_t panel_count = (rows + kPanelRows - 1) / kPanelRows;
    const uint32_t blocks = cols / s.block;
    for (uint32_t p = 0; p < panel_count; ++p) {
      const uint32_t first = p * kPanelRows;
      const uint32_t n = rows - first < kPanelRows ? rows - first : kPanelRows;
      unpack(w, row + first, n, col, cols, space.panels[p]);
    }
    for (uint32_t t0 = 0; t0 < tokens; t0 += kTokenBlock) {
      const uint32_t count = tokens - t0 < kTokenBlock ? tokens - t0 : kTokenBlock;
      for (uint32_t t = 0; t < count; ++t) {
        const uint64_t at = token + t0 + t;
        if (!s.affine)
          fill_starts((s.sub == 16 ? x.sums16 : x.sums32) + (at * x.cols + col) / s.sub, cols / s.sub,
                      s.offset, space.starts + t * kScaleStride);
        if (s.affine && s.unit)
          sum_blocks(x.sums32 + at * (x.cols / 32) + col / 32, x.scales + (at * x.cols + col) / s.block,
                     blocks, s.block, space.unit_sums + t * kFloatStride);
      }
      multiply_tokens(panel_count, col, cols, token + t0, count, space.acc + uint64_t{t0} * kPanelRows);
    }
  }

  void multiply_rows(uint32_t row, uint32_t rows, uint32_t token, uint32_t tokens, float* y,
                     uint64_t y_stride) const {
    for (uint32_t first = 0; first < rows; first += kPanelRows) {
      float* acc = space.acc + first / kPanelRows * kAccPanel;
      __builtin_memset(acc, 0, uint64_t{tokens} * kPanelRows * sizeof(float));
      if (s.affine) __builtin_memset(acc + kAccMinima, 0, uint64_t{tokens} * kPanelRows * sizeof(float));
    }
    for (uint32_t col = 0; col < x.cols; col += kSegmentCols)
      multiply_segment(row, rows, col, x.cols - col < kSegmentCols ? x.cols - col : kSegmentCols, token,
                       tokens);
    store_rows(row, rows, token, tokens, y, y_stride);
  }

  // The finished chains to y, token by token: rows of y are far apart.
  void store_rows(uint32_t row, uint32_t rows, uint32_t token, uint32_t tokens, float* y,
                  uint64_t y_stride) const {
    for (uint32_t t = 0; t < tokens; ++t)
      for (uint32_t first = 0; first < rows; first += kPanelRows) {
        const uint32_t n = rows - first < kPanelRows ? rows - first : kPanelRows;
        const float* totals = space.acc + first / kPanelRows * kAccPanel + uint64_t{t} * kPanelRows;
        __m512 result = _mm512_load_ps(totals);
        if (s.affine) result = _mm512_add_ps(result, _mm512_load_ps(totals + kAccMinima));
        _mm512_mask_storeu_ps(y + (token + t) * y_stride + row + first, static_cast<__mmask16>((1u << n) - 1),
                              result);
      }
  }
};

}  // namespace

void matmul_panels(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                   float* y, uint64_t y_stride, void* scratch) {
  const Shape s = shape_of(w);
  const Product product{w, x, panel_unpacker(w.format), s, find_products(s), find_minima(s), carve(scratch)};
  constexpr uint32_t kGroupRows = kGroupPanels * kPanelRows;
  for (uint32_t row = row_begin; row < row_end; row += kGroupRows)
    for (uint32_t token = 0; token < x.tokens; token += kTokensMax)
      product.multiply_rows(row, row_end - row < kGroupRows ? row_end - row : kGroupRows, token,
                            x.tokens - token < kTokensMax ? x.tokens - token : kTokensMax, y, y_stride);
}

}  // namespace mlxf::kernels::avx512
