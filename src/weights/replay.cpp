#include "weights/replay.h"

#include <algorithm>
#include <limits>
#include <map>

namespace mlxf::weights {
namespace {

constexpr uint64_t kWarmUpPart = 5;

// Belady's choice behind the interface of Eviction: the key of a record falls with the time of its next use.
class Foresight {
 public:
  explicit Foresight(const RoutingTrace& trace, const std::vector<uint32_t>& first) {
    const TraceShape& shape = trace.shape;
    next_.resize(trace.ids.size());
    keys_.assign(first.back(), 0.0);
    std::vector<double> seen(first.back(), std::numeric_limits<double>::infinity());
    for (uint64_t pass = trace.tokens * shape.layers(); pass-- > 0;)
      for (uint32_t j = 0; j < shape.top_k; ++j) {
        const uint64_t at = pass * shape.top_k + j;
        const uint32_t record = first[pass % shape.layers()] + static_cast<uint32_t>(trace.ids[at]);
        next_[at] = seen[record];
        seen[record] = static_cast<double>(pass);
      }
  }
  void begin_pass(std::span<const uint32_t> records) {
    for (const uint32_t record : records) keys_[record] = -next_[at_++];
  }
  void enter(uint32_t) {}
  void leave(uint32_t) {}
  [[nodiscard]] double key(uint32_t record) const { return keys_[record]; }

 private:
  std::vector<double> next_;  // By place in the trace: the pass that needs the record next.
  std::vector<double> keys_;
  uint64_t at_ = 0;
};

// The slots of a RecordCache without their memory.
class Slots {
 public:
  Slots(const std::vector<uint64_t>& slots, uint64_t records) : pools_(slots.size()), free_(slots) {
    place_.assign(records, kAbsent);
    pinned_.assign(records, false);
    for (size_t i = 0; i < slots.size(); ++i) pools_[i].reserve(std::min(slots[i], records));
  }
  [[nodiscard]] bool holds(uint32_t record) const { return place_[record] != kAbsent; }
  void pin(uint32_t record) { pinned_[record] = true; }
  void unpin(uint32_t record) { pinned_[record] = false; }

  // Brings in `record`, in the place of the unpinned record with the smallest key; false: there is none.
  template <typename Evicts>
  bool bring(uint32_t pool, uint32_t record, Evicts& eviction) {
    std::vector<uint32_t>& held = pools_[pool];
    if (free_[pool] > 0) {
      --free_[pool];
      place_[record] = static_cast<uint32_t>(held.size());
      held.push_back(record);
    } else {
      uint32_t least = kAbsent;
      double key = std::numeric_limits<double>::infinity();
      for (uint32_t i = 0; i < held.size(); ++i) {
        if (pinned_[held[i]]) continue;
        const double k = eviction.key(held[i]);
        if (least == kAbsent || k < key) {
          key = k;
          least = i;
        }
      }
      if (least == kAbsent) return false;
      eviction.leave(held[least]);
      place_[held[least]] = kAbsent;
      held[least] = record;
      place_[record] = least;
    }
    eviction.enter(record);
    pinned_[record] = true;
    return true;
  }

 private:
  static constexpr uint32_t kAbsent = UINT32_MAX;
  std::vector<std::vector<uint32_t>> pools_;
  std::vector<uint64_t> free_;
  std::vector<uint32_t> place_;
  std::vector<bool> pinned_;
};

// The first record of each layer, and at the end how many there are.
std::vector<uint32_t> first_records(const TraceShape& shape) {
  std::vector<uint32_t> first = {0};
  for (const uint32_t experts : shape.experts) first.push_back(first.back() + experts);
  return first;
}

template <typename Evicts>
ReplayResult run(const RoutingTrace& trace, const std::vector<uint32_t>& first,
                 const std::vector<uint64_t>& slots, uint64_t count_from, Evicts& eviction) {
  const TraceShape& shape = trace.shape;
  const TracePools pools = pools_of(shape);
  Slots cache(slots, first.back());
  ReplayResult result;
  std::vector<uint32_t> pass(shape.top_k), misses;
  for (uint64_t token = 0; token < trace.tokens; ++token)
    for (uint32_t layer = 0; layer < shape.layers(); ++layer) {
      const auto chosen = trace.chosen(token, layer);
      for (uint32_t j = 0; j < shape.top_k; ++j) pass[j] = first[layer] + static_cast<uint32_t>(chosen[j]);
      const uint32_t pool = pools.pool_of_layer[layer];
      eviction.begin_pass(pass);
      misses.clear();
      for (const uint32_t record : pass) cache.holds(record) ? cache.pin(record) : misses.push_back(record);
      for (const uint32_t record : misses) {
        if (cache.bring(pool, record, eviction)) continue;
        // More records than slots pass through in waves: those that were computed give way.
        for (const uint32_t other : pass) cache.unpin(other);
        (void)cache.bring(pool, record, eviction);
      }
      for (const uint32_t record : pass) cache.unpin(record);
      if (token < count_from) continue;
      const uint64_t hits = pass.size() - misses.size(), bytes = pools.record_bytes[pool];
      result.needed += pass.size();
      result.hits += hits;
      result.needed_bytes += pass.size() * bytes;
      result.hit_bytes += hits * bytes;
    }
  return result;
}

}  // namespace

TracePools pools_of(const TraceShape& shape) {
  std::map<uint64_t, uint32_t> index;
  const auto size_of = [&](uint32_t layer) {
    return shape.expert_bytes.empty() ? 0 : shape.expert_bytes[layer];
  };
  for (uint32_t layer = 0; layer < shape.layers(); ++layer) index[size_of(layer)] = 0;
  TracePools pools;
  for (auto& [bytes, pool] : index) {
    pool = static_cast<uint32_t>(pools.records.size());
    pools.records.push_back(0);
    pools.record_bytes.push_back(bytes);
  }
  for (uint32_t layer = 0; layer < shape.layers(); ++layer) {
    pools.pool_of_layer.push_back(index[size_of(layer)]);
    pools.records[pools.pool_of_layer.back()] += shape.experts[layer];
  }
  return pools;
}

ReplayResult replay(const RoutingTrace& trace, Policy policy, const std::vector<uint64_t>& slots,
                    uint64_t count_from) {
  const std::vector<uint32_t> first = first_records(trace.shape);
  std::vector<uint32_t> layer_of;
  for (uint32_t layer = 0; layer < trace.shape.layers(); ++layer)
    layer_of.insert(layer_of.end(), trace.shape.experts[layer], layer);
  Eviction eviction(policy, std::move(layer_of));
  uint64_t total = 0;
  for (const uint64_t count : slots) total += count;
  eviction.set_slots(total);
  return run(trace, first, slots, count_from, eviction);
}

double steady_hit_rate(const RoutingTrace& trace, Policy policy, double share) {
  std::vector<uint64_t> slots;
  for (const uint64_t records : pools_of(trace.shape).records)
    slots.push_back(std::max<uint64_t>(1, static_cast<uint64_t>(share * static_cast<double>(records))));
  return replay(trace, policy, slots, trace.tokens / kWarmUpPart).byte_hit_rate();
}

ReplayResult replay_optimum(const RoutingTrace& trace, const std::vector<uint64_t>& slots,
                            uint64_t count_from) {
  const std::vector<uint32_t> first = first_records(trace.shape);
  Foresight foresight(trace, first);
  return run(trace, first, slots, count_from, foresight);
}

}  // namespace mlxf::weights
