#include "model/blocks/rope_tables.h"

namespace mlxf::model {

float* RopeTables::place(Arena& arena, const ModelSpec& spec, uint32_t rows) {
  uint64_t width = 0;
  for (const RopeSpec& rope : spec.ropes) width += rope.dims / 2 * uint64_t{2};
  return arena.take<float>(rows * width);
}

void RopeTables::fill(std::span<const Chunk> chunks, uint32_t rows, float* scratch) {
  for (size_t i = 0; i < ropes_.size(); ++i) {
    const uint64_t width = uint64_t{2} * ropes_[i].pairs();
    float* row = tables_[i] = scratch;
    for (const Chunk& chunk : chunks)
      for (uint32_t t = 0; t < chunk.tokens.size(); ++t, row += width)
        ropes_[i].fill_row(chunk.sequence->length() + t, chunk.sequence->context_max(), row);
    scratch += rows * width;
  }
}

}  // namespace mlxf::model
