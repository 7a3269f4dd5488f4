#include "text/model_files.h"

#include <filesystem>
#include <system_error>
#include <utility>

#include "platform/file.h"

namespace mlxf::text {

namespace {

using formats::Container;
using formats::ModelManifest;

constexpr uint64_t kConfigBytesMax = uint64_t{16} << 20;

std::string model_folder(const ModelManifest& manifest) {
  const std::filesystem::path first = manifest.files.empty() ? manifest.path : manifest.files.front();
  const std::string folder = first.parent_path().string();
  return folder.empty() ? "." : folder;
}

// eos_token_id is one id or a list of them.
Status collect_ids(const Json& config, const std::string& key, const std::string& file,
                   std::vector<int64_t>& ids) {
  const Json* value = find_member(config, key);
  if (value == nullptr || value->is_null()) return {};
  if (value->is_number_integer()) {
    ids.push_back(value->get<int64_t>());
    return {};
  }
  if (!value->is_array())
    return fail(ErrorCode::kCorrupt, file + ": " + key + " is neither an id nor a list");
  for (const Json& item : *value) {
    if (!item.is_number_integer())
      return fail(ErrorCode::kCorrupt, file + ": " + key + " holds a non-integer");
    ids.push_back(item.get<int64_t>());
  }
  return {};
}

Result<BoundaryTokens> boundary_tokens_of_folder(const ModelManifest& manifest) {
  BoundaryTokens tokens;
  ASSIGN_OR_RETURN(const Json config, load_model_json(manifest, "tokenizer_config.json"));
  tokens.bos_text = find_token_member(config, "bos_token");
  tokens.eos_text = find_token_member(config, "eos_token");
  tokens.add_bos = find_bool(config, "add_bos_token");
  tokens.add_eos = find_bool(config, "add_eos_token");
  ASSIGN_OR_RETURN(const Json generation, load_model_json(manifest, "generation_config.json"));
  tokens.bos_id = find_int(generation, "bos_token_id");
  RETURN_IF_ERROR(collect_ids(generation, "eos_token_id", "generation_config.json", tokens.end_ids));
  if (tokens.end_ids.empty()) {
    const Json* text_config = find_member(manifest.config, "text_config");
    const Json& model = text_config != nullptr ? *text_config : manifest.config;
    if (!tokens.bos_id) tokens.bos_id = find_int(model, "bos_token_id");
    RETURN_IF_ERROR(collect_ids(model, "eos_token_id", "config.json", tokens.end_ids));
  }
  if (!tokens.end_ids.empty()) tokens.eos_id = tokens.end_ids.front();
  return tokens;
}

BoundaryTokens boundary_tokens_of_gguf(const formats::GgufMetadata& metadata) {
  BoundaryTokens tokens;
  tokens.bos_id = metadata.find_int("tokenizer.ggml.bos_token_id");
  tokens.eos_id = metadata.find_int("tokenizer.ggml.eos_token_id");
  if (tokens.eos_id) tokens.end_ids.push_back(*tokens.eos_id);
  for (const char* key : {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    if (const auto id = metadata.find_int(key)) tokens.end_ids.push_back(*id);
  }
  return tokens;
}

// A named list: [{"name": "default", "template": "..."}, {"name": "tool_use", ...}].
Result<std::optional<std::string>> template_in_list(const Json& list, std::string_view name) {
  for (const Json& item : list) {
    const auto item_name = find_string(item, "name");
    auto source = find_string(item, "template");
    if (!item_name || !source) {
      return fail(ErrorCode::kCorrupt,
                  "tokenizer_config.json: chat_template holds an item without name or template");
    }
    if (*item_name == name) return std::optional<std::string>(std::move(*source));
  }
  return std::optional<std::string>();
}

Result<std::optional<std::string>> template_in_folder(const ModelManifest& manifest, std::string_view name) {
  if (name == "default") {
    ASSIGN_OR_RETURN(auto source, find_model_file(manifest, "chat_template.jinja", kConfigBytesMax));
    if (source) return source;
    ASSIGN_OR_RETURN(const Json file, load_model_json(manifest, "chat_template.json"));
    if (auto inner = find_string(file, "chat_template")) return std::optional<std::string>(std::move(*inner));
  }
  ASSIGN_OR_RETURN(const Json config, load_model_json(manifest, "tokenizer_config.json"));
  const Json* value = find_member(config, "chat_template");
  if (value == nullptr || value->is_null()) return std::optional<std::string>();
  if (value->is_array()) return template_in_list(*value, name);
  if (!value->is_string()) {
    return fail(ErrorCode::kCorrupt, "tokenizer_config.json: chat_template is neither a string nor a list");
  }
  if (name != "default") return std::optional<std::string>();
  return find_string(config, "chat_template");
}

}  // namespace

Result<std::optional<std::string>> find_model_file(const ModelManifest& manifest, const std::string& name,
                                                   uint64_t bytes_max) {
  const std::string path = model_folder(manifest) + "/" + name;
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return std::optional<std::string>();
  ASSIGN_OR_RETURN(std::string text, platform::read_whole_file(path, bytes_max));
  return std::optional<std::string>(std::move(text));
}

Result<Json> load_model_json(const ModelManifest& manifest, const std::string& name) {
  ASSIGN_OR_RETURN(const auto text, find_model_file(manifest, name, kConfigBytesMax));
  if (!text) return Json::object();
  auto json = parse_json(*text);
  if (!json) return tl::unexpected<Error>(json.error().within(model_folder(manifest) + "/" + name));
  if (!json->is_object()) {
    return fail(ErrorCode::kCorrupt, model_folder(manifest) + "/" + name + " is not a JSON object");
  }
  return json;
}

std::optional<std::string> find_token_member(const Json& config, const std::string& key) {
  if (auto text = find_string(config, key)) return text;
  const Json* value = find_member(config, key);
  return value != nullptr && value->is_object() ? find_string(*value, "content") : std::nullopt;
}

Result<std::optional<std::string>> find_template_source(const ModelManifest& manifest,
                                                        std::string_view name) {
  if (manifest.container == Container::kSafetensors) return template_in_folder(manifest, name);
  const std::string key =
      name == "default" ? "tokenizer.chat_template" : "tokenizer.chat_template." + std::string(name);
  if (!manifest.metadata.contains(key)) return std::optional<std::string>();
  auto source = manifest.metadata.find_string(key);
  if (!source) return fail(ErrorCode::kCorrupt, key + " is not a string");
  return source;
}

Result<BoundaryTokens> load_boundary_tokens(const ModelManifest& manifest) {
  if (manifest.container == Container::kSafetensors) return boundary_tokens_of_folder(manifest);
  return boundary_tokens_of_gguf(manifest.metadata);
}

}  // namespace mlxf::text
