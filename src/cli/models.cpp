#include "cli/models.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <optional>

#include "formats/name_text.h"
#include "hub/model_name.h"
#include "memory/budget.h"
#include "model/families/families.h"
#include "model/memory_plan.h"
#include "plan/hardware_profile.h"
#include "platform/process.h"
#include "weights/record_cache.h"

namespace mlxf::cli {
namespace {

namespace fs = std::filesystem;

constexpr uint32_t kContextTokens = 2048;  // As `plan` keeps room for.
constexpr size_t kPlannedMax = 64;         // Headers that are read to choose a model.

// "classics-moe-4bit" of ".../classics-moe-4bit/", "model-q4" of ".../model-q4.gguf".
std::string own_name(const std::string& path) {
  fs::path name = fs::path(path).lexically_normal();
  if (!name.has_filename()) name = name.parent_path();
  name = name.filename();
  return name.extension() == ".gguf" || name.extension() == ".safetensors" ? name.stem().string()
                                                                           : name.string();
}

// What is meant as a path is never looked up as a name, so that its error speaks of the path.
bool is_path(const std::string& text) {
  std::error_code error;
  if (fs::exists(text, error)) return true;
  const fs::path path(text);
  const std::string first = path.empty() ? "" : path.begin()->string();
  return path.is_absolute() || first == "." || first == ".." || first == "~" || path.extension() == ".gguf" ||
         path.extension() == ".safetensors";
}

NamedModel named(const hub::CachedModel& cached) {
  // Ollama's way to write that there is no tag.
  return {cached.path, cached.variant == "latest" ? cached.name : cached.title()};
}

bool stays_in_memory(const hub::CachedModel& cached, uint64_t budget_bytes) {
  const auto manifest = formats::open_model(cached.path);
  if (!manifest) return false;
  const auto spec = model::make_spec(*manifest);
  if (!spec) return false;
  const auto sizes =
      model::measure_weights(*manifest, *spec, weights::RecordCache::kGranuleBytes, weights::Rows::kAsStored);
  if (!sizes) return false;
  model::MemoryRequest request;
  request.held_bytes = platform::own_memory_bytes();
  request.context_tokens = kContextTokens;
  request.threads = platform::usable_processors();
  return budget_bytes == 0 || model::resident_budget(*spec, *sizes, request) <= budget_bytes;
}

std::optional<hub::CachedModel> best_cached(uint64_t budget_bytes) {
  auto models = cached_models();
  if (!models) return std::nullopt;
  const auto is_out = [&](const hub::CachedModel& model) {
    return !model.fault.empty() || (budget_bytes != 0 && model.bytes > budget_bytes);
  };
  models->erase(std::remove_if(models->begin(), models->end(), is_out), models->end());
  std::stable_sort(models->begin(), models->end(),
                   [](const hub::CachedModel& a, const hub::CachedModel& b) { return a.bytes > b.bytes; });
  for (size_t i = 0; i < std::min(models->size(), kPlannedMax); ++i)
    if (stays_in_memory((*models)[i], budget_bytes)) return (*models)[i];
  return std::nullopt;
}

}  // namespace

Result<std::vector<hub::CachedModel>> cached_models() {
  ASSIGN_OR_RETURN(const std::string folder, plan::cache_folder());
  return hub::find_models(hub::cache_roots(folder));
}

Result<NamedModel> named_model(const std::string& text) {
  if (is_path(text)) return NamedModel{text, own_name(text)};
  ASSIGN_OR_RETURN(const hub::ModelName name, hub::parse_model_name(text));
  ASSIGN_OR_RETURN(const std::vector<hub::CachedModel> models, cached_models());
  const auto found = hub::find_model(models, text);
  if (found) return named(*found);
  if (found.error().code != ErrorCode::kNotFound) return tl::unexpected<Error>(found.error());
  const bool whole = name.name.find('/') != std::string::npos;
  return fail(ErrorCode::kNotFound, text +
                                        " is neither a file or folder nor a cached model (mlx-flash list); " +
                                        "to get it: mlx-flash pull " + (whole ? "" : "ORG/") + text);
}

Result<NamedModel> model_for_client(const std::string& text) {
  const auto name = hub::parse_model_name(text);
  if (!name)
    return fail(ErrorCode::kInvalidArgument,
                formats::quoted_name(text) +
                    " names no model: a cached one is ORG/NAME or ORG/NAME:QUANT, as "
                    "mlx-flash list shows it; files are not opened for clients");
  ASSIGN_OR_RETURN(const std::vector<hub::CachedModel> models, cached_models());
  auto found = hub::find_model(models, text);
  // Ollama's clients write "name:latest" for "name".
  if (!found && found.error().code == ErrorCode::kNotFound && name->variant == "latest")
    found = hub::find_model(models, text.substr(0, text.size() - std::string_view(":latest").size()));
  if (found) return named(*found);
  if (found.error().code != ErrorCode::kNotFound) return tl::unexpected<Error>(found.error());
  if (const auto bundled = bundled_model(); bundled && name->name == own_name(*bundled))
    return NamedModel{*bundled, own_name(*bundled)};
  return fail(ErrorCode::kNotFound,
              "there is no cached model " + formats::quoted_name(text) +
                  " on this machine (mlx-flash list shows them, mlx-flash pull gets them)");
}

Result<std::string> name_for_client(const std::string& text) {
  if (!hub::parse_model_name(text))
    return fail(ErrorCode::kNotFound, formats::quoted_name(text) + " names no model");
  ASSIGN_OR_RETURN(NamedModel found, model_for_client(text));
  // A text that says in which cache to look may mean another one than its plain name does.
  const auto plain = model_for_client(found.name);
  return plain && plain->path == found.path ? std::move(found.name) : text;
}

std::vector<CachedForClients> models_for_clients() {
  std::vector<CachedForClients> out;
  if (const auto models = cached_models()) {
    out.reserve(models->size() + 1);
    for (const hub::CachedModel& model : *models)
      if (model.fault.empty()) out.push_back({named(model).name, model.gguf, model.bytes, model.modified_s});
  }
  if (const auto bundled = bundled_model()) {
    CachedForClients one{own_name(*bundled)};
    std::error_code error;
    for (fs::directory_iterator file(*bundled, error), end; !error && file != end; file.increment(error))
      if (file->path().extension() == ".safetensors") one.bytes += fs::file_size(file->path(), error);
    out.push_back(std::move(one));
  }
  return out;
}

Result<NamedModel> default_model(uint64_t budget_bytes) {
  if (const auto best = best_cached(budget_bytes)) {
    const std::string within =
        budget_bytes == 0 ? "" : " that stays in memory within " + memory::size_text(budget_bytes);
    std::fprintf(stderr, "no -m given: using %s, the largest cached model%s (%s)\n", best->title().c_str(),
                 within.c_str(), best->path.c_str());
    return named(*best);
  }
  ASSIGN_OR_RETURN(const std::string bundled, bundled_model());
  std::fprintf(stderr, "no -m given: using the bundled model %s\n", bundled.c_str());
  return NamedModel{bundled, own_name(bundled)};
}

Result<NamedModel> chosen_model(const ModelFlags& flags) {
  if (!flags.path.empty()) return named_model(flags.path);
  ASSIGN_OR_RETURN(const uint64_t budget, flags.budget_bytes());
  return default_model(budget);
}

}  // namespace mlxf::cli
