// Removing a cached model: only what this program pulled, or a repository in the cache of Hugging Face that the user
// named as such. Other programs' caches are refused with what to do there.
// One thread. Sizes are bytes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "hub/caches.h"

namespace mlxf::hub {

struct Removal {
  std::string what;    // For people.
  std::string folder;  // All that is removed.
  uint64_t bytes = 0;  // Of weights.
  int parents = 0;     // That many folders above it go too, where they are then empty.
};

// The model must be named in full; broken ones can be removed too.
[[nodiscard]] Result<Removal> plan_removal(const std::vector<CachedModel>& models, std::string_view text);

// Links in the folder are removed, never followed. The folder vanishes from its name before its files go.
[[nodiscard]] Status remove_model(const Removal& removal);

}  // namespace mlxf::hub
