#include "cli/planner.h"

#include <algorithm>
#include <cstdio>

#include "kernels/kernel_table.h"
#include "model/dry_run.h"
#include "model/families/families.h"
#include "plan/measure.h"
#include "plan/model_work.h"
#include "platform/file.h"
#include "platform/process.h"
#include "storage/storage.h"

namespace mlxf::cli {
namespace {

// Long enough for some passes that nothing disturbs; a prompt of few layers and tokens stands for all of them.
constexpr double kDecodeSeconds = 0.4, kPromptSeconds = 0.4;
constexpr uint32_t kPromptLayers = 2, kPromptTokens = 256;

const std::string& largest_file(const formats::ModelManifest& manifest) {
  const auto& bytes = manifest.file_bytes;
  return manifest.files[static_cast<size_t>(std::max_element(bytes.begin(), bytes.end()) - bytes.begin())];
}

bool same_device(const std::string& a, const std::string& b) {
  const auto first = platform::File::open(a), second = platform::File::open(b);
  return first && second && first->identity().device == second->identity().device;
}

Result<plan::HardwareProfile> measured_profile(const std::string& file) {
  std::fprintf(
      stderr,
      "no stored profile of this machine: measuring for some seconds (mlx-flash doctor stores one)\n");
  auto measured = plan::measure_machine({.file = file, .quick = true});
  // A file that is too short to measure a disk with.
  if (!measured) measured = plan::measure_machine({.file = "", .quick = true});
  if (!measured) return tl::unexpected<Error>(measured.error());
  return std::move(measured->profile);
}

}  // namespace

std::optional<plan::HardwareProfile> stored_profile() {
  const auto path = plan::profile_path();
  if (!path) return std::nullopt;
  auto profile = plan::load_profile(*path, plan::this_machine());
  if (!profile) return std::nullopt;
  // A scratch file was beside the profile.
  if (profile->ssd_scratch || profile->ssd_path.empty()) profile->ssd_path = *path;
  return std::move(*profile);
}

Status Planner::find_rates(const PlannerOptions& options, bool floats) {
  const std::string& file = largest_file(manifest_);
  if (options.profile != nullptr) {
    profile_ = *options.profile;
    rates_from_ = options.rates_from;
  } else if (auto stored = stored_profile()) {
    profile_ = std::move(*stored);
    rates_from_ = "the profile of " + profile_.measured;
    if (!same_device(profile_.ssd_path, file)) profile_.ssd.clear();
  } else if (options.otherwise != nullptr) {
    profile_ = *options.otherwise;
    rates_from_ = "measured in this run";
    add_expert_rates(file);
  } else {
    ASSIGN_OR_RETURN(profile_, measured_profile(file));
    rates_from_ = "measured just now";
  }
  if (profile_.ssd.empty() && options.profile == nullptr) {
    plan::SsdOptions quick;
    quick.blocks = {16 << 10, 256 << 10, 1 << 20};
    quick.depths = {1, 4, 16};
    quick.seconds_each = 0.2;
    if (auto table = plan::measure_ssd(file, quick)) {
      profile_.ssd = std::move(table->rates);
      profile_.ssd_burst_bytes_s = table->burst_bytes_s;
    }
    rates_from_ += ", the model's disk measured just now";
  }
  inputs_->ssd = profile_.ssd;
  inputs_->ssd_burst_bytes_s = profile_.ssd_burst_bytes_s;
  inputs_->rates.ram_bytes_s = profile_.ram_read_bytes_s.all;
  for (const plan::IsaPeak& peak : profile_.peaks)
    if (peak.isa == profile_.machine.isa)
      inputs_->rates.ops_s = floats ? peak.f32_ops_s.all : peak.int8_ops_s.all;
  return {};
}

// What was measured beside a run is the rate of large reads. Those of small experts are slower, and few at a time.
void Planner::add_expert_rates(const std::string& file) {
  const double wanted = plan::expert_read_bytes(*inputs_);
  if (profile_.ssd.empty() || wanted == 0) return;
  constexpr uint64_t kAlign = storage::Storage::kAlign;
  const uint64_t block = (static_cast<uint64_t>(wanted) + kAlign - 1) / kAlign * kAlign;
  const auto has_row = [block](const plan::SsdRate& row) { return row.block_bytes == block; };
  if (std::any_of(profile_.ssd.begin(), profile_.ssd.end(), has_row)) return;
  plan::SsdOptions quick;
  quick.blocks = {block};
  quick.depths = {1, 4, 16};
  quick.seconds_each = 0.2;
  const auto table = plan::measure_ssd(file, quick);
  if (!table) return;  // Of a file that is too short for that, what is known must do.
  profile_.ssd.insert(profile_.ssd.end(), table->rates.begin(), table->rates.end());
}

Status Planner::measure(const PlannerOptions& options) {
  compute::ThreadPool pool(inputs_->memory.threads);
  const bool exact = options.flags.activations == "f32";
  compute::Cpu cpu(kernels::select_kernels(), pool,
                   {.arithmetic = exact ? compute::Arithmetic::kF32 : compute::Arithmetic::kInt8});
  const auto run = [&](uint32_t layers, uint32_t tokens, uint32_t depth, double seconds) -> Result<double> {
    model::DryRun::Options dry;
    dry.arena_bytes = options.probe_bytes;
    dry.layers_max = layers;
    dry.int8_rows = options.flags.activations == "int8";
    ASSIGN_OR_RETURN(const auto made, model::DryRun::make(manifest_, spec_, cpu, dry));
    return made->measure(tokens, depth, seconds);
  };
  // Keys and values beyond what a measurement may take cost the time to read them.
  const kv::Element element = inputs_->memory.element;
  auto depth = static_cast<uint32_t>(options.depth);
  while (depth > 0 && model::cache_bytes(spec_, element, depth) > options.probe_bytes) depth /= 2;
  ASSIGN_OR_RETURN(inputs_->decode_seconds, run(options.decode_layers, 1, depth, kDecodeSeconds));
  inputs_->decode_seconds +=
      (plan::kv_bytes_read(spec_, element, options.depth) - plan::kv_bytes_read(spec_, element, depth)) /
      inputs_->rates.ram_bytes_s;
  if (options.prompt_tokens == 0) return {};
  uint32_t tokens = std::min(kPromptTokens, options.prompt_tokens);
  model::MemoryRequest request = inputs_->memory;
  request.budget_bytes = options.budget_bytes;
  if (options.budget_bytes != 0)
    if (const auto memory = model::plan_memory(spec_, inputs_->sizes, request))
      tokens = std::min(tokens, memory->chunk_tokens);
  ASSIGN_OR_RETURN(const double prompt, run(kPromptLayers, tokens, 0, kPromptSeconds));
  inputs_->prompt_seconds = prompt / tokens;
  return {};
}

Result<std::unique_ptr<Planner>> Planner::make(const std::string& path, const PlannerOptions& options) {
  std::unique_ptr<Planner> planner(new Planner());
  ASSIGN_OR_RETURN(planner->manifest_, formats::open_model(path));
  ASSIGN_OR_RETURN(planner->spec_, model::make_spec(planner->manifest_));
  planner->inputs_.emplace(planner->spec_);
  plan::ForecastInputs& inputs = *planner->inputs_;
  const bool int8 = options.flags.activations == "int8";
  ASSIGN_OR_RETURN(inputs.sizes, model::measure_weights(
                                     planner->manifest_, planner->spec_, weights::RecordCache::kGranuleBytes,
                                     int8 ? weights::Rows::kInt8 : weights::Rows::kAsStored));
  ASSIGN_OR_RETURN(inputs.experts, model::trace_shape(planner->manifest_, planner->spec_));
  if (!options.trace.empty()) {
    ASSIGN_OR_RETURN(planner->trace_, weights::load_trace(options.trace));
    weights::TraceShape& shape = planner->trace_->shape;
    // Traces that do not say how many experts there are, or how large, know at most as many as there are.
    const bool fits = shape.layers() == inputs.experts.layers() && shape.top_k == inputs.experts.top_k &&
                      std::equal(shape.experts.begin(), shape.experts.end(), inputs.experts.experts.begin(),
                                 [](uint32_t of_trace, uint32_t of_model) { return of_trace <= of_model; });
    if (!fits) return fail(ErrorCode::kInvalidArgument, options.trace + ": is a trace of another model");
    shape = inputs.experts;
    inputs.trace = &*planner->trace_;
  }
  inputs.policy = *weights::find_policy(options.flags.cache_policy);
  inputs.memory.held_bytes = options.held_bytes;
  inputs.memory.context_tokens = options.context_tokens;
  inputs.memory.threads = options.flags.threads != 0 ? options.flags.threads : platform::usable_processors();
  if (options.flags.activations == "f32") inputs.memory.element = kv::Element::kF32;
  inputs.depth = options.depth;
  inputs.prompt_tokens = options.prompt_tokens;
  // As in SpeedLimit: matrices of two bytes a parameter and more are multiplied in floats.
  const plan::ActiveParameters active = plan::active_parameters(planner->spec_);
  const double bytes =
      static_cast<double>(inputs.sizes.total() - inputs.sizes.experts + inputs.sizes.active_experts);
  RETURN_IF_ERROR(
      planner->find_rates(options, bytes > 1.5 * static_cast<double>(active.layers + active.head)));
  RETURN_IF_ERROR(planner->measure(options));
  return planner;
}

uint64_t Planner::floor_budget() const { return model::floor_budget(spec_, inputs_->sizes, inputs_->memory); }
uint64_t Planner::resident_budget() const {
  return model::resident_budget(spec_, inputs_->sizes, inputs_->memory);
}

Result<Expectation> expect(const std::string& path, PlannerOptions options) {
  const uint64_t budget_bytes = options.budget_bytes;
  // What is measured with must not take more than the run did.
  if (budget_bytes != 0) options.probe_bytes = std::min(options.probe_bytes, budget_bytes / 4);
  ASSIGN_OR_RETURN(const auto planner, Planner::make(path, options));
  ASSIGN_OR_RETURN(const plan::Forecast forecast, plan::forecast(planner->inputs(), budget_bytes));
  return Expectation{forecast.decode_tok_s, forecast.prompt_tok_s};
}

}  // namespace mlxf::cli
