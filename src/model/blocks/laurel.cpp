#include "model/blocks/laurel.h"

#include <algorithm>
#include <cmath>

namespace mlxf::model {

LaurelScratch LaurelScratch::place(Arena& arena, const ModelSpec& spec, uint32_t rows) {
  uint64_t rank = 0;
  for (const LayerSpec& layer : spec.layers)
    if (layer.laurel) rank = std::max<uint64_t>(rank, layer.laurel->left.rows);
  if (rank == 0) return {};
  return {arena.take<float>(rows * rank), arena.take<float>(uint64_t{rows} * spec.hidden)};
}

void add_laurel(compute::Cpu& cpu, const BoundLaurel& weights, const LaurelScratch& scratch, const float* y,
                uint32_t rows, float norm_eps, float* x) {
  const compute::MatmulJob left = product(weights.left, y, rows, scratch.narrow);
  cpu.matmul({&left, 1});
  const compute::MatmulJob right = product(weights.right, scratch.narrow, rows, scratch.wide);
  cpu.matmul({&right, 1});
  const uint32_t hidden = weights.right.rows;
  cpu.rms_norm({scratch.wide, hidden, scratch.wide, hidden, rows, hidden}, weights.norm.data(), norm_eps);
  const float root = std::sqrt(2.0f);
  for (uint64_t i = 0; i < uint64_t{rows} * hidden; ++i) x[i] = (x[i] + (y[i] + scratch.wide[i])) / root;
}

}  // namespace mlxf::model
