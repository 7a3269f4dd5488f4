// pack: rewrites a mixture of experts so that each expert is one aligned extent, and checks what was written.
//
// The result is an ordinary model folder with packed.json beside it, which names every extent and its CRC-32C. It is
// made in OUT.packing and renamed when it is whole; what an interrupted run left there is used by the next one, file by
// file. Nothing that exists is overwritten. Blocks the caller; one thread.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"
#include "convert/pack_plan.h"
#include "convert/progress.h"

namespace mlxf::convert {

struct PackReport {  // NOLINT(bugprone-exception-escape): see PackPlan.
  PackPlan plan;
  uint64_t files_kept = 0;  // Written by an interrupted run.
  uint64_t written_bytes = 0;
};
[[nodiscard]] Result<PackReport> pack(const formats::ModelManifest& manifest, const std::string& out,
                                      const ProgressFn& progress);

struct VerifyReport {
  uint64_t extents = 0;
  uint64_t bytes = 0;
};
// Reads every extent that packed.json names; kCorrupt names the first that differs.
[[nodiscard]] Result<VerifyReport> verify_pack(const std::string& folder, const ProgressFn& progress);

}  // namespace mlxf::convert
