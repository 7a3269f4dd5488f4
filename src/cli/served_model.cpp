#include "cli/served_model.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "base/bounded_queue.h"
#include "base/duration.h"
#include "cli/models.h"
#include "formats/name_text.h"
#include "model/families/families.h"
#include "model/memory_plan.h"
#include "platform/file.h"
#include "platform/process.h"
#include "text/chat_template.h"
#include "weights/record_cache.h"

namespace mlxf::cli {
namespace {

// A longer context has to be asked for: room for one is kept within the memory budget from the start.
constexpr uint32_t kDefaultContext = 8192;
// Further requests that run at once have room for this much from the start, and for more as others end.
constexpr uint32_t kNeighbourTokens = 2048;
constexpr uint64_t kTemplateMax = 1 << 20;
constexpr std::chrono::milliseconds kStopWait(1500);
constexpr std::chrono::milliseconds kStopLook(50);

// From the headers alone, so that a model that is not there, or is none, is found before anybody asks for it.
Result<api::OllamaModel> facts_of(const std::string& path) {
  ASSIGN_OR_RETURN(const formats::ModelManifest manifest, formats::open_model(path));
  api::OllamaModel facts;
  const bool gguf = manifest.container == formats::Container::kGguf;
  facts.format = gguf ? "gguf" : "safetensors";
  facts.architecture = (gguf ? manifest.metadata.find_string("general.architecture")
                             : find_string(manifest.config, "model_type"))
                           .value_or("");
  for (const uint64_t bytes : manifest.file_bytes) facts.bytes += bytes;
  if (const auto spec = model::make_spec(manifest)) facts.context_tokens_max = spec->context_max;
  if (const auto chat = text::load_chat_template(manifest)) facts.chat_template = chat->source();
  ASSIGN_OR_RETURN(const platform::File file, platform::File::open(manifest.files.front()));
  facts.modified = file.identity().modified_ns / 1'000'000'000;
  return facts;
}

uint32_t context_tokens(const ServedModelFlags& flags) {
  return flags.max_context != 0 ? flags.max_context : kDefaultContext;
}
uint32_t neighbour_tokens(const ServedModelFlags& flags) {
  return std::min(context_tokens(flags), kNeighbourTokens);
}

uint32_t all_context_tokens(const ServedModelFlags& flags) {
  return context_tokens(flags) + (flags.parallel - 1) * neighbour_tokens(flags);
}

// What ModelFlags::open() will ask of the memory budget, but for what the process holds by then.
Result<server::ModelNeed> need_of(const ServedModelFlags& flags, const std::string& path) {
  ASSIGN_OR_RETURN(const formats::ModelManifest manifest, formats::open_model(path));
  ASSIGN_OR_RETURN(const model::ModelSpec spec, model::make_spec(manifest));
  const bool int8 = flags.model.activations == "int8";
  ASSIGN_OR_RETURN(const model::WeightSizes sizes,
                   model::measure_weights(manifest, spec, weights::RecordCache::kGranuleBytes,
                                          int8 ? weights::Rows::kInt8 : weights::Rows::kAsStored));
  model::MemoryRequest request;
  request.context_tokens = all_context_tokens(flags);
  request.sequences = flags.parallel;
  request.threads = flags.model.threads != 0 ? flags.model.threads : platform::usable_processors();
  if (flags.model.activations == "f32") request.element = kv::Element::kF32;
  // The tokenizer's part is an estimate: nothing is refused because of it.
  return server::ModelNeed{
      model::floor_budget(spec, sizes, request),
      model::resident_budget(spec, sizes, request) + uint64_t{spec.vocab} * kTokenizerBytesPerToken};
}

Result<server::ModelSource> source_of(const std::shared_ptr<ServedModelFlags>& flags,
                                      const NamedModel& model) {
  server::ModelSource source;
  source.name = model.name;
  ASSIGN_OR_RETURN(source.facts, facts_of(model.path));
  source.need = [flags, path = model.path] { return need_of(*flags, path); };
  source.open = [flags, path = model.path](uint64_t held_bytes_min) {
    engine::EngineOptions engine;
    engine.held_bytes_min = held_bytes_min;
    engine.with_tokenizer = true;
    engine.with_grammars = true;
    engine.sequences = flags->parallel;
    engine.context_tokens = all_context_tokens(*flags);
    ModelFlags opened = flags->model;
    opened.path = path;
    return opened.open(engine);
  };
  return source;
}

}  // namespace

void ServedModelFlags::add_to(CLI::App& command) {
  model.add_to(command, ModelFlags::Default::kBundled);
  command.add_option("--parallel", parallel, "Requests that run at once; others wait")
      ->capture_default_str()
      ->check(CLI::Range(1, 256));
  command.add_option("--queue", queue, "Requests that may wait; more are refused")
      ->capture_default_str()
      ->check(CLI::Range(1, 100000));
  command
      .add_option("--max-context", max_context,
                  "Most tokens of one request, prompt and answer (default: the model's, at most 8192)")
      ->check(CLI::Range(2, 1 << 24));
  command.add_option(
      "--chat-template", chat_template,
      "Jinja file to use instead of the model's own template (of this model, not of others that "
      "are switched to)");
  command
      .add_option(
          "--keep-alive", keep_alive,
          "Unload the model once nobody has used it for so long: seconds, or 5m, 1h30m; 0: at once; below "
          "zero: never. The next request loads it again")
      ->capture_default_str()
      ->type_name("DURATION");
  command
      .add_option(
          "--models-max", models_max,
          "Models in memory at once, as far as the memory budget has room for them: a request that names "
          "another model on this machine has it loaded, and idle ones make room")
      ->capture_default_str()
      ->check(CLI::Range(1, 64));
  command.add_flag("--no-switch-by-name", no_switch_by_name,
                   "A request cannot choose another model by its name: whoever runs the server switches");
}

Result<server::ModelHostOptions> served_model(const std::shared_ptr<ServedModelFlags>& flags) {
  server::ModelHostOptions out;
  const auto keep_alive = parse_duration(flags->keep_alive);
  if (!keep_alive)
    return fail(keep_alive.error().code,
                "--keep-alive " + formats::quoted_name(flags->keep_alive) + " " + keep_alive.error().message);
  ASSIGN_OR_RETURN(const NamedModel first, chosen_model(flags->model));
  ASSIGN_OR_RETURN(out.model, source_of(flags, first));
  ASSIGN_OR_RETURN(const uint64_t budget, flags->model.budget_bytes());
  if (budget != 0) out.serving.neighbour_tokens = neighbour_tokens(*flags);
  if (!flags->chat_template.empty()) {
    auto source = platform::read_whole_file(flags->chat_template, kTemplateMax);
    if (!source) return tl::unexpected<Error>(source.error().within("--chat-template"));
    out.model.chat_template = std::move(*source);
    out.model.facts.chat_template = out.model.chat_template;
  }
  out.resolve = name_for_client;
  out.find = [flags](const std::string& name) -> Result<server::ModelSource> {
    ASSIGN_OR_RETURN(const NamedModel found, model_for_client(name));
    return source_of(flags, found);
  };
  out.list = [] {
    std::vector<api::OllamaModel> models;
    for (const CachedForClients& one : models_for_clients()) {
      api::OllamaModel facts;
      facts.name = one.name;
      facts.format = one.gguf ? "gguf" : "safetensors";
      facts.bytes = one.bytes;
      facts.modified = one.modified_s;
      models.push_back(std::move(facts));
    }
    return models;
  };
  out.by_name = !flags->no_switch_by_name;
  out.models_max = flags->models_max;
  out.budget = [flags] { return flags->model.budget_bytes(); };
  out.serving.context_tokens = context_tokens(*flags);
  out.serving.scheduler.parallel = flags->parallel;
  out.serving.scheduler.queue_max = flags->queue;
  out.keep_alive = *keep_alive;
  out.log = [](const std::string& line) { std::fprintf(stderr, "%s\n", line.c_str()); };
  return out;
}

void stop_in_time(const std::function<void()>& stop, const std::function<bool()>& wait_on) {
  BoundedQueue<int> stopped(1);
  std::thread watchdog([&] {
    if (stopped.wait(kStopWait)) return;
    while (wait_on && wait_on())
      if (stopped.wait(kStopLook)) return;
    std::_Exit(0);
  });
  stop();
  stopped.push(1);
  watchdog.join();
}

}  // namespace mlxf::cli
