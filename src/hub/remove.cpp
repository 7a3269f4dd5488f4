#include "hub/remove.h"

#include <filesystem>

#include "hub/model_name.h"

namespace mlxf::hub {

namespace fs = std::filesystem;

Result<Removal> plan_removal(const std::vector<CachedModel>& models, std::string_view text) {
  ASSIGN_OR_RETURN(const ModelName name, parse_model_name(text));
  std::vector<CachedModel> whole;
  for (const CachedModel& model : models)
    if (model.name == name.name) whole.push_back(model);
  // A repository of Hugging Face's goes with all of its variants, so that none of them is ambiguous.
  if (name.source == key_of(Source::kHuggingFace)) {
    Removal removal;
    for (const CachedModel& model : whole) {
      if (model.source != Source::kHuggingFace) continue;
      removal.folder = model.home;
      removal.what = model.name + " from the cache of Hugging Face, in all its variants";
      removal.bytes += model.bytes;
    }
    if (!removal.folder.empty() && name.variant.empty()) return removal;
    if (!removal.folder.empty())
      return fail(ErrorCode::kInvalidArgument,
                  "a repository of Hugging Face's cache is removed as a whole: " +
                      std::string("mlx-flash rm hf:") + name.name);
  }
  ASSIGN_OR_RETURN(const CachedModel model, find_model(whole, text, true));
  const auto refuse = [&](const std::string& remedy) {
    return fail(ErrorCode::kInvalidArgument, model.title() + " is in the cache of " + name_of(model.source) +
                                                 ", which other programs use; to remove it there: " + remedy);
  };
  if (model.source == Source::kHuggingFace) return refuse("mlx-flash rm hf:" + model.name);
  if (model.source == Source::kOllama) return refuse("ollama rm " + model.title());
  if (model.source == Source::kLmStudio) return refuse("delete it under My Models in LM Studio");
  return Removal{model.title(), model.home, model.bytes, 2};
}

Status remove_model(const Removal& removal) {
  const fs::path folder(removal.folder);
  std::error_code error;
  if (!fs::is_directory(fs::symlink_status(folder, error)))
    return fail(ErrorCode::kNotFound, removal.folder + ": is no folder any more");
  const fs::path gone = folder.parent_path() / ("." + folder.filename().string() + ".removed");
  fs::remove_all(gone, error);  // Of a removal that was cut off.
  fs::rename(folder, gone, error);
  if (!error) fs::remove_all(gone, error);
  if (error) return fail(ErrorCode::kIo, removal.folder + ": cannot be removed: " + error.message());
  fs::path above = folder.parent_path();
  for (int i = 0; i < removal.parents && fs::remove(above, error); ++i) above = above.parent_path();
  return {};
}

}  // namespace mlxf::hub
