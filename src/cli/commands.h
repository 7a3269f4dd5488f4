// The subcommands: each registers itself with the command line and leaves behind what to run.
//
// Results go to stdout, progress and errors to stderr. A command returns a Status; main() turns an error into one line
// and the exit code (2 for wrong usage, 1 otherwise).
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "decode/sampler.h"
#include "engine/engine.h"

namespace mlxf::cli {

// Set by the subcommand that was given.
using Action = std::function<Status()>;

void add_bench(CLI::App& app, Action& action);
void add_browse(CLI::App& app, Action& action);
void add_chat(CLI::App& app, Action& action);
void add_doctor(CLI::App& app, Action& action);
void add_inspect(CLI::App& app, Action& action);
void add_logits(CLI::App& app, Action& action);
void add_mcp(CLI::App& app, Action& action);
void add_pack(CLI::App& app, Action& action);
void add_perplexity(CLI::App& app, Action& action);
void add_plan(CLI::App& app, Action& action);
void add_ps(CLI::App& app, Action& action);
void add_quantize(CLI::App& app, Action& action);
void add_run(CLI::App& app, Action& action);
void add_serve(CLI::App& app, Action& action);
void add_stop(CLI::App& app, Action& action);
void add_synth(CLI::App& app, Action& action);
void add_tokenize(CLI::App& app, Action& action);
void add_trace(CLI::App& app, Action& action);           // trace replay, and
void add_trace_record(CLI::App& trace, Action& action);  // of it: trace record.

// What every command that runs a model has: -m, threads, arithmetic, and the memory that it may take.
struct ModelFlags {
  std::string path;
  uint32_t threads = 0;
  std::string activations = "auto";
  std::string memory_budget = "auto";
  std::string io = "auto";
  std::string cache_policy = "lfu";
  bool no_look_ahead = false;
  bool guess_experts = false;
  bool save_heat = false;
  // kRequired: -m must be given; kBundled: without it default_model() chooses (models.h).
  enum class Default : uint8_t { kRequired, kBundled };
  void add_to(CLI::App& command, Default without = Default::kRequired);
  // Of all that, one alone.
  void add_threads_to(CLI::App& command);
  void add_budget_to(CLI::App& command);
  // --save-heat, for commands that call finish().
  void add_save_heat(CLI::App& command);
  // Of -m, a path or a name; without it that of default_model(), which a line on stderr says.
  [[nodiscard]] Result<std::string> model_path() const;
  [[nodiscard]] Result<std::unique_ptr<engine::Engine>> open(engine::EngineOptions options = {}) const;
  // At the clean end of a command.
  [[nodiscard]] Status finish(engine::Engine& engine) const;
  // --memory-budget in bytes; 0: none.
  [[nodiscard]] Result<uint64_t> budget_bytes() const;
};

// The folder of the model that comes with the program: beside the binary's build folder, or in the installed share/.
// kNotFound names the places.
[[nodiscard]] Result<std::string> bundled_model();

// What a user can set of the sampling. A value that was not given comes from the model's generation_config.json, then
// from decode::SamplingParams; a seed from the clock.
struct SamplingFlags {
  std::optional<float> temperature, top_p, min_p, typical_p;
  std::optional<float> repeat_penalty, presence_penalty, frequency_penalty;
  std::optional<uint32_t> top_k, repeat_last_n;
  std::optional<uint64_t> seed;
  std::vector<std::string> logit_bias;  // "ID=BIAS"
  void add_to(CLI::App& command);
  [[nodiscard]] Result<decode::SamplingParams> resolve(const formats::ModelManifest& manifest) const;
};

// The whole text of a file, or of stdin for "-"; kInvalidArgument when it cannot be read.
[[nodiscard]] Result<std::string> read_text(const std::string& path);

// True once the user pressed Ctrl-C since watch_interrupts(); the next press after that ends the program.
void watch_interrupts();
// The same, and of SIGTERM.
void watch_termination();
[[nodiscard]] bool interrupted();
void clear_interrupt();

// A progress line on stderr: "label 45 %", only when that is a terminal.
[[nodiscard]] std::function<void(uint64_t done, uint64_t total)> progress_line(const std::string& label);

}  // namespace mlxf::cli
