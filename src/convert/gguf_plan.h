// GgufPlan: what a hub checkpoint becomes in a GGUF file: its tensors with names, types and row orders, and the
// metadata that describes the architecture.
//
// Made from the checked ModelSpec of the checkpoint, so what the engine would refuse is refused here too. Families:
// llama and mistral, mixtral, phi3, qwen2, qwen2_moe, qwen3, qwen3_moe, gemma2, gemma3, olmoe; what such a file could
// not say (other rope scalings, dense layers among sparse ones, windows in other layers than the architecture's, a
// mixture that normalises against its architecture's habit) is refused by name. Pure; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "convert/source_model.h"
#include "convert/tensor_role.h"
#include "formats/gguf_writer.h"
#include "model/spec/rope.h"

namespace mlxf::convert {

struct GgufTensor {
  std::string name;
  const SourceTensor* source = nullptr;  // Null: `values` is the tensor.
  std::vector<float> values = {};
  DType dtype = DType::kF32;
  std::vector<uint64_t> shape = {};
  // Not 0: the rows of each of so many heads change from halves side by side (element i rotates with i + n/2) to
  // pairs (2 i with 2 i + 1), which is how the llama architecture rotates in GGUF.
  uint32_t interleaved_heads = 0;
  bool add_one = false;  // The file holds 1 + the source: gemma's norms.
};

struct GgufPlan {
  formats::GgufPairs metadata;      // Without the tokenizer's.
  std::vector<GgufTensor> tensors;  // In file order.
  uint32_t vocab = 0;               // Rows of the embedding.
};

[[nodiscard]] Result<GgufPlan> plan_gguf(const SourceModel& model, GgufMix mix);

// Llama 3.1's rule divides each frequency of a rope by a number of its own: what rope_freqs holds.
[[nodiscard]] std::vector<float> llama3_divisors(const model::RopeSpec& rope);

// Where row `row` of the source goes when `heads` heads are interleaved. REQUIRES: rows a multiple of 2 * heads.
[[nodiscard]] uint64_t interleaved_row(uint64_t row, uint64_t rows, uint32_t heads);

}  // namespace mlxf::convert
