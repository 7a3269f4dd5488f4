// HardwareProfile: what a machine can do, measured by `mlx-flash doctor` and kept for later runs.
//
// Plain data. The file is JSON of one version, replaced whole; a profile counts only on the machine it was measured on
// (MachineIdentity). Rates are per second: bytes, or operations (a multiplication and an addition are two). 0: not
// measured.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace mlxf::plan {

struct MachineIdentity {
  std::string cpu;
  uint32_t cores = 0;  // That this process may use.
  std::string isa;     // Of the kernels that run.
  std::string kernel;  // Of the operating system.
  friend bool operator==(const MachineIdentity&, const MachineIdentity&) = default;
};
[[nodiscard]] MachineIdentity this_machine();

// The same work on one thread and on all.
struct ThreadRates {
  double one = 0;
  double all = 0;
};

struct IsaPeak {
  std::string isa;
  std::string int8_instruction;
  ThreadRates int8_ops_s;
  ThreadRates f32_ops_s;
};

struct SsdRate {
  uint64_t block_bytes = 0;
  uint32_t depth = 0;  // Blocks in flight.
  double bytes_s = 0;
};

// What decoding asks of a disk: some MiB at once, then nothing while it computes. Disks with an allowance (virtual and
// throttled ones) give them faster than a steady stream of reads.
inline constexpr uint64_t kBurstBlockBytes = uint64_t{1} << 20;
inline constexpr uint32_t kBurstBlocks = 8;

struct HardwareProfile {
  MachineIdentity machine;
  std::string measured;  // When: "2026-11-23T04:05:06Z".
  bool quick = false;    // By doctor --quick: shorter runs, fewer sizes.
  ThreadRates ram_read_bytes_s;
  double fresh_copy_bytes_s = 0;  // Copied by all threads into huge pages that nobody has touched.
  std::vector<IsaPeak> peaks;     // Of every instruction set of the machine, best first.
  std::vector<SsdRate> ssd;       // Empty when the disk could not be measured.
  double ssd_burst_bytes_s = 0;   // kBurstBlocks blocks of kBurstBlockBytes, after a pause each time.
  std::string ssd_path;           // The file that was read,
  uint64_t ssd_file_bytes = 0;    // how long it was,
  bool ssd_scratch = false;       // and whether doctor wrote it itself.
  std::string ssd_storage;        // How it was read, as Storage describes itself.
};

[[nodiscard]] Json to_json(const HardwareProfile& profile);
// kCorrupt when a field is missing, of another type, negative or not finite, naming the field; kUnsupported for another
// version of the file.
[[nodiscard]] Result<HardwareProfile> parse_profile(std::string_view text);

// The folder of the program's own files: ${XDG_CACHE_HOME:-~/.cache}/mlx-flash. kNotFound when neither variable is
// set to an absolute path.
[[nodiscard]] Result<std::string> cache_folder();
[[nodiscard]] Result<std::string> profile_path();

// The profile at `path` when it is of `machine`: kNotFound when there is none, kUnavailable when another machine's.
[[nodiscard]] Result<HardwareProfile> load_profile(const std::string& path, const MachineIdentity& machine);
// Makes the folders that are missing; readers see the old file or the new one.
[[nodiscard]] Status save_profile(const HardwareProfile& profile, const std::string& path);

}  // namespace mlxf::plan
