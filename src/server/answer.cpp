#include "server/answer.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "api/fields.h"
#include "api/messages.h"
#include "api/tools.h"
#include "server/constraint.h"

namespace mlxf::server {
namespace {

using api::ApiError;
using api::ErrorKind;

constexpr size_t kWarningsMax = 16;
constexpr size_t kPromptEndBytes = 1024;  // Holds what a template writes before an answer.

int64_t unix_seconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

// Header values must stay one line, whatever a client called its fields.
std::string one_line(const std::string& text) {
  std::string out;
  for (const char c : text) out += c > 0x1f && c < 0x7f ? c : '?';
  return out.substr(0, 200);
}

// What a request needs of the answers and the model's template does not know.
std::optional<ApiError> check_answers(const api::Call& call, const ServedModel& model) {
  const auto lacks = [&](const char* what, const char* param) {
    return ApiError{ErrorKind::kUnsupported,
                    "the chat template of the model " + model.name + " knows no " + what, param};
  };
  if (!call.tools.empty() && model.answers.calls == text::CallStyle::kNone) return lacks("tools", "tools");
  if (call.wants_reasoning && !model.answers.thinks()) return lacks("thinking", "thinking");
  return std::nullopt;
}

// What a request says to the template and it does not listen to.
void warn_of_variables(const text::RenderOptions& render, const ServedModel& model,
                       std::vector<std::string>& warnings) {
  const std::string_view source = model.chat->source();
  const auto knows = [&](std::string_view name) { return source.find(name) != std::string_view::npos; };
  for (const auto& [name, value] : render.variables.items())
    if (!knows(name))
      warnings.push_back(
          std::string(name).append(" has no effect: the model's chat template does not know it"));
  if (render.enable_thinking == false && model.answers.thinks() && !knows("enable_thinking"))
    warnings.emplace_back("thinking stays on: the model's chat template cannot turn it off");
}

// As they are shown: a line each, and not too many.
std::vector<std::string> shown_warnings(const std::vector<std::string>& warnings) {
  const size_t shown = std::min(warnings.size(), kWarningsMax);
  std::vector<std::string> lines;
  lines.reserve(shown + 1);
  for (size_t i = 0; i < shown; ++i) lines.push_back(one_line(warnings[i]));
  if (shown < warnings.size()) lines.push_back(std::to_string(warnings.size() - shown) + " more");
  return lines;
}

}  // namespace

std::vector<http::Header> reply_headers(const std::string& id, const std::vector<std::string>& warnings) {
  std::vector<http::Header> headers = {{"X-Request-Id", id}, {"Cache-Control", "no-store"}};
  for (std::string& line : shown_warnings(warnings))
    headers.push_back({"X-MLX-Flash-Warning", std::move(line)});
  return headers;
}

tl::unexpected<ApiError> no_such_model(const std::string& asked, const std::string& name) {
  return tl::unexpected<ApiError>({ErrorKind::kModelNotFound,
                                   "model '" + asked + "' not found: this server has '" + name + "'",
                                   "model"});
}

tl::expected<ModelHost::Wanted, ApiError> wanted_model(const std::string& asked, const ModelHost& host) {
  auto wanted = host.resolve(asked);
  if (wanted) return std::move(*wanted);
  if (wanted.error().code == ErrorCode::kNotFound) return no_such_model(asked, host.name());
  if (wanted.error().code == ErrorCode::kInvalidArgument)
    return tl::unexpected<ApiError>({ErrorKind::kInvalidRequest, wanted.error().message, "model"});
  return tl::unexpected<ApiError>(load_error(wanted.error(), host));
}

ApiError wait_error(const Error& problem, const std::string& asked, const ModelHost& host) {
  if (problem.code == ErrorCode::kNotFound) return no_such_model(asked, host.name()).value();
  return load_error(problem, host);
}

http::Response error_response(api::Protocol protocol, const ApiError& error, const std::string& request_id) {
  const api::ErrorRow& row = api::row_of(error.kind);
  http::Response response;
  response.status = row.status;
  response.content_type = "application/json";
  response.body = api::error_body(protocol, error, request_id);
  response.headers = {{"X-Request-Id", request_id}};
  if (row.status == 401) response.headers.push_back({"WWW-Authenticate", "Bearer"});
  if (row.status >= 500 || row.status == 408) {
    if (row.retry) response.headers.push_back({"Retry-After", "1"});
    response.headers.push_back({"x-should-retry", row.retry ? "true" : "false"});
  }
  return response;
}

ApiError load_error(const Error& problem, const ModelHost& host) {
  ApiError error = api::from_engine(problem);
  if (error.kind == ErrorKind::kDraining) {
    if (!host.draining()) error.kind = ErrorKind::kQueueFull;
    return error;
  }
  if (error.kind == ErrorKind::kInternal || error.kind == ErrorKind::kInvalidRequest)
    error.kind = ErrorKind::kModelCorrupt;
  error.message = "the model could not be loaded: " + error.message;
  return error;
}

ApiError change_error(const Error& problem, const ModelHost& host) {
  if (problem.code == ErrorCode::kNotFound) return {ErrorKind::kModelNotFound, problem.message, "model"};
  ApiError error = api::from_engine(problem);
  if (error.kind == ErrorKind::kInvalidRequest) error.param = "model";
  if (error.kind == ErrorKind::kDraining && !host.draining()) error.kind = ErrorKind::kQueueFull;
  return error;
}

ApiError submit_error(const Error& problem, const engine::Scheduler& scheduler) {
  ApiError error = api::from_engine(problem);
  if (error.kind == ErrorKind::kDraining && !scheduler.draining()) error.kind = ErrorKind::kQueueFull;
  if (error.kind == ErrorKind::kOutOfMemory) error.kind = ErrorKind::kContextLength;
  return error;
}

tl::expected<Prompt, ApiError> make_prompt(const api::Call& call, const ServedModel& model,
                                           std::vector<std::string>& warnings) {
  const auto refused = [](const Error& error) { return tl::unexpected<ApiError>(api::from_request(error)); };
  // Splitting a text takes many times its bytes, on a thread that others wait for: not where it cannot fit anyway.
  const auto too_long = [&model](const std::string& text) {
    return ApiError{ErrorKind::kContextLength,
                    "this model's maximum context length is " + std::to_string(model.context_tokens) +
                        " tokens. However, your messages resulted in a text of " +
                        std::to_string(text.size()) + " bytes, which cannot be that few",
                    "messages"};
  };
  Prompt prompt;
  if (const auto* chat = std::get_if<api::ChatPrompt>(&call.prompt)) {
    if (!model.chat && chat->text_without_template) {
      if (call.wants_reasoning)
        return tl::unexpected<ApiError>(
            {ErrorKind::kUnsupported, "the model " + model.name + " has no chat template that knows thinking",
             "thinking"});
      if (chat->text_without_template->size() > model.prompt_bytes_max)
        return tl::unexpected<ApiError>(too_long(*chat->text_without_template));
      auto tokens = model.tokenizer->encode(*chat->text_without_template);
      if (!tokens) return refused(tokens.error());
      prompt.tokens = std::move(*tokens);
      return prompt;
    }
    if (!model.chat)
      return tl::unexpected<ApiError>(
          {ErrorKind::kUnsupported,
           "the model " + model.name +
               " has no chat template: use /v1/completions, or start the server with --chat-template FILE"});
    if (const auto error = check_answers(call, model)) return tl::unexpected<ApiError>(*error);
    warn_of_variables(chat->render, model, warnings);
    const auto rendered = model.chat->render(
        api::in_turns(api::adapted_messages(chat->messages, model.answers.calls), model.turns, warnings),
        chat->render);
    if (!rendered) return refused(rendered.error().within("the chat template"));
    if (rendered->marked.size() > model.prompt_bytes_max)
      return tl::unexpected<ApiError>(too_long(rendered->marked));
    auto tokens = text::encode_prompt(*model.tokenizer, *rendered);
    if (!tokens) return refused(tokens.error());
    if (call.structure) prompt.thinking = text::thinking_after(model.chat->source(), rendered->text());
    prompt.tokens = std::move(*tokens);
    prompt.chat = true;
    prompt.end = rendered->text();
    if (prompt.end.size() > kPromptEndBytes) prompt.end.erase(0, prompt.end.size() - kPromptEndBytes);
    return prompt;
  }
  if (const auto* text = std::get_if<api::TextPrompt>(&call.prompt)) {
    if (text->text.size() > model.prompt_bytes_max) return tl::unexpected<ApiError>(too_long(text->text));
    text::EncodeOptions options;
    options.parse_special = text->raw;
    auto tokens = model.tokenizer->encode(text->text, options);
    if (!tokens) return refused(tokens.error());
    prompt.tokens = std::move(*tokens);
    prompt.text = text->text;
    return prompt;
  }
  prompt.tokens = std::get<api::TokenPrompt>(call.prompt);
  if (call.echo) {
    auto text = model.tokenizer->decode(prompt.tokens);
    if (!text) return refused(text.error());
    prompt.text = std::move(*text);
  }
  return prompt;
}

tl::expected<Submitted, ApiError> submit_call(const api::Call& call, const std::shared_ptr<ServedModel>& held,
                                              const std::string& id, std::string user,
                                              std::function<void()> on_event) {
  using Refused = tl::unexpected<ApiError>;
  const ServedModel& model = *held;
  std::vector<std::string> warnings;
  auto prompt = make_prompt(call, model, warnings);
  if (!prompt) return Refused(prompt.error());
  const uint32_t context =
      call.context_tokens == 0 ? model.context_tokens : std::min(call.context_tokens, model.context_tokens);
  if (call.context_tokens > model.context_tokens)
    return Refused({ErrorKind::kInvalidRequest,
                    "num_ctx is " + std::to_string(call.context_tokens) +
                        ", but this server's context holds " + std::to_string(model.context_tokens) +
                        " tokens (--max-context)",
                    "num_ctx"});
  if (prompt->tokens.size() >= context)
    return Refused({ErrorKind::kContextLength,
                    "this model's maximum context length is " + std::to_string(context) +
                        " tokens. However, your messages resulted in " +
                        std::to_string(prompt->tokens.size()) + " tokens, and one is needed for the answer",
                    "messages"});
  auto constraint = make_constraint(call, model, *prompt, warnings);
  if (!constraint) return Refused(constraint.error());
  engine::Submission submission;
  engine::GenerateRequest& request = submission.request;
  const auto room = context - static_cast<uint32_t>(prompt->tokens.size());
  request.prompt = std::move(prompt->tokens);
  request.max_tokens = call.max_tokens == 0 ? room : std::min(call.max_tokens, room);
  request.sampling = model.defaults;
  request.sampling.seed = static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count()) ^
                          std::hash<std::string>()(id);
  call.sampling.apply_to(request.sampling);
  request.stop = call.stop;
  request.ignore_end = call.ignore_end;
  request.constraint = std::move(*constraint);
  if (prompt->chat) request.shown_special = model.marker_tokens;
  request.logprobs = call.logprobs;
  request.top_logprobs = call.top_logprobs;
  submission.user = std::move(user);
  submission.every_event = call.stream;
  submission.on_event = std::move(on_event);
  submission.keeps = held;
  const auto prompt_tokens = static_cast<uint32_t>(request.prompt.size());
  auto ticket = model.scheduler->submit(std::move(submission));
  if (!ticket) return Refused(submit_error(ticket.error(), *model.scheduler));
  api::ReplyFacts facts{
      id, model.name, unix_seconds(), *model.tokenizer, prompt_tokens, std::move(prompt->text)};
  if (prompt->chat) {
    facts.format = model.answers;
    facts.prompt_end = std::move(prompt->end);
  }
  return Submitted{std::move(*ticket), std::move(facts), std::move(warnings)};
}

Answer::Answer(std::shared_ptr<http::Exchange> exchange, const api::Endpoint& endpoint, std::string user,
               std::string id, const AnswerContext& context)
    : exchange_(std::move(exchange)),
      endpoint_(endpoint),
      user_(std::move(user)),
      id_(std::move(id)),
      context_(context) {
  ++context_.open;
}

Answer::~Answer() { --context_.open; }

void Answer::start() {
  // Keeps this alive until the exchange ends; then nobody wants the rest.
  exchange_->on_closed([self = shared_from_this()] {
    self->ended_ = true;
    self->ticket_ = engine::Ticket();
  });
  const std::string text = exchange_->take_body();
  auto body = api::parse_body(text);
  if (!body) return fail(body.error());
  auto call = endpoint_.parse(*body);
  if (!call) return fail(call.error());
  call_ = std::move(*call);
  api::keep_tool_order(text, endpoint_.protocol, call_);
  if (call_.structure) api::restore_schema_order(text, *call_.structure);
  auto wanted = wanted_model(call_.model, context_.host);
  if (!wanted) return fail(wanted.error());
  wanted_ = std::move(*wanted);
  stream_ = {id_, wanted_.name, unix_seconds()};
  if (call_.load_only && call_.keep_alive == std::chrono::milliseconds(0) && endpoint_.unloaded != nullptr)
    return unload();
  const bool waits = context_.host.when_ready(
      wanted_,
      [weak = weak_from_this()](const Result<std::shared_ptr<ServedModel>>& model) {
        if (const auto self = weak.lock()) self->exchange_->post([self, model] { self->on_model(model); });
      },
      weak_from_this());
  // A stream begins while the model loads: its client sees that something happens.
  if (call_.stream && waits) begin_stream();
}

void Answer::on_model(const Result<std::shared_ptr<ServedModel>>& model) {
  if (ended_) return;
  if (!model) return fail(wait_error(model.error(), call_.model, context_.host));
  stream_.model = (*model)->name;
  if (call_.keep_alive) context_.host.keep_for({(*model)->name, false}, *call_.keep_alive);
  if (call_.load_only) return say_loaded(**model);
  if (const auto error = submit(*model)) fail(*error);
}

// Ollama's way to let go of a model. Requests under way keep it until they have ended.
void Answer::unload() {
  ended_ = true;
  context_.host.keep_for(wanted_, std::chrono::milliseconds(0));
  const std::string type(call_.stream ? api::stream_type(endpoint_.protocol) : "application/json");
  exchange_->respond(
      {200, type, endpoint_.unloaded(call_, stream_), reply_headers(id_, call_.warnings), false});
}

void Answer::say_loaded(const ServedModel& model) {
  ended_ = true;
  api::ReplyFacts facts{id_, model.name, stream_.created, *model.tokenizer};
  facts.stream = &stream_;
  reply_ = endpoint_.reply(call_, facts);
  if (!call_.stream)
    return exchange_->respond(
        {200, "application/json", reply_->whole({}), reply_headers(id_, call_.warnings), false});
  if (!streaming_) begin_stream();
  exchange_->write(reply_->end({}));
  exchange_->finish();
}

std::optional<ApiError> Answer::submit(const std::shared_ptr<ServedModel>& model) {
  auto submitted = submit_call(call_, model, id_, user_, [weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->wake();
  });
  if (!submitted) return submitted.error();
  ticket_ = std::move(submitted->ticket);
  // Where the stream had to begin before the model was there, its headers cannot say these.
  if (streaming_ && !submitted->warnings.empty())
    exchange_->write(api::stream_warnings(endpoint_, call_, stream_, shown_warnings(submitted->warnings)));
  call_.warnings.insert(call_.warnings.end(), submitted->warnings.begin(), submitted->warnings.end());
  api::ReplyFacts& facts = submitted->facts;
  facts.created = stream_.created;
  facts.stream = &stream_;
  reply_ = endpoint_.reply(call_, facts);
  if (call_.stream) {
    if (!streaming_) begin_stream();
    exchange_->write(reply_->begin());
    exchange_->on_writable([self = weak_from_this()] {
      if (const auto answer = self.lock()) answer->pump();
    });
  }
  return std::nullopt;
}

void Answer::begin_stream() {
  streaming_ = true;
  http::StreamHead head;
  head.content_type = api::stream_type(endpoint_.protocol);
  head.headers = reply_headers(id_, call_.warnings);
  head.headers.push_back({"X-Accel-Buffering", "no"});  // Proxies pass it on at once.
  head.heartbeat = [weak = weak_from_this()] {
    const auto self = weak.lock();
    return self == nullptr || self->ended_ ? std::string()
                                           : self->endpoint_.heartbeat(self->call_, self->stream_);
  };
  exchange_->begin(std::move(head));
  if (endpoint_.open != nullptr) exchange_->write(endpoint_.open(call_, stream_));
}

// The engine's thread: something can be read from the ticket.
void Answer::wake() {
  if (woken_.exchange(true)) return;
  exchange_->post([self = shared_from_this()] {
    self->woken_ = false;
    self->pump();
  });
}

void Answer::pump() {
  while (!ended_ && ticket_.valid() && exchange_->waiting_bytes() < context_.write_bytes_max) {
    std::optional<engine::Event> event = ticket_.poll();
    if (!event) return;
    handle(std::move(*event));
  }
}

void Answer::handle(engine::Event event) {
  if (const auto* token = std::get_if<engine::GeneratedToken>(&event)) {
    std::string bytes = reply_->token(*token);
    if (call_.stream) exchange_->write(std::move(bytes));
    return;
  }
  if (const auto* error = std::get_if<Error>(&event)) return fail(api::from_engine(*error));
  const auto& finished = std::get<engine::Finished>(event);
  ended_ = true;
  exchange_->note("prompt_tokens", finished.usage.prompt_tokens);
  exchange_->note("cached_tokens", finished.usage.cached_tokens);
  exchange_->note("generated_tokens", finished.usage.generated_tokens);
  exchange_->note("queue_ms", static_cast<uint64_t>(finished.usage.queue_seconds * 1e3));
  exchange_->note("prompt_ms", static_cast<uint64_t>(finished.usage.prompt_seconds * 1e3));
  if (call_.stream) {
    exchange_->write(reply_->end(finished));
    exchange_->finish();
  } else {
    exchange_->respond(
        {200, "application/json", reply_->whole(finished), reply_headers(id_, call_.warnings), false});
  }
}

void Answer::fail(const ApiError& error) {
  ended_ = true;
  if (streaming_) {
    exchange_->write(endpoint_.failure != nullptr ? endpoint_.failure(call_, stream_, error)
                                                  : api::stream_error(endpoint_.protocol, error, id_));
    exchange_->finish();
  } else {
    exchange_->respond(error_response(endpoint_.protocol, error, id_));
  }
}

}  // namespace mlxf::server
