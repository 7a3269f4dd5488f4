// Replay: what a cache of given size and policy would have hit on a recorded trace.
//
// Drives the Eviction that RecordCache uses, over passes as decoding makes them: token by token, layer by layer, one
// pass for each, whose experts are pinned while it lasts; look-ahead left out. So it counts the hits of an engine that
// decodes the same text token by token with as many slots, wherever slots suffice for one pass. Experts of one size
// share a pool of slots, as in RecordCache. Pure functions; any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "weights/eviction.h"
#include "weights/routing_trace.h"

namespace mlxf::weights {

// The pools of a trace's experts: by size, ascending; one where sizes are unknown.
struct TracePools {
  std::vector<uint32_t> pool_of_layer;
  std::vector<uint64_t> records;       // By pool.
  std::vector<uint64_t> record_bytes;  // By pool; 0: unknown.
};
[[nodiscard]] TracePools pools_of(const TraceShape& shape);

struct ReplayResult {
  uint64_t needed = 0, hits = 0;
  uint64_t needed_bytes = 0, hit_bytes = 0;  // 0 where sizes are unknown.
  [[nodiscard]] double hit_rate() const {
    return needed == 0 ? 0 : static_cast<double>(hits) / static_cast<double>(needed);
  }
  // By bytes where they are known.
  [[nodiscard]] double byte_hit_rate() const {
    return needed_bytes == 0 ? hit_rate()
                             : static_cast<double>(hit_bytes) / static_cast<double>(needed_bytes);
  }
};

// `slots` by pool, at least one each. The cache begins empty; what tokens before `count_from` need is not counted.
[[nodiscard]] ReplayResult replay(const RoutingTrace& trace, Policy policy,
                                  const std::vector<uint64_t>& slots, uint64_t count_from = 0);
// Once the cache is full, as a part of the bytes: with slots for `share` of the experts of each size, the trace's first
// fifth not counted.
[[nodiscard]] double steady_hit_rate(const RoutingTrace& trace, Policy policy, double share);
// replay() with knowledge of the future: evicts what is needed last (Belady 1966), which no policy can beat.
[[nodiscard]] ReplayResult replay_optimum(const RoutingTrace& trace, const std::vector<uint64_t>& slots,
                                          uint64_t count_from = 0);

}  // namespace mlxf::weights
