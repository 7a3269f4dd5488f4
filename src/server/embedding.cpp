#include "server/embedding.h"

#include <algorithm>
#include <utility>

#include "api/fields.h"

namespace mlxf::server {

using api::ApiError;
using api::ErrorKind;

namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

Embedding::Embedding(std::shared_ptr<http::Exchange> exchange, const api::EmbedEndpoint& endpoint,
                     std::string user, std::string id, const AnswerContext& context)
    : exchange_(std::move(exchange)),
      endpoint_(endpoint),
      user_(std::move(user)),
      id_(std::move(id)),
      context_(context) {
  ++context_.open;
}

Embedding::~Embedding() { --context_.open; }

void Embedding::start() {
  exchange_->on_closed([self = shared_from_this()] {
    self->ended_ = true;
    self->running_.clear();
    self->model_.reset();
  });
  auto body = api::parse_body(exchange_->take_body());
  if (!body) return fail(body.error());
  auto call = endpoint_.parse(*body);
  if (!call) return fail(call.error());
  call_ = std::move(*call);
  auto wanted = wanted_model(call_.model, context_.host);
  if (!wanted) return fail(wanted.error());
  wanted_ = std::move(*wanted);
  context_.host.when_ready(
      wanted_,
      [weak = weak_from_this()](const Result<std::shared_ptr<ServedModel>>& model) {
        if (const auto self = weak.lock()) self->exchange_->post([self, model] { self->on_model(model); });
      },
      weak_from_this());
}

void Embedding::on_model(const Result<std::shared_ptr<ServedModel>>& model) {
  if (ended_) return;
  if (!model) return fail(wait_error(model.error(), call_.model, context_.host));
  if (call_.keep_alive) context_.host.keep_for({(*model)->name, false}, *call_.keep_alive);
  model_ = *model;
  out_.model = model_->name;
  out_.load_seconds = seconds_since(started_);
  out_.vectors.resize(call_.inputs.size());
  const uint32_t width = model_->engine->model().spec().hidden;
  if (call_.dimensions > width)
    return fail({ErrorKind::kInvalidRequest,
                 "dimensions is " + std::to_string(call_.dimensions) + ", but this model's embeddings have " +
                     std::to_string(width),
                 "dimensions"});
  if (call_.context_tokens > model_->context_tokens)
    call_.warnings.push_back("num_ctx is " + std::to_string(call_.context_tokens) +
                             ", but this server's context holds " + std::to_string(model_->context_tokens) +
                             " tokens (--max-context)");
  if (const auto error = submit_more()) fail(*error);
}

tl::expected<std::vector<TokenId>, ApiError> Embedding::tokens_of(size_t input) {
  const std::string where = call_.inputs.size() == 1 ? "input" : "input[" + std::to_string(input) + "]";
  const uint32_t context = call_.context_tokens == 0 ? model_->context_tokens
                                                     : std::min(call_.context_tokens, model_->context_tokens);
  const uint32_t most = context - 1;  // As every prompt.
  std::vector<TokenId> tokens;
  if (const auto* text = std::get_if<std::string>(&call_.inputs[input])) {
    // A text that cannot fit is not split to the end.
    const size_t bytes_max = model_->prompt_bytes_max;
    if (text->size() > bytes_max && !call_.truncate)
      return tl::unexpected<ApiError>({ErrorKind::kContextLength,
                                       where + " has " + std::to_string(text->size()) +
                                           " bytes, which cannot be this model's maximum context length of " +
                                           std::to_string(context) + " tokens",
                                       "input"});
    text::EncodeOptions options;
    options.parse_special = false;
    size_t end = std::min(text->size(), bytes_max);
    while (end > 0 && end < text->size() && (static_cast<uint8_t>((*text)[end]) & 0xc0) == 0x80) --end;
    if (end < text->size())
      call_.warnings.push_back(where + " was cut from " + std::to_string(text->size()) + " to " +
                               std::to_string(end) + " bytes: truncate");
    auto encoded = model_->tokenizer->encode(std::string_view(*text).substr(0, end), options);
    if (!encoded) return tl::unexpected<ApiError>(api::from_request(encoded.error().within(where)));
    tokens = std::move(*encoded);
  } else {
    tokens = std::get<std::vector<TokenId>>(call_.inputs[input]);
  }
  if (tokens.empty())
    return tl::unexpected<ApiError>({ErrorKind::kInvalidRequest, where + " is empty", "input"});
  if (tokens.size() > most) {
    if (!call_.truncate)
      return tl::unexpected<ApiError>({ErrorKind::kContextLength,
                                       "this model's maximum context length is " + std::to_string(context) +
                                           " tokens. However, " + where + " resulted in " +
                                           std::to_string(tokens.size()) + " tokens, and one is kept free",
                                       "input"});
    call_.warnings.push_back(where + " was cut from " + std::to_string(tokens.size()) + " to " +
                             std::to_string(most) + " tokens: truncate");
    tokens.resize(most);
  }
  return tokens;
}

std::optional<ApiError> Embedding::submit_more() {
  while (next_ < call_.inputs.size() && running_.size() < model_->scheduler->options().parallel) {
    auto tokens = tokens_of(next_);
    if (!tokens) return tokens.error();
    out_.prompt_tokens += static_cast<uint32_t>(tokens->size());
    engine::Submission submission;
    submission.request.prompt = std::move(*tokens);
    submission.embed = true;
    submission.user = user_;
    submission.on_event = [weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->wake();
    };
    auto ticket = model_->scheduler->submit(std::move(submission));
    if (!ticket) return submit_error(ticket.error(), *model_->scheduler);
    running_.push_back({next_++, std::move(*ticket)});
  }
  return std::nullopt;
}

// The engine's thread: a ticket has its end.
void Embedding::wake() {
  if (woken_.exchange(true)) return;
  exchange_->post([self = shared_from_this()] {
    self->woken_ = false;
    self->pump();
  });
}

void Embedding::pump() {
  if (ended_) return;
  std::vector<Running> left;
  for (Running& running : running_) {
    std::optional<engine::Event> event = running.ticket.poll();
    if (!event) {
      left.push_back(std::move(running));
      continue;
    }
    if (const auto* error = std::get_if<Error>(&*event)) return fail(api::from_engine(*error));
    std::vector<float>& vector = out_.vectors[running.input];
    vector = std::move(std::get<engine::Finished>(*event).embedding);
    if (call_.dimensions != 0) api::shorten(vector, call_.dimensions);
  }
  running_ = std::move(left);
  if (const auto error = submit_more()) return fail(*error);
  if (!running_.empty()) return;
  ended_ = true;
  model_.reset();
  out_.seconds = seconds_since(started_);
  exchange_->respond(
      {200, "application/json", endpoint_.answer(call_, out_), reply_headers(id_, call_.warnings), false});
}

void Embedding::fail(const ApiError& error) {
  ended_ = true;
  running_.clear();
  model_.reset();
  exchange_->respond(error_response(endpoint_.protocol, error, id_));
}

}  // namespace mlxf::server
