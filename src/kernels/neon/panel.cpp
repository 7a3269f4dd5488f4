// The int8 matrix product for several tokens (prefill, batches): one core for every integer format.
//
// Weights of 4 rows are unpacked once into a panel and multiplied with every token of the call.
//   codes  [cols / 4][4 rows][4] s8: one vector holds 4 consecutive elements of each row, so an int32 lane of sdot
//          belongs to one row and no horizontal sum is ever needed; sdot takes the 4 elements of x from a lane of a
//          vector of 16. Codes of 8 bits unsigned are flipped to code - 128, and 128 * scale joins the minima of S.
//   scales, symmetric and affine minima  [cols / sub][4] s32; d, e [blocks][4] f32.
// A tile is 2 panels x 4 tokens: 8 sums of a sub-block and 8 of the block, 4 vectors of x, 2 of weights: 22 of 32
// registers, and 12 loads feed 32 sdot. S and M are separate passes. Bound: two sdot (32 products) a cycle.
#include <arm_neon.h>

#include <cstdint>

#include "kernels/neon/neon.h"

namespace mlxf::kernels::neon {
namespace {

constexpr uint32_t kPanelRows = 4;
constexpr uint32_t kGroupPanels =
    4;  // Panels unpacked together: 16 rows share one pass over the activations.
constexpr uint32_t kSegmentCols = 2048;  // Unpacked columns: 4 panels of codes are then 32 KiB.
constexpr uint32_t kTokensMax = 1024;    // Tokens per pass: bounds the accumulators in scratch.
constexpr uint32_t kTileTokens = 4;
constexpr uint32_t kSubs = kSegmentCols / 16;    // At most, per row and segment,
constexpr uint32_t kBlocks = kSegmentCols / 32;  // and blocks.

struct Panel {
  int8_t codes[kSegmentCols / 4][kPanelRows][4];
  int32_t scales[kSubs][kPanelRows];
  int32_t symmetric[kSubs][kPanelRows];  // Minima folded into S.
  int32_t affine[kSubs][kPanelRows];     // Minima that give M.
  float d[kBlocks][kPanelRows];
  float e[kBlocks][kPanelRows];
};

// Decoded rows before they are spread over a panel.
struct RowBuffers {
  uint8_t codes[kPanelRows][kSegmentCols];
  int16_t scales[kPanelRows][kSubs];
  int16_t minimums[kPanelRows][kSubs];
  float d[kPanelRows][kBlocks];
  float e[kPanelRows][kBlocks];
};

// The chains of a token and a panel.
struct Chains {
  float s[kPanelRows];
  float m[kPanelRows];
};

struct Scratch {
  Panel panels[kGroupPanels];
  Chains chains[kGroupPanels][kTokensMax];
  RowBuffers rows;
};
static_assert(sizeof(Scratch) <= kMatmulScratchBytes);

struct Shape {
  uint32_t block, sub;
  bool flip;       // Codes of 8 bits unsigned.
  bool scaled;     // Sub-blocks have scales other than 1.
  bool symmetric;  // Minima in S.
  bool affine;     // Minima in M.
};

Shape shape_of(const CodeTraits& t) {
  const bool flip = !t.is_signed && t.code_max > 127;
  return {t.block,
          t.sub,
          flip,
          t.block == 256,
          flip || t.minimum == MinimumKind::kSymmetric,
          t.minimum == MinimumKind::kAffine};
}

void spread_codes(const RowBuffers& rows, uint32_t cols, bool flip, Panel& panel) {
  const uint8x16_t mask = vdupq_n_u8(flip ? 0x80 : 0);
  for (uint32_t k = 0; k < cols; k += 16) {
    uint32x4x4_t v;
    for (uint32_t r = 0; r < kPanelRows; ++r)
      v.val[r] = vreinterpretq_u32_u8(veorq_u8(vld1q_u8(rows.codes[r] + k), mask));
    uint32_t columns[16];
    vst4q_u32(columns, v);  // Dword j of row r to 4 j + r.
    __builtin_memcpy(panel.codes[k / 4], columns, sizeof columns);
  }
}

// `rows` past the end repeat the last one; their results are not stored.
void build_panel(const MatrixView& w, const Shape& s, uint32_t row, uint32_t rows, uint32_t col,
                 uint32_t cols, RowBuffers& buffers, Panel& panel) {
  const DecodeCodesFn decode = code_decoder(w.format);
  for (uint32_t r = 0; r < kPanelRows; ++r) {
    const CodeRow out{buffers.codes[r], buffers.scales[r], buffers.minimums[r], buffers.d[r], buffers.e[r]};
    decode(w, row + (r < rows ? r : rows - 1), col / s.block, (col + cols) / s.block, out);
  }
  spread_codes(buffers, cols, s.flip, panel);
  for (uint32_t r = 0; r < kPanelRows; ++r) {
    for (uint32_t j = 0; j < cols / s.sub; ++j) {
      const int32_t scale = buffers.scales[r][j];
      panel.scales[j][r] = scale;
      if (s.symmetric) panel.symmetric[j][r] = s.flip ? 128 * scale : buffers.minimums[r][j];
      if (s.affine) panel.affine[j][r] = buffers.minimums[r][j];
    }
    for (uint32_t b = 0; b < cols / s.block; ++b) {
      panel.d[b][r] = buffers.d[r][b];
      if (s.affine) panel.e[b][r] = buffers.e[r][b];
    }
  }
}

// The activations of one tile, from the segment's first column.
struct TokenTile {
  const int8_t* codes;
  const float* scales;
  const int16_t* sums;  // Per sub-block.
  uint64_t code_stride, scale_stride, sum_stride;
};

// dot[p][t] += 4 columns of panel p x lane LANE of v[t].
template <int LANE, uint32_t P, uint32_t T>
inline __attribute__((always_inline)) void dot_lane(const Panel* panels, uint32_t k, const int8x16_t (&v)[T],
                                                    int32x4_t (&dot)[P][T]) {
#pragma GCC unroll 2
  for (uint32_t p = 0; p < P; ++p) {
    const int8x16_t w = vld1q_s8(&panels[p].codes[k / 4 + LANE][0][0]);
#pragma GCC unroll 4
    for (uint32_t t = 0; t < T; ++t) dot[p][t] = vdotq_laneq_s32(dot[p][t], w, v[t], LANE);
  }
}

template <uint32_t SUB, uint32_t P, uint32_t T>
inline __attribute__((always_inline)) void dot_sub(const Panel* panels, uint32_t k, const TokenTile& x,
                                                   int32x4_t (&dot)[P][T]) {
#pragma GCC unroll 2
  for (uint32_t i = 0; i < SUB; i += 16) {
    int8x16_t v[T];
#pragma GCC unroll 4
    for (uint32_t t = 0; t < T; ++t) v[t] = vld1q_s8(x.codes + t * x.code_stride + k + i);
    dot_lane<0>(panels, k + i, v, dot);
    dot_lane<1>(panels, k + i, v, dot);
    dot_lane<2>(panels, k + i, v, dot);
    dot_lane<3>(panels, k + i, v, dot);
  }
}

// The S chains of P panels x T tokens over `blocks` blocks of `subs` sub-blocks.
template <uint32_t SUB, bool SCALED, uint32_t P, uint32_t T>
void tile_products(const Panel* panels, uint32_t blocks, uint32_t subs, bool symmetric, const TokenTile& x,
                   Chains* const* chains) {
  for (uint32_t b = 0; b < blocks; ++b) {
    int32x4_t s[P][T];
    for (uint32_t p = 0; p < P; ++p)
      for (uint32_t t = 0; t < T; ++t) s[p][t] = vdupq_n_s32(0);
    for (uint32_t j = b * subs; j < (b + 1) * subs; ++j) {
      if constexpr (SCALED) {
        int32x4_t dot[P][T];
        for (uint32_t p = 0; p < P; ++p)
          for (uint32_t t = 0; t < T; ++t) dot[p][t] = vdupq_n_s32(0);
        dot_sub<SUB>(panels, j * SUB, x, dot);
        for (uint32_t p = 0; p < P; ++p) {
          const int32x4_t scale = vld1q_s32(panels[p].scales[j]);
          for (uint32_t t = 0; t < T; ++t) s[p][t] = vmlaq_s32(s[p][t], dot[p][t], scale);
        }
      } else {
        dot_sub<SUB>(panels, j * SUB, x, s);
      }
      if (symmetric) {
        for (uint32_t p = 0; p < P; ++p) {
          const int32x4_t minimum = vld1q_s32(panels[p].symmetric[j]);
          for (uint32_t t = 0; t < T; ++t)
            s[p][t] = vmlaq_n_s32(s[p][t], minimum, x.sums[t * x.sum_stride + j]);
        }
      }
    }
    for (uint32_t t = 0; t < T; ++t) {
      const float dx = x.scales[t * x.scale_stride + b];
      for (uint32_t p = 0; p < P; ++p) {
        const float32x4_t d = vmulq_n_f32(vld1q_f32(panels[p].d[b]), dx);
        float* total = chains[p][t].s;
        vst1q_f32(total, vfmaq_f32(vld1q_f32(total), vcvtq_f32_s32(s[p][t]), d));
      }
    }
  }
}

// The M chains of one panel and one token: integer minima times sums of x.
void add_minima(const Panel& panel, uint32_t blocks, uint32_t subs, const int16_t* sums, const float* scales,
                Chains& chains) {
  float32x4_t total = vld1q_f32(chains.m);
  for (uint32_t b = 0; b < blocks; ++b) {
    int32x4_t m = vdupq_n_s32(0);
    for (uint32_t j = b * subs; j < (b + 1) * subs; ++j)
      m = vmlaq_n_s32(m, vld1q_s32(panel.affine[j]), sums[j]);
    total = vfmaq_f32(total, vld1q_f32(panel.e[b]), vmulq_n_f32(vcvtq_f32_s32(m), scales[b]));
  }
  vst1q_f32(chains.m, total);
}

using TileFn = void (*)(const Panel*, uint32_t, uint32_t, bool, const TokenTile&, Chains* const*);

// Tiles by [panels - 1][tokens - 1].
struct TileSet {
  TileFn fn[2][kTileTokens];
};

template <uint32_t SUB, bool SCALED>
constexpr TileSet products() {
  return {{{tile_products<SUB, SCALED, 1, 1>, tile_products<SUB, SCALED, 1, 2>,
            tile_products<SUB, SCALED, 1, 3>, tile_products<SUB, SCALED, 1, 4>},
           {tile_products<SUB, SCALED, 2, 1>, tile_products<SUB, SCALED, 2, 2>,
            tile_products<SUB, SCALED, 2, 3>, tile_products<SUB, SCALED, 2, 4>}}};
}

constexpr TileSet kScaled16 = products<16, true>();
constexpr TileSet kScaled32 = products<32, true>();
constexpr TileSet kPlain = products<32, false>();

// One segment of columns of a group of panels for tokens [token, token + tokens).
void multiply_segment(const Shape& s, Scratch& memory, uint32_t panel_count, const ActivationView& x,
                      uint32_t token, uint32_t tokens, uint32_t col, uint32_t cols) {
  const TileSet& tiles = !s.scaled ? kPlain : s.sub == 16 ? kScaled16 : kScaled32;
  const uint32_t blocks = cols / s.block, subs = s.block / s.sub;
  const uint64_t scale_stride = x.cols / s.block, sum_stride = x.cols / s.sub;
  const int16_t* all_sums = s.sub == 16 ? x.sums16 : x.sums32;
  for (uint32_t t = 0; t < tokens; t += kTileTokens) {
    const uint32_t n = tokens - t < kTileTokens ? tokens - t : kTileTokens;
    const uint64_t at = token + t;
    const TokenTile tile{x.codes + at * x.cols + col,
                         x.scales + at * scale_stride + col / s.block,
                         all_sums + at * sum_stride + col / s.sub,
                         x.cols,
                         scale_stride,
                         sum_stride};
    for (uint32_t p = 0; p < panel_count; p += 2) {
      const uint32_t width = panel_count - p < 2 ? 1 : 2;
      Chains* chains[2] = {&memory.chains[p][t], width == 2 ? &memory.chains[p + 1][t] : nullptr};
      tiles.fn[width - 1][n - 1](&memory.panels[p], blocks, subs, s.symmetric, tile, chains);
      if (!s.affine) continue;
      for (uint32_t i = 0; i < width; ++i)
        for (uint32_t u = 0; u < n; ++u)
          add_minima(memory.panels[p + i], blocks, subs, tile.sums + u * sum_stride,
                     tile.scales + u * scale_stride, chains[i][u]);
    }
  }
}

}  // namespace

void matmul_panels(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                   float* y, uint64_t y_stride, void* scratch) {
  const Shape s = shape_of(code_traits(w));
  Scratch& memory = *static_cast<Scratch*>(scratch);
  for (uint32_t group = row_begin; group < row_end; group += kGroupPanels * kPanelRows) {
    const uint32_t left = row_end - group;
    const uint32_t rows = left < kGroupPanels * kPanelRows ? left : kGroupPanels * kPanelRows;
    const uint32_t panel_count = (rows + kPanelRows - 1) / kPanelRows;
    for (uint32_t token = 0; token < x.tokens; token += kTokensMax) {
      const uint32_t tokens = x.tokens - token < kTokensMax ? x.tokens - token : kTokensMax;
      for (uint32_t p = 0; p < panel_count; ++p)
        __builtin_memset(memory.chains[p], 0, tokens * sizeof(Chains));
      for (uint32_t col = 0; col < x.cols; col += kSegmentCols) {
        const uint32_t cols = x.cols - col < kSegmentCols ? x.cols - col : kSegmentCols;
        for (uint32_t p = 0; p < panel_count; ++p) {
          const uint32_t first = p * kPanelRows;
          build_panel(w, s, group + first, rows - first < kPanelRows ? rows - first : kPanelRows, col, cols,
                      memory.rows, memory.panels[p]);
        }
        multiply_segment(s, memory, panel_count, x, token, tokens, col, cols);
      }
      for (uint32_t p = 0; p < panel_count; ++p) {
        const uint32_t first = p * kPanelRows;
        const uint32_t n = rows - first < kPanelRows ? rows - first : kPanelRows;
        for (uint32_t t = 0; t < tokens; ++t) {
          const Chains& chains = memory.chains[p][t];
          for (uint32_t r = 0; r < n; ++r)
            y[(token + t) * y_stride + group + first + r] =
                s.affine ? chains.s[r] + chains.m[r] : chains.s[r];
        }
      }
    }
  }
}

}  // namespace mlxf::kernels::neon
