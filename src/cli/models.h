// Which model a command means by -m: a path, the name of a cached model, or, without it, the best one that is here; and
// the commands about models themselves.
//
// Used by commands only; reads folders and the headers of models. One thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "cli/commands.h"
#include "hub/caches.h"

namespace mlxf::cli {

// Of a tokenizer and what grammars are compiled with, before they are read: an estimate. The tokenizer of a vocabulary
// of 152 thousand takes 781 bytes a token (`plan --json`).
inline constexpr uint64_t kTokenizerBytesPerToken = 1024;

struct NamedModel {
  std::string path;  // For formats::open_model().
  std::string name;  // What clients may call it: "org/name:Q4_K_M", or the folder's or file's own name.
};

// All models in this user's caches.
[[nodiscard]] Result<std::vector<hub::CachedModel>> cached_models();

// A path that exists wins over a name. kNotFound says how to get the model.
[[nodiscard]] Result<NamedModel> named_model(const std::string& text);

// As named_model() for a name that a client sent: a cached model, or the bundled one by its own name, and never a path.
[[nodiscard]] Result<NamedModel> model_for_client(const std::string& text);
// The name by which it takes the model that a client's text means; kNotFound also for what can be no model's name.
[[nodiscard]] Result<std::string> name_for_client(const std::string& text);
// What it takes.
struct CachedForClients {
  std::string name;
  bool gguf = false;
  uint64_t bytes = 0;
  int64_t modified_s = 0;
};
[[nodiscard]] std::vector<CachedForClients> models_for_clients();

// The largest cached model that stays in memory as a whole under `budget_bytes` (0: any), else the bundled one; a line
// on stderr says which.
[[nodiscard]] Result<NamedModel> default_model(uint64_t budget_bytes);

// named_model() of -m, or default_model() under the command's budget.
[[nodiscard]] Result<NamedModel> chosen_model(const ModelFlags& flags);

void add_list(CLI::App& app, Action& action);
void add_pull(CLI::App& app, Action& action);
void add_rm(CLI::App& app, Action& action);

}  // namespace mlxf::cli
