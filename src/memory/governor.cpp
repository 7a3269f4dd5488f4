#include "memory/governor.h"

#include <algorithm>
#include <array>

#include "memory/budget.h"

namespace mlxf::memory {
namespace {

using std::chrono::nanoseconds;

// A share of time in stalls that people notice; background reclaim alone stays far below.
constexpr double kStallShare = 0.10;
// Totals over less time than this say nothing.
constexpr nanoseconds kStallWindow = std::chrono::milliseconds(250);
// Nobody looked for longer than this: then no calm was seen either.
constexpr nanoseconds kSightMax = std::chrono::seconds(2);
constexpr uint64_t kGrowthSteps = 16;
// On macOS only a level is told: it stands for these shares.
constexpr double kWarningShare = 0.25;
constexpr double kCriticalShare = 1.0;

uint64_t less(uint64_t a, uint64_t b) { return a - std::min(a, b); }

uint64_t plus(uint64_t a, uint64_t b) { return b > ~uint64_t{0} - a ? ~uint64_t{0} : a + b; }

// How large the slots may get, given what they are, so that `quarters` quarters of the reserves are left to others.
class Support {
 public:
  Support(const platform::MemoryReading& reading, const Holdings& holdings)
      : reserves_(reserves_for(reading, plus(holdings.slot_bytes, holdings.other_bytes))),
        host_bytes_(plus(holdings.slot_bytes, reading.available_bytes)),
        group_bytes_(plus(holdings.slot_bytes, reading.limit_room_bytes)) {}

  [[nodiscard]] uint64_t leaving(uint64_t quarters) const {
    return std::min(less(host_bytes_, reserves_.host_bytes * quarters / 4),
                    less(group_bytes_, reserves_.group_bytes * quarters / 4));
  }
  // The reserve of whichever is the tighter, host or group.
  [[nodiscard]] uint64_t reserve() const {
    const bool group = less(group_bytes_, reserves_.group_bytes) < less(host_bytes_, reserves_.host_bytes);
    return group ? reserves_.group_bytes : reserves_.host_bytes;
  }

 private:
  Reserves reserves_;
  uint64_t host_bytes_;
  uint64_t group_bytes_;
};

}  // namespace

const char* cause_name(Decision::Cause cause) {
  constexpr std::array<const char*, 6> kNames{"hold", "start", "ceiling", "low memory", "stalls", "calm"};
  return kNames[static_cast<size_t>(cause)];
}

Governor::Governor(const GovernorOptions& options) : options_(options), calm_wait_(options.calm_wait_min) {}

double Governor::StallMeter::share(const platform::MemoryStalls& stalls, nanoseconds now) {
  if (!stalls.known || !started_ || stalls.some_total_us < total_us_) {  // Less than before: another group's.
    started_ = stalls.known;
    total_us_ = stalls.some_total_us;
    at_ = now;
    share_ = 0;
    return 0;
  }
  if (now - at_ < kStallWindow) return share_;
  const double waited_us = static_cast<double>(stalls.some_total_us - total_us_);
  share_ = std::min(1.0, waited_us * 1e3 / static_cast<double>((now - at_).count()));
  total_us_ = stalls.some_total_us;
  at_ = now;
  return share_;
}

uint64_t Governor::whole_chunks(uint64_t bytes) const {
  const uint64_t chunk = std::max<uint64_t>(options_.chunk_bytes, 1);
  return std::max(bytes / chunk * chunk, options_.floor_bytes);
}

void Governor::forget_calm() {
  calm_ = nanoseconds(0);
  calm_bytes_ = ~uint64_t{0};
}

// The share of time in stalls that call for memory back, 0 if none do. Our own group's always do, for the limit that
// causes them may be hidden from us; the host's may be any other group's against its own limit, unless memory is tight.
double Governor::stall_share(const platform::MemoryReading& reading, bool tight, nanoseconds now) {
  double share = group_.share(reading.group_stalls, now);
  const double host = host_.share(reading.host_stalls, now);
  if (tight) share = std::max(share, host);
  if (tight && reading.pressure == platform::MemoryPressure::kWarning) share = std::max(share, kWarningShare);
  if (reading.pressure == platform::MemoryPressure::kCritical) share = kCriticalShare;
  return share >= kStallShare ? share : 0;
}

void Governor::watch_calm(bool comfortable, uint64_t supportable, nanoseconds now) {
  const nanoseconds seen = std::min(now - asked_at_, kSightMax);
  asked_at_ = now;
  quiet_ += seen;
  if (quiet_ >= options_.calm_wait_max && calm_wait_ > options_.calm_wait_min) {
    calm_wait_ = std::max(calm_wait_ / 2, options_.calm_wait_min);
    quiet_ = nanoseconds(0);
  }
  if (!comfortable) {
    forget_calm();
    return;
  }
  calm_ += seen;
  calm_bytes_ = std::min(calm_bytes_, supportable);
}

Decision Governor::shrink(uint64_t to, Decision::Cause cause, nanoseconds now) {
  if (to >= target_) return {target_, Decision::Cause::kHold};
  if (grew_last_) calm_wait_ = std::min(calm_wait_ * 2, options_.calm_wait_max);
  grew_last_ = false;
  quiet_ = nanoseconds(0);
  step_at_ = now;
  target_ = to;
  return {target_, cause};
}

Decision Governor::grow(uint64_t to, nanoseconds now) {
  if (to <= target_) {
    forget_calm();  // What the worst moment of this wait allowed is used up: the next wait has its own.
    return {target_, Decision::Cause::kHold};
  }
  grew_last_ = true;
  step_at_ = now;
  target_ = to;
  return {target_, Decision::Cause::kCalm};
}

Decision Governor::decide(const platform::MemoryReading& reading, const Holdings& holdings, nanoseconds now) {
  const Support support(reading, holdings);
  const uint64_t ceiling =
      std::min(whole_chunks(less(options_.budget_bytes, holdings.other_bytes)), options_.most_bytes);
  const bool tight = target_ > support.leaving(8);
  const double stalled = stall_share(reading, tight, now);
  if (!started_) {
    started_ = true;
    asked_at_ = step_at_ = now;
    target_ = std::min(whole_chunks(support.leaving(3)), ceiling);
    return {target_, Decision::Cause::kStart};
  }
  const uint64_t margin = std::max(options_.chunk_bytes, support.reserve() / 8);
  watch_calm(stalled == 0 && support.leaving(4) >= plus(target_, margin), support.leaving(4), now);
  if (target_ > ceiling) {
    target_ = ceiling;
    forget_calm();  // Others' ups and downs within the budget are not followed to and fro either.
    return {target_, Decision::Cause::kCeiling};
  }
  if (now - step_at_ < options_.step_wait) return {target_, Decision::Cause::kHold};
  if (target_ > support.leaving(2))
    return shrink(whole_chunks(support.leaving(3)), Decision::Cause::kLow, now);
  if (stalled > 0) {
    const auto wanted = static_cast<uint64_t>(static_cast<double>(support.reserve()) * stalled);
    const uint64_t from = std::min(target_, holdings.slot_bytes);
    return shrink(whole_chunks(less(from, std::max(wanted, options_.chunk_bytes))), Decision::Cause::kStalls,
                  now);
  }
  if (calm_ < calm_wait_ || target_ >= ceiling) return {target_, Decision::Cause::kHold};
  const uint64_t step = std::max(options_.chunk_bytes, ceiling / kGrowthSteps);
  return grow(std::min(whole_chunks(std::min(calm_bytes_, plus(target_, step))), ceiling), now);
}

}  // namespace mlxf::memory
