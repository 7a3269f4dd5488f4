// Forecast: how fast a model will be under a memory budget, and what of it will stay in memory.
//
// From headers alone: sizes, the time that computing takes with everything in memory (model/dry_run.h), and what the
// disk delivers. The limit of the same work (limit.h) says what binds; the forecast is what to expect of this program:
//
//     max(compute, read)                     dense layers in turn: the next one is read under this one
//     max(read, compute + waits)             experts: reads wait for the router and computing waits for the last of a
//                                            layer's reads (disk_time.h), so that they add up; but no disk gives more
//                                            on average than in a steady stream
//     max + a part of min(compute, read)     a prompt's chunk that needs nearly all experts, layer by layer, most of
//                                            which are read ahead
// docs/measurements/2026-11-plan.md compares it with runs. Pure, any thread; seconds and bytes.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "model/memory_plan.h"
#include "model/spec.h"
#include "plan/disk_time.h"
#include "plan/hardware_profile.h"
#include "plan/limit.h"
#include "weights/replay.h"

namespace mlxf::plan {

// What is the same under every budget.
struct ForecastInputs {
  explicit ForecastInputs(const model::ModelSpec& of) : spec(of) {}
  const model::ModelSpec& spec;  // Outlives this.
  model::WeightSizes sizes;
  weights::TraceShape experts;                   // None for a dense model.
  model::MemoryRequest memory;                   // The budget apart.
  const weights::RoutingTrace* trace = nullptr;  // Of this model; null: experts are chosen evenly.
  weights::Policy policy = weights::Policy::kLfu;
  MachineRates rates;            // ssd_bytes_s is not used:
  std::span<const SsdRate> ssd;  // it follows from these and the size and number of reads.
  double ssd_burst_bytes_s = 0;  // HardwareProfile; 0: as in a steady stream.
  double decode_seconds = 0;     // Of computing one token at the mean depth, all in memory.
  double prompt_seconds = 0;     // Of computing one token of a prompt.
  double depth = 0;              // Mean position of decoded tokens.
  uint32_t prompt_tokens = 512;  // 0: prompts are of no interest.
};

struct Forecast {
  model::MemoryPlan memory;
  double hit_rate = 1;     // Of the experts' bytes, when decoding.
  double ssd_bytes_s = 0;  // For reads as large and as many at a time as decoding makes.
  double read_bytes_per_token = 0;
  Limit limit;  // Of decoding.
  double decode_tok_s = 0;
  double prompt_tok_s = 0;
  const char* decode_bound = "";  // "ram", "cpu" or "ssd": what most of a token's time is spent on.
  const char* prompt_bound = "";
};

// Of one read of an expert that is not there, the rate of which the forecast depends on; 0 for a dense model.
[[nodiscard]] double expert_read_bytes(const ForecastInputs& inputs);

// `budget_bytes` 0: without a limit. kOutOfBudget below the floor, kInvalidArgument without a rate that is needed.
[[nodiscard]] Result<Forecast> forecast(const ForecastInputs& inputs, uint64_t budget_bytes);

}  // namespace mlxf::plan
