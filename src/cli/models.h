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
// Names that it takes.
[[nodiscard]] std::vector<std::string> names_for_clients();

// The largest cached model that stays in memory as a whole under `budget_bytes` (0: any), else the bundled one; a line
// on stderr says which.
[[nodiscard]] Result<NamedModel> default_model(uint64_t budget_bytes);

// named_model() of -m, or default_model() under the command's budget.
[[nodiscard]] Result<NamedModel> chosen_model(const ModelFlags& flags);

void add_list(CLI::App& app, Action& action);
void add_pull(CLI::App& app, Action& action);
void add_rm(CLI::App& app, Action& action);

}  // namespace mlxf::cli
