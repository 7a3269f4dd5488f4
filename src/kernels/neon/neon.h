// The NEON kernels' entry points, one group per file of this folder. Compiled for ARMv8.2 with the dot product of
// bytes: only this folder and its tests may include it. Pure functions over borrowed memory; any thread, one scratch
// per thread. See kernels/kernel_table.h for the arithmetic that all of them follow.
#pragma once

#include <cstdint>

#include "kernels/activations.h"
#include "kernels/code_row.h"
#include "kernels/kernel_table.h"
#include "tensor/matrix.h"

namespace mlxf::kernels::neon {

// The decoder of one row to integer codes for a matrix of this format; the same arrays as the reference decoder's.
// null: the format has no integer form.
[[nodiscard]] DecodeCodesFn code_decoder(WeightFormat format);

// y = W x for one token, on the stored layout; every format of code_decoder.
void gemv(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y);

// y = W x for any number of tokens: weights unpacked to panels of 4 rows, tiles of 8 rows x 4 tokens.
void matmul_panels(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                   float* y, uint64_t y_stride, void* scratch);

// Reads x.f32.
void matmul_f32_f32(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                    float* y, uint64_t y_stride, void* scratch);
void matmul_f32_f16(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                    float* y, uint64_t y_stride, void* scratch);
void matmul_f32_bf16(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                     float* y, uint64_t y_stride, void* scratch);
// Block-quantised weights and F8E4M3 dequantised row by row, then multiplied in f32.
void matmul_f32_decoded(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x,
                        float* y, uint64_t y_stride, void* scratch);

// Elements as f32, with the bits of the reference.
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
void delta_rule(const DeltaRuleArgs& args);
void conv_silu(const ConvArgs& args);
void rms_norm(const float* x, const float* weight, uint32_t n, float eps, float* out);
void silu_mul(const float* gate, const float* up, uint32_t n, float* out);
void gelu_mul(const float* gate, const float* up, uint32_t n, float* out);
void sigmoid_mul(const float* gate, const float* up, uint32_t n, float* out);
void clamped_swiglu(const float* gate, const float* up, uint32_t n, float* out);
void add_scaled(const float* x, float a, uint32_t n, float* y);
void narrow_f16(const float* x, uint32_t n, uint16_t* out);

}  // namespace mlxf::kernels::neon
