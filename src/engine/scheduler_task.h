// What the scheduler knows of one request. Internal to the scheduler; the engine's thread only, but for the channel.
//
// A task waits, runs and waits again if it has to give way. scheduler.cpp has the steps of those that run,
// admission.cpp how they come to run and with which sequence.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "engine/scheduler.h"
#include "engine/ticket_channel.h"

namespace mlxf::engine {

// Room is taken for this many positions ahead, so that the ledger is asked seldom.
inline constexpr uint32_t kGrowPositions = 256;

inline double seconds_between(std::chrono::steady_clock::time_point from,
                              std::chrono::steady_clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

struct Scheduler::Task {
  Submission submission;
  std::shared_ptr<Ticket::Channel> channel;
  uint64_t arrival = 0;
  Clock::time_point submitted, admitted, first_token, last_token;
  bool ended = false;
  bool waits = false;           // For its reader, in this step.
  std::vector<TokenId> tokens;  // Prompt and answer: what the sequence holds, and at its end what it lacks.
  std::unique_ptr<Generation> generation;  // From the first admission on; of an embedding, never.
  std::vector<float> state;                // [hidden], of an embedding.
  std::unique_ptr<kv::Sequence> sequence;  // While it runs, but for the time that it takes to read one:
  uint64_t restores = 0;                   // then the ticket of that, else 0,
  uint32_t restored_tokens = 0;            // and what it will be cut to.
  memory::Reservation reservation;
  uint32_t cached_tokens = 0;
  bool counted_cached = false;  // cached_tokens is known.
  bool unrestorable = false;    // Reading its beginning was tried, in vain.
  // While it waits: the arrival of a running task, and how far that has to come, to share what it computes until then.
  std::optional<uint64_t> awaits;
  uint32_t awaited_tokens = 0;
  // Where its prompt leaves what others of its user began with, and those that come may, too; 0: nowhere.
  uint32_t fork = 0;
  // While it runs: where another task waits for it to come to; 0: none does.
  uint32_t stop_at = 0;

  // Tokens that the next steps can read.
  [[nodiscard]] uint32_t missing() const {
    return sequence == nullptr ? 0 : static_cast<uint32_t>(tokens.size()) - sequence->length();
  }
  // It has tokens to read before it decodes, or its beginning is still being read.
  [[nodiscard]] bool reads() const { return sequence == nullptr || missing() > 1; }
  [[nodiscard]] uint32_t length() const { return sequence == nullptr ? 0 : sequence->length(); }
  // Positions that it can need at most.
  [[nodiscard]] uint32_t limit() const {
    return static_cast<uint32_t>(submission.request.prompt.size()) +
           (generation != nullptr ? generation->most() : 0);
  }
  // Its reader is behind.
  [[nodiscard]] bool paused() const {
    if (!channel->events.full()) return false;
    channel->paused = true;
    return channel->events.full();  // Read in between: then nobody would wake us.
  }
  void set_stage(Progress::Stage stage) const { channel->stage.store(stage, std::memory_order_relaxed); }
  [[nodiscard]] Usage usage() const;
};

}  // namespace mlxf::engine
