// StreamCost: what streaming weights has cost: bytes from memory and from the SSD, time spent waiting.
//
// A snapshot of counters that only grow; differences of two snapshots describe what happened in between. Made by
// commands between tokens; one thread, the engine's. Bytes are of weights, without the widening of direct reads, unless
// said otherwise.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "engine/engine.h"
#include "plan/limit.h"

namespace mlxf::cli {

struct StreamCost {
  bool streams = false;
  weights::RecordCacheStats cache;
  storage::StorageStats storage;
  std::vector<double> layer_stalls;  // Seconds, by layer,
  double embedding_stall = 0.0;      // and for rows of the embedding.
  std::optional<double> drive_celsius;
  [[nodiscard]] double stall_seconds() const { return cache.stall_seconds + embedding_stall; }
  [[nodiscard]] static StreamCost of(engine::Engine& engine);
  // Since `before`.
  [[nodiscard]] StreamCost since(const StreamCost& before) const;
  [[nodiscard]] double hit_rate() const;  // Of the bytes needed; 1 where all are resident.
  // While at least one read was at the disk, as the engine's thread saw it: a read that ended while it computed counts
  // as running until it looked.
  [[nodiscard]] double read_bytes_s() const;
  [[nodiscard]] double look_ahead_used() const;  // Of the reads ahead, those needed later; 0 without any.
};

// What a machine allows a run, beside what it did. Rates of 0 were not measured.
struct Judgement {
  double tok_s = 0.0;          // Measured,
  plan::Limit limit = {};      // of the best cache,
  plan::Limit pipeline = {};   // and of the hits that the run had.
  double best_hit_rate = 0.0;  // Which `limit` counts.
  double probe_bytes_s = 0.0;  // Raw random reads in the same run.
  [[nodiscard]] double limit_share() const { return limit.tok_s > 0.0 ? tok_s / limit.tok_s : 0.0; }
  [[nodiscard]] double pipeline_share() const { return pipeline.tok_s > 0.0 ? tok_s / pipeline.tok_s : 0.0; }
};

// Adds limit_…, pipeline_… and, where weights are streamed, the counters to `out`; nothing where not measured.
void add_to_json(const StreamCost& cost, const Judgement& judgement, Json& out);
// One line for people, without its end.
[[nodiscard]] std::string summary(const StreamCost& cost, const Judgement& judgement);

}  // namespace mlxf::cli
