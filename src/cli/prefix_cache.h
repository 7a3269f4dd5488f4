// PrefixCacheFlags: --prefix-cache, -size and -after: a folder on the SSD for kept prefixes.
//
// Belongs to the command line; one thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "cli/commands.h"
#include "engine/prefix_folder.h"

namespace mlxf::cli {

struct PrefixCacheFlags {
  std::string folder;  // Empty: none.
  std::string size = "16GiB";
  uint32_t settle_seconds = 10;
  void add_to(CLI::App& command);
  // Null without a folder. `keys` are the API keys, in the order in which users are named after them; `io` is how it is
  // read.
  [[nodiscard]] Result<std::unique_ptr<engine::PrefixFolder>> open(std::vector<std::string> keys,
                                                                   storage::Backend io) const;
};

}  // namespace mlxf::cli
