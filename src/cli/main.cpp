// mlx-flash: parses the command line, runs one subcommand, turns errors into one line and an exit code.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/models.h"

namespace mlxf::cli {
namespace {

int report(const Error& error) {
  std::fprintf(stderr, "mlx-flash: %s\n", error.message.c_str());
  return exit_code(error);
}

// Options from a file, a section for each command; the command line comes first.
Status add_config(CLI::App& app) {
  const char* named = std::getenv("MLX_FLASH_CONFIG");
  const std::string file = named == nullptr ? "" : named;
  // The parser would take a missing file of its own accord for an empty one.
  if (!file.empty() && !std::filesystem::is_regular_file(file))
    return fail(ErrorCode::kInvalidArgument, "MLX_FLASH_CONFIG: there is no file " + file);
  app.set_config("--config", file,
                 "File with options (TOML): under [serve] port = 8080, and so on; also: MLX_FLASH_CONFIG");
  app.allow_config_extras(CLI::config_extras_mode::error);
  const std::function<void(CLI::App*)> let_through = [&let_through](CLI::App* command) {
    command->fallthrough();  // --config behind it.
    for (CLI::App* inner : command->get_subcommands({})) let_through(inner);
  };
  for (CLI::App* command : app.get_subcommands({})) let_through(command);
  return {};
}

// Whether the words name a command at their begin, behind nothing but --config.
bool names_command(const CLI::App& app, const std::vector<std::string>& words) {
  size_t at = 0;
  if (!words.empty() && words[0] == "--config") at = 2;
  if (!words.empty() && words[0].rfind("--config=", 0) == 0) at = 1;
  if (at >= words.size()) return false;
  const auto commands = app.get_subcommands([](const CLI::App*) { return true; });
  return std::any_of(commands.begin(), commands.end(),
                     [&](const CLI::App* command) { return command->check_name(words[at]); });
}

int run(int argc, char** argv) {
  CLI::App app("Runs language models on the CPU, exactly and near the memory's speed.", "mlx-flash");
  app.set_version_flag("--version", std::string("mlx-flash ") + MLXF_VERSION);
  app.require_subcommand(1);
  Action action;
  add_run(app, action);
  add_serve(app, action);
  add_ps(app, action);
  add_stop(app, action);
  add_mcp(app, action);
  add_chat(app, action);
  add_browse(app, action);
  add_list(app, action);
  add_pull(app, action);
  add_rm(app, action);
  add_bench(app, action);
  add_perplexity(app, action);
  add_tokenize(app, action);
  add_logits(app, action);
  add_plan(app, action);
  add_doctor(app, action);
  add_inspect(app, action);
  add_quantize(app, action);
  add_pack(app, action);
  add_trace(app, action);
  add_synth(app, action);
  if (const Status status = add_config(app); !status) return report(status.error());
  // "mlx-flash --port 8080 …" serves.
  std::vector<std::string> words(argv + std::min(argc, 1), argv + argc);
  const bool about = !words.empty() && (words[0] == "-h" || words[0] == "--help" || words[0] == "--version");
  if (!words.empty() && words[0].substr(0, 1) == "-" && !about && !names_command(app, words))
    words.insert(words.begin(), "serve");
  std::reverse(words.begin(), words.end());  // As the parser takes them.
  try {
    app.parse(words);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    std::fprintf(stderr, "mlx-flash: %s; see mlx-flash --help\n", error.what());
    return 2;
  }
  const Status status = action();
  return status ? 0 : report(status.error());
}

}  // namespace
}  // namespace mlxf::cli

// Libraries throw what nobody can answer where it happens, such as bad_alloc: one line, and no abort.
int main(int argc, char** argv) {
  try {
    return mlxf::cli::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "mlx-flash: %s\n", error.what());
  } catch (...) {
    std::fprintf(stderr, "mlx-flash: an unknown error of a library\n");
  }
  return 1;
}
