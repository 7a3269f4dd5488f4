#include <unistd.h>

#include <cstdio>
#include <memory>

#include "cli/commands.h"

namespace mlxf::cli {

std::function<void(uint64_t, uint64_t)> progress_line(const std::string& label) {
  if (isatty(STDERR_FILENO) == 0) return {};
  const auto shown = std::make_shared<uint64_t>(UINT64_MAX);
  return [label, shown](uint64_t done, uint64_t total) {
    const uint64_t percent = total == 0 ? 100 : done * 100 / total;
    if (percent == *shown) return;
    *shown = percent;
    std::fprintf(stderr, "\r%s %3llu %%%s", label.c_str(), static_cast<unsigned long long>(percent),
                 done == total ? "\n" : "");
  };
}

}  // namespace mlxf::cli
