#include "server/app.h"

#include <algorithm>
#include <utility>

#include "api/anthropic.h"
#include "api/fields.h"
#include "api/ollama.h"
#include "api/openai.h"
#include "api/responses.h"
#include "api/tokens.h"
#include "base/bounded_queue.h"
#include "server/answer.h"
#include "server/embedding.h"
#include "server/facts.h"

namespace mlxf::server {
namespace {

using api::ApiError;
using api::ErrorKind;
using api::Protocol;

constexpr std::chrono::milliseconds kFlushWait(1000);

void respond_json(const std::shared_ptr<http::Exchange>& exchange, const std::string& id, std::string body,
                  int status = 200) {
  exchange->respond({status, "application/json", std::move(body), {{"X-Request-Id", id}}, false});
}

// Mixes the bits of a counter, so that ids of two runs do not meet.
std::string hex_id(uint64_t value) {
  value += 0x9e3779b97f4a7c15u;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
  char text[20];
  std::snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(value ^ (value >> 31)));
  return text;
}

int64_t unix_milliseconds() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace

std::span<const App::Route> App::routes() {
  constexpr auto kAdmin = Route::Access::kAdmin;
  static constexpr Route kRoutes[] = {
      {"GET", "/livez", &App::livez, nullptr, nullptr, Protocol::kOpenAi, Route::Access::kOpen},
      {"GET", "/health", &App::health},
      {"GET", "/status", &App::status},
      {"GET", "/metrics", &App::metrics_text},
      {"GET", "/logs/recent", &App::logs_recent},
      {"GET", "/v1/models", &App::models},
      {"GET", "/v1/models/", &App::model},
      {"POST", "/v1/models/switch", &App::switch_model, nullptr, nullptr, Protocol::kOpenAi, kAdmin},
      {"POST", "/reload", &App::reload, nullptr, nullptr, Protocol::kOpenAi, kAdmin},
      {"POST", "/release", &App::release, nullptr, nullptr, Protocol::kOpenAi, kAdmin},
      {"POST", "/shutdown", &App::shutdown, nullptr, nullptr, Protocol::kOpenAi, kAdmin},
      {"POST", "/v1/chat/completions", nullptr, api::chat_completions},
      {"POST", "/v1/completions", nullptr, api::completions},
      {"POST", "/v1/embeddings", nullptr, nullptr, api::openai_embeddings},
      {"POST", "/v1/responses", nullptr, api::responses},
      {"POST", "/tokenize", &App::tokenize},
      {"POST", "/detokenize", &App::detokenize},
      {"POST", "/v1/messages", nullptr, api::anthropic_messages},
      {"POST", "/v1/messages/count_tokens", &App::count_tokens},
      {"POST", "/api/generate", nullptr, api::ollama_generate},
      {"POST", "/api/chat", nullptr, api::ollama_chat},
      {"POST", "/api/embed", nullptr, nullptr, api::ollama_embed},
      {"POST", "/api/embeddings", nullptr, nullptr, api::ollama_embeddings},
      {"POST", "/api/show", &App::ollama_show},
      {"POST", "/mcp", &App::mcp},
      {"GET", "/api/tags", &App::ollama_tags},
      {"GET", "/api/ps", &App::ollama_ps},
      {"GET", "/api/version", &App::ollama_version},
      {"GET", "/", &App::root},
  };
  return kRoutes;
}

const App::Route* App::find_route(const http::Request& request, std::string& allowed) {
  const std::string_view method = request.method == "HEAD" ? "GET" : std::string_view(request.method);
  for (const Route& route : routes()) {
    const bool below = route.path.back() == '/' && route.path.size() > 1 &&
                       request.path.size() > route.path.size() && request.path.starts_with(route.path);
    if (!below && request.path != route.path) continue;
    if (route.method == method) return &route;
    allowed += (allowed.empty() ? "" : ", ") + std::string(route.method);
    if (route.method == "GET") allowed += ", HEAD";
  }
  return nullptr;
}

Protocol App::protocol_of(std::string_view path) {
  if (path.starts_with("/v1/messages")) return Protocol::kAnthropic;
  return path.starts_with("/api/") ? Protocol::kOllama : Protocol::kOpenAi;
}

App::App(AppOptions options, std::unique_ptr<RequestLog> log)
    : options_(std::move(options)),
      started_unix_(std::chrono::duration_cast<std::chrono::seconds>(
                        std::chrono::system_clock::now().time_since_epoch())
                        .count()),
      log_(std::move(log)),
      host_(options_.model, metrics_),
      requests_total_(metrics_.counter("mlx_flash_requests_total", "Requests for generations.")) {
  register_metrics();
}

Result<std::unique_ptr<App>> App::start(AppOptions options) {
  const bool loopback = options.host.empty() || is_loopback_host(options.host);
  if (!loopback && options.access.keys.empty())
    return fail(ErrorCode::kInvalidArgument,
                "--host " + options.host +
                    " lets other machines in, so it needs an API key: give --api-key-file FILE or set "
                    "MLX_FLASH_API_KEY");
  RETURN_IF_ERROR(check_rules(options.access));
  options.access.any_host = !loopback;
  ASSIGN_OR_RETURN(std::unique_ptr<RequestLog> log, RequestLog::open(options.log));
  std::unique_ptr<App> app(new App(std::move(options), std::move(log)));
  http::ServerOptions server;
  // A port that another program has is found before a model is read for minutes.
  if (app->options_.preload) server.prepare = [a = app.get()] { return a->host_.load(); };
  if (app->options_.host.empty()) {
    server.hosts = {"127.0.0.1", "::1"};
  } else {
    server.hosts = {app->options_.host};
  }
  server.port = app->options_.port;
  server.threads = app->options_.http_threads;
  server.limits = app->options_.limits;
  server.check_head = [a = app.get()](const http::Request& request) { return a->check_head(request); };
  server.add_headers = [a = app.get()](const http::Request& request, std::vector<http::Header>& headers) {
    add_cors_headers(request, a->options_.access, headers);
  };
  server.on_answered = [a = app.get()](const http::Request& request, const http::Outcome& outcome) {
    a->log_->add(request, outcome, unix_milliseconds());
  };
  server.refuse = [a = app.get()](const http::Refusal& refusal) {
    http::Response response = error_response(
        Protocol::kOpenAi, {api::kind_of_status(refusal.status), refusal.message}, a->next_id());
    response.status = refusal.status;
    return response;
  };
  server.handler = [a = app.get()](const Exchange& exchange) { a->handle(exchange); };
  ASSIGN_OR_RETURN(app->server_, http::Server::start(std::move(server)));
  app->listening_ = app->server_.get();
  return app;
}

std::string App::next_id() {
  return hex_id(static_cast<uint64_t>(started_unix_) * 1'000'003 +
                requests_.fetch_add(1, std::memory_order_relaxed));
}

bool has_body(const http::Request& request) {
  const std::string* length = request.find_header("content-length");
  return request.find_header("transfer-encoding") != nullptr || (length != nullptr && *length != "0");
}

// Everything that can be judged without the body: it is not read for a stranger.
std::optional<http::Response> App::check_head(const http::Request& request) {
  const Protocol protocol = protocol_of(request.path);
  const auto refuse = [&](const ApiError& error) { return error_response(protocol, error, next_id()); };
  if (const auto error = check_origin(request, options_.access)) return refuse(*error);
  std::string allowed, user;
  const Route* route = find_route(request, allowed);
  if (!allowed.empty() && is_preflight(request, options_.access)) return preflight_response(request, allowed);
  if (route == nullptr || route->access != Route::Access::kOpen)
    if (const auto error = check_key(request, options_.access, user)) return refuse(*error);
  if (route != nullptr && route->access == Route::Access::kAdmin)
    if (const auto error = check_admin(request, options_.access)) return refuse(*error);
  if (route != nullptr && request.method != "POST" && has_body(request))
    return refuse(
        {ErrorKind::kTooLarge, "this path takes no body"});  // Nobody would read it, and all may send it.
  if (route != nullptr) return std::nullopt;
  if (request.method == "OPTIONS" && (!allowed.empty() || request.path == "*"))
    return http::Response{204, "", "", {{"Allow", allowed.empty() ? "GET, HEAD, POST" : allowed}}, false};
  if (allowed.empty()) return refuse({ErrorKind::kNotFound, "there is nothing at this path"});
  http::Response response = refuse({ErrorKind::kMethodNotAllowed, "this path takes " + allowed});
  response.headers.push_back({"Allow", allowed});
  return response;
}

void App::handle(const Exchange& exchange) {
  const std::string id = next_id();
  std::string allowed, user;
  const Route* route = find_route(exchange->request(), allowed);
  if (route->handle != nullptr) return (this->*route->handle)(exchange, id);
  requests_total_.add();
  // Its result was judged with the head; what is wanted here is whose key it was.
  (void)check_key(exchange->request(), options_.access, user);
  const AnswerContext context{host_, options_.limits.write_bytes, open_answers_};
  if (route->embeds != nullptr) {
    std::make_shared<Embedding>(exchange, route->embeds(), std::move(user), id, context)->start();
  } else {
    std::make_shared<Answer>(exchange, route->endpoint(), std::move(user), id, context)->start();
  }
}

void App::livez(const Exchange& exchange, const std::string& id) {
  respond_json(exchange, id, dump_json({{"status", "ok"}}));
}

void App::health(const Exchange& exchange, const std::string& id) {
  const std::string word = health_word(host_);
  Json body = {{"status", word},
               {"model", host_.name()},
               {"model_loaded", host_.state() == ModelHost::State::kReady},
               {"uptime_s", uptime_seconds()}};
  if (word == "degraded") body["error"] = scheduler_status(host_).last_error;
  respond_json(exchange, id, dump_json(body), word == "ok" ? 200 : 503);
}

void App::logs_recent(const Exchange& exchange, const std::string& id) {
  respond_json(exchange, id, dump_json({{"logs", log_->recent()}}));
}

void App::models(const Exchange& exchange, const std::string& id) {
  if (exchange->request().find_header("anthropic-version") != nullptr) {
    Json data = Json::array();
    for (const api::OllamaModel& one : host_.servable())
      data.push_back({{"type", "model"},
                      {"id", one.name},
                      {"display_name", one.name},
                      {"created_at", api::time_text(started_unix_)}});
    const Json first = data.front()["id"], last = data.back()["id"];
    return respond_json(
        exchange, id,
        dump_json({{"data", std::move(data)}, {"has_more", false}, {"first_id", first}, {"last_id", last}}));
  }
  respond_json(exchange, id, dump_json({{"object", "list"}, {"data", models_facts(host_, started_unix_)}}));
}

void App::model(const Exchange& exchange, const std::string& id) {
  const std::string asked = exchange->request().path.substr(std::string_view("/v1/models/").size());
  const auto wanted = wanted_model(asked, host_);
  if (!wanted) return exchange->respond(error_response(Protocol::kOpenAi, wanted.error(), id));
  respond_json(exchange, id, dump_json(model_facts(host_, wanted->name, started_unix_)));
}

void App::with_model(const Exchange& exchange, const std::string& id, Protocol protocol, Work work) {
  auto body = api::parse_body(exchange->take_body());
  if (!body) return exchange->respond(error_response(protocol, body.error(), id));
  const std::string asked = find_string(*body, "model").value_or("");
  const auto wanted = wanted_model(asked, host_);
  if (!wanted) return exchange->respond(error_response(protocol, wanted.error(), id));
  // A client that left while the model was loaded holds nothing.
  const std::weak_ptr<http::Exchange> asker = exchange;
  const auto ready = [this, asker, id, protocol, work, asked,
                      body = std::move(*body)](const Result<std::shared_ptr<ServedModel>>& model) {
    const Exchange here = asker.lock();
    if (here == nullptr) return;
    here->post([=, this] {
      auto answer =
          model ? work(body, **model) : tl::unexpected<ApiError>(wait_error(model.error(), asked, host_));
      if (!answer) return here->respond(error_response(protocol, answer.error(), id));
      respond_json(here, id, std::move(*answer));
    });
  };
  host_.when_ready(*wanted, ready, asker);
}

void App::tokenize(const Exchange& exchange, const std::string& id) {
  with_model(exchange, id, Protocol::kOpenAi, [](const Json& body, const ServedModel& model) {
    return api::tokenize(body, *model.tokenizer);
  });
}

void App::detokenize(const Exchange& exchange, const std::string& id) {
  with_model(exchange, id, Protocol::kOpenAi, [](const Json& body, const ServedModel& model) {
    return api::detokenize(body, *model.tokenizer);
  });
}

void App::count_tokens(const Exchange& exchange, const std::string& id) {
  with_model(exchange, id, Protocol::kAnthropic,
             [](const Json& body, const ServedModel& model) -> tl::expected<std::string, ApiError> {
               const auto call = api::parse_anthropic_count(body);
               if (!call) return tl::unexpected<ApiError>(call.error());
               std::vector<std::string> warnings;  // A count is no answer: they come with that.
               const auto prompt = make_prompt(*call, model, warnings);
               if (!prompt) return tl::unexpected<ApiError>(prompt.error());
               return dump_json({{"input_tokens", prompt->tokens.size()}});
             });
}

double App::uptime_seconds() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - started_).count();
}

bool App::wait_idle(std::chrono::milliseconds timeout) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  BoundedQueue<int> nothing(1);  // Answers end on the http threads; looking now and then is precise enough.
  while (open_answers_ != 0) {
    if (std::chrono::steady_clock::now() >= deadline) return false;
    (void)nothing.wait(std::chrono::milliseconds(10));
  }
  return true;
}

void App::stop() {
  if (server_ == nullptr) return;
  host_.stop();
  (void)wait_idle(kFlushWait);  // The last events go out.
  server_->stop();
  server_.reset();
}

}  // namespace mlxf::server
