#include "api/anthropic.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "api/answer_reader.h"
#include "api/anthropic_turns.h"
#include "api/fields.h"
#include "api/messages.h"
#include "api/tools.h"

namespace mlxf::api {
namespace {

using engine::Finished;
using engine::FinishReason;
using engine::GeneratedToken;
using Unexpected = tl::unexpected<ApiError>;
constexpr size_t kStopsMax = 64;

// Members of an object of the request that nobody knows.
void warn_of_unknown(const Fields& fields, Call& call) {
  for (const std::string& name : fields.unknown())
    call.warnings.push_back("unknown field " + name + " ignored");
}

void read_thinking(Fields& fields, Call& call, text::RenderOptions& render) {
  const Json* given = fields.object("thinking");
  if (given == nullptr) return;
  Fields thinking(*given, "thinking.");
  const std::string type = thinking.text("type").value_or("");
  if (type == "enabled") {
    render.enable_thinking = true;
    call.wants_reasoning = true;
    if (thinking.find("budget_tokens") != nullptr)
      call.warnings.emplace_back("thinking.budget_tokens has no effect here");
  } else if (type == "disabled") {
    render.enable_thinking = false;
  } else if (type != "adaptive") {
    fields.fail(ErrorKind::kInvalidRequest, "thinking", "must be enabled, disabled or adaptive");
  }
  if (const Json* display = thinking.find("display"); display != nullptr && *display == "omitted")
    call.warnings.emplace_back("thinking.display ignored: thinking is shown");
  warn_of_unknown(thinking, call);
}

// Edits take old parts out of long conversations. Here nothing is taken out: what does not fit is refused.
void read_context_management(Fields& fields, Call& call) {
  const Json* given = fields.object("context_management");
  if (given == nullptr) return;
  Fields management(*given, "context_management.");
  if (const Json* edits = management.array("edits")) {
    const auto ignored = std::count_if(edits->begin(), edits->end(), [](const Json& edit) {
      const Json* keep = find_member(edit, "keep");
      return keep == nullptr || *keep != "all";
    });
    if (ignored != 0)
      call.warnings.emplace_back("context_management.edits ignored: the whole conversation is kept");
  }
  if (management.error())
    fields.fail(management.error()->kind, "context_management", "is refused: " + management.error()->message);
  warn_of_unknown(management, call);
  call.repeated["context_management"] = {{"applied_edits", Json::array()}};
}

// output_format is what output_config.format was called first.
void read_output(Fields& fields, Call& call, text::RenderOptions& render) {
  if (const Json* format = fields.find("output_format"))
    read_anthropic_format(fields, *format, "output_format", call.structure);
  const Json* given = fields.object("output_config");
  if (given == nullptr) return;
  Fields config(*given, "output_config.");
  if (const auto effort = config.text("effort")) render.variables["reasoning_effort"] = *effort;
  if (const Json* format = config.find("format"))
    read_anthropic_format(fields, *format, "output_config.format", call.structure);
  if (config.error())
    fields.fail(config.error()->kind, "output_config", "is refused: " + config.error()->message);
  warn_of_unknown(config, call);
}

void refuse_what_is_missing(Fields& fields, Call& call) {
  fields.refuse("mcp_servers", "is not supported");
  fields.refuse("container", "is not supported");
  fields.warn("service_tier", {"auto", "standard_only"}, call.warnings);
  fields.warn("inference_geo", {}, call.warnings);
  // What may be kept of a prompt is kept anyway.
  for (const char* name : {"metadata", "cache_control"}) fields.accept(name);
}

// The system prompt, then the messages.
tl::expected<OrderedJson, ApiError> read_messages(Fields& fields, Call& call) {
  const Json* messages = fields.find("messages");
  if (messages == nullptr || !messages->is_array() || messages->empty())
    return Unexpected({ErrorKind::kInvalidRequest, "messages must be a non-empty array", "messages"});
  for (size_t i = 0; i < messages->size(); ++i) {
    const auto role = find_string((*messages)[i], "role");
    if (role != "user" && role != "assistant" && role != "system")
      return Unexpected({ErrorKind::kInvalidRequest,
                         "messages[" + std::to_string(i) + "].role must be user, assistant or system",
                         "messages"});
  }
  if (find_string(messages->back(), "role") == "assistant")
    return Unexpected(
        {ErrorKind::kUnsupported,
         "messages must not end with the assistant's: an answer that is begun is not gone on with",
         "messages"});
  Json all = Json::array();
  if (const Json* system = fields.find("system")) all.push_back({{"role", "system"}, {"content", *system}});
  const Json turns = plain_turns(*messages, call.warnings);
  all.insert(all.end(), turns.begin(), turns.end());
  return chat_messages(all, call.warnings);
}

tl::expected<Call, ApiError> parse(const Json& body, bool needs_max_tokens) {
  Call call;
  Fields fields(body);
  call.model = fields.text("model").value_or("");
  const auto most = fields.integer("max_tokens", 1, std::numeric_limits<int32_t>::max());
  if (!most && needs_max_tokens) fields.fail(ErrorKind::kInvalidRequest, "max_tokens", "is missing");
  call.max_tokens = static_cast<uint32_t>(most.value_or(0));
  call.stream = fields.flag("stream").value_or(false);
  const auto as_float = [](std::optional<double> value) {
    return value ? std::optional(static_cast<float>(*value)) : std::nullopt;
  };
  call.sampling.temperature = as_float(fields.number("temperature", 0.0, 2.0));
  call.sampling.top_p = as_float(fields.number("top_p", 0.0, 1.0));
  if (const auto k = fields.integer("top_k", 0, std::numeric_limits<int32_t>::max()))
    call.sampling.top_k = static_cast<uint32_t>(*k);
  call.stop = fields.texts("stop_sequences", kStopsMax);
  ChatPrompt chat;
  read_thinking(fields, call, chat.render);
  read_tools(fields, Protocol::kAnthropic, call, chat.render);
  refuse_what_is_missing(fields, call);
  read_context_management(fields, call);
  read_output(fields, call, chat.render);
  auto messages = read_messages(fields, call);
  if (fields.error()) return Unexpected(*fields.error());
  if (!messages) return Unexpected(messages.error());
  chat.messages = std::move(*messages);
  call.prompt = std::move(chat);
  warn_of_unknown(fields, call);
  return call;
}

class MessageReply final : public Reply {
 public:
  MessageReply(const Call& call, const ReplyFacts& facts)
      : facts_(facts),
        reader_(call, facts),
        repeated_(call.repeated),
        max_tokens_(call.max_tokens),
        stream_(call.stream) {}

  std::string begin() override {
    engine::Usage usage;
    usage.prompt_tokens = facts_.prompt_tokens;
    return event({{"type", "message_start"}, {"message", message(Json::array(), nullptr, nullptr, usage)}});
  }
  std::string token(const GeneratedToken& token) override { return tell(reader_.push(token)); }
  std::string end(const Finished& finished) override {
    std::string out = tell(reader_.finish());
    if (blocks_ == 0) out += open(Block::kText, {{"type", "text"}, {"text", ""}});
    out += close();
    Json delta = {{"type", "message_delta"},
                  {"delta", {{"stop_reason", reason(finished)}, {"stop_sequence", stop_sequence(finished)}}},
                  {"usage", usage_of(finished.usage)}};
    if (repeated_.is_object()) delta.update(repeated_);
    return out + event(delta) + event({{"type", "message_stop"}});
  }
  std::string whole(const Finished& finished) override {
    (void)reader_.finish();
    const Turn& turn = reader_.turn();
    Json content = Json::array();
    if (!turn.reasoning.empty())
      content.push_back({{"type", "thinking"}, {"thinking", turn.reasoning}, {"signature", ""}});
    if (!turn.content.empty() || turn.calls.empty())
      content.push_back({{"type", "text"}, {"text", turn.content}});
    for (const ToolCall& call : turn.calls)
      content.push_back({{"type", "tool_use"},
                         {"id", call.id},
                         {"name", call.name},
                         {"input", parse_json(call.arguments).value_or(Json::object())}});
    Json out = message(std::move(content), reason(finished), stop_sequence(finished), finished.usage);
    if (repeated_.is_object()) out.update(repeated_);
    return dump_json(out);
  }

 private:
  enum class Block : uint8_t { kNone, kText, kThinking, kToolUse };

  std::string tell(const std::vector<text::AnswerEvent>& events) {
    if (!stream_) return {};
    std::string out;
    for (const text::AnswerEvent& event : events) out += tell(event);
    return out;
  }
  std::string tell(const text::AnswerEvent& event) {
    using Kind = text::AnswerEvent::Kind;
    std::string out;  // In steps: each event's index depends on those before it.
    switch (event.kind) {
      case Kind::kReasoning:
        out = open(Block::kThinking, {{"type", "thinking"}, {"thinking", ""}, {"signature", ""}});
        out += delta({{"type", "thinking_delta"}, {"thinking", event.text}});
        break;
      case Kind::kCallBroken:
      case Kind::kContent:
        out = open(Block::kText, {{"type", "text"}, {"text", ""}});
        out += delta({{"type", "text_delta"}, {"text", event.text}});
        break;
      case Kind::kCallBegin:
        out = close();
        out += open(Block::kToolUse, {{"type", "tool_use"},
                                      {"id", reader_.call_id(event.call)},
                                      {"name", event.text},
                                      {"input", Json::object()}});
        break;
      case Kind::kArguments:
        return delta({{"type", "input_json_delta"}, {"partial_json", event.text}});
      case Kind::kCallEnd:
        return close();
    }
    return out;
  }
  // Ends the block before, if it is another.
  std::string open(Block block, Json start) {
    if (block_ == block) return {};
    std::string out = close();
    block_ = block;
    return out +
           event(
               {{"type", "content_block_start"}, {"index", blocks_++}, {"content_block", std::move(start)}});
  }
  std::string close() {
    if (std::exchange(block_, Block::kNone) == Block::kNone) return {};
    return event({{"type", "content_block_stop"}, {"index", blocks_ - 1}});
  }
  [[nodiscard]] std::string delta(Json delta) const {
    return event({{"type", "content_block_delta"}, {"index", blocks_ - 1}, {"delta", std::move(delta)}});
  }
  static std::string event(const Json& data) {
    return sse_event(data["type"].get<std::string>(), dump_json(data));
  }
  static Json usage_of(const engine::Usage& usage) {
    return {{"input_tokens", usage.prompt_tokens - usage.cached_tokens},
            {"cache_creation_input_tokens", 0},
            {"cache_read_input_tokens", usage.cached_tokens},
            {"output_tokens", usage.generated_tokens}};
  }
  static Json stop_sequence(const Finished& finished) {
    return finished.stop_string.empty() ? Json(nullptr) : Json(finished.stop_string);
  }
  [[nodiscard]] std::string reason(const Finished& finished) const {
    if (reader_.calls_tools(finished)) return "tool_use";
    if (finished.reason == FinishReason::kStop)
      return finished.stop_string.empty() ? "end_turn" : "stop_sequence";
    return finished.usage.generated_tokens < max_tokens_ ? "model_context_window_exceeded" : "max_tokens";
  }
  [[nodiscard]] Json message(Json content, Json stop_reason, Json stop, const engine::Usage& usage) const {
    return {{"id", "msg_" + facts_.id},
            {"type", "message"},
            {"role", "assistant"},
            {"model", facts_.model},
            {"content", std::move(content)},
            {"stop_reason", std::move(stop_reason)},
            {"stop_sequence", std::move(stop)},
            {"usage", usage_of(usage)}};
  }

  const ReplyFacts facts_;
  AnswerReader reader_;
  const Json repeated_;
  const uint32_t max_tokens_;
  const bool stream_;
  Block block_ = Block::kNone;  // The one that is open.
  uint32_t blocks_ = 0;         // Begun.
};

std::string heartbeat(const Call&, StreamState&) { return sse_event("ping", R"({"type": "ping"})"); }

}  // namespace

tl::expected<Call, ApiError> parse_anthropic_message(const Json& body) { return parse(body, true); }
tl::expected<Call, ApiError> parse_anthropic_count(const Json& body) { return parse(body, false); }

std::unique_ptr<Reply> anthropic_reply(const Call& call, const ReplyFacts& facts) {
  return std::make_unique<MessageReply>(call, facts);
}

const Endpoint& anthropic_messages() {
  static constexpr Endpoint kEndpoint{Protocol::kAnthropic, parse_anthropic_message, anthropic_reply,
                                      heartbeat};
  return kEndpoint;
}

}  // namespace mlxf::api
