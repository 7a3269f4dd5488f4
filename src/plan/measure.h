// Measures the rates of a HardwareProfile.
//
// Each rate is the best of many short passes: a limit must not look low because another program took the processor for
// a while. Memory passes need the memory they are told to use; disk passes block the caller and read with the program's
// own storage. One call at a time, from one thread that may use `pool`.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "compute/thread_pool.h"
#include "kernels/peak.h"
#include "plan/hardware_profile.h"
#include "platform/huge_memory.h"

namespace mlxf::plan {

// 8 times the last-level cache and at least 256 MiB, so that caches answer next to nothing, but no more than an eighth
// of the memory available.
[[nodiscard]] uint64_t memory_probe_bytes();

// Memory to measure with: huge pages, each touched.
class ProbeMemory {
 public:
  // Touching stops after `seconds_max` and leaves a shorter memory, at least 64 MiB unless less was asked for: in a
  // virtual machine that never used the pages before, it runs at a small part of the memory's speed.
  // `bytes` 0: memory_probe_bytes(). kOutOfBudget without the memory.
  [[nodiscard]] static Result<ProbeMemory> touch(compute::ThreadPool& pool, uint64_t bytes = 0,
                                                 double seconds_max = 2);
  [[nodiscard]] const uint8_t* data() const { return memory_.data(); }
  [[nodiscard]] uint64_t bytes() const { return bytes_; }
  [[nodiscard]] double huge_page_share() const {
    return huge_page_share_;
  }  // 0 where the system does not tell.

 private:
  platform::HugeMemory memory_;
  uint64_t bytes_ = 0;  // Touched; a multiple of 1 MiB.
  double huge_page_share_ = 0;
};

// Bytes per second that all threads of `pool` together read, over and over for `seconds`.
[[nodiscard]] double measure_ram_read(compute::ThreadPool& pool, const ProbeMemory& memory, double seconds);

// Bytes per second that they copy into huge pages that this process has not touched, page faults included: how fast a
// cached model can be loaded. Needs 64 MiB or 16 MiB per thread besides, at most the size of `source`.
[[nodiscard]] Result<double> measure_fresh_copy(compute::ThreadPool& pool, const ProbeMemory& source,
                                                double seconds);

// Operations per second of all threads together.
[[nodiscard]] double measure_peak(compute::ThreadPool& pool, kernels::PeakFn run, double seconds);

struct SsdOptions {
  std::vector<uint64_t> blocks = {16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20};
  std::vector<uint32_t> depths = {1, 4, 16};
  double seconds_each = 0.4;  // Of the settled rate, and as long again at most for a disk to settle.
  double seconds_max = 10;    // No further row is begun after this: slow disks get a shorter table.
};
struct SsdTable {
  std::vector<SsdRate> rates;
  double burst_bytes_s = 0;  // HardwareProfile::ssd_burst_bytes_s; 0 when the time was over before.
  std::string storage;       // As storage::Storage::description() of the deepest row.
  uint64_t file_bytes = 0;
  bool direct = false;  // The file system can read past the page cache.
};
// The burst's part of measure_ssd(), in about `seconds` of reading.
[[nodiscard]] Result<double> measure_ssd_bursts(const std::string& path, double seconds);
// Random blocks of the file at `path`. kInvalidArgument when it is shorter than 16 of the largest block.
[[nodiscard]] Result<SsdTable> measure_ssd(const std::string& path, const SsdOptions& options);

// A file of random bytes to measure reads with, removed by the destructor; what a killed program leaves is replaced by
// the next. `path` is replaced. Writing stops at `bytes` or after `seconds`, whichever is first.
class ScratchFile {
 public:
  [[nodiscard]] static Result<ScratchFile> write(const std::string& path, uint64_t bytes, double seconds);
  ScratchFile(ScratchFile&& other) noexcept;
  ScratchFile& operator=(ScratchFile&& other) = delete;
  ~ScratchFile();
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  explicit ScratchFile(std::string path) : path_(std::move(path)) {}
  std::string path_;  // Empty after a move.
};

struct Measurement {
  HardwareProfile profile;
  double huge_page_share = 0;
  bool ssd_direct = false;
  std::string ssd_failure;  // Why there is no disk table; empty when there is one.
};
struct MeasureOptions {
  std::string file;  // To read for the disk's table; empty: a scratch file in the cache folder.
  bool quick = false;
  // Told what is measured next: "memory", "arithmetic", "disk (a scratch file of 1024 MiB in …)".
  std::function<void(const std::string& what)> progress = {};
};
// All of the profile, in at most 5 (quick) or 30 seconds on a machine with a disk of 200 MB/s and more. A disk that
// cannot be measured is no error, unless it is `file`.
[[nodiscard]] Result<Measurement> measure_machine(const MeasureOptions& options);

}  // namespace mlxf::plan
