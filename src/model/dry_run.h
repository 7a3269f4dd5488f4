// DryRun: a model's passes without its weights: the same matrices in the same formats and shapes, all zero, so that the
// time that computing takes can be measured before anything is read but headers and small vectors.
//
// The weights lie one after the other in a bounded arena, around and around (ResidentWeights::Options::blank_bytes), so
// that they come from memory and not from a cache wherever the model's would. Routers are random, so that tokens choose
// different experts. Times are of this machine as it is now. Owns its memory; one thread.
#pragma once

#include <cstdint>
#include <memory>

#include "base/result.h"
#include "compute/cpu.h"
#include "formats/manifest.h"
#include "model/spec.h"

namespace mlxf::model {

class DryRun {
 public:
  struct Options {
    uint64_t arena_bytes = uint64_t{256} << 20;  // At least the largest matrix is taken.
    bool int8_rows = false;                      // As LoadOptions.
    uint32_t layers_max = UINT32_MAX;  // Of the model's first layers; times are scaled to all of them.
  };
  [[nodiscard]] static Result<std::unique_ptr<DryRun>> make(const formats::ModelManifest& manifest,
                                                            const ModelSpec& spec, compute::Cpu& cpu,
                                                            const Options& options);
  ~DryRun();

  // Seconds of one pass over `tokens` new tokens after `depth`: of passes made for about `seconds`, at least two after
  // one that warms up, a quarter were faster. What disturbs a pass makes it slower.
  [[nodiscard]] Result<double> measure(uint32_t tokens, uint32_t depth, double seconds);

 private:
  struct State;
  explicit DryRun(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace mlxf::model
