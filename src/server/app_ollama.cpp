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

// Clients look for this text to tell whether somebody is there.
void App::root(const Exchange& exchange, const std::string& id) {
  exchange->respond({200, "text/plain; charset=utf-8", "Ollama is running", {{"X-Request-Id", id}}, false});
}

void App::ollama_version(const Exchange& exchange, const std::string& id) {
  respond(exchange, id, {{"version", options_.version}});
}

void App::ollama_tags(const Exchange& exchange, const std::string& id) {
  const std::vector<ModelHost::Loaded> loaded = host_.loaded();
  Json models = Json::array();
  for (const api::OllamaModel& one : host_.servable()) {
    const auto there = std::find_if(loaded.begin(), loaded.end(), [&](const ModelHost::Loaded& other) {
      return other.facts.name == one.name;
    });
    models.push_back(api::ollama_tag(there != loaded.end() ? there->facts : one));
  }
  respond(exchange, id, {{"models", std::move(models)}});
}

void App::ollama_ps(const Exchange& exchange, const std::string& id) {
  Json models = Json::array();
  for (const ModelHost::Loaded& one : host_.loaded()) {
    const auto seconds = std::min(std::chrono::duration_cast<std::chrono::seconds>(one.expires_in), kNever);
    models.push_back(api::ollama_running(one.facts, unix_seconds() + seconds.count()));
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
  const auto wanted = wanted_model(*name, host_);
  if (!wanted) return fail_with(wanted.error());
  for (const ModelHost::Loaded& one : host_.loaded())
    if (one.facts.name == wanted->name) return respond(exchange, id, api::ollama_show(one.facts));
  // Clients ask about every model that there is: that is no reason to load it.
  const auto facts = host_.facts_of(*wanted);
  if (!facts) return fail_with(wait_error(facts.error(), *name, host_));
  respond(exchange, id, api::ollama_show(*facts));
}

}  // namespace mlxf::server
