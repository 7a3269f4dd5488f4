// What one token costs a model, counted from its ModelSpec: parameters multiplied, and cached bytes read.
//
// For limit.h. Pure; any thread. Routed experts count as the top_k that a token visits.
#pragma once

#include <cstdint>

#include "kv/sequence.h"
#include "model/spec.h"

namespace mlxf::plan {

struct ActiveParameters {
  uint64_t layers = 0;  // Matrices of all layers that one token is multiplied with.
  uint64_t head = 0;    // The output matrix, which only tokens with logits are multiplied with.
};
[[nodiscard]] ActiveParameters active_parameters(const model::ModelSpec& spec);

// Bytes of keys and values that attention reads for one token at position `depth`: the positions before it that each
// layer can see, and its own.
[[nodiscard]] double kv_bytes_read(const model::ModelSpec& spec, kv::Element element, double depth);

}  // namespace mlxf::plan
