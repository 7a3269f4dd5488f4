#include "hub/caches.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <tuple>

#include "formats/name_text.h"
#include "formats/shard_name.h"
#include "hub/model_name.h"
#include "hub/ollama_manifest.h"
#include "platform/file.h"

namespace mlxf::hub {
namespace {

namespace fs = std::filesystem;

constexpr size_t kEntriesMax = 200'000;  // Of all caches together.
constexpr uint64_t kManifestBytesMax = 1 << 20;
constexpr uint64_t kRefBytesMax = 256;

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

bool is_inside(const fs::path& path, const fs::path& folder) {
  const auto [in_folder, in_path] = std::mismatch(folder.begin(), folder.end(), path.begin(), path.end());
  return in_folder == folder.end();
}

std::string last_part(const std::string& name) { return name.substr(name.rfind('/') + 1); }

// One walk through all caches; what it found and how much it may still look at.
class Finder {
 public:
  void own(const fs::path& root);
  void hugging_face(const fs::path& root);
  void lm_studio(const fs::path& root);
  void ollama(const fs::path& root);
  std::vector<CachedModel> take() { return std::move(models_); }

 private:
  struct Weights {
    std::string name;
    fs::path path;
    uint64_t bytes = 0;
    int64_t modified_s = 0;
    std::string fault;
  };
  // What a folder of one model holds.
  struct Contents {
    bool config = false, pickle = false;
    std::vector<Weights> safetensors, gguf;
  };
  // Sorted; empty for a folder that cannot be listed. Names that begin with a dot are left out.
  std::vector<std::string> names_in(const fs::path& folder);
  std::vector<std::string> folders_in(const fs::path& folder);
  Weights look_at(const fs::path& path, const fs::path& inside, bool gguf);
  Contents contents_of(const fs::path& folder, const fs::path& inside, int deeper);
  void add_folder(const fs::path& folder, const fs::path& inside, CachedModel model, int deeper = 0);
  void add_gguf(const std::vector<Weights>& files, const CachedModel& base);
  void add_ollama(const fs::path& root, const fs::path& manifest, CachedModel model);

  std::vector<CachedModel> models_;
  size_t entries_left_ = kEntriesMax;
};

std::vector<std::string> Finder::names_in(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (entries_left_ == 0) break;
    --entries_left_;
    std::string name = it->path().filename().string();
    if (name.front() != '.') names.push_back(std::move(name));
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<std::string> Finder::folders_in(const fs::path& folder) {
  std::vector<std::string> names = names_in(folder);
  std::error_code error;
  const auto is_other = [&](const std::string& name) {
    // A link to a folder is not followed: it may lead anywhere.
    return !fs::is_directory(fs::symlink_status(folder / name, error)) || name_part_fault(name) != nullptr;
  };
  names.erase(std::remove_if(names.begin(), names.end(), is_other), names.end());
  return names;
}

// Sees what is plainly wrong with a file of weights: a link to nowhere or out of the cache, and other contents.
Finder::Weights Finder::look_at(const fs::path& path, const fs::path& inside, bool gguf) {
  Weights weights;
  weights.name = path.filename().string();
  weights.path = path;
  std::error_code error;
  const fs::path real = fs::canonical(path, error);
  const std::string name = formats::quoted_name(weights.name);
  if (error) {
    weights.fault = name + " is a link to a file that is missing";
    return weights;
  }
  if (!is_inside(real, inside)) {
    weights.fault = name + " is a link that leads out of the cache";
    return weights;
  }
  const auto file = platform::File::open(real.string());
  if (!file) {
    weights.fault = file.error().message;
    return weights;
  }
  weights.bytes = file->size();
  weights.modified_s = file->identity().modified_ns / 1'000'000'000;
  std::array<uint8_t, 8> head{};
  if (file->size() < head.size() || !file->read_exact(0, head)) {
    weights.fault = name + " is cut off";
    return weights;
  }
  if (gguf) {
    if (std::string_view(reinterpret_cast<const char*>(head.data()), 4) != "GGUF")
      weights.fault = name + " is not a GGUF file";
    return weights;
  }
  uint64_t header = 0;
  for (size_t i = head.size(); i-- > 0;) header = header << 8 | head[i];
  if (header > file->size() - head.size()) weights.fault = name + " is cut off, or not a safetensors file";
  return weights;
}

Finder::Contents Finder::contents_of(const fs::path& folder, const fs::path& inside, int deeper) {
  Contents contents;
  std::error_code error;
  for (const std::string& name : names_in(folder)) {
    const fs::path path = folder / name;
    if (fs::is_directory(fs::symlink_status(path, error))) {
      if (deeper == 0) continue;
      Contents below = contents_of(path, inside, deeper - 1);
      std::move(below.gguf.begin(), below.gguf.end(), std::back_inserter(contents.gguf));
    } else if (name == "config.json") {
      contents.config = true;
    } else if (ends_with(name, ".safetensors")) {
      contents.safetensors.push_back(look_at(path, inside, false));
    } else if (ends_with(name, ".gguf") && name.find("mmproj") == std::string::npos) {
      contents.gguf.push_back(look_at(path, inside, true));
    } else if (ends_with(name, ".bin") || ends_with(name, ".pt") || ends_with(name, ".pth")) {
      contents.pickle = true;
    }
  }
  return contents;
}

// Each file is a model, or all parts of a split one.
void Finder::add_gguf(const std::vector<Weights>& files, const CachedModel& base) {
  std::map<std::string, std::vector<const Weights*>> split;  // By the path without the numbers.
  std::vector<std::vector<const Weights*>> models;
  for (const Weights& file : files) {
    const auto shard = formats::parse_shard_name(file.name);
    if (shard) {
      split[(file.path.parent_path() / shard->prefix).string()].push_back(&file);
    } else {
      models.push_back({&file});
    }
  }
  for (auto& entry : split) models.push_back(std::move(entry.second));
  for (const auto& parts : models) {
    CachedModel model = base;
    model.gguf = true;
    model.path = parts.front()->path.string();
    model.variant = quantisation_of(parts.front()->name);
    if (model.variant.empty() && models.size() > 1) {
      const std::string stem = parts.front()->path.stem().string();
      if (name_part_fault(stem) == nullptr) model.variant = stem;
    }
    for (const Weights* part : parts) {
      model.bytes += part->bytes;
      model.modified_s = std::max(model.modified_s, part->modified_s);
      if (model.fault.empty()) model.fault = part->fault;
    }
    const auto shard = formats::parse_shard_name(parts.front()->name);
    if (model.fault.empty() && shard && shard->count != parts.size())
      model.fault =
          std::to_string(parts.size()) + " of its " + std::to_string(shard->count) + " files are there";
    models_.push_back(std::move(model));
  }
}

void Finder::add_folder(const fs::path& folder, const fs::path& inside, CachedModel model, int deeper) {
  const Contents contents = contents_of(folder, inside, deeper);
  add_gguf(contents.gguf, model);
  if (!contents.gguf.empty() || (!contents.config && contents.safetensors.empty())) return;
  model.path = folder.string();
  std::map<uint32_t, size_t> parts;  // How many files there are of each claimed count.
  for (const Weights& file : contents.safetensors) {
    model.bytes += file.bytes;
    model.modified_s = std::max(model.modified_s, file.modified_s);
    if (model.fault.empty()) model.fault = file.fault;
    if (const auto shard = formats::parse_shard_name(file.name)) ++parts[shard->count];
  }
  for (const auto& entry : parts)
    if (model.fault.empty() && entry.first != entry.second)
      model.fault =
          std::to_string(entry.second) + " of its " + std::to_string(entry.first) + " files are there";
  if (contents.safetensors.empty())
    model.fault = contents.pickle ? "its weights are pickles, which are never loaded" : "has no weights";
  else if (!contents.config)
    model.fault = "has no config.json";
  models_.push_back(std::move(model));
}

void Finder::own(const fs::path& root) {
  for (const std::string& org : folders_in(root)) {
    for (const std::string& name : folders_in(root / org)) {
      const fs::path repository = root / org / name;
      std::error_code error;
      for (const std::string& made : names_in(repository)) {
        if (!fs::is_directory(fs::symlink_status(repository / made, error))) continue;
        CachedModel model;
        model.name = std::string(org).append("/").append(name);
        model.home = (repository / made).string();
        const std::string revision = made.substr(0, made.find('~'));
        if (revision != "main") model.revision = revision;
        add_folder(repository / made, root, std::move(model));
      }
    }
  }
}

void Finder::lm_studio(const fs::path& root) {
  for (const std::string& publisher : folders_in(root)) {
    for (const std::string& name : folders_in(root / publisher)) {
      CachedModel model;
      model.source = Source::kLmStudio;
      model.name = std::string(publisher).append("/").append(name);
      model.home = (root / publisher / name).string();
      add_folder(root / publisher / name, root, std::move(model));
    }
  }
}

void Finder::hugging_face(const fs::path& root) {
  constexpr std::string_view kPrefix = "models--";
  for (const std::string& folder : folders_in(root)) {
    if (folder.compare(0, kPrefix.size(), kPrefix) != 0) continue;
    CachedModel model;
    model.source = Source::kHuggingFace;
    model.name = folder.substr(kPrefix.size());
    const size_t cut = model.name.find("--");
    if (cut != std::string::npos) model.name.replace(cut, 2, "/");
    const fs::path repository = root / folder;
    model.home = repository.string();
    const std::vector<std::string> snapshots = folders_in(repository / "snapshots");
    if (snapshots.empty()) continue;
    // "main" if it is there, else any.
    std::string commit = snapshots.back();
    if (auto main = platform::read_whole_file((repository / "refs" / "main").string(), kRefBytesMax)) {
      while (!main->empty() && (main->back() == '\n' || main->back() == ' ')) main->pop_back();
      if (std::find(snapshots.begin(), snapshots.end(), *main) != snapshots.end()) commit = *main;
    }
    add_folder(repository / "snapshots" / commit, repository, std::move(model), 1);
  }
}

void Finder::add_ollama(const fs::path& root, const fs::path& manifest, CachedModel model) {
  const auto read = [&]() -> Result<OllamaBlob> {
    ASSIGN_OR_RETURN(const std::string text, platform::read_whole_file(manifest.string(), kManifestBytesMax));
    return parse_ollama_manifest(text);
  };
  model.path = manifest.string();
  const auto blob = read();
  if (!blob) {
    model.fault = blob.error().message;
  } else {
    const Weights weights = look_at(root / "blobs" / blob->file_name, root, true);
    model.path = weights.path.string();
    model.bytes = weights.bytes;
    model.modified_s = weights.modified_s;
    model.fault = weights.fault;
    if (model.fault.empty() && weights.bytes != blob->bytes)
      model.fault =
          "its file has " + std::to_string(weights.bytes) + " bytes, not " + std::to_string(blob->bytes);
  }
  models_.push_back(std::move(model));
}

void Finder::ollama(const fs::path& root) {
  const fs::path manifests = root / "manifests";
  for (const std::string& host : folders_in(manifests)) {
    for (const std::string& space : folders_in(manifests / host)) {
      for (const std::string& name : folders_in(manifests / host / space)) {
        const fs::path folder = manifests / host / space / name;
        for (const std::string& tag : names_in(folder)) {
          if (name_part_fault(tag) != nullptr) continue;
          CachedModel model;
          model.source = Source::kOllama;
          model.gguf = true;
          model.home = root.string();
          if (host != "registry.ollama.ai") model.name.append(host).append("/");
          if (host != "registry.ollama.ai" || space != "library") model.name.append(space).append("/");
          model.name += name;
          model.variant = tag;
          add_ollama(root, folder / tag, std::move(model));
        }
      }
    }
  }
}

// Those that a name means, best kind of match first: the whole name, then its last part.
std::vector<const CachedModel*> matches_of(const std::vector<CachedModel>& models, const ModelName& name) {
  for (const bool whole : {true, false}) {
    std::vector<const CachedModel*> found;
    found.reserve(models.size());
    for (const CachedModel& model : models) {
      if (!name.source.empty() && name.source != key_of(model.source)) continue;
      if (!name.variant.empty() && !same_ignoring_case(name.variant, model.variant)) continue;
      if (name.revision != model.revision && !(name.revision == "main" && model.revision.empty())) continue;
      if (name.name == (whole ? model.name : last_part(model.name))) found.push_back(&model);
    }
    if (!found.empty()) return found;
  }
  return {};
}

}  // namespace

const char* name_of(Source source) {
  constexpr std::array<const char*, 4> kNames = {"mlx-flash", "Hugging Face", "LM Studio", "Ollama"};
  return kNames[static_cast<size_t>(source)];
}

const char* key_of(Source source) {
  constexpr std::array<const char*, 4> kKeys = {"mlx-flash", "hf", "lmstudio", "ollama"};
  return kKeys[static_cast<size_t>(source)];
}

std::string CachedModel::title() const {
  std::string title = name;
  if (!variant.empty()) title.append(":").append(variant);
  if (!revision.empty()) title.append("@").append(revision);
  return title;
}

std::string own_models_folder(const std::string& own_folder) {
  const std::string set = environment("MLX_FLASH_MODELS");
  return set.empty() ? own_folder + "/models" : set;
}

std::vector<CacheRoot> cache_roots(const std::string& own_folder) {
  const std::string home = environment("HOME");
  std::string hub = environment("HF_HUB_CACHE"), hub_home = environment("HF_HOME"),
              ollama = environment("OLLAMA_MODELS"), cache = environment("XDG_CACHE_HOME");
  if (cache.empty()) cache = home + "/.cache";
  if (hub_home.empty()) hub_home = cache + "/huggingface";
  if (hub.empty()) hub = hub_home + "/hub";
  if (ollama.empty()) ollama = home + "/.ollama/models";
  std::vector<CacheRoot> roots;
  std::error_code error;
  for (const CacheRoot& wanted : {CacheRoot{Source::kOwn, own_models_folder(own_folder)},
                                  {Source::kHuggingFace, hub},
                                  {Source::kLmStudio, home + "/.lmstudio/models"},
                                  {Source::kLmStudio, home + "/.cache/lm-studio/models"},
                                  {Source::kOllama, ollama}}) {
    const std::string real = fs::canonical(wanted.path, error).string();
    const bool known =
        std::any_of(roots.begin(), roots.end(), [&](const CacheRoot& other) { return other.path == real; });
    if (!error && !known) roots.push_back({wanted.source, real});
  }
  return roots;
}

std::vector<CachedModel> find_models(const std::vector<CacheRoot>& roots) {
  Finder finder;
  for (const CacheRoot& root : roots) {
    std::error_code error;
    const fs::path real = fs::canonical(root.path, error);
    if (error) continue;
    if (root.source == Source::kOwn) finder.own(real);
    if (root.source == Source::kHuggingFace) finder.hugging_face(real);
    if (root.source == Source::kLmStudio) finder.lm_studio(real);
    if (root.source == Source::kOllama) finder.ollama(real);
  }
  std::vector<CachedModel> models = finder.take();
  std::sort(models.begin(), models.end(), [](const CachedModel& a, const CachedModel& b) {
    return std::tie(a.name, a.variant, a.revision, a.source, a.path) <
           std::tie(b.name, b.variant, b.revision, b.source, b.path);
  });
  return models;
}

Result<CachedModel> find_model(const std::vector<CachedModel>& models, std::string_view text,
                               bool broken_too) {
  ASSIGN_OR_RETURN(const ModelName name, parse_model_name(text));
  std::vector<const CachedModel*> found = matches_of(models, name);
  if (found.empty()) return fail(ErrorCode::kNotFound, "no model is called " + formats::quoted_name(text));
  if (!broken_too) {
    const CachedModel& first = *found.front();
    const auto is_broken = [](const CachedModel* model) { return !model->fault.empty(); };
    found.erase(std::remove_if(found.begin(), found.end(), is_broken), found.end());
    if (found.empty())
      return fail(ErrorCode::kCorrupt, first.title() + " in the cache of " + name_of(first.source) +
                                           " is broken: " + first.fault + " (" + first.path + ")");
  }
  // The same model in several caches, and Ollama's name for "no tag".
  const CachedModel* best = nullptr;
  bool several = false;
  for (const CachedModel* model : found) {
    if (best == nullptr) {
      best = model;
      continue;
    }
    const bool same = best->title() == model->title();
    const auto is_latest = [&](const CachedModel* one) {
      return name.variant.empty() && one->source == Source::kOllama && one->variant == "latest";
    };
    if (same && model->source < best->source) best = model;
    if (same || (is_latest(best) && model->name == best->name)) continue;
    if (is_latest(model) && model->name == best->name && best->source == Source::kOllama) {
      best = model;
      continue;
    }
    several = true;
  }
  if (!several) return *best;
  std::string list;
  for (const CachedModel* model : found) list.append(list.empty() ? "" : ", ").append(model->title());
  return fail(ErrorCode::kInvalidArgument,
              formats::quoted_name(text) + " may mean several models: " + list + "; give one of them");
}

}  // namespace mlxf::hub
