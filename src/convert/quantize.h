// quantize(): rewrites a 16-bit hub checkpoint in few bits, as an MLX folder or as a GGUF file.
//
// Streams tensor by tensor: memory stays at a few slices of rows per thread. The output appears whole or not
// at all, and existing files are never overwritten. It is opened again and the first and last rows of every tensor
// are encoded a second time and compared, and what differs is not left behind. One call at a time per ThreadPool.
//
// MLX: the encoder of mlx_affine.h; experts stacked as mlx-lm stores them; routers at 8 bits unless told
// otherwise, since they are tiny and every other weight depends on them; norms, biases and whatever has rows
// that are no multiple of the group are copied. GGUF: the encoders of gguf_blocks.h in llama.cpp's mix of
// types, metadata from config.json, the tokenizer from tokenizer.json.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "compute/thread_pool.h"
#include "convert/mlx_affine.h"
#include "convert/progress.h"
#include "convert/tensor_role.h"

namespace mlxf::convert {

// What --type names: mlx2 … mlx8 or a GGUF mix.
struct QuantizeType {
  std::optional<GgufMix> gguf;  // Empty: MLX.
  uint32_t mlx_bits = 4;
};
[[nodiscard]] Result<QuantizeType> parse_quantize_type(std::string_view name);

// "PATTERN=TYPE": tensors whose module name contains PATTERN get other bits, or stay as they are. MLX: TYPE is
// mlx2 … mlx8, with ":GROUP" for another group, or none. The first pattern that matches wins.
struct Override {
  std::string pattern;
  std::optional<AffineFormat> format;  // Empty: not quantised. scale_type is set by quantize().
};
// `group` is used where the text names none.
[[nodiscard]] Result<Override> parse_override(std::string_view text, uint32_t group);

struct QuantizeOptions {
  std::string model;
  std::string out;
  QuantizeType type;
  uint32_t group = 64;              // MLX: 32, 64 or 128.
  std::optional<DType> scale_type;  // MLX: kBF16 or kF16; empty: the weight's own, F16 for F32.
  AffineEncoder encoder = AffineEncoder::kRefined;
  std::vector<Override> overrides;
  uint64_t shard_bytes_max = uint64_t{5} << 30;
};

struct QuantizeReport {
  uint64_t source_bytes = 0;
  uint64_t written_bytes = 0;
  uint64_t quantized_weights = 0;
  // Root of (sum of squared errors / sum of squared weights) over all quantised weights.
  double relative_error = 0.0;
};

[[nodiscard]] Result<QuantizeReport> quantize(const QuantizeOptions& options, compute::ThreadPool& pool,
                                              const ProgressFn& progress);

}  // namespace mlxf::convert
