#include "model/blocks/mlp.h"

#include <algorithm>
#include <cmath>

namespace mlxf::model {

using compute::Cpu;
using compute::MatmulJob;

namespace {

// Values count from their mean plus `deviations` standard deviations; those below are zero.
void keep_outstanding(float* values, uint32_t count, float deviations) {
  double sum = 0.0, squares = 0.0;
  for (uint32_t i = 0; i < count; ++i) sum += values[i];
  const double mean = sum / count;
  for (uint32_t i = 0; i < count; ++i) squares += (values[i] - mean) * (values[i] - mean);
  const auto deviation = static_cast<float>(std::sqrt(squares / count));
  const float cutoff = static_cast<float>(mean) + deviation * deviations;
  for (uint32_t i = 0; i < count; ++i) values[i] = std::max(values[i] - cutoff, 0.0f);
}

}  // namespace

Cpu::Activation cpu_activation(Activation activation) {
  switch (activation) {
    case Activation::kSilu:
      return Cpu::Activation::kSilu;
    case Activation::kGeluTanh:
      return Cpu::Activation::kGeluTanh;
    case Activation::kClampedSwiglu:
      break;
  }
  return Cpu::Activation::kClampedSwiglu;
}

MlpScratch MlpScratch::place(Arena& arena, uint64_t width, uint32_t rows) {
  MlpScratch scratch;
  scratch.gate = arena.take<float>(rows * width);
  scratch.up = arena.take<float>(rows * width);
  return scratch;
}

void run_mlp(Cpu& cpu, const MlpSpec& spec, const BoundMlp& weights, const MlpScratch& scratch,
             const float* x, uint32_t rows, float* out) {
  const MatmulJob jobs[] = {product(weights.gate, x, rows, scratch.gate),
                            product(weights.up, x, rows, scratch.up)};
  cpu.matmul(jobs);
  add_bias(scratch.gate, rows, spec.width, weights.gate_bias);
  add_bias(scratch.up, rows, spec.width, weights.up_bias);
  if (spec.cutoff_deviations) {
    const auto row = [&](uint32_t r, uint32_t) {
      keep_outstanding(scratch.gate + uint64_t{r} * spec.width, spec.width, *spec.cutoff_deviations);
    };
    if (rows == 1)
      row(0, 0);
    else
      cpu.for_each_row(rows, row);
  }
  cpu.gated_activation(cpu_activation(spec.activation), scratch.gate, scratch.up, scratch.gate, spec.width,
                       rows, spec.width);
  const MatmulJob down = product(weights.down, scratch.gate, rows, out);
  cpu.matmul({&down, 1});
  add_bias(out, rows, weights.down.rows, weights.down_bias);
}

}  // namespace mlxf::model
