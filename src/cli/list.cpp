// list and rm: the models in this user's caches, and taking one away.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <iostream>
#include <memory>

#include "base/json.h"
#include "cli/models.h"
#include "hub/remove.h"

namespace mlxf::cli {
namespace {

struct RemoveFlags {
  std::string name;
  bool yes = false;
};

std::string day_of(int64_t seconds) {
  const auto time = static_cast<std::time_t>(seconds);
  std::tm parts{};
  std::string text(16, '\0');
  if (seconds == 0 || localtime_r(&time, &parts) == nullptr) return "-";
  text.resize(std::strftime(text.data(), text.size(), "%Y-%m-%d", &parts));
  return text;
}

Json to_json(const hub::CachedModel& model) {
  return {{"name", model.title()},
          {"format", model.gguf ? "gguf" : "safetensors"},
          {"bytes", model.bytes},
          {"modified", model.modified_s},
          {"source", hub::key_of(model.source)},
          {"path", model.path},
          {"fault", model.fault.empty() ? Json() : Json(model.fault)}};
}

Status list(bool json) {
  ASSIGN_OR_RETURN(const std::vector<hub::CachedModel> models, cached_models());
  if (json) {
    Json rows = Json::array();
    for (const hub::CachedModel& model : models) rows.push_back(to_json(model));
    std::printf("%s\n", dump_json(rows, 2).c_str());
    return {};
  }
  if (models.empty()) {
    std::fprintf(stderr, "no models in any cache; mlx-flash pull ORG/NAME gets one\n");
    return {};
  }
  int width = 4;
  for (const hub::CachedModel& model : models)
    width = std::max(width, static_cast<int>(model.title().size()));
  std::printf("%-*s  %-11s  %9s  %-10s  %s\n", width, "NAME", "FORMAT", "SIZE", "MODIFIED", "CACHE");
  for (const hub::CachedModel& model : models)
    std::printf("%-*s  %-11s  %6.2f GB  %-10s  %s%s%s\n", width, model.title().c_str(),
                model.gguf ? "gguf" : "safetensors", static_cast<double>(model.bytes) / 1e9,
                day_of(model.modified_s).c_str(), hub::name_of(model.source),
                model.fault.empty() ? "" : "  broken: ", model.fault.c_str());
  return {};
}

Status remove(const RemoveFlags& flags) {
  ASSIGN_OR_RETURN(const std::vector<hub::CachedModel> models, cached_models());
  ASSIGN_OR_RETURN(const hub::Removal removal, hub::plan_removal(models, flags.name));
  if (!flags.yes) {
    std::fprintf(stderr, "remove %s, %.2f GB, %s? [y/N] ", removal.what.c_str(),
                 static_cast<double>(removal.bytes) / 1e9, removal.folder.c_str());
    std::string answer;
    std::getline(std::cin, answer);
    if (isatty(STDIN_FILENO) == 0) std::fprintf(stderr, "\n");
    if (answer != "y" && answer != "Y" && answer != "yes")
      return fail(ErrorCode::kCancelled, "nothing was removed; --yes removes without asking");
  }
  RETURN_IF_ERROR(hub::remove_model(removal));
  std::fprintf(stderr, "removed %s\n", removal.what.c_str());
  return {};
}

}  // namespace

void add_list(CLI::App& app, Action& action) {
  const auto json = std::make_shared<bool>(false);
  CLI::App* command = app.add_subcommand(
      "list", "Show the models that are here, those of Hugging Face, LM Studio and Ollama too");
  command->add_flag("--json", *json, "For machines");
  command->callback([json, &action] { action = [json] { return list(*json); }; });
}

void add_rm(CLI::App& app, Action& action) {
  const auto flags = std::make_shared<RemoveFlags>();
  CLI::App* command = app.add_subcommand("rm", "Remove a model that pull got; asks first");
  command
      ->add_option("model", flags->name,
                   "Its name, as list shows it; hf:ORG/NAME: from the cache of Hugging Face, in all variants")
      ->required();
  command->add_flag("-y,--yes", flags->yes, "Do not ask");
  command->callback([flags, &action] { action = [flags] { return remove(*flags); }; });
}

}  // namespace mlxf::cli
