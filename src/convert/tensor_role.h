// TensorRole: what a weight does in a transformer, and how GGUF and hub checkpoints name and type it.
//
// Pure functions over names and numbers; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "tensor/dtype.h"

namespace mlxf::convert {

enum class TensorRole : uint8_t {
  kEmbedding,
  kOutputNorm,
  kOutput,
  kAttentionNorm,
  kQkv,  // Fused: rows of q, k and v one after the other.
  kQ,
  kK,
  kV,
  kAttentionOutput,
  kQNorm,
  kKNorm,
  kFfnNorm,
  kRouter,
  kGate,
  kUp,
  kDown,
  kExpertGate,
  kExpertUp,
  kExpertDown,
};

// "blk.3.ffn_down_exps.weight"
[[nodiscard]] std::string gguf_name(TensorRole role, uint32_t layer);

// The module's path in mlx-lm ("model.layers.3.mlp.switch_mlp.down_proj"), to which ".weight", ".scales" and
// ".biases" are added. Mixtral names its expert block differently.
enum class HubNaming : uint8_t { kUsual, kMixtral };
[[nodiscard]] std::string hub_module(TensorRole role, uint32_t layer, HubNaming naming);

// A mix of types over a model, as llama.cpp's quantiser applies it.
// kMxfp4: experts in MXFP4, all else in Q8_0.
enum class GgufMix : uint8_t { kQ4KM, kQ4_0, kQ8_0, kBF16, kF16, kMxfp4 };

struct GgufModel {
  uint32_t layers = 0;
  uint32_t experts = 0;
  bool tied = false;    // The embedding is also the output matrix.
  bool is_70b = false;  // Llama 2 and 3 of 80 layers.
};

// The type of a tensor: norms and routers F32, matrices by the mix. REQUIRES: layer < model.layers for roles
// that belong to a layer.
[[nodiscard]] DType gguf_type(GgufMix mix, TensorRole role, uint32_t layer, const GgufModel& model);

// `type`, or llama.cpp's own choice instead where rows of `cols` are not whole blocks of it.
[[nodiscard]] DType fitting_type(DType type, uint64_t cols);

// general.file_type of a mix.
[[nodiscard]] uint32_t gguf_file_type(GgufMix mix);

}  // namespace mlxf::convert
