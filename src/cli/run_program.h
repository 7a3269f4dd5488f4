// What black-box tests of the program share: running it, and names for what it writes.
//
// Only tests include this header.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <string>

namespace mlxf {

struct Outcome {
  int code = -1;
  std::string output;  // stdout and stderr together.
};

inline Outcome run_as(const std::string& program, const std::string& arguments) {
  Outcome outcome;
  FILE* pipe = popen(("(" + program + " " + arguments + "\n) 2>&1").c_str(), "r");
  if (pipe == nullptr) return outcome;
  std::array<char, 4096> buffer;
  for (size_t n; (n = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;)
    outcome.output.append(buffer.data(), n);
  const int status = pclose(pipe);
  outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return outcome;
}

inline std::string temporary(const std::string& name) {
  return testing::TempDir() + "mlx-flash-" + std::to_string(getpid()) + "-" + name;
}

}  // namespace mlxf
