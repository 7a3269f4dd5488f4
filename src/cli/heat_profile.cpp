#include "cli/heat_profile.h"

#include <cstdio>
#include <filesystem>
#include <optional>
#include <vector>

#include "base/json.h"
#include "cli/commands.h"
#include "formats/fingerprint.h"
#include "plan/hardware_profile.h"
#include "platform/file.h"

namespace mlxf::cli {
namespace {

constexpr int64_t kVersion = 1;
constexpr uint64_t kFileBytesMax = uint64_t{16} << 20;

struct Place {
  std::string path, model;
};

Result<Place> place_of(const formats::ModelManifest& manifest) {
  ASSIGN_OR_RETURN(const std::string folder, plan::cache_folder());
  ASSIGN_OR_RETURN(const std::string model, formats::fingerprint(manifest));
  return Place{folder + "/heat/" + model + ".json", model};
}

Result<std::vector<uint64_t>> parse(const std::string& text, const std::string& model, size_t experts) {
  ASSIGN_OR_RETURN(const Json file, parse_json(text));
  if (find_int(file, "version").value_or(0) != kVersion)
    return fail(ErrorCode::kUnsupported, "it is of another version");
  if (find_string(file, "model").value_or("") != model)
    return fail(ErrorCode::kCorrupt, "it is of another model");
  const Json* uses = find_member(file, "uses");
  if (uses == nullptr || !uses->is_array() || uses->size() != experts)
    return fail(ErrorCode::kCorrupt, "it does not list the uses of " + std::to_string(experts) + " experts");
  std::vector<uint64_t> counts;
  for (const Json& count : *uses) {
    if (!count.is_number_unsigned()) return fail(ErrorCode::kCorrupt, "a count is not a whole number");
    counts.push_back(count.get<uint64_t>());
  }
  return counts;
}

// The saved counts; nothing where there are none, or none that can be used: then `why` says so.
std::optional<std::vector<uint64_t>> load(const Place& place, size_t experts, std::string& why) {
  std::error_code code;
  if (!std::filesystem::exists(place.path, code)) return std::nullopt;
  const auto text = platform::read_whole_file(place.path, kFileBytesMax);
  const auto counts = text ? parse(*text, place.model, experts) : tl::unexpected<Error>(text.error());
  if (counts) return *counts;
  why = counts.error().message;
  return std::nullopt;
}

}  // namespace

Status warm_up(engine::Engine& engine) {
  weights::RecordCache* cache = engine.model().expert_cache();
  if (cache == nullptr) return {};
  const auto place = place_of(engine.manifest());
  if (!place) return {};  // No folder for profiles, or a file that loading will complain about.
  std::string why;
  const auto counts = load(*place, cache->records().size(), why);
  if (!counts) {
    if (!why.empty())
      std::fprintf(stderr, "mlx-flash: ignoring the heat profile %s: %s\n", place->path.c_str(), why.c_str());
    return {};
  }
  return cache->warm(*counts, progress_line("warming up"));
}

Status save_heat(engine::Engine& engine) {
  const weights::RecordCache* cache = engine.model().expert_cache();
  if (cache == nullptr) {
    std::fprintf(stderr, "mlx-flash: no experts were streamed, so there is no heat to save\n");
    return {};
  }
  ASSIGN_OR_RETURN(const Place place, place_of(engine.manifest()));
  std::vector<uint64_t> counts(cache->uses().begin(), cache->uses().end());
  std::string why;
  if (const auto before = load(place, counts.size(), why))
    for (size_t i = 0; i < counts.size(); ++i) counts[i] += (*before)[i] / 2;
  const std::filesystem::path folder = std::filesystem::path(place.path).parent_path();
  std::error_code code;
  std::filesystem::create_directories(folder, code);
  if (code) return fail(ErrorCode::kIo, folder.string() + ": cannot make the folder: " + code.message());
  const std::string text =
      dump_json(Json{{"version", kVersion}, {"model", place.model}, {"uses", counts}}) + "\n";
  ASSIGN_OR_RETURN(platform::NewFile file,
                   platform::NewFile::create(place.path, platform::Overwrite::kReplace));
  RETURN_IF_ERROR(file.append({reinterpret_cast<const uint8_t*>(text.data()), text.size()}));
  return file.commit();
}

}  // namespace mlxf::cli
