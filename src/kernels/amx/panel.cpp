// The int8 matrix product on AMX tiles: one core for every integer format.
//
// A panel's codes (avx512/panel.h: [cols / 4][16 rows][4]) are what a tile of weights has to look like: 16 lines of 64
// bytes are 64 columns of 16 rows, and 16 tokens' activations are the other factor where they lie. tdpb*d adds the
// 16 x 16 x 64 products to a tile of int32, [token][row], in 16 cycles: 1024 products a cycle, eight times the two
// vpdpbusd of Sapphire Rapids.
//
// So few cycles leave no time for a scale after every 16 or 32 columns. Sub-block scales are therefore multiplied into
// the codes when a panel is unpacked: code * scale needs at most 14 bits with its sign and becomes two planes of bytes,
// 256 * high + low, each with tiles of its own over the whole block. Still exact: S = 256 * (high . x) + (low . x).
//
// Tiles of results leave through L1, those of a few blocks at a time; then the vector units add them to the chains.
// Adding the block before between the products of the next one was no faster on Sapphire Rapids: 700 ns for 512 columns
// of Q4_K either way.
// Bound per 16 rows x 16 tokens: 16 cycles per plane and 64 columns (a block of 32 takes as long), 16 cycles to store a
// tile, and three to twelve vector operations on two ports per token and block.
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels/amx/amx.h"
#include "kernels/avx512/panel.h"
#include "kernels/kernel_table.h"

namespace mlxf::kernels::amx {
namespace {

using avx512::kPanelRows;
using avx512::Panel;
using avx512::Shape;

// Panels unpacked together: 128 rows share one pass over the activations.
constexpr uint32_t kGroupPanels = 8;
constexpr uint32_t kTokenBlock = 64;  // Tokens whose codes stay in L2 while the panels pass over them.
constexpr uint32_t kTokensMax = 512;  // Tokens per pass: bounds the accumulators in scratch.
constexpr uint32_t kTileTokens = 16;
constexpr uint32_t kTileInts = kTileTokens * kPanelRows;
constexpr uint32_t kSegmentCols = 1024;  // Columns unpacked at a time.
constexpr uint32_t kFloatStride = kSegmentCols / 32;

// Per-panel memory for one segment, in bytes; sub >= 16, block >= 32.
constexpr uint64_t kPlaneBytes = uint64_t{kPanelRows} * kSegmentCols;
constexpr uint64_t kScalesBytes = uint64_t{kSegmentCols / 16} * kPanelRows * 4;
constexpr uint64_t kMinimaBytes = kScalesBytes / 2;
constexpr uint64_t kFloatsBytes = uint64_t{kFloatStride} * kPanelRows * 4;
constexpr uint64_t kPanelBytes = 2 * kPlaneBytes + kScalesBytes + kMinimaBytes + 2 * kFloatsBytes;
// The chains of one panel: S of 16 rows for every token, then M.
constexpr uint64_t kAccMinima = uint64_t{kTokensMax} * kPanelRows;
constexpr uint64_t kAccPanel = 2 * kAccMinima;
constexpr uint64_t kAccumulatorBytes = kGroupPanels * kAccPanel * sizeof(float);
constexpr uint64_t kSumsBytes = uint64_t{kTokenBlock} * kFloatStride * sizeof(float);
static_assert(kGroupPanels * kPanelBytes + kAccumulatorBytes + kSumsBytes <= kMatmulScratchBytes);

// The operand of ldtilecfg (Intel SDM volume 1, 18.2).
struct TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t line_bytes[16] = {};
  uint8_t lines[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

// Tiles 0 .. 3 hold results, 4 the activations of `tokens` tokens over `cols` columns, 5 .. 7 weights.
void configure_tiles(uint32_t tokens, uint32_t cols) {
  TileConfig config;
  for (uint32_t i = 0; i < 4; ++i) {
    config.lines[i] = static_cast<uint8_t>(tokens);
    config.line_bytes[i] = 64;
  }
  config.lines[4] = static_cast<uint8_t>(tokens);
  config.line_bytes[4] = static_cast<uint16_t>(cols);
  for (uint32_t i = 5; i < 8; ++i) {
    config.lines[i] = static_cast<uint8_t>(cols / 4);
    config.line_bytes[i] = 64;
  }
  __asm__ volatile("" ::: "memory");  // GCC 12's intrinsic does not say that it reads memory.
  _tile_loadconfig(&config);
}

// A panel and the second plane of its codes.
struct Planes {
  Panel panel;
  uint8_t* high;
};

// The activations of one tile.
struct TokenTile {
  uint32_t count;
  const int8_t* codes;
  const float* scales;
  const int16_t* sums;  // Per sub-block.
  uint64_t code_stride, scale_stride, sum_stride;
  const float* unit_sums;  // float(M) * dx per block at stride kFloatStride, when all minima are 1.
  uint64_t ahead;          // Bytes from codes to those that will be wanted from memory next; 0: none.
};

// What a format's product is made of, beside its block.
enum class Minima : uint8_t { kNone, kOne, kPerSub32, kPerSub16 };
struct Kind {
  uint32_t block;
  bool planes;          // Two of them: block sums of codes * sub-block scales.
  bool unsigned_first;  // The first plane (or the only one).
  Minima minima;
};

#define MLXF_PRODUCT(result, weights, address)                      \
  _tile_loadd(weights, address, 64);                                \
  if constexpr (K.unsigned_first) _tile_dpbsud(result, 4, weights); \
  if constexpr (!K.unsigned_first) _tile_dpbssd(result, 4, weights)
#define MLXF_PRODUCT_HIGH(result, weights, address) \
  _tile_loadd(weights, address, 64);                \
  _tile_dpbssd(result, 4, weights)

// Adds the products of columns [k, k + 64), or of a block of 32.
template <Kind K, uint32_t P>
inline __attribute__((always_inline)) void add_products(const Planes* panels, uint32_t k,
                                                        const TokenTile& x) {
  const uint64_t at = uint64_t{k} * kPanelRows;
  if (x.ahead != 0)  // One line of each token: no pattern that the processor would see by itself.
    for (uint32_t t = 0; t < x.count; ++t)
      _mm_prefetch(reinterpret_cast<const char*>(x.codes + x.ahead + t * x.code_stride + k), _MM_HINT_T1);
  _tile_loadd(4, x.codes + k, x.code_stride);
  MLXF_PRODUCT(0, 5, panels[0].panel.codes + at);
  if constexpr (K.planes) {
    MLXF_PRODUCT_HIGH(1, 6, panels[0].high + at);
  }
  if constexpr (P == 2) {
    MLXF_PRODUCT(2, 7, panels[1].panel.codes + at);
    if constexpr (K.planes) {
      MLXF_PRODUCT_HIGH(3, 5, panels[1].high + at);
    }
  }
}

#undef MLXF_PRODUCT
#undef MLXF_PRODUCT_HIGH

// Moves the results out: [panel][plane][token][row].
template <Kind K, uint32_t P>
inline __attribute__((always_inline)) void store_results(int32_t* sums) {
  constexpr uint32_t kPanel = (K.planes ? 2 : 1) * kTileInts;
  _tile_stored(0, sums, 64);
  if constexpr (K.planes) _tile_stored(1, sums + kTileInts, 64);
  if constexpr (P == 2) _tile_stored(2, sums + kPanel, 64);
  if constexpr (P == 2 && K.planes) _tile_stored(3, sums + kPanel + kTileInts, 64);
  __asm__ volatile("" ::: "memory");
}

template <Kind K, uint32_t P>
inline __attribute__((always_inline)) void zero_results() {
  _tile_zero(0);
  if constexpr (K.planes) _tile_zero(1);
  if constexpr (P == 2) _tile_zero(2);
  if constexpr (P == 2 && K.planes) _tile_zero(3);
}

__m512i broadcast4(const void* bytes) {
  int32_t four;
  __builtin_memcpy(&four, bytes, 4);
  return _mm512_set1_epi32(four);
}

// The blocks whose results wait in L1 together: 8 to 16 KiB.
template <Kind K>
constexpr uint32_t kBlocks = K.block == 256   ? 2
                             : K.block == 128 ? 4
                                              : 8;

// Where the results of panel p, token t in block b lie, and the second plane's after them.
template <Kind K, uint32_t P>
inline const int32_t* results_of(const int32_t* sums, uint32_t b, uint32_t p, uint32_t t) {
  return sums + (b * P + p) * (K.planes ? 2 : 1) * kTileInts + t * kPanelRows;
}

// Adds the products of `blocks` blocks to the S chains of T tokens from the t-th on.
template <Kind K, uint32_t P, uint32_t T>
inline __attribute__((always_inline)) void add_sums(const Planes* panels, uint32_t blocks, const TokenTile& x,
                                                    const int32_t* sums, uint32_t t0, float* acc) {
  __m512 total[P][T];
  for (uint32_t p = 0; p < P; ++p)
    for (uint32_t t = 0; t < T; ++t)
      total[p][t] = _mm512_load_ps(acc + p * kAccPanel + (t0 + t) * kPanelRows);
  for (uint32_t b = 0; b < blocks; ++b)
    for (uint32_t p = 0; p < P; ++p) {
      const __m512 d = _mm512_load_ps(panels[p].panel.d + b * kPanelRows);
      for (uint32_t t = 0; t < T; ++t) {
        const int32_t* results = results_of<K, P>(sums, b, p, t0 + t);
        __m512i s = _mm512_load_si512(results);
        if constexpr (K.planes)
          s = _mm512_add_epi32(s, _mm512_slli_epi32(_mm512_load_si512(results + kTileInts), 8));
        const __m512 dx = _mm512_set1_ps(x.scales[(t0 + t) * x.scale_stride + b]);
        total[p][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(s), _mm512_mul_ps(d, dx), total[p][t]);
      }
    }
  for (uint32_t p = 0; p < P; ++p)
    for (uint32_t t = 0; t < T; ++t)
      _mm512_store_ps(acc + p * kAccPanel + (t0 + t) * kPanelRows, total[p][t]);
}

// The same for the M chains: integer minima times sums of x, or the sums themselves.
template <Kind K, uint32_t P, uint32_t T>
inline __attribute__((always_inline)) void add_minima(const Planes* panels, uint32_t blocks,
                                                      const TokenTile& x, uint32_t t0, float* acc) {
  constexpr uint32_t kSteps = K.minima == Minima::kPerSub16 ? 8 : 4;  // Pairs of sub-blocks.
  acc += kAccMinima;
  __m512 total[P][T];
  for (uint32_t p = 0; p < P; ++p)
    for (uint32_t t = 0; t < T; ++t)
      total[p][t] = _mm512_load_ps(acc + p * kAccPanel + (t0 + t) * kPanelRows);
  for (uint32_t b = 0; b < blocks; ++b) {
    __m512 m[P][T];
    if constexpr (K.minima == Minima::kOne) {
      for (uint32_t p = 0; p < P; ++p)
        for (uint32_t t = 0; t < T; ++t) m[p][t] = _mm512_set1_ps(x.unit_sums[(t0 + t) * kFloatStride + b]);
    } else {
      __m512i products[P][T];
      for (uint32_t p = 0; p < P; ++p)
        for (uint32_t t = 0; t < T; ++t) products[p][t] = _mm512_setzero_si512();
#pragma GCC unroll 8
      for (uint32_t j = 0; j < kSteps; ++j) {
        __m512i minima[P];
        for (uint32_t p = 0; p < P; ++p)
          minima[p] = _mm512_load_si512(panels[p].panel.minima + (b * kSteps + j) * kPanelRows);
        for (uint32_t t = 0; t < T; ++t) {
          const __m512i pair = broadcast4(x.sums + (t0 + t) * x.sum_stride + (b * kSteps + j) * 2);
          for (uint32_t p = 0; p < P; ++p)
            products[p][t] = _mm512_dpwssd_epi32(products[p][t], minima[p], pair);
        }
      }
      for (uint32_t p = 0; p < P; ++p)
        for (uint32_t t = 0; t < T; ++t)
          m[p][t] = _mm512_mul_ps(_mm512_cvtepi32_ps(products[p][t]),
                                  _mm512_set1_ps(x.scales[(t0 + t) * x.scale_stride + b]));
    }
    for (uint32_t p = 0; p < P; ++p) {
      const __m512 e = _mm512_load_ps(panels[p].panel.e + b * kPanelRows);
      for (uint32_t t = 0; t < T; ++t) total[p][t] = _mm512_fmadd_ps(e, m[p][t], total[p][t]);
    }
  }
  for (uint32_t p = 0; p < P; ++p)
    for (uint32_t t = 0; t < T; ++t)
      _mm512_store_ps(acc + p * kAccPanel + (t0 + t) * kPanelRows, total[p][t]);
}

template <Kind K, uint32_t P, uint32_t T>
inline __attribute__((always_inline)) void add_blocks(const Planes* panels, uint32_t blocks,
                                                      const TokenTile& x, const int32_t* sums, uint32_t t0,
                                                      float* acc) {
  add_sums<K, P, T>(panels, blocks, x, sums, t0, acc);
  if constexpr (K.minima != Minima::kNone) add_minima<K, P, T>(panels, blocks, x, t0, acc);
}

// The chains of P panels x the tokens of x over at most kBlocks blocks; acc: [P] at stride kAccPanel, [tokens][16].
template <Kind K, uint32_t P>
void multiply_tile(const Planes* panels, uint32_t blocks, const TokenTile& x, float* acc) {
  constexpr uint32_t kStep = K.block < 64 ? K.block : 64;
  constexpr uint32_t kBlockInts = P * (K.planes ? 2 : 1) * kTileInts;
  alignas(64) int32_t sums[kBlocks<K> * kBlockInts];
  __asm__ volatile("" ::: "memory");
  for (uint32_t b = 0; b < blocks; ++b) {
    zero_results<K, P>();
    for (uint32_t k = b * K.block; k < (b + 1) * K.block; k += kStep) add_products<K, P>(panels, k, x);
    store_results<K, P>(sums + b * kBlockInts);
  }
  uint32_t t = 0;
  for (; t + 4 <= x.count; t += 4) add_blocks<K, P, 4>(panels, blocks, x, sums, t, acc);
  for (; t < x.count; ++t) add_blocks<K, P, 1>(panels, blocks, x, sums, t, acc);
}

using TileFn = void (*)(const Planes*, uint32_t, const TokenTile&, float*);

struct TileChoice {
  uint32_t block, sub;
  bool affine;
  uint32_t cols;    // That one call runs over.
  TileFn one, two;  // Panels.
};

template <uint32_t BLOCK, uint32_t SUB, bool AFFINE, Kind K>
constexpr TileChoice choice() {
  return {BLOCK, SUB, AFFINE, kBlocks<K> * BLOCK, multiply_tile<K, 1>, multiply_tile<K, 2>};
}

// Every shape that a format of kernels/code_row.h has.
constexpr TileChoice kTiles[] = {
    choice<256, 32, true, Kind{256, true, true, Minima::kPerSub32}>(),   // Q4_K, Q5_K
    choice<256, 32, false, Kind{256, true, true, Minima::kNone}>(),      // IQ4_XS
    choice<256, 16, true, Kind{256, false, true, Minima::kPerSub16}>(),  // Q2_K: 3 * 15 needs one plane
    choice<256, 16, false, Kind{256, true, true, Minima::kNone}>(),      // Q6_K, Q3_K
    choice<32, 32, false,
           Kind{32, false, false, Minima::kNone}>(),              // Q8_0, Q4_0, IQ4_NL, MXFP4, int8 rows ...
    choice<32, 32, true, Kind{32, false, true, Minima::kOne}>(),  // Q4_1, Q5_1, MLX in groups of 32
    choice<64, 32, true, Kind{64, false, true, Minima::kOne}>(),  // of 64
    choice<128, 32, true, Kind{128, false, true, Minima::kOne}>(),  // and of 128
};

const TileChoice& find_tiles(const Shape& s) {
  for (const TileChoice& c : kTiles)
    if (c.block == s.block && c.sub == s.sub && c.affine == s.affine) return c;
  __builtin_trap();  // products_test.cpp runs every format.
}

// Multiplies the sub-block scales of `cols` columns into the codes, as two planes of bytes.
void fold_scales(const Planes& planes, const Shape& s, uint32_t cols) {
  const __m512i low_bytes = _mm512_set1_epi16(0xff);
  const __m512i offset = _mm512_set1_epi16(static_cast<int16_t>(s.affine ? 0 : s.offset));
  for (uint32_t j = 0; j < cols / s.sub; ++j) {
    const __m512i scale = _mm512_load_si512(planes.panel.scales + j * kPanelRows);
    // In both words of a row's lane.
    const __m512i words = _mm512_mask_blend_epi16(0xaaaaaaaa, scale, _mm512_slli_epi32(scale, 16));
    for (uint32_t k = j * s.sub; k < (j + 1) * s.sub; k += 4) {
      uint8_t* at = planes.panel.codes + uint64_t{k} * kPanelRows;
      const __m512i codes = _mm512_load_si512(at);
      const __m512i even =
          _mm512_mullo_epi16(_mm512_sub_epi16(_mm512_and_si512(codes, low_bytes), offset), words);
      const __m512i odd = _mm512_mullo_epi16(_mm512_sub_epi16(_mm512_srli_epi16(codes, 8), offset), words);
      _mm512_store_si512(at, _mm512_mask_blend_epi8(0xaaaaaaaaaaaaaaaa, even, _mm512_slli_epi16(odd, 8)));
      _mm512_store_si512(planes.high + uint64_t{k} * kPanelRows,
                         _mm512_mask_blend_epi8(0xaaaaaaaaaaaaaaaa, _mm512_srli_epi16(even, 8), odd));
    }
  }
}

// Takes the offset from the codes of `cols` columns: signed bytes.
void subtract_offset(const Panel& panel, int32_t offset, uint32_t cols) {
  const __m512i bytes = _mm512_set1_epi8(static_cast<char>(offset));
  for (uint32_t k = 0; k < cols; k += 4) {
    uint8_t* at = panel.codes + uint64_t{k} * kPanelRows;
    _mm512_store_si512(at, _mm512_sub_epi8(_mm512_load_si512(at), bytes));
  }
}

// The memory of one call, carved out of its scratch.
struct Workspace {
  Planes panels[kGroupPanels];
  float* acc;
  float* unit_sums;  // [kTokenBlock][kFloatStride]
};

Workspace carve(void* scratch) {
  auto* memory = static_cast<uint8_t*>(scratch);
  const auto take = [&memory](uint64_t bytes) {
    uint8_t* taken = memory;
    memory += bytes;
    return taken;
  };
  Workspace space{};
  for (Planes& planes : space.panels) {
    planes.panel.codes = take(kPlaneBytes);
    planes.high = take(kPlaneBytes);
    planes.panel.scales = reinterpret_cast<int32_t*>(take(kScalesBytes));
    planes.panel.minima = reinterpret_cast<int32_t*>(take(kMinimaBytes));
    planes.panel.d = reinterpret_cast<float*>(take(kFloatsBytes));
    planes.panel.e = reinterpret_cast<float*>(take(kFloatsBytes));
  }
  space.acc = reinterpret_cast<float*>(take(kAccumulatorBytes));
  space.unit_sums = reinterpret_cast<float*>(take(kSumsBytes));
  return space;
}

// The part of a panel from column `col` on.
Planes panel_from(const Planes& planes, const Shape& s, uint32_t col) {
  const Panel& panel = planes.panel;
  return {{panel.codes + uint64_t{col} * kPanelRows, panel.scales + col / s.sub * kPanelRows,
           panel.minima + col / s.sub / 2 * kPanelRows, panel.d + col / s.block * kPanelRows,
           panel.e + col / s.block * kPanelRows},
          planes.high + uint64_t{col} * kPanelRows};
}

// One product: the constants of a call, and its steps from the outside in.
struct Product {
  const MatrixView& w;
  const ActivationView& x;
  avx512::UnpackFn unpack;
  Shape s;
  const TileChoice& tiles;
  Workspace space;

  void unpack_panel(uint32_t row, uint32_t rows, uint32_t col, uint32_t cols, const Planes& planes) const {
    unpack(w, row, rows, col, cols, planes.panel);
    if (!s.unit) {
      fold_scales(planes, s, cols);
    } else if (!s.affine) {
      subtract_offset(planes.panel, s.offset, cols);
    }
  }

  // Tokens [token + first, token + first + count) of a segment, in tiles of the configured size; acc is `token`'s.
  void multiply_tile_column(uint32_t panel_count, uint32_t col, uint32_t cols, uint32_t token, uint32_t first,
                            uint32_t count, float* acc) const {
    const uint64_t scale_stride = x.cols / s.block, sum_stride = x.cols / s.sub;
    const int16_t* sums = s.sub == 16 ? x.sums16 : x.sums32;
    for (uint32_t p = 0; p < panel_count; p += 2) {
      const bool two = panel_count - p >= 2;
      for (uint32_t part = 0; part < cols; part += tiles.cols) {
        const Planes panels[2] = {panel_from(space.panels[p], s, part),
                                  panel_from(space.panels[two ? p + 1 : p], s, part)};
        const uint32_t blocks = (cols - part < tiles.cols ? cols - part : tiles.cols) / s.block;
        for (uint32_t t = first; t < first + count; t += kTileTokens) {
          const uint64_t at = token + t;
          const TokenTile tile{
              count < kTileTokens ? count : kTileTokens,
              x.codes + at * x.cols + col + part,
              x.scales + at * scale_stride + (col + part) / s.block,
              sums + at * sum_stride + (col + part) / s.sub,
              x.cols,
              scale_stride,
              sum_stride,
              space.unit_sums + t * kFloatStride + part / s.block,
              p == 0 && at + kTokenBlock + kTileTokens <= x.tokens ? kTokenBlock * uint64_t{x.cols} : 0};
          (two ? tiles.two : tiles.one)(panels, blocks, tile, acc + p * kAccPanel + uint64_t{t} * kPanelRows);
        }
      }
    }
  }

  // Rows [row, row + rows) times tokens [token, token + tokens) over one segment of columns.
  void multiply_segment(uint32_t row, uint32_t rows, uint32_t col, uint32_t cols, uint32_t token,
                        uint32_t tokens) const {
    const uint32_t panel_count = (rows + kPanelRows - 1) / kPanelRows;
    const uint32_t step = s.block < 64 ? s.block : 64;
    for (uint32_t p = 0; p < panel_count; ++p) {
      const uint32_t first = p * kPanelRows;
      const uint32_t n = rows - first < kPanelRows ? rows - first : kPanelRows;
      unpack_panel(row + first, n, col, cols, space.panels[p]);
    }
    for (uint32_t t0 = 0; t0 < tokens; t0 += kTokenBlock) {
      const uint32_t count = tokens - t0 < kTokenBlock ? tokens - t0 : kTokenBlock;
      for (uint32_t t = 0; t < count && s.affine && s.unit; ++t) {
        const uint64_t at = token + t0 + t;
        avx512::sum_blocks(x.sums32 + at * (x.cols / 32) + col / 32, x.scales + (at * x.cols + col) / s.block,
                           cols / s.block, s.block, space.unit_sums + t * kFloatStride);
      }
      float* acc = space.acc + uint64_t{t0} * kPanelRows;
      const uint32_t whole = count / kTileTokens * kTileTokens;
      if (whole != 0) {
        configure_tiles(kTileTokens, step);
        multiply_tile_column(panel_count, col, cols, token + t0, 0, whole, acc);
      }
      if (whole != count) {
        configure_tiles(count - whole, step);
        multiply_tile_column(panel_count, col, cols, token + t0, whole, count - whole, acc);
      }
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
  const Shape s = avx512::shape_of(w);
  const Product product{w, x, avx512::panel_unpacker(w.format), s, find_tiles(s), carve(scratch)};
  constexpr uint32_t kGroupRows = kGroupPanels * kPanelRows;
  for (uint32_t row = row_begin; row < row_end; row += kGroupRows)
    for (uint32_t token = 0; token < x.tokens; token += kTokensMax)
      product.multiply_rows(row, row_end - row < kGroupRows ? row_end - row : kGroupRows, token,
                            x.tokens - token < kTokensMax ? x.tokens - token : kTokensMax, y, y_stride);
  _tile_release();
}

}  // namespace mlxf::kernels::amx
