// KernelTable: the leaf maths of one instruction set, as plain functions over pointers.
//
// One table per ISA (reference, AVX2, AVX-512, AMX, NEON); an ISA leaves an entry null to inherit the one below
// it. select_kernels() asks CPUID and the operating system once. Kernels never spawn threads, never allocate
// and never fail; they get a range of rows, so any split of the rows over threads is legal.
//
// Same bits. The result for one (row, token) never depends on the number of tokens, the row range, or the
// thread:
//  * int8 kernels: inside a block of `activation_block` elements everything is integer and exact. Over
//  blocks,
//    ascending, one accumulator per (row, token), fused multiply-adds:
//        acc = fma(float(S_b), d_b * dx_b, acc);   affine formats then   acc = fma(float(M_b), e_b * dx_b,
//        acc)
//    S_b = sum of sub-scale * (code . x), with a symmetric offset folded in, M_b = sum of sub-min * sum(x),
//    d_b and e_b the block's float scale and (negated) minimum. So every ISA gives the same bits as the
//    reference.
//  * f32 kernels: lane j of `float_lanes` accumulators sums the elements k = j (mod float_lanes), ascending,
//  by FMA;
//    the lanes are added pairwise: halves, quarters, eighths. The same within one ISA.
#pragma once

#include <cstdint>

#include "kernels/activations.h"
#include "kernels/side_by_side.h"
#include "tensor/matrix.h"

namespace mlxf::kernels {

// y[t * y_stride + r] = sum_k w[r, k] * x[t, k] for row_begin <= r < row_end and every token of x.
// `scratch` is kMatmulScratchBytes of 64-byte-aligned memory owned by the calling thread.
using MatmulFn = void (*)(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                          float* y, uint64_t y_stride, void* scratch);
inline constexpr uint64_t kMatmulScratchBytes = uint64_t{1} << 20;
inline constexpr uint32_t kMatmulColsMax = 1u << 18;

// out[0 .. col_end - col_begin) = the elements of one row as f32. The bounds are multiples of the format's
// block.
using DecodeFn = void (*)(const MatrixView& w, uint32_t row, uint32_t col_begin, uint32_t col_end,
                          float* out);

// Quantises one row: codes [cols], scales [cols / block], sums16 [cols / 16], sums32 [cols / 32].
// REQUIRES: cols a multiple of block, block a multiple of 32.
using QuantizeFn = void (*)(const float* x, uint32_t cols, uint32_t block, int8_t* codes, float* scales,
                            int16_t* sums16, int16_t* sums32);

// Attention of several queries over the same key/value head, positions in pages of kPagePositions.
inline constexpr uint32_t kPagePositions = 64;
struct AttentionQuery {
  const float* q;       // [head_dim]
  float* out;           // [value_dim]
  uint32_t begin, end;  // Attends to positions begin <= p < end; begin < end.
  float sink;           // Logit that takes part in the softmax and contributes nothing; -inf: none.
};
struct AttentionArgs {
  uint32_t head_dim = 0;   // A multiple of 16 (callers pad with zeros).
  uint32_t value_dim = 0;  // A multiple of 16.
  float scale = 1.0f;
  bool kv_f32 = false;    // The pages hold f32 instead of f16; offsets count elements all the same.
  float soft_cap = 0.0f;  // 0: none; otherwise s -> cap * tanh(s / cap).
  // Page i holds positions [64 i, 64 i + 64); keys f16 [64, head_dim], values f16 [64, value_dim] of this
  // head.
  const uint16_t* const* key_pages = nullptr;
  const uint16_t* const* value_pages = nullptr;
  uint64_t key_offset = 0;    // Elements from the page's start to this head's keys,
  uint64_t value_offset = 0;  // and to its values.
};
// A latent cache (kv/latent_pages.h) has one row per position, [64, head_dim] in a page, that is the key of all heads;
// its first value_dim elements are their value. Then key_pages are read alone.

// Per query: tiles are the pages, ascending; online softmax over tiles, f32 throughout. `scratch` as for
// MatmulFn.
using AttentionFn = void (*)(const AttentionArgs& args, const AttentionQuery* queries, uint32_t count,
                             void* scratch);

// The gated delta rule of one head over `positions` positions, ascending, on its state S [key_dim, value_dim]:
//   s = decay * S;   delta = beta * (v - k s);   S = s + k (x) delta;   out = q S
// Columns of S do not depend on each other; products with k and q are one chain of fused multiply-adds over ascending
// rows, and the decay is a rounded product. So every ISA gives the bits of the reference, and so does every way to cut
// the positions into calls. S lies in tiles of kDeltaTileCols columns, the last one narrower, each [key_dim, columns]:
// a tile of 16 KiB stays in L1 while all positions pass.
inline constexpr uint32_t kDeltaTileCols = 32;
struct DeltaRuleArgs {
  uint32_t key_dim = 0;
  uint32_t value_dim = 0;
  uint32_t positions = 0;
  const float* q = nullptr;  // [positions, key_dim], rows key_stride floats apart.
  const float* k = nullptr;
  uint64_t key_stride = 0;
  const float* v = nullptr;  // [positions, value_dim], rows value_stride floats apart.
  uint64_t value_stride = 0;
  const float* decay = nullptr;  // [positions], gate_stride floats apart.
  const float* beta = nullptr;
  uint64_t gate_stride = 0;
  float* out = nullptr;  // As v, and it may be v.
  uint64_t out_stride = 0;
  const float* state_before = nullptr;
  float* state_after = nullptr;  // May be state_before.
};
using DeltaRuleFn = void (*)(const DeltaRuleArgs& args);

// The depthwise causal convolution of one position, then silu:
//   out[i] = silu(sum_j weights[j * stride + i] * rows[j][i]), j ascending, by FMA.
// rows[taps - 1] is the position's own.
struct ConvArgs {
  uint32_t taps = 0;
  uint32_t channels = 0;
  const float* const* rows = nullptr;
  const float* weights = nullptr;
  uint64_t stride = 0;
  float* out = nullptr;
};
using ConvFn = void (*)(const ConvArgs& args);

struct KernelTable {
  const char* isa;
  MatmulFn matmul_f32[kWeightFormatCount];  // Reads x.f32.
  MatmulFn matmul_i8[kWeightFormatCount];   // Reads x.codes; null for the 16- and 32-bit formats.
  DecodeFn decode[kWeightFormatCount];
  // put_side_by_side of this instruction set; null: its products of rows side by side are slower than of the others.
  SideBySideFn put_side_by_side;
  QuantizeFn quantize;
  AttentionFn attention;
  AttentionFn latent_attention;  // Over a latent cache.
  // out[i] = x[i] * weight[i] / sqrt(mean(x^2) + eps); weight null: 1. In place is allowed.
  void (*rms_norm)(const float* x, const float* weight, uint32_t n, float eps, float* out);
  // out[i] = silu(gate[i]) * up[i], and with gelu's tanh form. In place is allowed.
  void (*silu_mul)(const float* gate, const float* up, uint32_t n, float* out);
  void (*gelu_mul)(const float* gate, const float* up, uint32_t n, float* out);
  // out[i] = sigmoid(gate[i]) * up[i]. In place is allowed.
  void (*sigmoid_mul)(const float* gate, const float* up, uint32_t n, float* out);
  // out[i] = (u + 1) * g * sigmoid(1.702 g) with g = min(gate[i], 7) and u = up[i] within [-7, 7]. In place is allowed.
  void (*clamped_swiglu)(const float* gate, const float* up, uint32_t n, float* out);
  // y[i] += a * x[i]
  void (*add_scaled)(const float* x, float a, uint32_t n, float* y);
  // out[i] = f16(x[i]), round to nearest even.
  void (*narrow_f16)(const float* x, uint32_t n, uint16_t* out);
  DeltaRuleFn delta_rule;
  ConvFn conv_silu;
  // out[4 i + w] = word w of philox4x32(key, {position, block + i, 0, 0}) (philox.h), for 0 <= i < blocks.
  void (*random_words)(uint64_t key, uint32_t position, uint32_t block, uint32_t blocks, uint32_t* out);
};

// The scalar specification: every entry is filled.
[[nodiscard]] const KernelTable& reference_kernels();

// The tables of this machine, best first, the reference last; each complete (inherited entries filled in).
struct KernelSet {
  const KernelTable* tables[4];
  uint32_t count;
};
[[nodiscard]] const KernelSet& available_kernels();

// The best table, or the one that the environment variable MLXF_ISA names (reference, avx2, avx512, amx, neon)
// when this machine has it.
[[nodiscard]] const KernelTable& select_kernels();

}  // namespace mlxf::kernels
