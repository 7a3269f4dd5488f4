#include "server/mcp_call.h"

#include <utility>

#include "server/answer.h"
#include "server/facts.h"

namespace mlxf::server {
namespace {

constexpr std::chrono::milliseconds kProgressWait(250);

}  // namespace

McpCall::McpCall(const McpContext& context, mcp::ToolCall call, McpCaller caller, std::string id)
    : context_(context), tool_call_(std::move(call)), caller_(std::move(caller)), request_id_(std::move(id)) {
  ++context_.open;
}

McpCall::~McpCall() { --context_.open; }

void McpCall::start() {
  if (tool_call_.tool == mcp::Tool::kGenerate) return start_generation();
  if (mcp::is_administrative(tool_call_.tool) && caller_.no_admin)
    return end(mcp::error_result(*caller_.no_admin));
  if (tool_call_.tool == mcp::Tool::kSwitchModel) return start_switch();
  if (const auto error = mcp::check_no_arguments(tool_call_.arguments)) return end(mcp::error_result(*error));
  if (tool_call_.tool == mcp::Tool::kReleaseMemory) return start_release();
  if (tool_call_.tool == mcp::Tool::kListModels) {
    Json models = models_facts(context_.host, context_.started);
    if (!context_.host.by_name())
      for (const std::string& name : context_.host.others())
        models.push_back(
            {{"id", name}, {"object", "model"}, {"owned_by", "mlx-flash"}, {"status", "not served"}});
    return end(mcp::json_result({{"models", models}}));
  }
  Json facts = status_facts(context_.host);
  if (tool_call_.tool == mcp::Tool::kCheckMemory)
    for (const char* name : {"model_loaded", "health", "hardware"}) facts.erase(name);
  end(mcp::json_result(std::move(facts)));
}

void McpCall::start_switch() {
  auto name = mcp::parse_switch(tool_call_.arguments);
  if (!name) return end(mcp::error_result(name.error()));
  context_.host.switch_to(
      std::move(*name), [self = shared_from_this()](const Result<ModelHost::Change>& done) {
        if (!done) return self->end_later(mcp::error_result(change_error(done.error(), self->context_.host)));
        self->end_later(mcp::json_result(
            {{"switched", true}, {"model", self->context_.host.name()}, {"previous", done->previous}}));
      });
}

void McpCall::start_release() {
  context_.host.release("", [self = shared_from_this()](const Result<ModelHost::Change>& done) {
    if (!done) return self->end_later(mcp::error_result(change_error(done.error(), self->context_.host)));
    self->end_later(
        mcp::json_result({{"action", done->was_loaded ? "released" : "none"}, {"model", done->previous}}));
  });
}

void McpCall::end_later(const mcp::ToolResult& result) {
  caller_.post([self = shared_from_this(), result] {
    if (!self->ended_) self->end(result);
  });
}

void McpCall::start_generation() {
  auto call = mcp::parse_generate(tool_call_.arguments);
  if (!call) return end(mcp::error_result(call.error()));
  call_ = std::move(*call);
  call_.stream = !tool_call_.progress_token.is_null();  // Events as they come are for progress alone.
  auto wanted = wanted_model(call_.model, context_.host);
  if (!wanted) return end(mcp::error_result(wanted.error()));
  context_.host.when_ready(
      *wanted,
      [weak = weak_from_this()](const Result<std::shared_ptr<ServedModel>>& model) {
        if (const auto self = weak.lock()) self->caller_.post([self, model] { self->on_model(model); });
      },
      weak_from_this());
}

void McpCall::on_model(const Result<std::shared_ptr<ServedModel>>& model) {
  if (ended_) return;
  if (!model) return end(mcp::error_result(wait_error(model.error(), call_.model, context_.host)));
  auto submitted = submit_call(call_, *model, request_id_, caller_.user, [weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->wake();
  });
  if (!submitted) return end(mcp::error_result(submitted.error()));
  ticket_ = std::move(submitted->ticket);
  call_.warnings.insert(call_.warnings.end(), submitted->warnings.begin(), submitted->warnings.end());
  reader_.emplace(call_, submitted->facts);
}

void McpCall::cancel() {
  ended_ = true;
  ticket_ = engine::Ticket();
}

// The engine's thread: something can be read from the ticket.
void McpCall::wake() {
  if (woken_.exchange(true)) return;
  caller_.post([self = shared_from_this()] {
    self->woken_ = false;
    self->pump();
  });
}

void McpCall::pump() {
  while (!ended_ && ticket_.valid()) {
    const std::optional<engine::Event> event = ticket_.poll();
    if (!event) break;
    handle(*event);
  }
  if (!ended_) say_progress();
}

void McpCall::handle(const engine::Event& event) {
  if (const auto* token = std::get_if<engine::GeneratedToken>(&event)) {
    (void)reader_->push(*token);
    if (token->id >= 0) ++tokens_;
    return;
  }
  if (const auto* error = std::get_if<Error>(&event)) return end(mcp::error_result(api::from_engine(*error)));
  const auto& finished = std::get<engine::Finished>(event);
  (void)reader_->finish();
  const api::Turn& turn = reader_->turn();
  Json structured = {{"text", turn.content},
                     {"finish_reason", engine::name_of(finished.reason)},
                     {"prompt_tokens", finished.usage.prompt_tokens},
                     {"cached_tokens", finished.usage.cached_tokens},
                     {"completion_tokens", finished.usage.generated_tokens}};
  if (!turn.reasoning.empty()) structured["reasoning"] = turn.reasoning;
  if (!call_.warnings.empty()) structured["warnings"] = call_.warnings;
  end({turn.content, structured, false});
}

void McpCall::say_progress() {
  const auto now = std::chrono::steady_clock::now();
  if (tool_call_.progress_token.is_null() || tokens_ == tokens_told_ || now - told_at_ < kProgressWait)
    return;
  tokens_told_ = tokens_;
  told_at_ = now;
  caller_.send(mcp::progress_message(tool_call_, tokens_, call_.max_tokens,
                                     std::to_string(tokens_) + " tokens written"),
               false);
}

void McpCall::end(const mcp::ToolResult& result) {
  ended_ = true;
  caller_.send(mcp::tool_answer(tool_call_, context_.version, result), true);
}

}  // namespace mlxf::server
