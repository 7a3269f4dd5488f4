// plan: what of a model stays in memory under a budget, what is streamed, how fast that is, and what would help.
#include <algorithm>
#include <cstdio>
#include <memory>

#include "base/json.h"
#include "cli/commands.h"
#include "cli/planner.h"
#include "memory/budget.h"
#include "platform/process.h"
#include "text/tokenizer.h"

namespace mlxf::cli {
namespace {

using plan::Forecast;

struct Flags {
  ModelFlags model;
  uint32_t context = 2048;
  std::string trace;
  bool json = false;
};

// What a change would bring.
struct Help {
  std::string what;
  double decode_ratio = 1;
};

struct Report {
  uint64_t budget = 0;  // 0: none.
  uint64_t tokenizer_bytes = 0;
  uint64_t floor = 0, resident = 0;
  Forecast now;
  std::vector<Help> help;
};

// Steps of the budget worth telling: half as much again and twice as much, rounded, and all of the model.
Result<std::vector<Help>> what_would_help(const Planner& planner, const Report& report) {
  std::vector<Help> help;
  if (!report.now.memory.residency.streams_records()) return help;
  const auto ratio = [&](const Forecast& other) { return other.decode_tok_s / report.now.decode_tok_s; };
  constexpr uint64_t kStep = uint64_t{64} << 20;
  for (const double more : {0.25, 0.5, 1.0}) {
    const auto extra =
        (static_cast<uint64_t>(static_cast<double>(report.budget) * more) + kStep - 1) / kStep * kStep;
    if (report.budget + extra >= report.resident) break;
    ASSIGN_OR_RETURN(const Forecast larger, plan::forecast(planner.inputs(), report.budget + extra));
    help.push_back({"+" + memory::size_text(extra) + " of memory", ratio(larger)});
  }
  ASSIGN_OR_RETURN(const Forecast whole, plan::forecast(planner.inputs(), report.resident));
  help.push_back({"+" + memory::size_text(report.resident - std::min(report.resident, report.budget)) +
                      " of memory, which keeps everything there",
                  ratio(whole)});
  plan::ForecastInputs faster = planner.inputs();
  std::vector<plan::SsdRate> table(faster.ssd.begin(), faster.ssd.end());
  for (plan::SsdRate& row : table) row.bytes_s *= 2;
  faster.ssd = table;
  faster.ssd_burst_bytes_s *= 2;
  ASSIGN_OR_RETURN(const Forecast disk, plan::forecast(faster, report.budget));
  help.push_back({"a disk twice as fast", ratio(disk)});
  return help;
}

Result<Report> make_report(const Planner& planner, uint64_t budget_bytes, uint64_t tokenizer_bytes) {
  Report report;
  report.budget = budget_bytes;
  report.tokenizer_bytes = tokenizer_bytes;
  report.floor = planner.floor_budget();
  report.resident = planner.resident_budget();
  ASSIGN_OR_RETURN(report.now, plan::forecast(planner.inputs(), report.budget));
  ASSIGN_OR_RETURN(report.help, what_would_help(planner, report));
  return report;
}

double mib(uint64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }
const char* meaning(const char* bound) {
  if (bound == std::string("ssd")) return "the disk";
  return bound == std::string("cpu") ? "arithmetic" : "memory bandwidth";
}

struct Parts {
  uint64_t trunk = 0, layers = 0, slots = 0, streamed = 0;
  uint64_t streamed_layers = 0;
};
Parts parts_of(const plan::ForecastInputs& inputs, const model::Residency& residency) {
  Parts parts;
  parts.trunk = inputs.sizes.trunk +
                (residency.per_layer_by_row ? inputs.sizes.row_buffer : inputs.sizes.row_table) +
                (residency.embedding_by_row ? inputs.sizes.embedding_window : inputs.sizes.embedding);
  parts.slots = residency.cache_bytes;
  for (const uint64_t bytes : inputs.sizes.layers) parts.layers += bytes;
  for (const uint32_t layer : residency.streamed_layers) parts.streamed += inputs.sizes.layers[layer];
  parts.layers -= parts.streamed;
  parts.streamed_layers = residency.streamed_layers.size();
  if (residency.stream_experts)
    parts.streamed += inputs.sizes.experts;
  else
    parts.layers += inputs.sizes.experts;
  return parts;
}

Json to_json(const Flags& flags, const Planner& planner, const Report& report) {
  const plan::ForecastInputs& inputs = planner.inputs();
  const model::MemoryPlan& memory = report.now.memory;
  const Parts parts = parts_of(inputs, memory.residency);
  Json out = {{"budget_bytes", report.budget},
              {"floor_bytes", report.floor},
              {"all_resident_bytes", report.resident},
              {"streams", memory.residency.streams_records()},
              {"bytes",
               {{"trunk", parts.trunk},
                {"resident_layers_or_experts", parts.layers},
                {"slots", parts.slots},
                {"kv", memory.kv_bytes},
                {"scratch", memory.scratch_bytes},
                {"tokenizer", report.tokenizer_bytes},
                {"process", memory.held_bytes - std::min(memory.held_bytes, report.tokenizer_bytes)},
                {"other", memory.other_bytes}}},
              {"streamed_bytes", parts.streamed},
              {"embedding_by_row", memory.residency.embedding_by_row},
              {"per_layer_embedding_by_row", memory.residency.per_layer_by_row},
              {"context_tokens", flags.context},
              {"chunk_tokens", memory.chunk_tokens},
              {"hit_rate", report.now.hit_rate},
              {"hit_rate_from", inputs.trace != nullptr ? "trace" : "uniform routing"},
              {"read_bytes_per_token", report.now.read_bytes_per_token},
              {"ssd_bytes_s", report.now.ssd_bytes_s},
              {"decode_tok_s", report.now.decode_tok_s},
              {"decode_bound", report.now.decode_bound},
              {"prompt_tok_s", report.now.prompt_tok_s},
              {"prompt_bound", report.now.prompt_bound},
              {"limit_tok_s", report.now.limit.tok_s},
              {"rates_from", planner.rates_from()},
              {"help", Json::array()}};
  for (const Help& help : report.help)
    out["help"].push_back({{"what", help.what}, {"decode_ratio", help.decode_ratio}});
  return out;
}

void print_memory(const Flags& flags, const Planner& planner, const Report& report) {
  const plan::ForecastInputs& inputs = planner.inputs();
  const model::MemoryPlan& memory = report.now.memory;
  const Parts parts = parts_of(inputs, memory.residency);
  const auto line = [](const char* name, uint64_t bytes, const std::string& note) {
    if (bytes != 0) std::printf("  %-12s %10.1f MiB  %s\n", name, mib(bytes), note.c_str());
  };
  line("trunk", parts.trunk,
       "embedding, head" + std::string(inputs.sizes.layers.empty() ? ", attention, routers" : ""));
  line("layers", parts.layers, inputs.sizes.layers.empty() ? "all experts" : "those that stay");
  line("slots", parts.slots,
       inputs.sizes.layers.empty() ? "for experts as tokens choose them" : "for layers in turn");
  line("keys, values", memory.kv_bytes, "of " + std::to_string(flags.context) + " tokens");
  line("scratch", memory.scratch_bytes, "prompts in chunks of " + std::to_string(memory.chunk_tokens));
  line("tokenizer", report.tokenizer_bytes, "");
  line("the rest",
       memory.held_bytes - std::min(memory.held_bytes, report.tokenizer_bytes) + memory.other_bytes,
       "the program, logits, sampling");
  if (memory.residency.per_layer_by_row)
    std::printf("Read row by row: the per-layer embeddings, %.1f MiB.\n", mib(inputs.sizes.row_table));
  if (memory.residency.embedding_by_row)
    std::printf("Read row by row: the embedding, %.1f MiB.\n", mib(inputs.sizes.embedding));
  if (!memory.residency.streams_records()) {
    std::printf("Everything%s stays in memory.\n", memory.residency.streams() ? " else" : "");
  } else if (memory.residency.stream_experts) {
    std::printf("Streamed: %.1f MiB of experts, of which the slots hold %.1f %%.\n", mib(parts.streamed),
                100 * std::min(1.0, static_cast<double>(parts.slots) /
                                        static_cast<double>(inputs.sizes.expert_whole)));
  } else {
    std::printf("Streamed: %llu of %zu layers, %.1f MiB.\n",
                static_cast<unsigned long long>(parts.streamed_layers), inputs.sizes.layers.size(),
                mib(parts.streamed));
  }
}

void print(const Flags& flags, const Planner& planner, const Report& report) {
  const Forecast& now = report.now;
  std::printf("%s: %s in a budget of %s\n", flags.model.path.c_str(), planner.spec().architecture.c_str(),
              report.budget == 0 ? "any size" : memory::size_text(report.budget).c_str());
  print_memory(flags, planner, report);
  std::printf("The smallest budget that works is %s; everything stays in memory from %s on.\n",
              memory::size_text(report.floor).c_str(), memory::size_text(report.resident).c_str());
  std::printf("\nExpected (%s):\n", planner.rates_from().c_str());
  std::printf("  answers  %8.2f tok/s, bound by %s", now.decode_tok_s, meaning(now.decode_bound));
  if (now.read_bytes_per_token > 0)
    std::printf(": %.1f MB a token from the disk at %.2f GB/s", now.read_bytes_per_token / 1e6,
                now.ssd_bytes_s / 1e9);
  std::printf("\n");
  if (now.memory.residency.stream_experts)
    std::printf("           %.1f %% of the experts' bytes found in memory (%s)\n", 100 * now.hit_rate,
                planner.inputs().trace != nullptr ? "replay of the trace"
                                                  : "if tokens choose evenly; --trace knows better");
  std::printf("  prompts  %8.2f tok/s, bound by %s\n", now.prompt_tok_s, meaning(now.prompt_bound));
  if (report.help.empty()) return;
  std::printf("\nWhat would help:\n");
  for (const Help& help : report.help) std::printf("  %4.1fx  %s\n", help.decode_ratio, help.what.c_str());
}

Status run(Flags flags) {
  ASSIGN_OR_RETURN(flags.model.path, flags.model.model_path());
  // The tokenizer counts: commands that read or write text load it before the weights.
  const uint64_t before = platform::own_memory_bytes();
  ASSIGN_OR_RETURN(const formats::ModelManifest manifest, formats::open_model(flags.model.path));
  const auto tokenizer = text::load_tokenizer(manifest);
  const uint64_t held = platform::own_memory_bytes();
  PlannerOptions options(flags.model);
  ASSIGN_OR_RETURN(options.budget_bytes, flags.model.budget_bytes());
  options.context_tokens = flags.context;
  options.depth = flags.context / 2.0;
  options.held_bytes = held;
  options.trace = flags.trace;
  ASSIGN_OR_RETURN(const auto planner, Planner::make(flags.model.path, options));
  ASSIGN_OR_RETURN(const Report report, make_report(*planner, options.budget_bytes,
                                                    tokenizer ? held - std::min(held, before) : 0));
  if (flags.json) {
    std::printf("%s\n", dump_json(to_json(flags, *planner, report), 2).c_str());
  } else {
    print(flags, *planner, report);
  }
  return {};
}

}  // namespace

void add_plan(CLI::App& app, Action& action) {
  const auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand(
      "plan", "Say what of a model will stay in memory, what will be streamed, and how fast that is");
  flags->model.add_to(*command, ModelFlags::Default::kBundled);
  command->add_option("-c,--context", flags->context, "Tokens of prompt and answer to keep room for")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 24));
  command->add_option("--trace", flags->trace,
                      "A trace of this model (trace record), for the cache's hit rate");
  command->add_flag("--json", flags->json, "For machines");
  command->callback([flags, &action] { action = [flags] { return run(*flags); }; });
}

}  // namespace mlxf::cli
