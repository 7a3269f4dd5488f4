#include "cli/stream_cost.h"

#include <cstdio>

namespace mlxf::cli {
namespace {

double ratio(double part, double whole) { return whole > 0.0 ? part / whole : 0.0; }
double ratio(uint64_t part, uint64_t whole) {
  return ratio(static_cast<double>(part), static_cast<double>(whole));
}

}  // namespace

StreamCost StreamCost::of(engine::Engine& engine) {
  StreamCost cost;
  const weights::RecordCache* cache = engine.model().weight_cache();
  cost.streams = engine.model().streams();
  if (!cost.streams) return cost;
  if (cache != nullptr) cost.cache = cache->stats();
  cost.embedding_stall = engine.model().embedding_stall();
  cost.storage = engine.storage()->stats();
  cost.drive_celsius = engine.drive_celsius();
  const auto stalls = engine.model().layer_stalls();
  cost.layer_stalls.assign(stalls.begin(), stalls.end());
  return cost;
}

StreamCost StreamCost::since(const StreamCost& before) const {
  StreamCost cost = *this;
  const auto subtract = [](auto& now, const auto& then) { now -= then; };
  weights::RecordCacheStats& c = cost.cache;
  const weights::RecordCacheStats& b = before.cache;
  subtract(c.needed, b.needed);
  subtract(c.hits, b.hits);
  subtract(c.late, b.late);
  subtract(c.misses, b.misses);
  subtract(c.prefetched, b.prefetched);
  subtract(c.prefetch_used, b.prefetch_used);
  subtract(c.guesses, b.guesses);
  subtract(c.guesses_used, b.guesses_used);
  subtract(c.needed_bytes, b.needed_bytes);
  subtract(c.hit_bytes, b.hit_bytes);
  subtract(c.late_bytes, b.late_bytes);
  subtract(c.miss_bytes, b.miss_bytes);
  subtract(c.read_bytes, b.read_bytes);
  subtract(c.stall_seconds, b.stall_seconds);
  subtract(cost.embedding_stall, before.embedding_stall);
  subtract(cost.storage.reads, before.storage.reads);
  subtract(cost.storage.bytes, before.storage.bytes);
  subtract(cost.storage.device_bytes, before.storage.device_bytes);
  subtract(cost.storage.busy_seconds, before.storage.busy_seconds);
  for (size_t i = 0; i < before.layer_stalls.size(); ++i) cost.layer_stalls[i] -= before.layer_stalls[i];
  return cost;
}

double StreamCost::hit_rate() const {
  return cache.needed_bytes == 0 ? 1.0 : ratio(cache.hit_bytes, cache.needed_bytes);
}

double StreamCost::read_bytes_s() const {
  return ratio(static_cast<double>(storage.device_bytes), storage.busy_seconds);
}

double StreamCost::look_ahead_used() const { return ratio(cache.prefetch_used, cache.prefetched); }

void add_to_json(const StreamCost& cost, const Judgement& judgement, Json& out) {
  if (judgement.limit.tok_s > 0.0) {
    out["limit_tok_s"] = judgement.limit.tok_s;
    out["limit_share"] = judgement.limit_share();
    out["limit_bound"] = judgement.limit.bound;
  }
  if (!cost.streams) return;
  if (judgement.pipeline.tok_s > 0.0) {
    out["pipeline_tok_s"] = judgement.pipeline.tok_s;
    out["pipeline_share"] = judgement.pipeline_share();
    out["limit_hit_rate"] = judgement.best_hit_rate;
  }
  out["streaming"] = {
      {"hit_bytes", cost.cache.hit_bytes},           {"late_bytes", cost.cache.late_bytes},
      {"miss_bytes", cost.cache.miss_bytes},         {"reads", cost.storage.reads},
      {"ssd_bytes_read", cost.storage.device_bytes}, {"io_seconds", cost.storage.busy_seconds},
      {"read_bytes_s", cost.read_bytes_s()},         {"look_ahead_reads", cost.cache.prefetched},
      {"look_ahead_used", cost.cache.prefetch_used}, {"guessed_reads", cost.cache.guesses},
      {"guessed_used", cost.cache.guesses_used},     {"embedding_stall_seconds", cost.embedding_stall},
      {"layer_stall_seconds", cost.layer_stalls}};
  if (cost.drive_celsius) out["streaming"]["drive_celsius"] = *cost.drive_celsius;
  if (judgement.probe_bytes_s <= 0.0) return;
  out["streaming"]["probe_bytes_s"] = judgement.probe_bytes_s;
  out["streaming"]["probe_share"] = cost.read_bytes_s() / judgement.probe_bytes_s;
}

std::string summary(const StreamCost& cost, const Judgement& judgement) {
  std::string line;
  const auto add = [&line](const char* format, auto... values) {
    char text[160];
    std::snprintf(text, sizeof text, format, values...);
    line += text;
  };
  const auto needed = static_cast<double>(cost.cache.needed_bytes);
  add("in memory %.1f %%, late %.1f %%; read %.1f MB at %.2f GB/s", 100.0 * cost.hit_rate(),
      100.0 * ratio(static_cast<double>(cost.cache.late_bytes), needed),
      static_cast<double>(cost.storage.device_bytes) / 1e6, cost.read_bytes_s() / 1e9);
  if (judgement.probe_bytes_s > 0.0)
    add(" (%.0f %% of the disk)", 100.0 * cost.read_bytes_s() / judgement.probe_bytes_s);
  add(", %.2f s waiting", cost.stall_seconds());
  if (cost.cache.prefetched != 0) add(", look-ahead %.0f %% used", 100.0 * cost.look_ahead_used());
  if (judgement.limit.tok_s > 0.0 && judgement.tok_s > 0.0)
    add("; %.0f %% of the limit %.2f tok/s (%s, %.1f %% in memory), %.0f %% of the pipeline",
        100.0 * judgement.limit_share(), judgement.limit.tok_s, judgement.limit.bound,
        100.0 * judgement.best_hit_rate, 100.0 * judgement.pipeline_share());
  return line;
}

}  // namespace mlxf::cli
