// Planner: gathers what a forecast needs: a model's headers, the machine's profile, the time that computing takes.
//
// Owned by a command; one thread, which must not run a model meanwhile: the arithmetic is measured with a pool of its
// own and up to `probe_bytes` of memory (or the model's largest matrix), given back before make() returns.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "base/result.h"
#include "cli/commands.h"
#include "plan/forecast.h"

namespace mlxf::cli {

struct PlannerOptions {
  explicit PlannerOptions(const ModelFlags& given) : flags(given) {}
  const ModelFlags& flags;
  uint64_t budget_bytes = 0;  // That matters most: prompts are measured in the chunks that it allows.
  uint32_t context_tokens = 0;
  uint32_t prompt_tokens = 512;  // 0: prompts are of no interest.
  double depth = 0;              // Mean position of decoded tokens.
  uint64_t held_bytes = 0;       // By the process besides the model: the program, the tokenizer.
  uint64_t probe_bytes = uint64_t{256} << 20;
  std::string trace;  // A routing trace of this model; empty: none.
  const plan::HardwareProfile* profile =
      nullptr;                          // Instead of what is stored or measured, the disk's rates included,
  std::string rates_from = {};          // and where it is from.
  uint32_t decode_layers = UINT32_MAX;  // Decoding is measured with the model's first layers.
  // Where no profile of this machine is stored: what was measured otherwise; null: the machine is measured, for some
  // seconds.
  const plan::HardwareProfile* otherwise = nullptr;
};

// The profile that doctor stored on this machine, if there is one.
[[nodiscard]] std::optional<plan::HardwareProfile> stored_profile();

// What was expected of a run that streamed and is over: the plan for its budget. `engine` is gone by then.
struct Expectation {
  double decode_tok_s = 0;
  double prompt_tok_s = 0;
  // How much too high the expectation was, as a part of what was measured; negative: too low.
  [[nodiscard]] static double error(double expected, double measured) { return expected / measured - 1; }
};
[[nodiscard]] Result<Expectation> expect(const std::string& path, PlannerOptions options);

class Planner {
 public:
  [[nodiscard]] static Result<std::unique_ptr<Planner>> make(const std::string& path,
                                                             const PlannerOptions& options);

  [[nodiscard]] const plan::ForecastInputs& inputs() const { return *inputs_; }
  [[nodiscard]] const model::ModelSpec& spec() const { return spec_; }
  // "the profile of …", for people.
  [[nodiscard]] const std::string& rates_from() const { return rates_from_; }
  [[nodiscard]] uint64_t floor_budget() const;     // The smallest that works,
  [[nodiscard]] uint64_t resident_budget() const;  // and the smallest that keeps everything in memory.

 private:
  Planner() = default;
  void add_expert_rates(const std::string& file);
  Status find_rates(const PlannerOptions& options, bool floats);
  Status measure(const PlannerOptions& options);

  formats::ModelManifest manifest_;
  model::ModelSpec spec_;
  std::optional<weights::RoutingTrace> trace_;
  plan::HardwareProfile profile_;
  std::string rates_from_;
  std::optional<plan::ForecastInputs> inputs_;
};

}  // namespace mlxf::cli
