// The small text files beside a model's weights that tokenizers and chat templates come from. Internal to text/.
//
// For a safetensors model: the folder of its first file. A GGUF file carries everything in its metadata, so its
// folder is never searched.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "formats/manifest.h"

namespace mlxf::text {

// The text of FOLDER/`name`, or nothing when there is no such file.
[[nodiscard]] Result<std::optional<std::string>> find_model_file(const formats::ModelManifest& manifest,
                                                                 const std::string& name, uint64_t bytes_max);
// The same, parsed; errors name the file. An absent file gives an empty object.
[[nodiscard]] Result<Json> load_model_json(const formats::ModelManifest& manifest, const std::string& name);

// "bos_token" and its like in tokenizer_config.json: a string, or an object with the string as "content".
[[nodiscard]] std::optional<std::string> find_token_member(const Json& config, const std::string& key);

// The Jinja source called `name`: chat_template.jinja, tokenizer_config.json's string or named list, or the GGUF
// metadata. Nothing when the model has no template of that name.
[[nodiscard]] Result<std::optional<std::string>> find_template_source(const formats::ModelManifest& manifest,
                                                                      std::string_view name);

// What the files say about the tokens that begin and end a text.
struct BoundaryTokens {
  std::optional<std::string> bos_text;  // By spelling (tokenizer_config.json) ...
  std::optional<std::string> eos_text;
  std::optional<int64_t> bos_id;  // ... or by id (GGUF, generation_config.json, config.json).
  std::optional<int64_t> eos_id;
  std::vector<int64_t> end_ids;  // All ids that end a generation.
  // tokenizer_config.json's add_bos_token and add_eos_token, which overrule tokenizer.json's post-processor. Those of a
  // GGUF file are part of the tokenizer that is made from it.
  std::optional<bool> add_bos;
  std::optional<bool> add_eos;
};
[[nodiscard]] Result<BoundaryTokens> load_boundary_tokens(const formats::ModelManifest& manifest);

}  // namespace mlxf::text
