// The parts of Ollama's API that tell about the model.
#include <algorithm>
#include <chrono>

#include "api/fields.h"
#include "server/answer.h"
#include "server/app.h"

namespace mlxf::server {
namespace {

// What Ollama says of a model that stays: its longest duration from now.
constexpr std::chrono::seconds kNever = std::chrono::hours(24 * 365 * 292);

int64_t unix_seconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

void respond(const std::shared_ptr<http::Exchange>& exchange, const std::string& id, const Json& body) {
  exchange->respond({200, "application/json", dump_json(body), {{"X-Request-Id", id}}, false});
}

}  // namespace

api::OllamaModel App::ollama_model() const {
  api::OllamaModel model = host_.facts();
  if (const auto served = host_.find_model()) {
    model.context_tokens = served->context_tokens;
    model.context_tokens_max = served->engine->model().spec().context_max;
    if (served->chat) model.chat_template = served->chat->source();
  }
  return model;
}

// Clients look for this text to tell whether somebody is there.
void App::root(const Exchange& exchange, const std::string& id) {
  exchange->respond({200, "text/plain; charset=utf-8", "Ollama is running", {{"X-Request-Id", id}}, false});
}

void App::ollama_version(const Exchange& exchange, const std::string& id) {
  respond(exchange, id, {{"version", options_.version}});
}

void App::ollama_tags(const Exchange& exchange, const std::string& id) {
  respond(exchange, id, {{"models", Json::array({api::ollama_tag(ollama_model())})}});
}

void App::ollama_ps(const Exchange& exchange, const std::string& id) {
  Json models = Json::array();
  if (const auto left = host_.expires_in()) {
    const auto seconds = std::min(std::chrono::duration_cast<std::chrono::seconds>(*left), kNever);
    models.push_back(api::ollama_running(ollama_model(), unix_seconds() + seconds.count()));
  }
  respond(exchange, id, {{"models", std::move(models)}});
}

void App::ollama_show(const Exchange& exchange, const std::string& id) {
  const auto fail_with = [&](const api::ApiError& error) {
    exchange->respond(error_response(api::Protocol::kOllama, error, id));
  };
  auto body = api::parse_body(exchange->take_body());
  if (!body) return fail_with(body.error());
  api::Fields fields(*body);
  std::optional<std::string> name = fields.text("model");
  if (!name) name = fields.text("name");
  fields.accept("verbose");
  if (!name) fields.fail(api::ErrorKind::kInvalidRequest, "model", "is required");
  if (fields.error()) return fail_with(*fields.error());
  const ModelHost::Names names = host_.names();
  if (!may_mean(*name, names)) return fail_with(no_such_model(*name, names.now).value());
  // The template and the context are the loaded model's.
  const std::weak_ptr<http::Exchange> asker = exchange;
  const auto ready = [this, asker, id, asked = *name](const Result<std::shared_ptr<ServedModel>>& model) {
    const Exchange here = asker.lock();
    if (here == nullptr) return;  // It left meanwhile.
    if (!model) {
      here->respond(error_response(api::Protocol::kOllama, load_error(model.error(), host_), id));
    } else if (!names_model(asked, (*model)->name)) {
      here->respond(error_response(api::Protocol::kOllama, no_such_model(asked, (*model)->name).value(), id));
    } else {
      respond(here, id, api::ollama_show(ollama_model()));
    }
  };
  host_.when_ready(ready, asker);
}

}  // namespace mlxf::server
