// What one reading of the memory's state costs: memory_bench [ROUNDS [ROOT]]. Prints the reading, the time of a
// call and what `auto` comes to. ROOT is a folder to stand for "/".
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "memory/budget.h"
#include "platform/memory_info.h"
#include "platform/process.h"

namespace {

double microseconds(std::chrono::nanoseconds time) {
  return std::chrono::duration<double, std::micro>(time).count();
}

}  // namespace

int main(int argc, char** argv) {
  using mlxf::memory::size_text;
  const long rounds = argc > 1 ? std::strtol(argv[1], nullptr, 10) : 100000;
  auto source = mlxf::platform::MemorySource::open(argc > 2 ? argv[2] : "");
  if (!source || rounds < 1) {
    std::fprintf(stderr, "memory_bench: %s\n",
                 source ? "at least one round" : source.error().message.c_str());
    return 1;
  }
  std::vector<std::chrono::nanoseconds> times;
  times.reserve(static_cast<size_t>(rounds));
  mlxf::platform::MemoryReading last;
  for (long i = 0; i < rounds; ++i) {
    const auto start = std::chrono::steady_clock::now();
    const auto reading = source->read();
    times.push_back(std::chrono::steady_clock::now() - start);
    if (!reading) return 1;
    last = *reading;
  }
  std::sort(times.begin(), times.end());
  const auto at = [&](double share) {
    return microseconds(times[static_cast<size_t>(share * static_cast<double>(times.size() - 1))]);
  };
  const bool limited = last.limit_bytes != mlxf::platform::kNoMemoryLimit;
  std::printf("total %s, available %s, limit %s, host stalls %s, group stalls %s\n",
              size_text(last.total_bytes).c_str(), size_text(last.available_bytes).c_str(),
              limited ? size_text(last.limit_bytes).c_str() : "none",
              last.host_stalls.known ? "known" : "unknown", last.group_stalls.known ? "known" : "unknown");
  std::printf("%ld readings: median %.1f us, 10 %% %.1f us, 90 %% %.1f us, 99 %% %.1f us\n", rounds, at(0.5),
              at(0.1), at(0.9), at(0.99));
  const auto request = mlxf::memory::parse_budget("auto");
  if (!request) return 1;
  const auto budget = mlxf::memory::resolve_budget(*request, last, mlxf::platform::own_memory_bytes());
  std::printf("%s: %s\n", size_text(budget.bytes).c_str(), budget.reason.c_str());
  return 0;
}
