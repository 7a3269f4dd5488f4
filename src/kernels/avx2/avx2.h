// The AVX2 kernels' entry points, one group per file of this folder. Compiled with AVX2, FMA and F16C: only
// this folder and its table may include it. See kernels/kernel_table.h for the arithmetic that all of them
// follow.
#pragma once

#include <cstdint>

#include "kernels/activations.h"
#include "kernels/code_row.h"
#include "kernels/kernel_table.h"
#include "tensor/matrix.h"

namespace mlxf::kernels::avx2 {

// Decoders of one row to integer codes; the same arrays as the reference decoders. null: none for that
// format.
[[nodiscard]] DecodeCodesFn code_decoder(WeightFormat format);
void decode_codes_q4_0(const MatrixView& w, uint32_t row, uint32_t block_begin, uint32_t block_end,
                       const CodeRow& out);
void decode_codes_q4_1(const MatrixView& w, uint32_t row, uint32_t block_begin, uint32_t block_end,
                       const CodeRow& out);
void decode_codes_q5_0(const MatrixView& w, uint32_t row, uint32_t block_begin, uint32_t block_end,
                       const CodeRow& out);
void decode_codes_q5_1(const MatrixView& w, uint32_t row, uint32_t block_begin, uint32_t block_end,
                       const CodeRow& out);
void decode_codes_iq4_nl(const MatrixView& w, uint32_t row, uint32_t block_begin, uint32_t block_end,
                         const CodeRow& out);
void decode_codes_mxfp4(const MatrixView& w, uint32_t row, uint32_t block_begin, uint32_t block_end,
                        const CodeRow& out);
void decode_codes_mlx_mxfp4(const MatrixView& w, uint32_t row, uint32_t block_begin, uint32_t block_end,
                            const CodeRow& out);
void decode_codes_q2_k(const MatrixView& w, uint32_t row, uint32_t block_begin, uint32_t block_end,
                       const CodeRow& out);
void decode_codes_q3_k(const MatrixView& w, uint32_t row, uint32_t block_begin, uint32_t block_end,
                       const CodeRow& out);
void decode_codes_q5_k(const MatrixView& w, uint32_t row, uint32_t block_begin, uint32_t block_end,
                       const CodeRow& out);
void decode_codes_iq4_xs(const MatrixView& w, uint32_t row, uint32_t block_begin, uint32_t block_end,
                         const CodeRow& out);
void decode_codes_q4_k(const MatrixView& w, uint32_t row, uint32_t block_begin, uint32_t block_end,
                       const CodeRow& out);
void decode_codes_q6_k(const MatrixView& w, uint32_t row, uint32_t block_begin, uint32_t block_end,
                       const CodeRow& out);
void decode_codes_q8_0(const MatrixView& w, uint32_t row, uint32_t block_begin, uint32_t block_end,
                       const CodeRow& out);
void decode_codes_i8_row(const MatrixView& w, uint32_t row, uint32_t block_begin, uint32_t block_end,
                         const CodeRow& out);
void decode_codes_mlx(const MatrixView& w, uint32_t row, uint32_t block_begin, uint32_t block_end,
                      const CodeRow& out);

// y = W x for any number of tokens: weights unpacked to panels of 8 rows, tiles of 16 rows x 3 tokens.
void matmul_panels(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                   float* y, uint64_t y_stride, void* scratch, DecodeCodesFn decode);

// y = W x for one token, on the stored layout.
void gemv_q4_k(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y);
void gemv_q6_k(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y);
void gemv_q2_k(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y);
void gemv_q3_k(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y);
void gemv_q5_k(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y);
void gemv_iq4_xs(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                 float* y);
void gemv_q4_0(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y);
void gemv_q4_1(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y);
void gemv_q5_0(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y);
void gemv_q5_1(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y);
void gemv_iq4_nl(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                 float* y);
void gemv_mxfp4(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y);
void gemv_mlx_mxfp4(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                    float* y, void* scratch);
void gemv_q8_0(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y);
void gemv_i8_row(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                 float* y);
void gemv_mlx2(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y);
void gemv_mlx3(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y);
void gemv_mlx5(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y);
void gemv_mlx6(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y);
void gemv_mlx4(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y,
               void* scratch);
void gemv_mlx8(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y);

void matmul_f32_f32(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                    float* y, uint64_t y_stride, void* scratch);
void matmul_f32_f16(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                    float* y, uint64_t y_stride, void* scratch);
void matmul_f32_bf16(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                     float* y, uint64_t y_stride, void* scratch);
// Block-quantised weights dequantised row by row, then multiplied in f32.
void matmul_f32_decoded(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                        float* y, uint64_t y_stride, void* scratch);

// Every format that has an integer decoder, and F8E4M3: the bits of the reference.
void decode_blocks(const MatrixView& w, uint32_t row, uint32_t col_begin, uint32_t col_end, float* out);
void decode_f8e4m3(const MatrixView& w, uint32_t row, uint32_t col_begin, uint32_t col_end, float* out);
void decode_f32(const MatrixView& w, uint32_t row, uint32_t col_begin, uint32_t col_end, float* out);
void decode_f16(const MatrixView& w, uint32_t row, uint32_t col_begin, uint32_t col_end, float* out);
void decode_bf16(const MatrixView& w, uint32_t row, uint32_t col_begin, uint32_t col_end, float* out);

void quantize(const float* x, uint32_t cols, uint32_t block, int8_t* codes, float* scales, int16_t* sums16,
              int16_t* sums32);
void attention(const AttentionArgs& args, const AttentionQuery* queries, uint32_t count, void* scratch);
void latent_attention(const AttentionArgs& args, const AttentionQuery* queries, uint32_t count,
                      void* scratch);
void rms_norm(const float* x, const float* weight, uint32_t n, float eps, float* out);
void silu_mul(const float* gate, const float* up, uint32_t n, float* out);
void gelu_mul(const float* gate, const float* up, uint32_t n, float* out);
void clamped_swiglu(const float* gate, const float* up, uint32_t n, float* out);
void add_scaled(const float* x, float a, uint32_t n, float* y);
void narrow_f16(const float* x, uint32_t n, uint16_t* out);
void random_words(uint64_t key, uint32_t position, uint32_t block, uint32_t blocks, uint32_t* out);
void sigmoid_mul(const float* gate, const float* up, uint32_t n, float* out);
void delta_rule(const DeltaRuleArgs& args);
void conv_silu(const ConvArgs& args);

}  // namespace mlxf::kernels::avx2
