#include <optional>
#include <utility>

#include "engine/scheduler.h"
#include "engine/ticket_channel.h"

namespace mlxf::engine {

Ticket& Ticket::operator=(Ticket&& other) noexcept {
  if (this != &other) {
    cancel();
    channel_ = std::move(other.channel_);
  }
  return *this;
}

std::optional<Event> Ticket::poll() {
  std::optional<Event> event = channel_->events.poll();
  if (event && channel_->paused.exchange(false)) channel_->wakeup->wake();
  return event;
}

std::optional<Event> Ticket::wait(std::chrono::nanoseconds timeout) {
  std::optional<Event> event = channel_->events.wait(timeout);
  if (event && channel_->paused.exchange(false)) channel_->wakeup->wake();
  return event;
}

void Ticket::cancel() {
  if (channel_ != nullptr && !channel_->cancelled.exchange(true)) channel_->wakeup->wake();
}

Progress Ticket::progress() const {
  return {channel_->stage.load(std::memory_order_relaxed), channel_->position.load(std::memory_order_relaxed),
          channel_->prompt_done.load(std::memory_order_relaxed)};
}

}  // namespace mlxf::engine
