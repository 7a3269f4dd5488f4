// GuessGate: whether guesses at the next layer's experts pay.
//
// A right guess is read in time in which the disk would have been idle, or before what is needed after it: it never
// costs anything. A wrong one delays a demand where the engine waits for the disk most of the time, and so nearly all
// have to be right there; elsewhere six in ten. Where it hardly ever waits there is nothing to win. Where they do not
// pay none are made for a while, and each time for longer. Pure: counters and time are given to it. One thread.
#pragma once

#include <algorithm>
#include <cstdint>

namespace mlxf::model {

class GuessGate {
 public:
  // Layers after which it judges, and for which it then stays closed, at first and at most. Some seconds of decoding,
  // and some minutes.
  static constexpr uint32_t kJudgedLayers = 256, kClosedLayers = 4096, kClosedLayersMax = 16 * kClosedLayers;
  // Of the time, waiting for the disk: below the first nothing can be won, above the second the disk is busy.
  static constexpr double kStallMin = 0.03, kStallBusy = 0.5;
  // Of the guesses, those needed: while the disk has time, and while it is busy.
  static constexpr double kUsedMin = 0.6, kUsedMinBusy = 0.9;

  // As they are now; they only grow.
  struct Counters {
    uint64_t guesses = 0, used = 0;
    double stall_seconds = 0.0;  // Waiting for the disk,
    double seconds = 0.0;        // of all time.
  };
  // Asked once a layer, before guessing for the next.
  [[nodiscard]] bool open(const Counters& now) {
    if (closed_ > 0) {
      if (--closed_ == 0) before_ = now;
      return false;
    }
    if (asked_++ == 0) before_ = now;
    if (asked_ < kJudgedLayers) return true;
    asked_ = 0;
    const double stalled = now.stall_seconds - before_.stall_seconds, passed = now.seconds - before_.seconds;
    const auto guesses = static_cast<double>(now.guesses - before_.guesses);
    const auto used = static_cast<double>(now.used - before_.used);
    const double used_min = stalled < kStallBusy * passed ? kUsedMin : kUsedMinBusy;
    const bool pays = stalled >= kStallMin * passed && used >= used_min * guesses;
    if (pays) {
      closing_ = kClosedLayers;
    } else {
      closed_ = closing_;
      closing_ = std::min(2 * closing_, kClosedLayersMax);
    }
    return pays;
  }

 private:
  uint32_t asked_ = 0;
  uint32_t closed_ = 0;
  uint32_t closing_ = kClosedLayers;  // The next time.
  Counters before_;
};

}  // namespace mlxf::model
