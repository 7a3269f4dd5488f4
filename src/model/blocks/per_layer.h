// PerLayerInputs: per-layer embeddings: a small vector of each token for each layer, gated into the residual stream.
//
// fill() makes all of them at the beginning of a pass, from a table of which each token uses one row: resident, or read
// by row from the SSD while the projection is computed. Owned by Forward; the engine's thread. Its scratch memory is
// laid out by place() and belongs to the pass.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "compute/cpu.h"
#include "model/arena.h"
#include "model/blocks/linear.h"
#include "model/chunk.h"
#include "model/spec.h"
#include "tensor/matrix.h"
#include "weights/row_reader.h"

namespace mlxf::model {

struct BoundPerLayerInputs {
  MatrixView table;  // Null where it is read by row.
  MatrixView projection;
  Vector norm;
};

struct BoundPerLayer {
  MatrixView gate, projection;
  Vector norm;

  [[nodiscard]] std::array<MatrixView*, 2> matrices() { return {&gate, &projection}; }
  [[nodiscard]] std::array<const MatrixView*, 2> matrices() const { return {&gate, &projection}; }
  [[nodiscard]] std::array<Vector*, 1> vectors() { return {&norm}; }
};

class PerLayerInputs {
 public:
  struct Scratch {
    float* inputs = nullptr;  // [rows, layers, width]
    float* row = nullptr;     // [layers, width]
    float* gate = nullptr;    // [rows, width]

    [[nodiscard]] static Scratch place(Arena& arena, const ModelSpec& spec, uint32_t rows);
  };

  // Outlive this.
  PerLayerInputs(compute::Cpu& cpu, const ModelSpec& spec) : cpu_(cpu), spec_(spec) {}

  // The inputs of all layers from x [rows, hidden], the embeddings of the chunks' tokens. `reader` brings the table's
  // rows; null: it is resident. Fails only where one cannot be read.
  [[nodiscard]] Status fill(const BoundPerLayerInputs& weights, weights::RowReader* reader,
                            const Scratch& scratch, std::span<const Chunk> chunks, const float* x,
                            uint32_t rows);
  // out [rows, hidden] = norm(projection(act(gate x) * the layer's input)).
  void run(uint32_t layer, const PerLayerSpec& spec, const BoundPerLayer& weights, const Scratch& scratch,
           const float* x, uint32_t rows, float* out);

 private:
  compute::Cpu& cpu_;
  const ModelSpec& spec_;
  std::vector<uint32_t> table_rows_;
};

}  // namespace mlxf::model
