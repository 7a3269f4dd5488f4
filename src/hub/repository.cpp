#include "hub/repository.h"

#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "base/json.h"
#include "formats/name_text.h"
#include "formats/shard_name.h"
#include "hub/model_name.h"

namespace mlxf::hub {
namespace {

constexpr JsonLimits kLimits = {.bytes_max = uint64_t{32} << 20, .depth_max = 32};
constexpr size_t kFilesMax = 100'000;
constexpr uint64_t kFileBytesMax = uint64_t{1} << 44;
// What is taken of a repository with several, first found.
constexpr std::array<std::string_view, 10> kUsual = {"Q4_K_M", "UD-Q4_K_XL", "Q4_K_S", "Q4_0", "MXFP4",
                                                     "Q5_K_M", "Q6_K",       "Q8_0",   "BF16", "F16"};

bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

bool is_hex(std::string_view text, size_t digits) {
  return text.size() == digits && std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

tl::unexpected<Error> corrupt(const std::string& why) {
  return fail(ErrorCode::kCorrupt, "the server's description of the repository " + why);
}

Result<RemoteFile> parse_file(const Json& sibling) {
  const auto path = find_string(sibling, "rfilename");
  if (!path) return corrupt("has a file without a name");
  if (const char* fault = file_path_fault(*path))
    return corrupt("has a file named " + formats::quoted_name(*path) + ", which " + fault);
  RemoteFile file;
  file.path = *path;
  int64_t bytes = find_int(sibling, "size").value_or(-1);
  const Json* lfs = find_member(sibling, "lfs");
  if (lfs != nullptr && lfs->is_object()) {
    file.sha256 = find_string(*lfs, "sha256").value_or("");
    bytes = find_int(*lfs, "size").value_or(bytes);
    if (!is_hex(file.sha256, 64)) return corrupt("has no checksum of " + formats::quoted_name(file.path));
  } else {
    file.git_sha1 = find_string(sibling, "blobId").value_or("");
    if (!is_hex(file.git_sha1, 40)) return corrupt("has no checksum of " + formats::quoted_name(file.path));
  }
  if (bytes < 0 || static_cast<uint64_t>(bytes) > kFileBytesMax)
    return corrupt("has no size of " + formats::quoted_name(file.path));
  file.bytes = static_cast<uint64_t>(bytes);
  return file;
}

bool is_top_level(const RemoteFile& file) { return file.path.find('/') == std::string::npos; }

// Configuration, tokenizer and chat template; texts alone.
bool is_beside_weights(const std::string& name) {
  return ends_with(name, ".json") || ends_with(name, ".jinja") || name == "tokenizer.model" ||
         name == "merges.txt" || name == "vocab.txt";
}

std::vector<RemoteFile> safetensors_of(const Repository& repository) {
  std::vector<RemoteFile> weights, others;
  bool config = false, usual = false;
  for (const RemoteFile& file : repository.files) {
    if (!is_top_level(file) || file.path.front() == '.') continue;
    if (ends_with(file.path, ".safetensors")) {
      weights.push_back(file);
      usual |= file.path.compare(0, 5, "model") == 0;
    } else if (is_beside_weights(file.path)) {
      others.push_back(file);
      config |= file.path == "config.json";
    }
  }
  if (weights.empty() || !config) return {};
  // Some repositories hold the same weights once more in their maker's own form ("consolidated.safetensors").
  if (usual) {
    const auto is_other = [](const RemoteFile& file) { return file.path.compare(0, 5, "model") != 0; };
    weights.erase(std::remove_if(weights.begin(), weights.end(), is_other), weights.end());
  }
  weights.insert(weights.end(), others.begin(), others.end());
  return weights;
}

// One model in GGUF: a file, or all parts of a split one.
struct GgufModel {
  std::string quantisation, stem;
  uint32_t parts = 1;
  std::vector<RemoteFile> files;
  [[nodiscard]] const std::string& title() const { return quantisation.empty() ? stem : quantisation; }
};

std::vector<GgufModel> gguf_models_of(const Repository& repository) {
  std::map<std::string, GgufModel> models;
  for (const RemoteFile& file : repository.files) {
    const std::string name = file.local_name();
    if (!ends_with(name, ".gguf") || name.find("mmproj") != std::string::npos || name.front() == '.')
      continue;
    const auto shard = formats::parse_shard_name(name);
    const std::string stem = shard ? shard->prefix : name.substr(0, name.size() - 5);
    const std::string folder = file.path.substr(0, file.path.size() - name.size());
    GgufModel& model = models[folder + stem + (shard ? "/" : "")];
    model.stem = stem;
    model.quantisation = quantisation_of(name);
    if (shard) model.parts = shard->count;
    model.files.push_back(file);
  }
  std::vector<GgufModel> list;
  for (auto& entry : models) {
    const size_t files = entry.second.files.size();
    if (files == entry.second.parts) list.push_back(std::move(entry.second));
  }
  return list;
}

std::string titles_of(const std::vector<GgufModel>& models) {
  std::string text;
  for (const GgufModel& model : models) text.append(text.empty() ? "" : ", ").append(model.title());
  return text;
}

const GgufModel* usual_one(const std::vector<GgufModel>& models) {
  for (const std::string_view quantisation : kUsual)
    for (const GgufModel& model : models)
      if (model.quantisation == quantisation) return &model;
  return models.empty() ? nullptr : &models.front();
}

}  // namespace

uint64_t Selection::bytes() const {
  uint64_t sum = 0;  // At most 1e5 files of 2^44 bytes: it cannot overflow.
  for (const RemoteFile& file : files) sum += file.bytes;
  return sum;
}

Result<Repository> parse_repository(std::string_view json) {
  auto parsed = parse_json(json, kLimits);
  if (!parsed) return tl::unexpected<Error>(parsed.error().within("the server's answer"));
  Repository repository;
  repository.commit = find_string(*parsed, "sha").value_or("");
  if (!is_hex(repository.commit, 40)) return corrupt("names no commit");
  const Json* siblings = find_member(*parsed, "siblings");
  if (siblings == nullptr || !siblings->is_array()) return corrupt("lists no files");
  if (siblings->size() > kFilesMax) return corrupt("lists too many files");
  repository.files.reserve(siblings->size());
  std::set<std::string> seen;
  for (const Json& sibling : *siblings) {
    ASSIGN_OR_RETURN(RemoteFile file, parse_file(sibling));
    if (!seen.insert(file.path).second) return corrupt("lists " + formats::quoted_name(file.path) + " twice");
    repository.files.push_back(std::move(file));
  }
  return repository;
}

Result<Selection> select_files(const Repository& repository, std::string_view quantisation) {
  Selection selection;
  if (quantisation.empty()) {
    selection.files = safetensors_of(repository);
    if (!selection.files.empty()) return selection;
  }
  const std::vector<GgufModel> models = gguf_models_of(repository);
  if (models.empty() && !quantisation.empty())
    return fail(ErrorCode::kNotFound, "the repository has no GGUF files, so no " + std::string(quantisation));
  if (models.empty())
    return fail(ErrorCode::kUnsupported,
                "the repository has neither safetensors with a config.json nor GGUF files; pickles (.bin, "
                ".pt) are never loaded");
  const GgufModel* chosen = nullptr;
  if (quantisation.empty()) {
    chosen = usual_one(models);
    for (const GgufModel& model : models)
      if (&model != chosen) selection.choices.push_back(model.title());
  }
  for (const GgufModel& model : models) {
    if (quantisation.empty() || !(same_ignoring_case(quantisation, model.quantisation) ||
                                  same_ignoring_case(quantisation, model.stem)))
      continue;
    if (chosen != nullptr)
      return fail(ErrorCode::kInvalidArgument, "the repository has several models of " + model.title() +
                                                   ": " + chosen->stem + ", " + model.stem +
                                                   "; give one of them");
    chosen = &model;
  }
  if (chosen == nullptr)
    return fail(ErrorCode::kNotFound,
                "the repository has no " + std::string(quantisation) + "; it has: " + titles_of(models));
  selection.files = chosen->files;
  selection.variant = quantisation.empty() || same_ignoring_case(quantisation, chosen->quantisation)
                          ? chosen->quantisation
                          : chosen->stem;
  if (name_part_fault(selection.variant) != nullptr) selection.variant = "gguf";
  return selection;
}

}  // namespace mlxf::hub
