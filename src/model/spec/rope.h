// RopeSpec: a rotary position embedding as the configuration describes it.
//
// Plain data; a model has few of them, which its layers name by index. blocks/rope.h has the formulas.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "model/spec/tensor_source.h"

namespace mlxf::model {

enum class RopeLayout : uint8_t {
  kHalfSplit,    // Element i rotates with i + dims / 2.
  kInterleaved,  // Element 2 i rotates with 2 i + 1.
};
enum class RopeScaling : uint8_t { kNone, kLinear, kLlama3, kYarn, kLongRope, kDynamic, kProportional };

// Rotary position embedding of the first `dims` elements of each head.
struct RopeSpec {
  uint32_t dims = 0;
  float base = 10000.0f;
  RopeLayout layout = RopeLayout::kHalfSplit;
  RopeScaling scaling = RopeScaling::kNone;
  float factor = 1.0f;                                              // How far the context is stretched.
  float attention_factor = 1.0f;                                    // Multiplies cos and sin.
  float original_positions = 0.0f;                                  // Context length before stretching.
  float low_frequency_factor = 1.0f, high_frequency_factor = 4.0f;  // kLlama3
  float beta_fast = 32.0f, beta_slow = 1.0f;                        // kYarn
  bool truncate = true;                                             // kYarn
  uint32_t rotated_pairs = 0;                                       // kProportional: the others stand still.
  bool bf16_frequencies = false;                                    // See LoadOptions.
  std::vector<float> short_factors, long_factors;                   // kLongRope, [dims / 2] each.
  // GGUF stores the divisors of the frequencies as tensors of [dims / 2]: for every length, or (kLongRope) for
  // sequences up to and beyond original_positions.
  VectorSource divisors, short_divisors, long_divisors;
};
inline constexpr uint32_t kNoRope = std::numeric_limits<uint32_t>::max();

}  // namespace mlxf::model
