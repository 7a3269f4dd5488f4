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

// Of a file with options: "serve.prot", the name of a section without a command and then ".++", or a line.
std::string unknown_in_config(const CLI::App& app, std::string item) {
  constexpr std::string_view kBegin = "INI was not able to parse ", kSection = ".++";
  const CLI::Option& config = *app.get_config_ptr();
  const std::string file = config.count() != 0 ? config.results().front() : config.get_default_str();
  if (item.rfind(kBegin, 0) != 0) return file + ": " + item;
  item.erase(0, kBegin.size());
  if (item.size() > kSection.size() && item.ends_with(kSection))
    return file + ": [" + item.substr(0, item.size() - kSection.size()) + "] is no command";
  const size_t dot = item.rfind('.');
  if (dot != std::string::npos)
    return file + ": there is no option " + item.substr(dot + 1) + " under [" + item.substr(0, dot) + "]";
  return file + ": " + item +
         " is neither [COMMAND] nor an option under one, such as port = 8080 under [serve]";
}

// In our words where the parser's say little. Of what it did not know it lists all, the last word first.
std::string what_is_wrong(const CLI::App& app, const CLI::ParseError& error) {
  if (dynamic_cast<const CLI::ConfigError*>(&error) != nullptr) return unknown_in_config(app, error.what());
  const std::vector<std::string> unknown = app.remaining(true);
  const bool no_command = app.get_subcommands().empty();
  if (unknown.empty() || (!no_command && dynamic_cast<const CLI::ExtrasError*>(&error) == nullptr))
    return error.what();
  if (no_command) return "there is no command " + unknown.front();
  const auto option = std::find_if(unknown.begin(), unknown.end(),
                                   [](const std::string& word) { return word.size() > 1 && word[0] == '-'; });
  return option != unknown.end() ? "there is no option " + *option
                                 : "'" + unknown.front() + "' was not expected";
}

// "mlx-flash trace replay --help", as far as a command was named.
std::string help_for(const CLI::App& app) {
  std::string text = app.get_name() + " ";
  for (auto named = app.get_subcommands(); !named.empty(); named = named.front()->get_subcommands())
    text.append(named.front()->get_name()) += ' ';
  return text + "--help";
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
    std::fprintf(stderr, "mlx-flash: %s; see %s\n", what_is_wrong(app, error).c_str(), help_for(app).c_str());
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
