#include <filesystem>
#include <system_error>

#include "cli/commands.h"

namespace mlxf::cli {

Result<std::string> bundled_model() {
  namespace fs = std::filesystem;
  constexpr const char* kName = "classics-moe-4bit";
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  std::string searched;
  for (const fs::path& folder : {program.parent_path() / "../../models",
                                 program.parent_path() / "../share/mlx-flash/models", fs::path("models")}) {
    const fs::path model = (folder / kName).lexically_normal();
    if (fs::exists(model / "config.json", error)) return model.string();
    searched += (searched.empty() ? "" : ", ") + model.string();
  }
  return fail(ErrorCode::kNotFound, "no model was given with -m, and the bundled one is not at " + searched);
}

}  // namespace mlxf::cli
