// RoutingTrace: which experts each token chose in each layer, in a safetensors file.
//
//     routing       i32 [tokens, layers, top_k]  ids, in order of rank or not; distinct within a token and layer
//     experts       i32 [layers]                 how many there are to choose from
//     expert_bytes  i64 [layers]                 what one of them takes
// Layers are those that have routed experts. The last two may be missing: then a layer has as many experts as the
// highest id says, and their size is unknown. A loaded trace is immutable: any thread. A writer belongs to one.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "formats/safetensors_writer.h"

namespace mlxf::weights {

struct TraceShape {
  uint32_t top_k = 0;
  std::vector<uint32_t> experts;       // By layer.
  std::vector<uint64_t> expert_bytes;  // By layer; empty: unknown.
  [[nodiscard]] uint32_t layers() const { return static_cast<uint32_t>(experts.size()); }
  friend bool operator==(const TraceShape&, const TraceShape&) = default;
};

struct RoutingTrace {
  TraceShape shape;
  uint64_t tokens = 0;
  std::vector<int32_t> ids;  // [tokens, layers, top_k], ascending within a token and layer.
  [[nodiscard]] std::span<const int32_t> chosen(uint64_t token, uint32_t layer) const {
    return std::span(ids).subspan((token * shape.layers() + layer) * shape.top_k, shape.top_k);
  }
};

// kCorrupt names what contradicts the layout above; kUnsupported above 2^30 ids.
[[nodiscard]] Result<RoutingTrace> load_trace(const std::string& path);

// Writes a trace of a known number of tokens as its passes happen; holds one pass. The file appears with finish().
class TraceWriter {
 public:
  [[nodiscard]] static Result<TraceWriter> create(const std::string& path, const TraceShape& shape,
                                                  uint64_t tokens, formats::Overwrite overwrite);
  // The choice of the pass's token `row` in a layer (of those with experts); passes go layer by layer, each row by row.
  void observe(uint32_t layer, uint32_t row, std::span<const int32_t> experts);
  // The pass was of `tokens` tokens.
  [[nodiscard]] Status end_pass(uint32_t tokens);
  [[nodiscard]] Status finish();

 private:
  TraceWriter(formats::SafetensorsWriter file, const TraceShape& shape)
      : file_(std::move(file)), layers_(shape.layers()), top_k_(shape.top_k) {}
  formats::SafetensorsWriter file_;
  uint32_t layers_;
  uint32_t top_k_;
  std::vector<int32_t> pass_;  // [rows, layers, top_k]
};

}  // namespace mlxf::weights
