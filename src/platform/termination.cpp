#include "platform/termination.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>

namespace mlxf::platform {
namespace {

// A signal handler has no other way to its object.
volatile std::sig_atomic_t signal_pipe = -1;

void on_signal(int) {
  const int saved = errno;
  const char byte = 1;
  const ssize_t ignored = write(signal_pipe, &byte, 1);  // A full pipe already says it all.
  static_cast<void>(ignored);
  errno = saved;
}

}  // namespace

Result<TerminationSignals> TerminationSignals::watch() {
  int ends[2];
  if (pipe(ends) != 0)
    return fail(ErrorCode::kIo, std::string("cannot make a pipe: ") + std::strerror(errno));
  for (const int end : ends) {
    fcntl(end, F_SETFD, FD_CLOEXEC);
    fcntl(end, F_SETFL, O_NONBLOCK);
  }
  signal_pipe = ends[1];
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  return TerminationSignals(ends[0], ends[1]);
}

TerminationSignals::TerminationSignals(TerminationSignals&& other) noexcept
    : read_end_(other.read_end_), write_end_(other.write_end_) {
  other.read_end_ = other.write_end_ = -1;
}

TerminationSignals::~TerminationSignals() {
  if (read_end_ < 0) return;
  std::signal(SIGINT, SIG_DFL);
  std::signal(SIGTERM, SIG_DFL);
  signal_pipe = -1;
  close(read_end_);
  close(write_end_);
}

void ask_to_terminate() { std::raise(SIGTERM); }

bool TerminationSignals::wait(std::chrono::milliseconds timeout) const {
  pollfd poller{read_end_, POLLIN, 0};
  if (poll(&poller, 1, static_cast<int>(timeout.count())) <= 0) return false;
  char byte = 0;
  return read(read_end_, &byte, 1) == 1;
}

}  // namespace mlxf::platform
