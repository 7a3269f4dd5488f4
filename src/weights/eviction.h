// Eviction: which record leaves the cache. A plain data structure: no memory, no reads, so that RecordCache and the
// offline replay of a trace (weights/replay.h) run the same one.
//
// Told of every record that a pass needs, and of those that enter and leave the cache; of two records in the cache the
// one with the smaller key() leaves. Records belong to layers, which are computed in turn: records of one layer are
// neighbours, layers ascend, and a pass that begins at or before the layer of the last one begins a new token.
// Clocks count needed records, rounds count tokens. One thread.
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace mlxf::weights {

enum class Policy : uint8_t {
  kLfu,  // Least frequently used, counts decaying by e in 1 / kDecay passes, however many tokens each is for. The
         // default: routing has favourites that outlast a working set.
  kLru,   // Least recently used: the control, and right for layers in turn.
  kSlru,  // Segmented LRU (Karedla et al. 1994): records needed again while cached are protected.
  kLcp,   // Count times 0.25 ^ (tokens since the last use / 128).
  kLeastStale,  // Records not used by this token first, of these the layer whose turn is farthest (arXiv 2602.03921).
};
inline constexpr Policy kPolicies[] = {Policy::kLfu, Policy::kLru, Policy::kSlru, Policy::kLcp,
                                       Policy::kLeastStale};
// "lfu", "lru", "slru", "lcp", "least-stale".
[[nodiscard]] std::string_view policy_name(Policy policy);
[[nodiscard]] std::optional<Policy> find_policy(std::string_view name);

class Eviction {
 public:
  static constexpr double kDecay = 4e-4;          // Of kLfu: docs/measurements/2026-11-routing.md.
  static constexpr double kProtectedShare = 0.8;  // Of kSlru's slots.
  static constexpr double kLcpBase = 0.25, kLcpTokens = 128;

  // The layer of each record, ascending from 0.
  Eviction(Policy policy, std::vector<uint32_t> layer_of);

  // A pass needs these distinct records, of one layer.
  void begin_pass(std::span<const uint32_t> records);
  // As if a pass had needed it alone: before the first one, for a warm start.
  void touch(uint32_t record);
  void enter(uint32_t record);
  void leave(uint32_t record);
  void set_slots(uint64_t slots);

  [[nodiscard]] double key(uint32_t record) const {
    return policy_ == Policy::kLeastStale ? staleness_key(record) : keys_[record];
  }

 private:
  static constexpr uint32_t kNone = UINT32_MAX;
  void use(uint32_t record);
  void touch_segmented(uint32_t record);
  void unprotect(uint32_t record);
  [[nodiscard]] double staleness_key(uint32_t record) const;

  Policy policy_;
  std::vector<uint32_t> layer_of_;
  uint32_t layers_ = 0;
  uint32_t layer_ = UINT32_MAX;  // Of the last pass; before the first, as if it had ended a token.
  double clock_ = 0;             // Needed records.
  double time_ =
      0;  // Passes, and a little more for each record of one, so that no two uses are at the same time.
  double round_ = 0;
  std::vector<double> keys_;     // Records that left keep theirs, so that one that comes back is known.
  std::vector<double> counts_;   // kLcp: uses; kLeastStale: the round of the last use.
  std::vector<bool> cached_;     // kSlru
  std::vector<bool> protected_;  // kSlru: by the list below, longest unused first.
  std::vector<uint32_t> older_, newer_;
  uint32_t oldest_ = kNone, newest_ = kNone;
  uint64_t protected_count_ = 0, protected_max_ = 0;
};

}  // namespace mlxf::weights
