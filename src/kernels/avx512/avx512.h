// The AVX-512 kernels' entry points, one group per file of this folder. Compiled with F, BW, VL, DQ, VNNI, BF16 and
// VBMI: only this folder may include it. Pure functions over borrowed memory; any thread, one scratch per thread.
// See kernels/kernel_table.h for the arithmetic that all of them follow. What is missing here runs on AVX2's kernels.
#pragma once

#include <cstdint>

#include "kernels/activations.h"
#include "kernels/kernel_table.h"
#include "tensor/matrix.h"

namespace mlxf::kernels::avx512 {

// y = W x for any number of tokens: weights unpacked to panels of 16 rows, tiles of 32 rows x 6 tokens.
void matmul_panels(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                   float* y, uint64_t y_stride, void* scratch);

// y = W x for up to kFewTokens tokens, on the stored layout, several of them with up to kFewColsMax columns. Those of
// q8_0, i8_row, q5_k and mlx_packed take two tokens or more.
inline constexpr uint32_t kFewTokens = 8;
inline constexpr uint32_t kFewTokensQ6K = 16;  // It takes no scratch, and panels of it cost the most.
inline constexpr uint32_t kFewColsMax = 100000;
void multiply_few_q4_0(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                       float* y, uint64_t y_stride, void* scratch);
void multiply_few_q4_1(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                       float* y, uint64_t y_stride, void* scratch);
void multiply_few_q5_0(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                       float* y, uint64_t y_stride, void* scratch);
void multiply_few_q5_1(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                       float* y, uint64_t y_stride, void* scratch);
void multiply_few_q8_0(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                       float* y, uint64_t y_stride, void* scratch);
void multiply_few_iq4_nl(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                         float* y, uint64_t y_stride, void* scratch);
void multiply_few_mxfp4(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                        float* y, uint64_t y_stride, void* scratch);
void multiply_few_mlx_mxfp4(const MatrixView& w, uint32_t row_begin, uint32_t row_end,
                            const ActivationView& x, float* y, uint64_t y_stride, void* scratch);
void multiply_few_i8_row(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                         float* y, uint64_t y_stride, void* scratch);
void multiply_few_mlx_packed(const MatrixView& w, uint32_t row_begin, uint32_t row_end,
                             const ActivationView& x, float* y, uint64_t y_stride, void* scratch);
void multiply_few_q4_k(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                       float* y, uint64_t y_stride, void* scratch);
void multiply_few_q5_k(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                       float* y, uint64_t y_stride, void* scratch);
void multiply_few_q6_k(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                       float* y, uint64_t y_stride, void* scratch);

// y = W x of rows side by side, for few tokens: sixteen at a time.
void multiply_q4_k_x16(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                       float* y, uint64_t y_stride, void* scratch);
void multiply_q6_k_x16(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                       float* y, uint64_t y_stride, void* scratch);
// See kernels/side_by_side.h.
void put_side_by_side(const MatrixView& rows, uint8_t* target);

// y = W x for one token, on the stored layout.
void gemv_mlx_packed(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                     float* y, void* scratch);
void gemv_q2_k(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y,
               void* scratch);
void gemv_q3_k(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y,
               void* scratch);
void gemv_q5_k(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y,
               void* scratch);
void gemv_iq4_xs(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y,
                 void* scratch);

// Reads x.f32.
void matmul_f32_f32(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                    float* y, uint64_t y_stride, void* scratch);
void matmul_f32_f16(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                    float* y, uint64_t y_stride, void* scratch);
void matmul_f32_bf16(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                     float* y, uint64_t y_stride, void* scratch);
// Block-quantised weights dequantised row by row, then multiplied in f32.
void matmul_f32_decoded(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                        float* y, uint64_t y_stride, void* scratch);

// Whether this processor's L1 data cache has 32 KiB or less.
[[nodiscard]] bool small_l1();

void attention(const AttentionArgs& args, const AttentionQuery* queries, uint32_t count, void* scratch);
void latent_attention(const AttentionArgs& args, const AttentionQuery* queries, uint32_t count,
                      void* scratch);
void delta_rule(const DeltaRuleArgs& args);
void random_words(uint64_t key, uint32_t position, uint32_t block, uint32_t blocks, uint32_t* out);

}  // namespace mlxf::kernels::avx512
