// Prints the read speed of a file for each backend, block size, depth and kind of memory, as a Markdown table.
//
//   storage_bench FILE [--seconds S] [--repeat R] [--pieces]
//
// The cells are the medians of R probes in MB/s, with CPU milliseconds per GB in parentheses. --pieces instead
// measures one large read at a time cut into pieces. FILE should be larger than what the machine's cache holds, and
// nothing else may be running: docs/measurements/2026-11-storage.md.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "storage/probe.h"

namespace {

using mlxf::storage::Backend;
using mlxf::storage::ProbeOptions;
using Memory = ProbeOptions::Memory;

struct Plan {
  std::string path;
  double seconds = 0.7;
  int repeat = 3;
  bool pieces = false;
};

std::string cell(const Plan& plan, ProbeOptions options) {
  std::vector<std::pair<double, double>> samples;
  for (int i = 0; i < plan.repeat; ++i) {
    options.seconds = plan.seconds;
    options.seed = static_cast<uint64_t>(i) + 1;
    const auto result = mlxf::storage::probe(plan.path, options);
    if (!result) {
      std::fprintf(stderr, "storage_bench: %s\n", result.error().message.c_str());
      return "-";
    }
    samples.emplace_back(result->bytes_per_second() / 1e6,
                         result->cpu_seconds * 1e12 / static_cast<double>(result->bytes));
  }
  std::sort(samples.begin(), samples.end());
  const auto& median = samples[samples.size() / 2];
  char text[64];
  std::snprintf(text, sizeof text, "%.0f (%.0f)", median.first, median.second);
  return text;
}

std::string size_name(uint64_t bytes) {
  return bytes < (1U << 20) ? std::to_string(bytes >> 10) + "K" : std::to_string(bytes >> 20) + "M";
}

void print_blocks(const Plan& plan) {
  std::printf("| backend | memory | block | depth 1 | depth 4 | depth 16 |\n|---|---|---|---|---|---|\n");
  for (const Backend backend : {Backend::kIoUring, Backend::kPread, Backend::kBuffered}) {
    for (const Memory memory : {Memory::kSmall, Memory::kHuge}) {
      for (const uint64_t block_bytes : {65536U, 262144U, 1U << 20, 2U << 20, 8U << 20}) {
        std::printf("| %s | %s | %s |", std::string(backend_name(backend)).c_str(),
                    memory == Memory::kHuge ? "2M" : "4K", size_name(block_bytes).c_str());
        for (const uint32_t depth : {1U, 4U, 16U}) {
          ProbeOptions options;
          options.backend = backend;
          options.memory = memory;
          options.block_bytes = block_bytes;
          options.depth = depth;
          std::printf(" %s |", cell(plan, options).c_str());
          std::fflush(stdout);
        }
        std::printf("\n");
      }
    }
  }
}

// `depth` counts pieces here, and 16 blocks are asked for at a time.
void print_pieces(const Plan& plan) {
  std::printf(
      "| backend | memory | block | 256K pieces | 512K | 1M | 2M | whole "
      "|\n|---|---|---|---|---|---|---|---|\n");
  for (const Backend backend : {Backend::kIoUring, Backend::kPread}) {
    for (const Memory memory : {Memory::kSmall, Memory::kHuge}) {
      for (const uint64_t block_bytes : {2U << 20, 8U << 20}) {
        std::printf("| %s | %s | %s |", std::string(backend_name(backend)).c_str(),
                    memory == Memory::kHuge ? "2M" : "4K", size_name(block_bytes).c_str());
        for (const uint64_t piece_bytes :
             {uint64_t{256} << 10, uint64_t{512} << 10, uint64_t{1} << 20, uint64_t{2} << 20, block_bytes}) {
          ProbeOptions options;
          options.backend = backend;
          options.memory = memory;
          options.block_bytes = block_bytes;
          options.depth = 16;
          options.threads = 4;
          options.piece_bytes = piece_bytes;
          std::printf(" %s |", cell(plan, options).c_str());
          std::fflush(stdout);
        }
        std::printf("\n");
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  Plan plan;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--pieces") {
      plan.pieces = true;
    } else if (word == "--seconds" && i + 1 < argc) {
      plan.seconds = std::strtod(argv[++i], nullptr);
    } else if (word == "--repeat" && i + 1 < argc) {
      plan.repeat = std::max(1, static_cast<int>(std::strtol(argv[++i], nullptr, 10)));
    } else if (plan.path.empty() && word[0] != '-') {
      plan.path = word;
    } else {
      plan.path.clear();
      break;
    }
  }
  if (plan.path.empty()) {
    std::fprintf(stderr, "usage: storage_bench FILE [--seconds S] [--repeat R] [--pieces]\n");
    return 2;
  }
  plan.pieces ? print_pieces(plan) : print_blocks(plan);
  return 0;
}
