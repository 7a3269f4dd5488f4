// Cpu: the operations of a transformer over rows of f32 activations, split over a ThreadPool.
//
// Owned by the engine; called by one thread at a time (the pool's owner). Activations are row-major f32
// [tokens, width] in memory of the caller; scratch (quantised activations, per-worker tiles) belongs to Cpu,
// grows at first use and is then reused, so that steady decoding allocates nothing. Results do not depend on
// the number of threads, or on which tokens share a call (kernels/kernel_table.h).
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "compute/thread_pool.h"
#include "kernels/kernel_table.h"
#include "tensor/matrix.h"

namespace mlxf::compute {

// The arithmetic of products with quantised weights: kInt8 quantises activations per block
// (kernels/activations.h), kF32 dequantises weights. 16- and 32-bit weights always multiply in f32.
enum class Arithmetic : uint8_t { kInt8, kF32 };

// y[i, :] = w · x[token_index ? token_index[i] : x_row + i, :] for i < tokens.
struct MatmulJob {
  MatrixView w;
  const float* x = nullptr;
  uint64_t x_stride = 0;                  // Floats between rows of x.
  uint32_t x_rows = 0;                    // Rows that x has; 0: `tokens`. Jobs that share x give the same.
  uint32_t x_row = 0;                     // First row of x taken when token_index is null.
  const uint32_t* token_index = nullptr;  // Rows of x to take; null: `tokens` neighbours.
  uint32_t tokens = 0;
  float* y = nullptr;
  uint64_t y_stride = 0;
  bool force_f32 = false;  // Routers: f32 whatever the engine's arithmetic is.
};

// One query head of one token: see kernels::AttentionQuery. Queries that share key/value pages are grouped.
struct AttentionJob {
  kernels::AttentionArgs args;
  const kernels::AttentionQuery* queries = nullptr;
  uint32_t count = 0;
  bool latent = false;  // The pages are those of a latent cache.
};

class Cpu {
 public:
  struct Options {
    Arithmetic arithmetic = Arithmetic::kInt8;
  };
  // `kernels` and `pool` outlive this.
  Cpu(const kernels::KernelTable& kernels, ThreadPool& pool, const Options& options);
  ~Cpu();
  Cpu(const Cpu&) = delete;
  Cpu& operator=(const Cpu&) = delete;

  // All jobs, one or two barriers in total. Jobs that name the same x quantise it once. No two jobs overlap
  // in y.
  void matmul(std::span<const MatmulJob> jobs);
  // Until release_input(), products with x = `x` may take it as it was when first used: it is quantised once for
  // several calls. REQUIRES: x [rows, cols] does not change meanwhile, and `x_rows` of such jobs is `rows`.
  void hold_input(const float* x);
  void release_input();
  void attention(std::span<const AttentionJob> jobs);

  // out[row, :] = rms_norm(x[row, :]) * weight; weight null: 1. In place is allowed.
  struct Rows {
    const float* in = nullptr;
    uint64_t in_stride = 0;
    float* out = nullptr;
    uint64_t out_stride = 0;
    uint32_t rows = 0;
    uint32_t width = 0;
  };
  void rms_norm(const Rows& rows, const float* weight, float eps);

  // out[row] = act(gate[row]) * up[row], in place of either allowed.
  enum class Activation : uint8_t { kSilu, kGeluTanh, kSigmoid, kClampedSwiglu };
  void gated_activation(Activation kind, const float* gate, const float* up, float* out, uint64_t stride,
                        uint32_t rows, uint32_t width);

  // For whatever else is per row: fn(row, worker), in parallel when the work is worth a barrier.
  void for_each_row(uint32_t rows, ChunkFn fn);

  // Decodes one row of a matrix (an embedding) to f32.
  void decode_row(const MatrixView& w, uint32_t row, float* out) const;

  [[nodiscard]] const kernels::KernelTable& kernels() const;
  [[nodiscard]] ThreadPool& pool() const;
  [[nodiscard]] Arithmetic arithmetic() const;
  // What puts the rows of weights side by side for these kernels and this arithmetic; null where they are not to.
  [[nodiscard]] kernels::SideBySideFn put_side_by_side() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace mlxf::compute
