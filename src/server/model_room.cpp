#include "server/model_room.h"

#include <algorithm>
#include <optional>

namespace mlxf::server {
namespace {

uint64_t less(uint64_t from, uint64_t amount) { return from - std::min(from, amount); }

}  // namespace

RoomStep next_step(const ModelNeed& need, const RoomLimits& limits, std::span<const HeldModel> held) {
  using Kind = RoomStep::Kind;
  const bool limited = limits.budget_bytes != 0 && need.whole_bytes != 0;
  const uint64_t all = less(limits.budget_bytes, limits.base_bytes);
  if (limited && need.floor_bytes > all) return {Kind::kRefuse, 0};
  uint64_t of_busy = 0, of_all = 0;
  uint32_t busy = 0;
  std::optional<size_t> oldest_busy, oldest_idle, leaving;
  const auto older = [&](const std::optional<size_t>& than, size_t i) {
    return !than || held[i].used < held[*than].used;
  };
  for (size_t i = 0; i < held.size(); ++i) {
    const HeldModel& model = held[i];
    of_all += model.claim_bytes;
    if (!model.busy && older(oldest_idle, i)) oldest_idle = i;
    if (!model.busy) continue;
    ++busy;
    of_busy += model.claim_bytes;
    if (model.leaving && older(leaving, i)) leaving = i;
    if (older(oldest_busy, i)) oldest_busy = i;
  }
  const uint64_t without_idle = less(all, of_busy);
  // One at a time: the next may not have to go.
  if (busy >= limits.models_max || (limited && need.floor_bytes > without_idle))
    return {Kind::kAwait, leaving ? *leaving : oldest_busy.value_or(0)};
  const uint64_t target =
      need.whole_bytes <= without_idle ? need.whole_bytes : std::max(need.floor_bytes, without_idle / 2);
  const bool fits = !limited || target <= less(all, of_all);
  if (held.size() < limits.models_max && fits) return {Kind::kLoad, 0};
  return oldest_idle ? RoomStep{Kind::kUnload, *oldest_idle} : RoomStep{Kind::kLoad, 0};
}

}  // namespace mlxf::server
