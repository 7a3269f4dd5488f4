// TerminationSignals: SIGINT and SIGTERM as events that a program waits for, instead of its end.
//
// One at a time, made by the program's top; the signals mean what they meant before once it is destroyed. wait() is for
// one thread. Every signal counts: the second one is how a user says "now".
#pragma once

#include <chrono>

#include "base/result.h"

namespace mlxf::platform {

class TerminationSignals {
 public:
  [[nodiscard]] static Result<TerminationSignals> watch();
  TerminationSignals(TerminationSignals&& other) noexcept;
  TerminationSignals& operator=(TerminationSignals&&) = delete;
  ~TerminationSignals();

  // True when a signal came; false when `timeout` passed first.
  [[nodiscard]] bool wait(std::chrono::milliseconds timeout) const;

 private:
  TerminationSignals(int read_end, int write_end) : read_end_(read_end), write_end_(write_end) {}
  int read_end_, write_end_;
};

// As if somebody sent this process SIGTERM.
void ask_to_terminate();

}  // namespace mlxf::platform
