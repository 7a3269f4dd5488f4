// RoutingWindow: which experts the last tokens of a run chose when they were decoded, for a replay of it.
//
// Fed by a model's routing observer; keeps passes of one token and forgets those of several, which are prompts. Owned
// by whoever judges a run; the engine's thread. Takes tokens_max * layers * top_k * 4 bytes from the beginning.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "weights/routing_trace.h"

namespace mlxf::weights {

class RoutingWindow {
 public:
  RoutingWindow(TraceShape shape, uint32_t tokens_max);
  // As TraceWriter::observe(); the first layer's row 0 begins a pass.
  void observe(uint32_t layer, uint32_t row, std::span<const int32_t> experts);
  // Of the tokens so far, the last ones.
  [[nodiscard]] RoutingTrace trace() const;

 private:
  [[nodiscard]] uint64_t kept() const { return count_ + (decodes_ && seen_ == shape_.layers() ? 1 : 0); }
  [[nodiscard]] uint64_t token_ids() const { return uint64_t{shape_.layers()} * shape_.top_k; }

  TraceShape shape_;
  uint64_t tokens_max_;
  std::vector<int32_t> ids_;  // Of token t at t % (tokens_max + 1): one is being written.
  uint64_t count_ = 0;        // Tokens before the pass that runs.
  uint32_t seen_ = 0;         // Layers of that pass,
  bool decodes_ = true;       // which is of one token.
};

}  // namespace mlxf::weights
