// WeightSizes: what a model's weights take, by how they can be kept: in memory for good, read by row, or streamed.
//
// Plain data, made by measure_weights() (model/weight_stream.h) from the files' headers alone, before anything is read;
// plans and whoever moves layers in and out of memory count with it. Any thread. Sizes are bytes.
#pragma once

#include <cstdint>
#include <vector>

namespace mlxf::model {

// A dense layer is computed from one slot while the next is read into the other. A third would let computing fall
// behind by one more reading, at the price of one more layer to be read for every token.
constexpr uint32_t kRingSlots = 2;

struct WeightSizes {
  uint64_t trunk = 0;              // Head, embedding, and whatever is in no list below.
  uint64_t embedding = 0;          // The embedding, where it can be read by row instead,
  uint64_t embedding_window = 0;   // and the memory to do so.
  uint64_t row_table = 0;          // The table of per-layer embeddings,
  uint64_t row_buffer = 0;         // and the memory to read it by row instead.
  uint64_t experts = 0;            // All routed experts.
  std::vector<uint64_t> layers;    // Of a dense model: each layer's matrices. Empty for mixtures.
  uint64_t expert_whole = 0;       // The experts as slots of a cache,
  uint64_t expert_floor = 0;       // and the fewest slots that work.
  uint64_t ring_slot = 0;          // The largest dense layer as a slot.
  uint64_t active_experts = 0;     // Routed experts that one token uses.
  uint64_t expert_reads = 0;       // Ranges of the files that one expert is read from,
  uint64_t expert_read_bytes = 0;  // and what direct reads of them move: whole blocks.
  [[nodiscard]] uint64_t total() const;
  [[nodiscard]] uint64_t floor() const;  // The smallest amount that works.
};

}  // namespace mlxf::model
