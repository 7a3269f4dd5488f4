// What changes what is served, or ends it: POST /v1/models/switch, /reload, /release and /shutdown.
//
// /release takes {"model": NAME}; without it all models are let go of. Each answers once it is done; a client that
// leaves changes nothing about it. Who may ask: check_admin().
#include <algorithm>
#include <utility>

#include "api/fields.h"
#include "platform/process.h"
#include "server/answer.h"
#include "server/app.h"
#include "server/facts.h"

namespace mlxf::server {
namespace {

constexpr double kGib = 1024.0 * 1024.0 * 1024.0;

// The body of a request that needs none.
tl::expected<Json, api::ApiError> optional_body(const std::shared_ptr<http::Exchange>& exchange) {
  const std::string text = exchange->take_body();
  if (text.empty()) return Json::object();
  return api::parse_body(text);
}

std::vector<std::string> warnings_of(const api::Fields& fields) {
  std::vector<std::string> warnings;
  for (const std::string& name : fields.unknown()) warnings.push_back("unknown field " + name + " ignored");
  return warnings;
}

void respond(const std::shared_ptr<http::Exchange>& exchange, const std::string& id, const Json& body,
             const std::vector<std::string>& warnings) {
  exchange->respond({200, "application/json", dump_json(body), reply_headers(id, warnings), false});
}

// The error, with what is served all the same: {"error": ..., WHAT: false, "model": NAME}.
void respond_failed(const std::shared_ptr<http::Exchange>& exchange, const std::string& id,
                    const Error& problem, const ModelHost& host, const char* what) {
  const api::ApiError error = change_error(problem, host);
  http::Response response = error_response(api::Protocol::kOpenAi, error, id);
  Json body = parse_json(response.body).value_or(Json::object());
  body[what] = false;
  body["model"] = host.name();
  response.body = dump_json(body);
  exchange->respond(std::move(response));
}

}  // namespace

void App::hold_open(const Exchange& exchange) {
  ++open_answers_;
  const std::shared_ptr<void> open(nullptr, [this](void*) { --open_answers_; });
  exchange->on_closed([open] {});  // Let go of when the exchange has ended.
}

void App::switch_model(const Exchange& exchange, const std::string& id) {
  hold_open(exchange);
  const auto refuse = [&](const api::ApiError& error) {
    exchange->respond(error_response(api::Protocol::kOpenAi, error, id));
  };
  const auto body = api::parse_body(exchange->take_body());
  if (!body) return refuse(body.error());
  api::Fields fields(*body);
  std::optional<std::string> name = fields.text("model");
  if (!name || name->empty())
    fields.fail(api::ErrorKind::kInvalidRequest, "model", "is required: the name of a cached model");
  if (fields.error()) return refuse(*fields.error());
  host_.switch_to(*std::move(name), [this, exchange, id,
                                     warnings = warnings_of(fields)](const Result<ModelHost::Change>& done) {
    if (!done) return respond_failed(exchange, id, done.error(), host_, "switched");
    respond(exchange, id, {{"switched", true}, {"model", host_.name()}, {"previous", done->previous}},
            warnings);
  });
}

void App::reload(const Exchange& exchange, const std::string& id) {
  hold_open(exchange);
  const auto body = optional_body(exchange);
  if (!body) return exchange->respond(error_response(api::Protocol::kOpenAi, body.error(), id));
  host_.reload([this, exchange, id,
                warnings = warnings_of(api::Fields(*body))](const Result<ModelHost::Change>& done) {
    if (!done) return respond_failed(exchange, id, done.error(), host_, "reloaded");
    const Json memory = memory_facts(read_memory());
    respond(exchange, id,
            {{"reloaded", true},
             {"model", done->previous},
             {"model_loaded", true},
             {"memory_available_gb", memory["available_gb"]},
             {"pressure", memory["pressure"]}},
            warnings);
  });
}

void App::release(const Exchange& exchange, const std::string& id) {
  hold_open(exchange);
  const auto body = optional_body(exchange);
  if (!body) return exchange->respond(error_response(api::Protocol::kOpenAi, body.error(), id));
  api::Fields fields(*body);
  const std::string asked = fields.text("model").value_or("");
  const auto refuse = [&](const api::ApiError& error) {
    exchange->respond(error_response(api::Protocol::kOpenAi, error, id));
  };
  if (fields.error()) return refuse(*fields.error());
  std::string name;
  if (!asked.empty()) {
    const auto wanted = wanted_model(asked, host_);
    if (!wanted) return refuse(wanted.error());
    name = wanted->name;
  }
  const uint64_t own_before = platform::own_memory_bytes();
  const Json before = memory_facts(read_memory());
  host_.release(name, [this, exchange, id, own_before, before,
                       warnings = warnings_of(fields)](const Result<ModelHost::Change>& done) {
    if (!done) return respond_failed(exchange, id, done.error(), host_, "released");
    if (!done->was_loaded)
      return respond(exchange, id,
                     {{"action", "none"}, {"model", done->previous}, {"pressure", before["pressure"]}},
                     warnings);
    const uint64_t own_after = platform::own_memory_bytes();
    const Json after = memory_facts(read_memory());
    const uint64_t freed = own_before - std::min(own_before, own_after);
    respond(exchange, id,
            {{"action", "released"},
             {"model", done->previous},
             {"pressure_before", before["pressure"]},
             {"pressure_after", after["pressure"]},
             {"freed_gb", static_cast<double>(freed) / kGib},
             {"free_gb_now", after["available_gb"]}},
            warnings);
  });
}

// As SIGTERM; asking twice changes nothing.
void App::shutdown(const Exchange& exchange, const std::string& id) {
  hold_open(exchange);
  const auto body = optional_body(exchange);
  if (!body) return exchange->respond(error_response(api::Protocol::kOpenAi, body.error(), id));
  respond(exchange, id,
          {{"shutting_down", true}, {"message", "stopping once answers under way are complete"}},
          warnings_of(api::Fields(*body)));
  // A server that drains already must not take this for the second signal, which ends answers under way.
  if (!told_to_stop_.exchange(true) && !host_.draining() && options_.on_shutdown) options_.on_shutdown();
}

}  // namespace mlxf::server
