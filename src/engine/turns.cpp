#include "engine/turns.h"

#include <algorithm>
#include <utility>

namespace mlxf::engine {
namespace {

// A turn shorter than some tokens of a small model would mostly move caches; one longer than half a second would be
// seen in the other's stream.
constexpr std::chrono::milliseconds kTurnMin(20), kTurnMax(500);

}  // namespace

size_t Turns::waiting() const {
  const MutexLock lock(mutex_);
  return queue_.size();
}

bool Turns::take() {
  const MutexLock lock(mutex_);
  const uint64_t ticket = tickets_++;
  queue_.push_back(ticket);
  const auto last = Clock::now() + wait_max_;
  while (taken_ || queue_.front() != ticket) {
    const auto left = last - Clock::now();
    if (left.count() <= 0) break;
    changed_.wait_for(mutex_, left);
  }
  const bool got = !taken_ && queue_.front() == ticket;
  queue_.erase(std::find(queue_.begin(), queue_.end(), ticket));
  if (got) {
    taken_ = true;
  } else {
    changed_.notify_all();  // Who was behind this one may be the first now.
  }
  return got;
}

void Turns::give() {
  {
    const MutexLock lock(mutex_);
    taken_ = false;
  }
  changed_.notify_all();
}

void Turns::Turn::wait() {
  const auto asked = Clock::now();
  held_ = turns_->take();
  since_ = Clock::now();
  waited_ = since_ - asked;
}

void Turns::Turn::begin() {
  if (turns_ == nullptr) return;
  within_ = true;
  if (held_) return border();
  wait();
}

void Turns::Turn::end() {
  if (turns_ == nullptr || !within_) return;
  within_ = false;
  if (std::exchange(held_, false)) turns_->give();
}

void Turns::Turn::border() {
  if (turns_ == nullptr || !within_) return;
  if (held_) {
    const auto turn = std::clamp<Clock::duration>(waited_, kTurnMin, kTurnMax);
    if (turns_->waiting() == 0 || Clock::now() - since_ < turn) return;
    held_ = false;
    turns_->give();
  }
  wait();
}

}  // namespace mlxf::engine
