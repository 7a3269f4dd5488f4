// pull: gets a model from Hugging Face or a server like it.
#include <cstdio>
#include <memory>

#include "cli/models.h"
#include "hub/pull.h"
#include "plan/hardware_profile.h"

namespace mlxf::cli {
namespace {

Status run(const std::string& text) {
  ASSIGN_OR_RETURN(const hub::ModelName name, hub::parse_model_name(text));
  ASSIGN_OR_RETURN(const std::string folder, plan::cache_folder());
  hub::PullOptions options;
  options.endpoint = hub::endpoint_from_environment();
  ASSIGN_OR_RETURN(options.token, hub::token_from_environment());
  options.models = hub::own_models_folder(folder);
  options.cancelled = interrupted;
  options.progress = progress_line("pulling");
  options.note = [](const std::string& line) { std::fprintf(stderr, "%s\n", line.c_str()); };
  watch_interrupts();
  ASSIGN_OR_RETURN(const hub::PullReport report, hub::pull(name, options));
  std::fprintf(stderr, "%s %s, %.2f GB, in %s\n", report.title.c_str(),
               report.was_there ? "was here already" : "is here", static_cast<double>(report.bytes) / 1e9,
               report.folder.c_str());
  return {};
}

}  // namespace

void add_pull(CLI::App& app, Action& action) {
  const auto name = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand(
      "pull", "Get a model from Hugging Face (HF_TOKEN), or from a server like it (HF_ENDPOINT)");
  command->add_option("model", *name, "ORG/NAME, ORG/NAME:QUANT of GGUF files; @REVISION may follow")
      ->required();
  command->callback([name, &action] { action = [name] { return run(*name); }; });
}

}  // namespace mlxf::cli
