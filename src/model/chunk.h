// Chunk: new tokens of one sequence, and who may watch a forward pass over them.
//
// Borrowed for the length of a call (model.h). Rows of a pass are the tokens of its chunks, in order.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "base/token_id.h"
#include "kv/sequence.h"

namespace mlxf::model {

// New tokens of one sequence, appended after what its cache holds.
struct Chunk {
  kv::Sequence* sequence = nullptr;
  std::span<const TokenId> tokens;
  bool all_logits = false;  // Logits for every token of the chunk, or for its last one only.
  // Receives what the head would read of the last token, [hidden], in place of any logits.
  float* state = nullptr;
};

// Sees (layer, rows [tokens, width]) after the embeddings (layer 0) and each layer.
using HiddenObserver =
    std::function<void(uint32_t layer, const float* rows, uint32_t tokens, uint32_t width)>;
// Sees each routing decision: (layer, token row, expert ids in rank order). For traces and statistics.
using RoutingObserver = std::function<void(uint32_t layer, uint32_t row, std::span<const int32_t> experts)>;

}  // namespace mlxf::model
