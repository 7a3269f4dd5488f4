#include "weights/eviction.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace mlxf::weights {
namespace {

constexpr std::pair<Policy, std::string_view> kNames[] = {{Policy::kLfu, "lfu"},
                                                          {Policy::kLru, "lru"},
                                                          {Policy::kSlru, "slru"},
                                                          {Policy::kLcp, "lcp"},
                                                          {Policy::kLeastStale, "least-stale"}};

// Tells equal priorities apart, and is nothing beside different ones.
constexpr double kOlderFirst = 1e-9;
// The part of a pass that one of its records takes: far more of them than a layer has experts.
constexpr double kWithinPass = 1.0 / 65536;
// Added to the key of a protected record: above every clock.
constexpr double kProtectedKey = 1e15;

}  // namespace

std::string_view policy_name(Policy policy) {
  for (const auto& [known, name] : kNames)
    if (known == policy) return name;
  return "";
}

std::optional<Policy> find_policy(std::string_view name) {
  for (const auto& [policy, known] : kNames)
    if (known == name) return policy;
  return std::nullopt;
}

Eviction::Eviction(Policy policy, std::vector<uint32_t> layer_of)
    : policy_(policy), layer_of_(std::move(layer_of)), keys_(layer_of_.size(), 0.0) {
  const size_t records = layer_of_.size();
  if (!layer_of_.empty()) layers_ = layer_of_.back() + 1;
  if (policy == Policy::kLcp || policy == Policy::kLeastStale) counts_.assign(records, 0.0);
  if (policy != Policy::kSlru) return;
  cached_.assign(records, false);
  protected_.assign(records, false);
  older_.assign(records, kNone);
  newer_.assign(records, kNone);
}

void Eviction::begin_pass(std::span<const uint32_t> records) {
  if (records.empty()) return;
  const uint32_t layer = layer_of_[records[0]];
  if (layer <= layer_) ++round_;
  layer_ = layer;
  time_ = std::floor(time_) + 1.0;
  for (const uint32_t record : records) use(record);
}

void Eviction::touch(uint32_t record) {
  time_ = std::floor(time_) + 1.0;
  use(record);
}

void Eviction::use(uint32_t record) {
  ++clock_;
  time_ += kWithinPass;
  switch (policy_) {
    case Policy::kLru:
      keys_[record] = clock_;
      return;
    case Policy::kLfu: {
      // Keys are logarithms of counts as they would be at time 0, so that they compare at any time without being aged:
      // key = log(count) + kDecay * now, where count = old count, aged, plus 1.
      const double aged = keys_[record] == 0.0 ? 0.0 : std::exp(keys_[record] - kDecay * time_);
      keys_[record] = std::log(aged + 1.0) + kDecay * time_;
      return;
    }
    case Policy::kSlru:
      touch_segmented(record);
      return;
    case Policy::kLcp:
      // The logarithm of the priority, again as it would be at time 0; of equal ones the older record leaves.
      counts_[record] += 1.0;
      keys_[record] =
          std::log(counts_[record]) - std::log(kLcpBase) / kLcpTokens * round_ + kOlderFirst * clock_;
      return;
    case Policy::kLeastStale:
      keys_[record] = clock_;
      counts_[record] = round_;
      return;
  }
}

// A record that is needed again while it is cached becomes the newest of the protected; the oldest of too many of those
// becomes the newest of the others.
void Eviction::touch_segmented(uint32_t record) {
  keys_[record] = clock_;
  if (!cached_[record]) return;
  unprotect(record);
  keys_[record] = clock_ + kProtectedKey;
  protected_[record] = true;
  older_[record] = newest_;
  newer_[record] = kNone;
  (newest_ == kNone ? oldest_ : newer_[newest_]) = record;
  newest_ = record;
  ++protected_count_;
  while (protected_count_ > protected_max_) {
    const uint32_t oldest = oldest_;
    unprotect(oldest);
    keys_[oldest] = clock_;
  }
}

void Eviction::unprotect(uint32_t record) {
  if (!protected_[record]) return;
  protected_[record] = false;
  --protected_count_;
  (older_[record] == kNone ? oldest_ : newer_[older_[record]]) = newer_[record];
  (newer_[record] == kNone ? newest_ : older_[newer_[record]]) = older_[record];
}

void Eviction::enter(uint32_t record) {
  if (policy_ == Policy::kSlru) cached_[record] = true;
}

void Eviction::leave(uint32_t record) {
  if (policy_ != Policy::kSlru) return;
  cached_[record] = false;
  unprotect(record);
}

void Eviction::set_slots(uint64_t slots) {
  protected_max_ = static_cast<uint64_t>(static_cast<double>(slots) * kProtectedShare);
  while (policy_ == Policy::kSlru && protected_count_ > protected_max_) {
    const uint32_t oldest = oldest_;
    unprotect(oldest);
    keys_[oldest] = clock_;
  }
}

// Used by this token: kept. Else by the layers to go before the record's turn comes (those of the layer that runs now
// wait longest), then by the last use.
double Eviction::staleness_key(uint32_t record) const {
  const uint32_t ahead = (layer_of_[record] + layers_ - layer_ - 1) % layers_;
  const double fresh = counts_[record] == round_ && round_ > 0 ? 1 : 0;
  const double used = keys_[record] / (clock_ + 1);  // Below 1.
  return fresh * layers_ + (layers_ - 1 - ahead) + used;
}

}  // namespace mlxf::weights
