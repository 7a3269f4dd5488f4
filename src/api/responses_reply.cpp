#include <map>
#include <optional>
#include <string>
#include <utility>

#include "api/answer_reader.h"
#include "api/responses.h"
#include "api/tools.h"

namespace mlxf::api {
namespace {

using engine::Finished;
using engine::FinishReason;
using engine::GeneratedToken;

Json usage_of(const engine::Usage& usage, uint32_t reasoning_tokens) {
  return {{"input_tokens", usage.prompt_tokens},
          {"input_tokens_details", {{"cached_tokens", usage.cached_tokens}}},
          {"output_tokens", usage.generated_tokens},
          {"output_tokens_details", {{"reasoning_tokens", reasoning_tokens}}},
          {"total_tokens", usage.prompt_tokens + usage.generated_tokens}};
}

// The response object as it is before there is an answer.
Json response_of(const Json& repeated, const StreamState& stream, const char* status) {
  Json out = repeated.is_object() ? repeated : Json::object();
  out["id"] = "resp_" + stream.id;
  out["object"] = "response";
  out["created_at"] = stream.created;
  out["model"] = stream.model;
  out["status"] = status;
  out["output"] = Json::array();
  out["error"] = out["incomplete_details"] = out["usage"] = out["previous_response_id"] = nullptr;
  out["store"] = out["background"] = false;
  out["truncation"] = "disabled";
  return out;
}

std::string event(StreamState& stream, const char* type, Json data) {
  data["type"] = type;
  data["sequence_number"] = stream.events++;
  return sse_event(type, dump_json(data));
}

// What clients that retry tell apart: Codex gives up at once for the first two, and tries the others again.
std::string_view failure_code(ErrorKind kind) {
  if (kind == ErrorKind::kInvalidRequest || kind == ErrorKind::kUnsupported) return "invalid_prompt";
  return row_of(kind).code;
}

// The answer as items: a message, a reasoning or a call each, in the order in which the model wrote them.
class ResponseReply final : public Reply {
 public:
  ResponseReply(const Call& call, const ReplyFacts& facts)
      : repeated_(call.repeated),
        origins_(call.origins),
        logprobs_wanted_(call.logprobs),
        stream_(call.stream),
        facts_(facts),
        own_{facts.id, facts.model, facts.created},
        reader_(call, facts) {}

  std::string begin() override { return {}; }

  std::string token(const GeneratedToken& token) override {
    if (logprobs_wanted_ && token.id >= 0) {
      Json one = entry(token.id, token.logprob);
      Json& top = one["top_logprobs"] = Json::array();
      for (const decode::TokenLogprob& other : token.top) top.push_back(entry(other.id, other.logprob));
      pending_.push_back(std::move(one));
    }
    take(reader_.push(token));
    return std::exchange(out_, {});
  }

  std::string end(const Finished& finished) override {
    finish(finished);
    const Json response = ended(finished);
    const bool complete = response["status"] == "completed";
    tell(complete ? "response.completed" : "response.incomplete", {{"response", response}});
    return std::exchange(out_, {});
  }

  std::string whole(const Finished& finished) override {
    finish(finished);
    return dump_json(ended(finished));
  }

 private:
  enum class Kind : uint8_t { kMessage, kReasoning, kCall };
  struct Item {
    Kind kind;
    std::string id;
    std::string text = {};  // Of a call, its arguments.
    std::string call_id = {};
    ToolOrigin tool = {};           // Of a call.
    Json logprobs = Json::array();  // Of a message.
  };

  StreamState& numbers() { return facts_.stream != nullptr ? *facts_.stream : own_; }
  // Events are told one after the other: their numbers are taken in this order.
  void tell(const char* type, Json data) {
    if (stream_) out_ += event(numbers(), type, std::move(data));
  }

  void take(const std::vector<text::AnswerEvent>& events) {
    using Event = text::AnswerEvent::Kind;
    for (const text::AnswerEvent& event : events) {
      switch (event.kind) {
        case Event::kContent:
          write(Kind::kMessage, event.text);
          break;
        case Event::kReasoning:
          write(Kind::kReasoning, event.text);
          break;
        case Event::kCallBegin:
          close("completed");
          open_call(reader_.call_id(event.call), event.text);
          break;
        case Event::kArguments:
          open_->text += event.text;
          if (!open_->tool.custom)
            tell("response.function_call_arguments.delta", at_item({{"delta", event.text}}));
          break;
        case Event::kCallEnd:
          close("completed");
          break;
        case Event::kCallBroken:  // A client was told of it; others never hear of it.
          stream_ ? close("incomplete") : open_.reset();
          write(Kind::kMessage, event.text);
          break;
      }
    }
  }

  // A piece of a message or a reasoning, with the log-probabilities that wait for one.
  void write(Kind kind, const std::string& piece) {
    if (!open_ || open_->kind != kind) {
      close("completed");
      open({kind, (kind == Kind::kMessage ? "msg_" : "rs_") + place()});
    }
    open_->text += piece;
    if (kind == Kind::kReasoning) {
      pending_ = Json::array();
      return tell("response.reasoning_text.delta", at_part({{"delta", piece}}));
    }
    for (const Json& one : pending_) open_->logprobs.push_back(one);
    tell("response.output_text.delta",
         at_part({{"delta", piece}, {"logprobs", std::exchange(pending_, Json::array())}}));
  }

  void open_call(const std::string& id, const std::string& name) {
    const auto origin = origins_.find(name);
    ToolOrigin tool = origin == origins_.end() ? ToolOrigin{name, {}} : origin->second;
    const char* prefix = tool.custom ? "ctc_" : "fc_";
    open({Kind::kCall, prefix + place(), {}, id, std::move(tool)});
  }

  void open(Item item) {
    open_ = std::move(item);
    Json begun = shown("in_progress");
    if (open_->kind == Kind::kCall) {
      pending_ = Json::array();
    } else {
      begun["content"] = Json::array();
    }
    tell("response.output_item.added", {{"output_index", output_.size()}, {"item", std::move(begun)}});
    if (open_->kind != Kind::kCall) tell("response.content_part.added", at_part({{"part", part()}}));
  }

  void close(const char* status) {
    if (!open_) return;
    if (open_->kind == Kind::kCall && open_->tool.custom) {
      open_->text = custom_input(open_->text);  // Told at once: what a text is shows at its end.
      tell("response.custom_tool_call_input.delta", at_item({{"delta", open_->text}}));
      tell("response.custom_tool_call_input.done", at_item({{"input", open_->text}}));
    } else if (open_->kind == Kind::kCall) {
      tell("response.function_call_arguments.done",
           at_item({{"name", open_->tool.name}, {"arguments", open_->text}}));
    } else {
      Json text = {{"text", open_->text}};
      if (open_->kind == Kind::kMessage) text["logprobs"] = open_->logprobs;
      tell(open_->kind == Kind::kMessage ? "response.output_text.done" : "response.reasoning_text.done",
           at_part(std::move(text)));
      tell("response.content_part.done", at_part({{"part", part()}}));
    }
    Json item = shown(status);
    tell("response.output_item.done", {{"output_index", output_.size()}, {"item", item}});
    output_.push_back(std::move(item));
    open_.reset();
  }

  void finish(const Finished& finished) {
    take(reader_.finish());
    const bool message = open_ && open_->kind == Kind::kMessage;
    if ((message && !pending_.empty()) || (!open_ && output_.empty())) write(Kind::kMessage, {});
    close(status_of(finished));
  }

  // What tells an item from all others of this answer.
  [[nodiscard]] std::string place() const { return facts_.id + "_" + std::to_string(output_.size()); }
  [[nodiscard]] Json shown(const char* status) const {
    Json out = {{"id", open_->id}, {"status", status}};
    switch (open_->kind) {
      case Kind::kMessage:
        out["type"] = "message";
        out["role"] = "assistant";
        out["content"] = Json::array({part()});
        break;
      case Kind::kReasoning:
        out["type"] = "reasoning";
        out["summary"] = Json::array();
        out["content"] = Json::array({part()});
        break;
      case Kind::kCall:
        out["type"] = open_->tool.custom ? "custom_tool_call" : "function_call";
        out["call_id"] = open_->call_id;
        out["name"] = open_->tool.name;
        if (!open_->tool.space.empty()) out["namespace"] = open_->tool.space;
        out[open_->tool.custom ? "input" : "arguments"] = open_->text;
        break;
    }
    return out;
  }
  [[nodiscard]] Json part() const {
    if (open_->kind == Kind::kReasoning) return {{"type", "reasoning_text"}, {"text", open_->text}};
    Json part = {{"type", "output_text"}, {"text", open_->text}, {"annotations", Json::array()}};
    if (logprobs_wanted_) part["logprobs"] = open_->logprobs;
    return part;
  }
  [[nodiscard]] Json at_item(Json data) const {
    data["item_id"] = open_->id;
    data["output_index"] = output_.size();
    return data;
  }
  [[nodiscard]] Json at_part(Json data) const {
    data["content_index"] = 0;
    return at_item(std::move(data));
  }

  [[nodiscard]] static const char* status_of(const Finished& finished) {
    return finished.reason == FinishReason::kStop ? "completed" : "incomplete";
  }
  [[nodiscard]] Json ended(const Finished& finished) {
    Json out = response_of(repeated_, numbers(), status_of(finished));
    if (finished.reason != FinishReason::kStop) out["incomplete_details"] = {{"reason", "max_output_tokens"}};
    out["output"] = output_;
    out["usage"] = usage_of(finished.usage, reader_.reasoning_tokens());
    return out;
  }
  [[nodiscard]] Json entry(TokenId id, float logprob) const {
    Json bytes = Json::array();
    for (const char byte : facts_.tokenizer.token_bytes(id))
      bytes.push_back(static_cast<unsigned char>(byte));
    return {{"token", shown_token(facts_.tokenizer, id)}, {"logprob", logprob}, {"bytes", std::move(bytes)}};
  }

  const Json repeated_;
  const std::map<std::string, ToolOrigin> origins_;
  const bool logprobs_wanted_, stream_;
  const ReplyFacts facts_;
  StreamState own_;
  AnswerReader reader_;
  std::string out_;               // Events to be sent.
  Json output_ = Json::array();   // Items that are done.
  std::optional<Item> open_;      // The one that is being written.
  Json pending_ = Json::array();  // Log-probabilities of tokens whose text is held back.
};

}  // namespace

std::string open_response(const Call& call, StreamState& stream) {
  std::string out =
      event(stream, "response.created", {{"response", response_of(call.repeated, stream, "in_progress")}});
  out += response_heartbeat(call, stream);
  return out;
}

std::string response_heartbeat(const Call& call, StreamState& stream) {
  return event(stream, "response.in_progress",
               {{"response", response_of(call.repeated, stream, "in_progress")}});
}

std::string response_failure(const Call& call, StreamState& stream, const ApiError& error) {
  Json response = response_of(call.repeated, stream, "failed");
  response["error"] = {{"code", failure_code(error.kind)}, {"message", error.message}};
  return event(stream, "response.failed", {{"response", std::move(response)}});
}

std::unique_ptr<Reply> response_reply(const Call& call, const ReplyFacts& facts) {
  return std::make_unique<ResponseReply>(call, facts);
}

const Endpoint& responses() {
  static constexpr Endpoint kEndpoint{Protocol::kOpenAi,  parse_response_request, response_reply,
                                      response_heartbeat, open_response,          response_failure};
  return kEndpoint;
}

}  // namespace mlxf::api
