// MemoryPlan: what a budget for the whole process is spent on: weights that stay, slots for those that do not, keys and
// values, scratch, and what the process holds besides.
//
// Decided from sizes alone, before anything is read: by Model::load for a model that is about to run, and for
// `mlx-flash plan`, which stops there. Pure; any thread. Sizes are bytes.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "kv/sequence.h"
#include "model/spec.h"
#include "model/weight_stream.h"

namespace mlxf::model {

struct MemoryRequest {
  uint64_t budget_bytes = 0;
  uint64_t held_bytes = 0;  // By the process already: the program, the tokenizer.
  uint32_t context_tokens = 0;
  uint32_t sequences = 1;  // At once; what does not grow with the positions, each has.
  uint32_t threads = 1;
  kv::Element element = kv::Element::kF16;
};

struct MemoryPlan {
  Residency residency;
  uint32_t chunk_tokens = 0;  // Of a prompt, per pass.
  uint64_t held_bytes = 0;
  uint64_t kv_bytes = 0;
  uint64_t scratch_bytes = 0;
  uint64_t other_bytes = 0;  // Logits, the sampler, the allocator's slack.
  [[nodiscard]] uint64_t besides_weights() const {
    return held_bytes + kv_bytes + scratch_bytes + other_bytes;
  }
};

// kOutOfBudget below the smallest budget that works, which the message names.
[[nodiscard]] Result<MemoryPlan> plan_memory(const ModelSpec& spec, const WeightSizes& sizes,
                                             const MemoryRequest& request);
// The smallest budget that works, and the smallest under which everything stays in memory.
[[nodiscard]] uint64_t floor_budget(const ModelSpec& spec, const WeightSizes& sizes,
                                    const MemoryRequest& request);
[[nodiscard]] uint64_t resident_budget(const ModelSpec& spec, const WeightSizes& sizes,
                                       const MemoryRequest& request);

// What the layers keep of a sequence of that many positions.
[[nodiscard]] uint64_t cache_bytes(const ModelSpec& spec, kv::Element element, uint64_t positions);
// What forward() and its callers take and no other sum counts: logits and the sampler's candidates of each sequence,
// the allocator's slack.
[[nodiscard]] uint64_t unseen_bytes(const ModelSpec& spec, uint32_t sequences);

}  // namespace mlxf::model
