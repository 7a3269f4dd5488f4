// GuessGate: whether guesses at the next layer's experts pay.
//
// A guess can only win time in which the disk would have been idle. Where the engine waits for it most of the time
// there is none, and every wrong guess delays a demand; where less than half of the guesses are needed, they bring
// in less than they cost. Then none are made for a while. Pure: counters and time are given to it. One thread.
#pragma once

#include <cstdint>

namespace mlxf::model {

class GuessGate {
 public:
  // Layers after which it judges, and for which it then stays closed. Some seconds of decoding.
  static constexpr uint32_t kJudgedLayers = 256, kClosedLayers = 4096;

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
    const bool needed = 2 * (now.used - before_.used) >= now.guesses - before_.guesses;
    const bool idle = 2.0 * (now.stall_seconds - before_.stall_seconds) < now.seconds - before_.seconds;
    if (!needed || !idle) closed_ = kClosedLayers;
    return needed && idle;
  }

 private:
  uint32_t asked_ = 0;
  uint32_t closed_ = 0;
  Counters before_;
};

}  // namespace mlxf::model
