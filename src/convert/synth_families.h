// The tensors of the newer families' layers, named as llama.cpp's converter names them, for SynthPlan.
//
// Pure functions; any thread. Statistics as in synth_plan.h: products of unit variance, sublayers whose outputs
// together add about as much to the residual stream as the embedding began with.
#pragma once

#include <cstdint>
#include <vector>

#include "convert/synth_plan.h"

namespace mlxf::convert {

// Whether the family is planned here, and written as GGUF only.
[[nodiscard]] bool is_newer_family(ShapeFamily family);

// What such a model has beside its layers, embedding, last norm and head. `vocabulary` counts tokens.
void plan_family_globals(const ModelShape& shape, uint64_t vocabulary, std::vector<PlannedTensor>& plan);

void plan_family_layer(const ModelShape& shape, uint32_t layer, std::vector<PlannedTensor>& plan);

}  // namespace mlxf::convert
