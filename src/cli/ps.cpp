// ps and stop: what a running server has in memory, and its end.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "cli/commands.h"
#include "hub/one_request.h"
#include "platform/file.h"
#include "server/access.h"

namespace mlxf::cli {
namespace {

constexpr uint64_t kKeyFileMax = 1 << 20;
constexpr std::chrono::seconds kWait(10);
// A switch of models that is under way is waited for.
constexpr std::chrono::minutes kReleaseWait(10);
constexpr int64_t kYearsOfNever = 100;

struct Flags {
  std::string host = "127.0.0.1", api_key_file;
  uint16_t port = 8080;
  bool json = false, unload = false;
  std::string model;  // To unload; empty: all.

  void add_to(CLI::App& command) {
    command.add_option("--host", host, "Address of the server")
        ->envname("MLX_FLASH_HOST")
        ->capture_default_str();
    command.add_option("--port", port, "Port of the server")
        ->envname("MLX_FLASH_PORT")
        ->check(CLI::Range(1, 65535))
        ->capture_default_str();
    command.add_option("--api-key-file", api_key_file,
                       "File whose first line is the server's key; also: MLX_FLASH_API_KEY");
  }
};

Result<std::string> key_of(const Flags& flags) {
  std::string text;
  if (!flags.api_key_file.empty()) {
    auto file = platform::read_whole_file(flags.api_key_file, kKeyFileMax);
    if (!file) return tl::unexpected<Error>(file.error().within("--api-key-file"));
    text = std::move(*file);
  } else if (const char* key = std::getenv("MLX_FLASH_API_KEY"); key != nullptr) {
    text = key;
  }
  ASSIGN_OR_RETURN(const std::vector<std::string> keys, server::parse_keys(text));
  return keys.empty() ? std::string() : keys.front();
}

// What the server answers, if it is no error.
Result<Json> ask(const Flags& flags, hub::OneRequest::Method method, const std::string& path,
                 const std::string& content = {}) {
  hub::OneRequest request;
  request.method = method;
  request.body = content;
  const bool v6 = flags.host.find(':') != std::string::npos;
  request.url =
      "http://" + (v6 ? "[" + flags.host + "]" : flags.host) + ":" + std::to_string(flags.port) + path;
  request.wait =
      path == "/release" ? std::chrono::milliseconds(kReleaseWait) : std::chrono::milliseconds(kWait);
  ASSIGN_OR_RETURN(request.bearer, key_of(flags));
  ASSIGN_OR_RETURN(const hub::OneReply reply, hub::request_once(request));
  const auto body = parse_json(reply.body);
  if (reply.status == 200 && body) return *body;
  std::string why = "status " + std::to_string(reply.status);
  if (body) {
    const Json* error = find_member(*body, "error");
    if (error != nullptr && error->is_string()) why += ": " + error->get<std::string>();
    if (error != nullptr && error->is_object())
      why += ": " + find_string(*error, "message").value_or(std::string());
  }
  return fail(ErrorCode::kUnavailable, request.url + " answers with " + why);
}

// "never", or "2026-11-24 15:14" of "2026-11-24T15:14:17Z".
std::string until_of(const std::string& expires) {
  const int64_t year = std::atoll(expires.c_str());
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  if (gmtime_r(&now, &parts) == nullptr || expires.size() < 16 || year > parts.tm_year + 1900 + kYearsOfNever)
    return "stays";
  return expires.substr(0, 10) + " " + expires.substr(11, 5) + " UTC";
}

Status ps(const Flags& flags) {
  ASSIGN_OR_RETURN(const Json body, ask(flags, hub::OneRequest::Method::kGet, "/api/ps"));
  const Json* models = find_member(body, "models");
  if (models == nullptr || !models->is_array())
    return fail(ErrorCode::kUnavailable, "what answers there is no such server");
  if (flags.json) {
    std::printf("%s\n", dump_json(*models, 2).c_str());
    return {};
  }
  if (models->empty()) {
    std::fprintf(stderr, "no model is in memory; the next request loads it\n");
    return {};
  }
  std::printf("%-40s  %9s  %8s  %s\n", "NAME", "SIZE", "CONTEXT", "UNLOADED");
  for (const Json& model : *models)
    std::printf("%-40s  %6.2f GB  %8lld  %s\n", find_string(model, "name").value_or("?").c_str(),
                static_cast<double>(find_int(model, "size").value_or(0)) / 1e9,
                static_cast<long long>(find_int(model, "context_length").value_or(0)),
                until_of(find_string(model, "expires_at").value_or("")).c_str());
  return {};
}

Status stop(const Flags& flags) {
  const bool unload = flags.unload || !flags.model.empty();
  const std::string content = flags.model.empty() ? "" : dump_json({{"model", flags.model}});
  ASSIGN_OR_RETURN(const Json body,
                   ask(flags, hub::OneRequest::Method::kPost, unload ? "/release" : "/shutdown", content));
  if (!unload) {
    std::fprintf(stderr, "%s\n", find_string(body, "message").value_or("stopping").c_str());
  } else if (find_string(body, "action") == "released") {
    std::fprintf(stderr, "unloaded %s\n", find_string(body, "model").value_or("the model").c_str());
  } else {
    std::fprintf(stderr, "%s\n",
                 flags.model.empty() ? "no model is in memory" : (flags.model + " is not in memory").c_str());
  }
  return {};
}

}  // namespace

void add_ps(CLI::App& app, Action& action) {
  const auto flags = std::make_shared<Flags>();
  CLI::App* command =
      app.add_subcommand("ps", "Show which models a running server has in memory, and how long");
  flags->add_to(*command);
  command->add_flag("--json", flags->json, "For machines");
  command->callback([flags, &action] { action = [flags] { return ps(*flags); }; });
}

void add_stop(CLI::App& app, Action& action) {
  const auto flags = std::make_shared<Flags>();
  CLI::App* command =
      app.add_subcommand("stop",
                         "Tell a running server to stop, once answers under way are complete, or to "
                         "unload a model");
  flags->add_to(*command);
  command->add_option("MODEL", flags->model,
                      "It goes on, but lets go of this model until a request names it");
  command->add_flag("--unload", flags->unload,
                    "It goes on, but lets go of all models until the next request");
  command->callback([flags, &action] { action = [flags] { return stop(*flags); }; });
}

}  // namespace mlxf::cli
