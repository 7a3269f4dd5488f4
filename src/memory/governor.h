// Governor: how many bytes the weight slots may take right now, within the user's budget, so that other programs always
// find memory.
//
// Pure logic: readings and time are given to it, it touches nothing. Whoever can resize slots asks it at token borders,
// at least once a second while it runs, and makes the slots that large: at once when less, as it comes when more.
//
// With R = what is to be left to others (reserves_for) and "left" = what would be available once the slots fill the
// target:
//   left < R/2      low: shrink until 3/4 R is left. Also, by R times the share of time that programs waited for
//                   memory, when our own group waited 10 % of the time, or the host did and left < 2 R.
//   R/2 .. R        hold.
//   left > R        if so for a whole calm wait: grow, a sixteenth of the budget a step, to no more than what would
//                   have left R at the worst moment of that wait.
// Growing ends at R and shrinking starts at R/2: with nobody else changing, no step can follow from the last one.
// Against others that come and go, each shrink after a growth doubles the calm wait (5 s to 320 s); 320 s without
// a shrink halve it.
// One step a second, so that a target stays for a while; lowering the ceiling (other holdings grew into the budget)
// is no step and is obeyed at once. Never below the floor: a request that runs slowly is better than none.
// One thread. Sizes are bytes.
#pragma once

#include <chrono>
#include <cstdint>

#include "platform/memory_info.h"

namespace mlxf::memory {

struct GovernorOptions {
  uint64_t budget_bytes = 0;  // Hard: slots and all other holdings together.
  // Slots never get less, even where the budget has no room for it (the ledger then refuses): what one token needs.
  uint64_t floor_bytes = 0;
  uint64_t most_bytes =
      ~uint64_t{0};  // Slots that would be of no use beyond it: then it is a target as well.
  // Targets are multiples of this, or the floor: what the slots are mapped and unmapped by.
  uint64_t chunk_bytes = uint64_t{64} << 20;
  std::chrono::nanoseconds step_wait = std::chrono::seconds(1);
  std::chrono::nanoseconds calm_wait_min = std::chrono::seconds(5);
  std::chrono::nanoseconds calm_wait_max = std::chrono::seconds(320);
};

struct Holdings {
  uint64_t slot_bytes = 0;   // Mapped and touched: what would come back if they were unmapped.
  uint64_t other_bytes = 0;  // Everything else that is charged to the budget.
};

struct Decision {
  enum class Cause : uint8_t {
    kHold,     // As before.
    kStart,    // The first.
    kCeiling,  // Other holdings grew into the budget.
    kLow,      // Too little is left to others.
    kStalls,   // Programs wait for memory.
    kCalm,     // Memory was free for long enough.
  };
  uint64_t slot_bytes = 0;
  Cause cause = Cause::kHold;
};
[[nodiscard]] const char* cause_name(Decision::Cause cause);

class Governor {
 public:
  explicit Governor(const GovernorOptions& options);

  // `now` is of any clock that only goes forward.
  [[nodiscard]] Decision decide(const platform::MemoryReading& reading, const Holdings& holdings,
                                std::chrono::nanoseconds now);
  [[nodiscard]] uint64_t target() const { return target_; }
  [[nodiscard]] std::chrono::nanoseconds calm_wait() const { return calm_wait_; }

 private:
  // The share of the time since it was asked last in which some program waited.
  class StallMeter {
   public:
    [[nodiscard]] double share(const platform::MemoryStalls& stalls, std::chrono::nanoseconds now);

   private:
    bool started_ = false;
    uint64_t total_us_ = 0;
    std::chrono::nanoseconds at_{0};
    double share_ = 0;
  };

  [[nodiscard]] uint64_t whole_chunks(uint64_t bytes) const;
  void forget_calm();
  [[nodiscard]] double stall_share(const platform::MemoryReading& reading, bool tight,
                                   std::chrono::nanoseconds now);
  void watch_calm(bool comfortable, uint64_t supportable, std::chrono::nanoseconds now);
  Decision shrink(uint64_t to, Decision::Cause cause, std::chrono::nanoseconds now);
  Decision grow(uint64_t to, std::chrono::nanoseconds now);

  const GovernorOptions options_;
  uint64_t target_ = 0;
  bool started_ = false;
  bool grew_last_ = false;
  std::chrono::nanoseconds step_at_{0};
  std::chrono::nanoseconds asked_at_{0};
  std::chrono::nanoseconds calm_wait_;
  std::chrono::nanoseconds calm_{0};    // How long it has been comfortable.
  std::chrono::nanoseconds quiet_{0};   // How long since a shrink or a change of the calm wait.
  uint64_t calm_bytes_ = ~uint64_t{0};  // The least that was supportable in that time.
  StallMeter host_;
  StallMeter group_;
};

}  // namespace mlxf::memory
