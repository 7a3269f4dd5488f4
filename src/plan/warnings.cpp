#include "plan/warnings.h"

#include <algorithm>
#include <cstdio>

namespace mlxf::plan {
namespace {

// Streaming a model needs gigabytes per token; below this most of them answer slower than one reads.
constexpr double kSlowDiskBytesS = 1e9;
// Measurements on a busy machine differ by less than this.
constexpr double kSlowerThanBefore = 0.7;
constexpr double kBusyShare = 0.5;  // Of the cores.
constexpr double kHugeShareMin = 0.9;

std::string gigabytes(double bytes_s) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f GB/s", bytes_s / 1e9);
  return text;
}

std::string percent(double share) { return std::to_string(static_cast<int>(share * 100 + 0.5)) + " %"; }

void about_processor(const HardwareProfile& profile, std::vector<std::string>& out) {
  const std::string& isa = profile.machine.isa;
  const std::string best = profile.peaks.empty() ? isa : profile.peaks.front().isa;
  if (best != isa) {
    out.push_back("the " + isa + " kernels run although this processor has " + best + "; unset MLXF_ISA");
  } else if (isa == "reference") {
    out.push_back(
        "this processor has no AVX2 with FMA and F16C (or a virtual machine hides it): the scalar kernels "
        "run, which "
        "are many times slower; choose the host's processor model for the virtual machine");
  }
}

void about_memory(const Circumstances& c, std::vector<std::string>& out) {
  if (c.huge_page_mode == "never") {
    out.emplace_back(
        "transparent huge pages are off, which slows streaming and loading: "
        "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled");
  } else if (!c.huge_page_mode.empty() && c.now.huge_page_share < kHugeShareMin) {
    out.push_back("only " + percent(c.now.huge_page_share) +
                  " of the memory asked for came in huge pages: memory is fragmented or short");
  }
  const uint64_t total = std::min(c.memory.total_bytes, c.memory.limit_bytes);
  const uint64_t available = std::min(c.memory.available_bytes, c.memory.limit_room_bytes);
  if (available < total / 10)
    out.push_back("only " + percent(static_cast<double>(available) / static_cast<double>(total)) +
                  " of the memory is available; other programs hold the rest");
  const double now = c.now.profile.ram_read_bytes_s.all;
  if (c.earlier && now < kSlowerThanBefore * c.earlier->ram_read_bytes_s.all)
    out.push_back("memory reads at " + gigabytes(now) + ", it was " +
                  gigabytes(c.earlier->ram_read_bytes_s.all) + " on " + c.earlier->measured.substr(0, 10) +
                  "; is something else running?");
}

void about_disk(const Measurement& now, std::vector<std::string>& out) {
  const HardwareProfile& profile = now.profile;
  if (!now.ssd_failure.empty()) {
    out.push_back("the disk was not measured: " + now.ssd_failure);
    return;
  }
  if (profile.ssd_storage.rfind("io_uring", 0) != 0)
    out.push_back("reads do not use io_uring: " + profile.ssd_storage);
  if (!now.ssd_direct)
    out.push_back(
        "the file system of " + profile.ssd_path +
        " refuses direct reads, so every byte is copied through the page cache; keep models on a local disk");
  double best = 0;
  for (const SsdRate& rate : profile.ssd) best = std::max(best, rate.bytes_s);
  if (best < kSlowDiskBytesS)
    out.push_back("the disk reads at most " + gigabytes(best) + ", slower than " +
                  gigabytes(kSlowDiskBytesS) + ": models larger than memory will be slow");
}

}  // namespace

std::vector<std::string> warnings(const Circumstances& circumstances) {
  std::vector<std::string> out;
  const uint32_t cores = circumstances.now.profile.machine.cores;
  if (circumstances.load_average > kBusyShare * cores) {
    char text[160];
    std::snprintf(
        text, sizeof text,
        "other programs were running (load average %.1f on %u cores): what was measured is too low; "
        "repeat it on a quiet machine",
        circumstances.load_average, cores);
    out.emplace_back(text);
  }
  about_processor(circumstances.now.profile, out);
  about_memory(circumstances, out);
  about_disk(circumstances.now, out);
  return out;
}

}  // namespace mlxf::plan
