// Turns: several models of one process compute one at a time, each with all threads.
//
// Every model has a pool of as many threads as there are processors. Two of them at work would disturb each other at
// each of the hundreds of barriers of a token; so their engine threads take turns. A turn lasts some steps, or a part
// of one: between two layers whoever has computed for long enough lets the other one on, so that a long prompt of one
// model does not hold up the answers of another. Long enough is as long as it had to wait itself, so that each gets
// about an equal share of the time. Who waits does so in order, for a second at most: a turn that takes longer waits
// for a disk, or is in a long layer, and going on beside it is better than waiting, too.
// With one model it costs an uncontended lock a layer.
//
// Thread-safe: Turns. A Turn belongs to one engine thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>

#include "base/mutex.h"

namespace mlxf::engine {

class Turns {
 public:
  using Clock = std::chrono::steady_clock;

  // One engine thread's way to take part; `turns` (null: it is alone) outlives it.
  class Turn {
   public:
    explicit Turn(Turns* turns) : turns_(turns) {}
    ~Turn() { end(); }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;
    // Before each step.
    void begin();
    // Within one, wherever it may pause.
    void border();
    // When there is no step to take.
    void end();

   private:
    void wait();
    Turns* const turns_;
    bool held_ = false;
    bool within_ = false;
    Clock::time_point since_;
    Clock::duration waited_{0};  // The last time: what others took.
  };

  explicit Turns(Clock::duration wait_max = std::chrono::seconds(1)) : wait_max_(wait_max) {}
  Turns(const Turns&) = delete;
  Turns& operator=(const Turns&) = delete;

  [[nodiscard]] size_t waiting() const MLXF_EXCLUDES(mutex_);

 private:
  // False: the wait was too long.
  [[nodiscard]] bool take() MLXF_EXCLUDES(mutex_);
  void give() MLXF_EXCLUDES(mutex_);

  const Clock::duration wait_max_;
  mutable Mutex mutex_;
  CondVar changed_;
  bool taken_ MLXF_GUARDED_BY(mutex_) = false;
  uint64_t tickets_ MLXF_GUARDED_BY(mutex_) = 0;
  std::deque<uint64_t> queue_ MLXF_GUARDED_BY(mutex_);  // At most one ticket per model.
};

}  // namespace mlxf::engine
