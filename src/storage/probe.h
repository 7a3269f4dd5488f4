// probe: how fast a backend reads random blocks of a given file, measured through Storage itself.
//
// The bandwidth of the limit and of doctor's table: what the disk sustains, once a faster beginning is over
// (storage/settled_rate.h). It reads for `seconds` of that (and at least a few times `depth` blocks) into its own
// memory, depth x block_bytes of it, touched before the clock starts. Random blocks, so that neither read-ahead nor
// neighbouring sectors help; a virtual disk's host may still answer from its own cache, which no guest can see. Blocks
// the caller; any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "storage/open_storage.h"

namespace mlxf::storage {

struct ProbeOptions {
  Backend backend = Backend::kAuto;
  uint64_t block_bytes = uint64_t{2} << 20;  // A multiple of Storage::kAlign, at most the file's size.
  uint32_t depth = 16;                       // Blocks asked for at a time.
  uint32_t threads = 0;                      // Of the pread pools; 0: one for each block, at most 16.
  uint64_t piece_bytes = 0;  // 0: blocks are not cut. Else as QueueOptions, `depth` counting pieces.
  enum class Memory : uint8_t { kHuge, kSmall } memory = Memory::kHuge;  // 2 MiB or 4 KiB pages.
  double seconds = 0.5;     // Of the settled rate, in whole windows; 0: the few times `depth` blocks alone.
  double settle_max = 1.0;  // Seconds beyond these at most, for a disk that does not settle,
  uint64_t bytes_max = uint64_t{8} << 30;  // and no further read is begun after as many bytes.
  // Not 0: all `depth` blocks are waited for before the next are asked for, this long afterwards, and only the reads
  // count. For what a disk gives to a program that computes in between: some give more after a pause.
  double pause_seconds = 0;
  uint64_t seed = 1;
};

struct ProbeResult {
  std::string description;  // The Storage's.
  uint64_t bytes = 0;
  double seconds = 0;
  double left_out_seconds = 0;  // Before these, while the disk was faster.
  double cpu_seconds = 0;       // Of the whole process, threads and kernel included; 0 with pauses.
  [[nodiscard]] double bytes_per_second() const {
    return seconds > 0 ? static_cast<double>(bytes) / seconds : 0;
  }
};

[[nodiscard]] Result<ProbeResult> probe(const std::string& path, const ProbeOptions& options);
// The same with a Storage and a clock of the caller's, such as simulated ones.
[[nodiscard]] Result<ProbeResult> probe(std::unique_ptr<Storage> storage,
                                        const std::function<TimePoint()>& now, const std::string& path,
                                        const ProbeOptions& options);

}  // namespace mlxf::storage
