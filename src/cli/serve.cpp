// serve (also: mlx-flash --port N): answers HTTP clients until it is told to stop.
//
// The first SIGTERM or Ctrl-C drains: new requests are refused, those under way may finish until --drain has passed. A
// second one ends them.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <utility>

#include "cli/commands.h"
#include "cli/prefix_cache.h"
#include "cli/served_model.h"
#include "platform/file.h"
#include "platform/process.h"
#include "platform/service_manager.h"
#include "platform/termination.h"
#include "server/app.h"

namespace mlxf::cli {
namespace {

constexpr uint64_t kSmallFileMax = 1 << 20;
constexpr std::chrono::seconds kSaveWait(60);  // For writing all that is kept: a memory's worth at 1 GB/s.
constexpr uint64_t kOwnFiles = 128;            // Model shards, log, epoll: not for connections.

struct Flags {
  std::shared_ptr<ServedModelFlags> served =
      std::make_shared<ServedModelFlags>();  // Shared with who opens it.
  PrefixCacheFlags prefix_cache;
  std::string host, api_key_file, log_file, log_format = "text";
  std::vector<std::string> origins;
  uint16_t port = 8080;
  uint32_t drain_seconds = 30;
  bool preload = false;
  bool log_requests = false;
};

Result<std::vector<std::string>> api_keys(const Flags& flags) {
  std::string text;
  if (!flags.api_key_file.empty()) {
    auto file = platform::read_whole_file(flags.api_key_file, kSmallFileMax);
    if (!file) return tl::unexpected<Error>(file.error().within("--api-key-file"));
    text = std::move(*file);
  }
  if (const char* key = std::getenv("MLX_FLASH_API_KEY"); key != nullptr) text += std::string("\n") + key;
  auto keys = server::parse_keys(text);
  if (!keys) return keys;
  if (!flags.api_key_file.empty() && keys->empty())
    return fail(ErrorCode::kInvalidArgument, "--api-key-file " + flags.api_key_file + " holds no key");
  return keys;
}

Result<server::AppOptions> app_options(const std::shared_ptr<Flags>& flags) {
  server::AppOptions options;
  options.host = flags->host;
  options.port = flags->port;
  options.preload = flags->preload;
  ASSIGN_OR_RETURN(options.access.keys, api_keys(*flags));
  for (const std::string& text : flags->origins) {
    ASSIGN_OR_RETURN(std::string origin, server::read_origin(text));
    options.access.origins.push_back(std::move(origin));
  }
  ASSIGN_OR_RETURN(options.model, served_model(flags->served));
  options.model.drain_wait = std::chrono::seconds(flags->drain_seconds);
  options.on_shutdown = platform::ask_to_terminate;
  options.version = MLXF_VERSION;
  options.log.to_stderr = flags->log_requests;
  options.log.file = flags->log_file;
  options.log.format = flags->log_format == "json" ? server::LogFormat::kJson : server::LogFormat::kText;
  return options;
}

// Serving does not depend on it: the variable may be left over from whoever started this program.
void tell_manager(const std::string& state) {
  if (const Status told = platform::notify_service_manager(state); !told)
    std::fprintf(stderr, "mlx-flash: %s\n", told.error().message.c_str());
}

Status serve(const std::shared_ptr<Flags>& flags) {
  platform::ignore_broken_pipes();  // Whoever read the log may end first.
  ASSIGN_OR_RETURN(server::AppOptions options, app_options(flags));
  ASSIGN_OR_RETURN(const storage::Backend io, storage::parse_backend(flags->served->model.io));
  ASSIGN_OR_RETURN(const std::unique_ptr<engine::PrefixFolder> prefixes,
                   flags->prefix_cache.open(options.access.keys, io));
  options.model.serving.scheduler.prefix_folder = prefixes.get();
  options.model.serving.scheduler.prefix_settle = std::chrono::seconds(flags->prefix_cache.settle_seconds);
  const std::string host = flags->host.empty() ? "127.0.0.1" : flags->host;
  const std::string name = options.model.model.name;
  const uint64_t files = platform::raise_open_files_limit();
  options.limits.connections =
      std::min<uint64_t>(options.limits.connections, files > 2 * kOwnFiles ? files - kOwnFiles : kOwnFiles);
  ASSIGN_OR_RETURN(const auto app, server::App::start(std::move(options)));
  // Not earlier: until it listens there is nothing to drain, and Ctrl-C must end a --preload.
  ASSIGN_OR_RETURN(const platform::TerminationSignals signals, platform::TerminationSignals::watch());
  const bool v6 = host.find(':') != std::string::npos;
  std::fprintf(stderr, "serving %s at http://%s%s%s:%u\n", name.c_str(), v6 ? "[" : "", host.c_str(),
               v6 ? "]" : "", static_cast<unsigned>(app->port()));
  tell_manager("READY=1\nSTATUS=serving " + name);
  while (!signals.wait(std::chrono::hours(1))) continue;
  app->drain();
  tell_manager("STOPPING=1");
  if (!app->wait_idle(std::chrono::milliseconds(0)))
    std::fprintf(stderr,
                 "stopping once answers under way are complete, in %u s at the latest; again to stop now\n",
                 flags->drain_seconds);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(flags->drain_seconds);
  while (!app->wait_idle(std::chrono::milliseconds(50)))
    if (signals.wait(std::chrono::milliseconds(0)) || std::chrono::steady_clock::now() >= deadline) break;
  std::function<bool()> saving;
  if (prefixes != nullptr)
    saving = [&, told = false, last = std::chrono::steady_clock::now() + kSaveWait]() mutable {
      if (!prefixes->busy() || signals.wait(std::chrono::milliseconds(0)) ||
          std::chrono::steady_clock::now() >= last)
        return false;
      if (!std::exchange(told, true))
        std::fprintf(stderr, "writing kept prefixes to %s; again to stop now\n",
                     flags->prefix_cache.folder.c_str());
      return true;
    };
  stop_in_time([&app] { app->stop(); }, saving);
  return {};
}

}  // namespace

void add_serve(CLI::App& app, Action& action) {
  const auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand(
      "serve", "Answer OpenAI, Anthropic and Ollama clients over HTTP (also: mlx-flash --port N)");
  flags->served->add_to(*command);
  command
      ->add_option("--host", flags->host,
                   "Address to listen on (default: the loopback interface); others need an API key")
      ->envname("MLX_FLASH_HOST");
  command->add_option("--port", flags->port, "Port to listen on; 0: any free one")
      ->envname("MLX_FLASH_PORT")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  command->add_flag("--preload", flags->preload,
                    "Load the model before listening, not with the first request");
  command->add_option("--api-key-file", flags->api_key_file,
                      "File with one key per line that clients must give; also: MLX_FLASH_API_KEY");
  command->add_option("--allow-origin", flags->origins,
                      "Origin of web pages that may ask too, e.g. http://localhost:3000; may be repeated");
  command
      ->add_option("--drain", flags->drain_seconds,
                   "Seconds that answers under way get once it is told to stop, or to let go of its model")
      ->capture_default_str()
      ->check(CLI::Range(0, 86400));
  flags->prefix_cache.add_to(*command);
  command->add_flag("--log-requests", flags->log_requests,
                    "A line on stderr for each request: when, id, client, path, status, how long, tokens");
  command->add_option("--log-file", flags->log_file, "File that gets a line for each request, at its end");
  command->add_option("--log-format", flags->log_format, "Form of these lines: text or json")
      ->capture_default_str()
      ->check(CLI::IsMember({"text", "json"}));
  command->callback([flags, &action] { action = [flags] { return serve(flags); }; });
}

}  // namespace mlxf::cli
