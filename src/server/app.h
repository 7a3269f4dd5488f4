// App: the server as a whole: routes over http/, access, the model and its scheduler, health and metrics.
//
// Owned by the serve command. start() listens; drain() refuses new generations while those under way go on and health
// and metrics are still answered; stop() ends everything. Thread-safe; not to be called from handlers.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "api/embeddings.h"
#include "api/ollama.h"
#include "api/reply.h"
#include "base/metrics.h"
#include "base/result.h"
#include "http/server.h"
#include "server/access.h"
#include "server/mcp_call.h"
#include "server/model_host.h"
#include "server/request_log.h"

namespace mlxf::server {

struct AppOptions {
  std::string host = {};  // Empty: the loopback interface, IPv4 and IPv6.
  uint16_t port = 8080;
  AccessRules access;
  ModelHostOptions model;
  std::string version = {};  // Of this program.
  bool preload = false;      // Loads before it listens.
  http::Limits limits;
  uint32_t http_threads = 2;
  RequestLogOptions log = {};
  std::function<void()> on_shutdown = {};  // A client told the server to stop; once, any thread.
};

class App {
 public:
  // kInvalidArgument for a host beyond the loopback interface without a key.
  [[nodiscard]] static Result<std::unique_ptr<App>> start(AppOptions options);
  ~App() { stop(); }
  App(const App&) = delete;
  App& operator=(const App&) = delete;

  [[nodiscard]] uint16_t port() const { return server_->port(); }
  void drain() { host_.drain(); }
  // True once no generation is under way; false when `timeout` passed first.
  [[nodiscard]] bool wait_idle(std::chrono::milliseconds timeout);
  // What is under way ends with an error event of its protocol.
  void stop();

 private:
  App(AppOptions options, std::unique_ptr<RequestLog> log);
  using Exchange = std::shared_ptr<http::Exchange>;
  struct Route {
    std::string_view method;
    std::string_view path;  // One that ends in '/' stands for all below it.
    void (App::*handle)(const Exchange& exchange, const std::string& id);
    const api::Endpoint& (*endpoint)() = nullptr;     // A generation, instead of `handle`,
    const api::EmbedEndpoint& (*embeds)() = nullptr;  // or embeddings.
    api::Protocol protocol = api::Protocol::kOpenAi;
    enum class Access : uint8_t { kKey, kOpen, kAdmin } access = Access::kKey;  // kOpen: needs no key.
  };
  [[nodiscard]] static std::span<const Route> routes();
  // The route, or null; `allowed` receives the methods that the path has.
  [[nodiscard]] static const Route* find_route(const http::Request& request, std::string& allowed);
  [[nodiscard]] static api::Protocol protocol_of(std::string_view path);
  [[nodiscard]] std::string next_id();

  [[nodiscard]] std::optional<http::Response> check_head(const http::Request& request);
  void handle(const Exchange& exchange);
  // The answer to a request's body from what is known of the model, once it is there.
  using Work = tl::expected<std::string, api::ApiError> (*)(const Json& body, const ServedModel& model);
  void with_model(const Exchange& exchange, const std::string& id, api::Protocol protocol, Work work);
  void livez(const Exchange& exchange, const std::string& id);
  void health(const Exchange& exchange, const std::string& id);
  void status(const Exchange& exchange, const std::string& id);
  void switch_model(const Exchange& exchange, const std::string& id);
  void reload(const Exchange& exchange, const std::string& id);
  void release(const Exchange& exchange, const std::string& id);
  void shutdown(const Exchange& exchange, const std::string& id);
  // Counts an exchange among the answers under way, until it has ended.
  void hold_open(const Exchange& exchange);
  void metrics_text(const Exchange& exchange, const std::string& id);
  void models(const Exchange& exchange, const std::string& id);
  void model(const Exchange& exchange, const std::string& id);
  void tokenize(const Exchange& exchange, const std::string& id);
  void detokenize(const Exchange& exchange, const std::string& id);
  void count_tokens(const Exchange& exchange, const std::string& id);
  void logs_recent(const Exchange& exchange, const std::string& id);
  void root(const Exchange& exchange, const std::string& id);
  void mcp(const Exchange& exchange, const std::string& id);
  void mcp_batch(const Exchange& exchange, const std::string& id, const std::vector<mcp::Outcome>& outcomes);
  [[nodiscard]] std::shared_ptr<McpCall> mcp_call(const Exchange& exchange, const mcp::ToolCall& call,
                                                  const std::string& id,
                                                  std::function<void(std::string message, bool last)> send);
  void ollama_version(const Exchange& exchange, const std::string& id);
  void ollama_tags(const Exchange& exchange, const std::string& id);
  void ollama_ps(const Exchange& exchange, const std::string& id);
  void ollama_show(const Exchange& exchange, const std::string& id);

  void register_metrics();
  void register_disk_metrics();
  [[nodiscard]] double uptime_seconds() const;

  const AppOptions options_;
  const std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
  const int64_t started_unix_;
  Metrics metrics_;
  const std::unique_ptr<RequestLog> log_;
  ModelHost host_;
  std::atomic<uint64_t> requests_{0};  // Relaxed: numbers for ids.
  std::atomic<uint32_t> open_answers_{0};
  std::atomic<bool> told_to_stop_{false};  // By a client.
  Counter& requests_total_;
  std::atomic<const http::Server*> listening_{
      nullptr};                           // server_ for its own threads, which begin before it is set.
  std::unique_ptr<http::Server> server_;  // Last: its threads use the others.
};

}  // namespace mlxf::server
