#include <algorithm>
#include <cstdio>

#include "cli/commands.h"
#include "cli/heat_profile.h"
#include "cli/models.h"
#include "memory/budget.h"
#include "platform/memory_info.h"
#include "platform/process.h"

namespace mlxf::cli {
namespace {

// Bytes for "auto", "50%", "4GiB"; 0 for "none".
Result<uint64_t> resolve_memory(const std::string& text) {
  if (text == "none") return uint64_t{0};
  ASSIGN_OR_RETURN(const memory::BudgetRequest request, memory::parse_budget(text));
  ASSIGN_OR_RETURN(platform::MemorySource source, platform::MemorySource::open());
  ASSIGN_OR_RETURN(const platform::MemoryReading reading, source.read());
  return memory::resolve_budget(request, reading, platform::own_memory_bytes()).bytes;
}

}  // namespace

void ModelFlags::add_threads_to(CLI::App& command) {
  command.add_option("-t,--threads", threads, "Threads to compute with (default: all processors)")
      ->check(CLI::Range(1, 1024));
}

void ModelFlags::add_budget_to(CLI::App& command) {
  command
      .add_option(
          "--memory-budget", memory_budget,
          "Memory for the whole process: a size (4GiB), a share (50%), auto (what is free now) or none (no "
          "limit). Weights beyond it are read from the SSD as they are needed; answers stay the same")
      ->capture_default_str()
      ->group("Memory");
}

void ModelFlags::add_to(CLI::App& command, Default without) {
  CLI::Option* model = command.add_option(
      "-m,--model", path, "Model: a folder with safetensors, a GGUF file, or the name of a cached model");
  model->required(without == Default::kRequired);
  add_threads_to(command);
  command
      .add_option(
          "--activations", activations,
          "auto: int8 for quantised weights, f32 for others; f32: exact; int8: also quantises 16-bit weights")
      ->check(CLI::IsMember({"auto", "f32", "int8"}));
  add_budget_to(command);
  command.add_option("--io", io, "How streamed weights are read: auto, io_uring, pread, buffered")
      ->check(CLI::IsMember({"auto", "io_uring", "pread", "buffered"}))
      ->capture_default_str()
      ->group("Memory");
  command
      .add_option(
          "--cache-policy", cache_policy,
          "Which expert leaves the cache: lfu (least used), lru (longest ago), slru, lcp, least-stale; "
          "trace replay compares them")
      ->check(CLI::IsMember({"lfu", "lru", "slru", "lcp", "least-stale"}))
      ->capture_default_str()
      ->group("Memory");
  command.add_flag("--no-look-ahead", no_look_ahead, "Read streamed weights only once they are needed")
      ->group("Memory");
  command
      .add_flag("--guess-experts", guess_experts,
                "While the disk is idle, also read the experts that the next layer may choose")
      ->group("Memory");
}

void ModelFlags::add_save_heat(CLI::App& command) {
  command
      .add_flag(
          "--save-heat", save_heat,
          "Remember which experts were used, so that the next run reads those first (a small file in the "
          "cache folder)")
      ->group("Memory");
}

Status ModelFlags::finish(engine::Engine& engine) const {
  return save_heat ? cli::save_heat(engine) : Status();
}

Result<std::string> ModelFlags::model_path() const {
  ASSIGN_OR_RETURN(const NamedModel found, chosen_model(*this));
  return found.path;
}

Result<std::unique_ptr<engine::Engine>> ModelFlags::open(engine::EngineOptions options) const {
  options.threads = threads;
  options.activations = activations == "f32"    ? engine::Activations::kF32
                        : activations == "int8" ? engine::Activations::kInt8
                                                : engine::Activations::kAuto;
  options.progress = progress_line("loading");
  ASSIGN_OR_RETURN(options.memory_budget, budget_bytes());
  ASSIGN_OR_RETURN(options.storage.backend, storage::parse_backend(io));
  options.policy = *weights::find_policy(cache_policy);
  options.look_ahead = !no_look_ahead;
  options.guess_experts = guess_experts;
  ASSIGN_OR_RETURN(const std::string model, model_path());
  ASSIGN_OR_RETURN(std::unique_ptr<engine::Engine> engine, engine::Engine::open(model, options));
  RETURN_IF_ERROR(warm_up(*engine));
  return engine;
}

Result<uint64_t> ModelFlags::budget_bytes() const {
  auto budget = resolve_memory(memory_budget);
  if (!budget) return tl::unexpected<Error>(budget.error().within("--memory-budget"));
  return budget;
}

}  // namespace mlxf::cli
