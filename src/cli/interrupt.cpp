// Ctrl-C while an answer is written ends that answer; the second press ends the program. Commands that have no more to
// say then, and something to tidy, also take SIGTERM for that.
#include <csignal>

#include "cli/commands.h"

namespace mlxf::cli {
namespace {

volatile std::sig_atomic_t pressed = 0;

void on_interrupt(int) {
  pressed = 1;
  std::signal(SIGINT, SIG_DFL);
  std::signal(SIGTERM, SIG_DFL);
}

}  // namespace

void watch_interrupts() { std::signal(SIGINT, on_interrupt); }

void watch_termination() {
  watch_interrupts();
  std::signal(SIGTERM, on_interrupt);
}

bool interrupted() { return pressed != 0; }

void clear_interrupt() {
  pressed = 0;
  watch_interrupts();
}

}  // namespace mlxf::cli
