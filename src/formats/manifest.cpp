#include "formats/manifest.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <set>
#include <system_error>
#include <utility>

#include "base/checked.h"
#include "formats/byte_source.h"
#include "formats/file_kind.h"
#include "formats/gguf_header.h"
#include "formats/name_text.h"
#include "formats/safetensors_header.h"
#include "formats/shard_name.h"
#include "platform/file.h"

namespace mlxf::formats {
namespace {

namespace fs = std::filesystem;
using platform::File;
using platform::FileIdentity;

constexpr const char* kIndexName = "model.safetensors.index.json";
constexpr uint64_t kConfigBytesMax = uint64_t{16} << 20;
constexpr uint64_t kIndexBytesMax = uint64_t{64} << 20;
constexpr size_t kFolderEntriesMax = 100'000;

std::string joined(const std::string& folder, const std::string& name) {
  return (fs::path(folder) / name).string();
}

std::string folder_of(const std::string& path) {
  const std::string folder = fs::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

std::string file_name_of(const std::string& path) { return fs::path(path).filename().string(); }

bool exists(const std::string& path) {
  std::error_code error;
  return fs::exists(fs::symlink_status(path, error));
}

// The names in `folder`, sorted.
Result<std::vector<std::string>> list_folder(const std::string& folder) {
  std::error_code error;
  std::vector<std::string> names;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (names.size() == kFolderEntriesMax)
      return fail(ErrorCode::kInvalidArgument, folder + ": holds too many files to be a model's folder");
    names.push_back(it->path().filename().string());
  }
  if (error) return fail(ErrorCode::kIo, folder + ": cannot list the folder: " + error.message());
  std::sort(names.begin(), names.end());
  return names;
}

Result<Json> read_json_object(const std::string& path, uint64_t bytes_max) {
  ASSIGN_OR_RETURN(const std::string text, platform::read_whole_file(path, bytes_max));
  auto json = parse_json(text, {.bytes_max = bytes_max});
  if (!json) return tl::unexpected<Error>(std::move(json).error().within(path));
  if (!json->is_object()) return fail(ErrorCode::kCorrupt, path + ": is not a JSON object");
  return std::move(*json);
}

// Fills `tensor_index`; the files were each checked for duplicates, so a clash is between two of them.
Status index_tensors(ModelManifest& manifest) {
  const auto& tensors = manifest.tensors;
  const auto twice = manifest.tensor_index.build(tensors.size(),
                                                 [&](size_t i) { return std::string_view(tensors[i].name); });
  if (!twice) return {};
  const TensorEntry& first = tensors[twice->first];
  const TensorEntry& second = tensors[twice->second];
  return fail(ErrorCode::kCorrupt, manifest.files[second.file] + ": tensor " + quoted_name(second.name) +
                                       " at byte " + std::to_string(second.offset) + ": occurs in " +
                                       manifest.files[first.file] + " as well");
}

void add_file(ModelManifest& manifest, const File& file, std::vector<TensorEntry> tensors) {
  const auto number = static_cast<uint32_t>(manifest.files.size());
  for (TensorEntry& tensor : tensors) tensor.file = number;
  manifest.files.push_back(file.path());
  manifest.file_bytes.push_back(file.size());
  if (manifest.tensors.empty()) {
    manifest.tensors = std::move(tensors);
  } else {
    std::move(tensors.begin(), tensors.end(), std::back_inserter(manifest.tensors));
  }
}

// Refuses two names of one file, as a shard that is linked to another would be.
Status check_distinct(const std::vector<FileIdentity>& identities, const std::vector<std::string>& paths) {
  std::set<std::pair<uint64_t, uint64_t>> seen;
  for (size_t i = 0; i < identities.size(); ++i) {
    if (!seen.emplace(identities[i].device, identities[i].inode).second)
      return fail(ErrorCode::kCorrupt, paths[i] + ": is the same file as another part of the model");
  }
  return {};
}

struct ShardIndex {
  std::vector<std::string> names;  // Distinct, sorted.
  Json weight_map;                 // Tensor → file name.
  std::optional<double> total_bytes;
  std::string path;
};

Result<ShardIndex> read_shard_index(const std::string& path) {
  ASSIGN_OR_RETURN(Json json, read_json_object(path, kIndexBytesMax));
  const Json* map = find_member(json, "weight_map");
  if (map == nullptr || !map->is_object() || map->empty())
    return fail(ErrorCode::kCorrupt, path + ": weight_map: is not an object of tensors");
  ShardIndex index;
  index.path = path;
  std::set<std::string> names;
  for (const auto& [tensor, file] : map->items()) {
    const std::string* name = file.get_ptr<const std::string*>();
    const char* fault = name == nullptr ? "is not a string" : shard_name_fault(*name);
    if (fault != nullptr)
      return fail(ErrorCode::kCorrupt, path + ": weight_map of tensor " + quoted_name(tensor) +
                                           ": the file name " +
                                           (name == nullptr ? "" : quoted_name(*name) + " ") + fault);
    names.insert(*name);
  }
  index.names.assign(names.begin(), names.end());
  if (const Json* metadata = find_member(json, "metadata"))
    index.total_bytes = find_number(*metadata, "total_size");
  index.weight_map = *map;
  return index;
}

// The index and the shards must tell the same story: a model with parts of another release loads, but talks nonsense.
Status check_shard_index(const ShardIndex& index, const ModelManifest& manifest) {
  const auto refuse = [&](const std::string& why) {
    return fail(ErrorCode::kCorrupt, index.path + ": " + why);
  };
  for (const auto& [name, file] : index.weight_map.items()) {
    const TensorEntry* tensor = manifest.find(name);
    if (tensor == nullptr)
      return refuse("weight_map: tensor " + quoted_name(name) +
                    " is in none of the files; download the model again");
    const std::string actual = file_name_of(manifest.files[tensor->file]);
    if (actual != file.get_ref<const std::string&>())
      return refuse("weight_map: tensor " + quoted_name(name) + " is in " + actual + ", not in " +
                    quoted_name(file.get_ref<const std::string&>()));
  }
  uint64_t total = 0;
  for (const TensorEntry& tensor : manifest.tensors) {
    if (!index.weight_map.contains(tensor.name))
      return refuse("weight_map: tensor " + quoted_name(tensor.name) + " of " + manifest.files[tensor.file] +
                    " is missing");
    total += tensor.bytes;  // Tensors do not overlap in files, so their sum fits.
  }
  if (index.total_bytes && *index.total_bytes != static_cast<double>(total))
    return refuse("metadata.total_size: is not the " + std::to_string(total) +
                  " bytes that the tensors take; if the files are complete, correct it or delete it");
  return {};
}

Result<ModelManifest> open_safetensors(const std::string& path, const std::string& folder,
                                       const std::vector<std::string>& names) {
  ModelManifest manifest;
  manifest.container = Container::kSafetensors;
  manifest.path = path;
  const std::string config_path = joined(folder, "config.json");
  auto config = read_json_object(config_path, kConfigBytesMax);
  if (!config && config.error().code == ErrorCode::kNotFound)
    return fail(ErrorCode::kNotFound, config_path +
                                          ": is missing; safetensors hold no architecture, so put the "
                                          "model's config.json beside them");
  if (!config) return tl::unexpected<Error>(std::move(config).error());
  manifest.config = std::move(*config);
  std::vector<FileIdentity> identities;
  for (const std::string& name : names) {
    ASSIGN_OR_RETURN(const File file, File::open(joined(folder, name)));
    const FileSource source(file);
    ASSIGN_OR_RETURN(const Container container, detect_container(source));
    if (container != Container::kSafetensors)
      return fail(ErrorCode::kCorrupt, file.path() + ": is a GGUF file under a safetensors name");
    ASSIGN_OR_RETURN(auto tensors, parse_safetensors_header(source));
    add_file(manifest, file, std::move(tensors));
    identities.push_back(file.identity());
  }
  RETURN_IF_ERROR(check_distinct(identities, manifest.files));
  if (manifest.tensors.empty()) return fail(ErrorCode::kCorrupt, path + ": holds no tensors");
  RETURN_IF_ERROR(index_tensors(manifest));
  return manifest;
}

Result<ModelManifest> open_indexed(const std::string& path, const std::string& folder) {
  ASSIGN_OR_RETURN(const ShardIndex index, read_shard_index(joined(folder, kIndexName)));
  for (const std::string& name : index.names) {
    if (!exists(joined(folder, name)))
      return fail(ErrorCode::kNotFound, joined(folder, name) + ": is missing, but " + index.path +
                                            " names it; complete the download");
  }
  ASSIGN_OR_RETURN(ModelManifest manifest, open_safetensors(path, folder, index.names));
  RETURN_IF_ERROR(check_shard_index(index, manifest));
  return manifest;
}

// The names of all shards of the set that `name` belongs to.
Result<std::vector<std::string>> shard_set(const std::string& folder, const ShardName& shard) {
  std::vector<std::string> names;
  for (uint32_t part = 1; part <= shard.count; ++part) {
    names.push_back(shard.name_of(part));
    if (!exists(joined(folder, names.back())))
      return fail(ErrorCode::kNotFound, joined(folder, names.back()) + ": is missing; the model has " +
                                            std::to_string(shard.count) + " parts: complete the download");
  }
  return names;
}

Result<ModelManifest> open_safetensors_folder(const std::string& path,
                                              const std::vector<std::string>& candidates) {
  if (exists(joined(path, kIndexName))) return open_indexed(path, path);
  if (candidates.size() == 1) {
    const auto shard = parse_shard_name(candidates[0]);
    if (!shard || shard->count == 1) return open_safetensors(path, path, candidates);
  }
  if (std::binary_search(candidates.begin(), candidates.end(), "model.safetensors"))
    return open_safetensors(path, path, {"model.safetensors"});
  // Shards without an index: complete sets only, since nothing else tells whether one is missing.
  const auto shard = parse_shard_name(candidates[0]);
  if (shard) {
    ASSIGN_OR_RETURN(const auto names, shard_set(path, *shard));
    if (names == candidates) return open_safetensors(path, path, names);
  }
  return fail(ErrorCode::kInvalidArgument, path + ": holds " + std::to_string(candidates.size()) +
                                               " .safetensors files and no " + kIndexName +
                                               "; name the file to open");
}

Result<ModelManifest> open_safetensors_file(const std::string& path) {
  const std::string folder = folder_of(path);
  const std::string name = file_name_of(path);
  const auto shard = parse_shard_name(name);
  if (!shard || shard->count == 1) return open_safetensors(path, folder, {name});
  if (exists(joined(folder, kIndexName))) return open_indexed(path, folder);
  ASSIGN_OR_RETURN(const auto names, shard_set(folder, *shard));
  return open_safetensors(path, folder, names);
}

// What a part of a split model says of itself must agree with its name and with the first part.
Status check_part(const std::string& path, const GgufMetadata& metadata, uint32_t part, uint32_t count) {
  const auto refuse = [&](const std::string& why) { return fail(ErrorCode::kCorrupt, path + ": " + why); };
  const auto number = metadata.find_int("split.no");
  const auto stated = metadata.find_int("split.count");
  if (!number && !stated && count == 1) return {};
  if (!number || !stated)
    return refuse("split.no and split.count: are missing, but the name says part " + std::to_string(part) +
                  " of " + std::to_string(count));
  if (*stated != static_cast<int64_t>(count))
    return refuse("split.count: is " + std::to_string(*stated) + ", but the name says " +
                  std::to_string(count) +
                  " parts; give the parts their original names (…-00001-of-0000N.gguf)");
  if (*number != static_cast<int64_t>(part) - 1)
    return refuse("split.no: is " + std::to_string(*number) + ", but the name says part " +
                  std::to_string(part) + " (number " + std::to_string(part - 1) + ")");
  return {};
}

Status check_same_model(const std::string& path, const GgufMetadata& first, const GgufMetadata& other) {
  for (const char* key : {"general.architecture", "general.name"}) {
    const auto mine = other.find_string(key);
    if (mine && mine != first.find_string(key))
      return fail(ErrorCode::kCorrupt, path + ": " + key + ": is " + quoted_name(*mine) +
                                           ", unlike the first part's: it belongs to another model");
  }
  const auto total = other.find_int("split.tensors.count");
  if (total != first.find_int("split.tensors.count"))
    return fail(ErrorCode::kCorrupt,
                path + ": split.tensors.count: differs from the first part's: it belongs to another model");
  return {};
}

Result<ModelManifest> open_gguf_parts(const std::string& path, const std::string& folder,
                                      const std::vector<std::string>& names) {
  ModelManifest manifest;
  manifest.container = Container::kGguf;
  manifest.path = path;
  std::vector<FileIdentity> identities;
  for (size_t i = 0; i < names.size(); ++i) {
    ASSIGN_OR_RETURN(const File file, File::open(joined(folder, names[i])));
    const FileSource source(file);
    ASSIGN_OR_RETURN(const Container container, detect_container(source));
    if (container != Container::kGguf)
      return fail(ErrorCode::kCorrupt, file.path() + ": is a safetensors file under a GGUF name");
    ASSIGN_OR_RETURN(GgufHeader header, parse_gguf_header(source));
    RETURN_IF_ERROR(check_part(file.path(), header.metadata, static_cast<uint32_t>(i + 1),
                               static_cast<uint32_t>(names.size())));
    if (i == 0) {
      manifest.metadata = header.metadata;
    } else {
      RETURN_IF_ERROR(check_same_model(file.path(), manifest.metadata, header.metadata));
    }
    add_file(manifest, file, std::move(header.tensors));
    identities.push_back(file.identity());
  }
  RETURN_IF_ERROR(check_distinct(identities, manifest.files));
  const auto total = manifest.metadata.find_int("split.tensors.count");
  if (total && *total != static_cast<int64_t>(manifest.tensors.size()))
    return fail(ErrorCode::kCorrupt, manifest.files[0] + ": split.tensors.count: is " +
                                         std::to_string(*total) + ", but the parts hold " +
                                         std::to_string(manifest.tensors.size()) + " tensors");
  RETURN_IF_ERROR(index_tensors(manifest));
  return manifest;
}

Result<ModelManifest> open_gguf_file(const std::string& path) {
  const std::string folder = folder_of(path);
  const std::string name = file_name_of(path);
  const auto shard = parse_shard_name(name);
  if (!shard) return open_gguf_parts(path, folder, {name});
  ASSIGN_OR_RETURN(const auto names, shard_set(folder, *shard));
  return open_gguf_parts(path, folder, names);
}

Result<ModelManifest> open_gguf_folder(const std::string& path, const std::vector<std::string>& candidates) {
  // Parts of one split model count once.
  std::set<std::string> models;
  for (const std::string& name : candidates) {
    const auto shard = parse_shard_name(name);
    models.insert(shard ? shard->name_of(1) : name);
  }
  if (models.size() == 1) {
    ASSIGN_OR_RETURN(ModelManifest manifest, open_gguf_file(joined(path, *models.begin())));
    manifest.path = path;
    return manifest;
  }
  constexpr size_t kListedMax = 8;
  std::string list;
  size_t listed = 0;
  for (const std::string& name : models) {
    if (listed++ == kListedMax) break;
    list += (list.empty() ? "" : ", ") + name;
  }
  return fail(ErrorCode::kInvalidArgument, path + ": holds " + std::to_string(models.size()) +
                                               " GGUF models; name one of them: " + list +
                                               (models.size() > kListedMax ? ", …" : ""));
}

Result<ModelManifest> open_folder(const std::string& path) {
  ASSIGN_OR_RETURN(const auto names, list_folder(path));
  std::vector<std::string> safetensors;
  std::vector<std::string> gguf;
  std::string pickle;
  for (const std::string& name : names) {
    if (name.ends_with(".safetensors")) safetensors.push_back(name);
    // Vision projectors lie beside the model they belong to and are no models.
    if (name.ends_with(".gguf") && !name.starts_with("mmproj")) gguf.push_back(name);
    if (name.ends_with(".bin") || name.ends_with(".pt") || name.ends_with(".pth")) pickle = name;
  }
  const bool has_index = std::binary_search(names.begin(), names.end(), kIndexName);
  if (has_index || (!safetensors.empty() && (gguf.empty() || exists(joined(path, "config.json"))))) {
    return open_safetensors_folder(path, safetensors);
  }
  if (!gguf.empty()) return open_gguf_folder(path, gguf);
  if (!pickle.empty())
    return fail(ErrorCode::kUnsupported,
                path + ": holds only PyTorch files such as " + pickle +
                    ", which can run code when opened and are never read; take the model's "
                    "safetensors or GGUF files");
  return fail(ErrorCode::kNotFound, path + ": holds no model: neither .safetensors nor .gguf files");
}

}  // namespace

const TensorEntry* ModelManifest::find(std::string_view name) const {
  const auto position =
      tensor_index.find(name, [this](size_t i) { return std::string_view(tensors[i].name); });
  return position ? &tensors[*position] : nullptr;
}

Result<ModelManifest> open_model(const std::string& path) {
  std::error_code error;
  if (fs::is_directory(path, error)) return open_folder(path);
  Container container = Container::kGguf;
  {
    ASSIGN_OR_RETURN(const File file, File::open(path));
    ASSIGN_OR_RETURN(container, detect_container(FileSource(file)));
  }
  return container == Container::kGguf ? open_gguf_file(path) : open_safetensors_file(path);
}

}  // namespace mlxf::formats
