// The scalar kernels: the specification that every instruction set is tested against.
// Plain loops in the order that kernels/kernel_table.h states, one std::fma per fused step; they may allocate, the
// others may not. Pure functions; any thread.
#pragma once

#include <cstdint>

#include "kernels/code_row.h"
#include "kernels/kernel_table.h"

namespace mlxf::kernels::reference {

void decode_values(const MatrixView& w, uint32_t row, uint32_t col_begin, uint32_t col_end, float* out);
void matmul_f32(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y,
                uint64_t y_stride, void* scratch);
void matmul_i8(const MatrixView& w, uint32_t row_begin, uint32_t row_end, const ActivationView& x, float* y,
               uint64_t y_stride, void* scratch);
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

}  // namespace mlxf::kernels::reference
