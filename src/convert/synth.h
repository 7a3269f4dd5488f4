// synthesise(): a model of random weights in a real model's exact shape, as GGUF or as an MLX folder.
//
// For measuring speed: every block is unique, activations keep unit scale and logits a standard deviation of
// about 2, so that engines do the same work as on the real weights. The same options give the same bytes.
//
// Routing. With random weights every expert is as likely as any other. `routing_skew` S gives each expert of
// each layer a standing preference drawn from N(0, S^2) beside the token's own N(0, 1), roughly: all embedding
// rows share a positive component over the first 256 columns (the direction u), which survives the norms, and
// each router row gets a multiple of u. Popular experts are then chosen again and again, token after token.
// Measured on qwen3-30b-a3b (6 layers, 512 random tokens): share of choices that the busiest 13 % and 25 % of
// experts take, share of experts that the token before had chosen too, hit rate of LRU with 13 % and 25 %:
//     S = 0: .18 .31 .06 .11 .23      S = 0.5: .50 .70 .18 .30 .53      S = 0.75: .63 .82 .27 .44 .69
//     S = 1: .73 .89 .36 .56 .81      S = 1.5: .85 .97 .49 .74 .93
// Published caches for the real model hit .53 and .76 at these sizes, so S of 0.75 to 1 is like it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "convert/progress.h"
#include "convert/shapes.h"

namespace mlxf::convert {

enum class SynthFormat : uint8_t { kQ4KM, kQ8_0, kQ4_0, kBF16, kMxfp4, kMlx4, kMlx8 };

// By the names of --format: q4_k_m, q8_0, q4_0, bf16, mxfp4 (GGUF); mlx4, mlx8 (folders).
[[nodiscard]] Result<SynthFormat> parse_synth_format(std::string_view name);

struct SynthOptions {
  ModelShape shape;
  std::optional<SynthFormat> format;  // Unset: mxfp4 for gpt-oss, which has no other, else q4_k_m.
  std::optional<uint32_t> layers;     // Fewer than the shape has; the type mix follows the new number.
  double routing_skew = 0.0;
  uint64_t seed = 1;
  std::string out;  // A file for GGUF, a folder for MLX. Must not exist.
  // GGUF only: all that describes the model, and holes for its matrices: a file of the model's length that takes some
  // megabytes of the disk. For whoever only reads headers.
  bool outline = false;
};

[[nodiscard]] Status synthesise(const SynthOptions& options, const ProgressFn& progress);

}  // namespace mlxf::convert
