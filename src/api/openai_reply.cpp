#include <utility>

#include "api/answer_reader.h"
#include "api/openai.h"

namespace mlxf::api {
namespace {

using engine::Finished;
using engine::GeneratedToken;

Json usage_of(const engine::Usage& usage, uint32_t reasoning_tokens) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.generated_tokens},
          {"total_tokens", usage.prompt_tokens + usage.generated_tokens},
          {"prompt_tokens_details", {{"cached_tokens", usage.cached_tokens}}},
          {"completion_tokens_details", {{"reasoning_tokens", reasoning_tokens}}}};
}

Json bytes_of(const text::Tokenizer& tokenizer, TokenId id) {
  Json bytes = Json::array();
  for (const char byte : tokenizer.token_bytes(id)) bytes.push_back(static_cast<unsigned char>(byte));
  return bytes;
}

// What the chat and the text form have in common: the frame of objects and events.
class OpenAiReply : public Reply {
 public:
  OpenAiReply(const Call& call, const ReplyFacts& facts, const char* prefix, const char* object)
      : facts_(facts),
        logprobs_(call.logprobs),
        include_usage_(call.include_usage),
        stream_(call.stream),
        prefix_(prefix),
        object_(object) {}

  std::string end(const Finished& finished) override {
    std::string out = held_back();  // First: the last choice says what it made of the answer.
    out += sse_data(dump_json(frame(Json::array({last_choice(finished)}))));
    if (include_usage_) {
      Json chunk = frame(Json::array());
      chunk["usage"] = usage_of(finished.usage, reasoning_tokens());
      out += sse_data(dump_json(chunk));
    }
    return out + sse_data("[DONE]");
  }

 protected:
  // The chunks that are left when the last token has come.
  [[nodiscard]] virtual std::string held_back() { return {}; }
  [[nodiscard]] virtual Json last_choice(const Finished& finished) = 0;
  [[nodiscard]] virtual uint32_t reasoning_tokens() const { return 0; }

  [[nodiscard]] Json frame(Json choices, bool whole = false) const {
    Json out = {{"id", prefix_ + facts_.id},
                {"object", whole ? object_ : chunk_object()},
                {"created", facts_.created},
                {"model", facts_.model},
                {"choices", std::move(choices)}};
    if (!whole && include_usage_) out["usage"] = nullptr;
    return out;
  }
  [[nodiscard]] static Json choice(Json finish_reason) {
    return {{"index", 0}, {"logprobs", nullptr}, {"finish_reason", std::move(finish_reason)}};
  }

  const ReplyFacts facts_;
  const bool logprobs_, include_usage_, stream_;

 private:
  [[nodiscard]] std::string chunk_object() const {
    return object_ == "chat.completion" ? "chat.completion.chunk" : object_;
  }
  const std::string prefix_, object_;
};

class ChatReply final : public OpenAiReply {
 public:
  ChatReply(const Call& call, const ReplyFacts& facts)
      : OpenAiReply(call, facts, "chatcmpl-", "chat.completion"), reader_(call, facts) {}

  std::string begin() override {
    return chunk({{"role", "assistant"}, {"content", ""}, {"refusal", nullptr}}, nullptr);
  }
  std::string token(const GeneratedToken& token) override {
    Json logprobs;
    if (logprobs_ && token.id >= 0) {
      Json one = entry(token.id, token.logprob);
      one["top_logprobs"] = Json::array();
      for (const decode::TokenLogprob& other : token.top)
        one["top_logprobs"].push_back(entry(other.id, other.logprob));
      if (!stream_) content_.push_back(one);
      logprobs = {{"content", Json::array({std::move(one)})}, {"refusal", nullptr}};
    }
    return tell(reader_.push(token), std::move(logprobs));
  }
  std::string whole(const Finished& finished) override {
    (void)reader_.finish();
    const Turn& turn = reader_.turn();
    Json message = {{"role", "assistant"}, {"content", turn.content}, {"refusal", nullptr}};
    if (!turn.reasoning.empty()) message["reasoning_content"] = message["reasoning"] = turn.reasoning;
    for (const ToolCall& call : turn.calls)
      message["tool_calls"].push_back({{"id", call.id},
                                       {"type", "function"},
                                       {"function", {{"name", call.name}, {"arguments", call.arguments}}}});
    if (turn.content.empty() && !turn.calls.empty()) message["content"] = nullptr;
    Json only = choice(finish_name(finished));
    only["message"] = std::move(message);
    if (logprobs_) only["logprobs"] = {{"content", content_}, {"refusal", nullptr}};
    Json out = frame(Json::array({std::move(only)}), true);
    out["usage"] = usage_of(finished.usage, reasoning_tokens());
    return dump_json(out);
  }

 private:
  std::string held_back() override { return tell(reader_.finish(), nullptr); }
  Json last_choice(const Finished& finished) override {
    Json last = choice(finish_name(finished));
    last["delta"] = Json::object();
    return last;
  }
  [[nodiscard]] const char* finish_name(const Finished& finished) const {
    return reader_.calls_tools(finished) ? "tool_calls" : engine::name_of(finished.reason);
  }
  [[nodiscard]] Json entry(TokenId id, float logprob) const {
    return {{"token", shown_token(facts_.tokenizer, id)},
            {"logprob", logprob},
            {"bytes", bytes_of(facts_.tokenizer, id)}};
  }

  [[nodiscard]] std::string chunk(Json delta, Json logprobs) const {
    Json next = choice(nullptr);
    next["delta"] = std::move(delta);
    next["logprobs"] = std::move(logprobs);
    return sse_data(dump_json(frame(Json::array({std::move(next)}))));
  }
  // A chunk for each event; the token's log-probabilities go with the first.
  std::string tell(const std::vector<text::AnswerEvent>& events, Json logprobs) {
    if (!stream_) return {};
    std::string out;
    for (const text::AnswerEvent& event : events) {
      Json delta = delta_of(event);
      if (!delta.is_null()) out += chunk(std::move(delta), std::exchange(logprobs, nullptr));
    }
    if (!logprobs.is_null()) out += chunk({{"content", ""}}, std::move(logprobs));
    return out;
  }
  [[nodiscard]] Json delta_of(const text::AnswerEvent& event) const {
    using Kind = text::AnswerEvent::Kind;
    switch (event.kind) {
      case Kind::kContent:
      case Kind::kCallBroken:
        return {{"content", event.text}};
      case Kind::kReasoning:
        return {{"reasoning_content", event.text}, {"reasoning", event.text}};
      case Kind::kCallBegin:
        return {{"tool_calls", Json::array({{{"index", event.call},
                                             {"id", reader_.call_id(event.call)},
                                             {"type", "function"},
                                             {"function", {{"name", event.text}, {"arguments", ""}}}}})}};
      case Kind::kArguments:
        return {{"tool_calls",
                 Json::array({{{"index", event.call}, {"function", {{"arguments", event.text}}}}})}};
      case Kind::kCallEnd:
        return nullptr;
    }
    return nullptr;
  }

  [[nodiscard]] uint32_t reasoning_tokens() const override { return reader_.reasoning_tokens(); }

  AnswerReader reader_;
  Json content_ = Json::array();  // The log-probabilities.
};

class CompletionReply final : public OpenAiReply {
 public:
  CompletionReply(const Call& call, const ReplyFacts& facts)
      : OpenAiReply(call, facts, "cmpl-", "text_completion"), echo_(call.echo) {}

  std::string begin() override { return echo_ ? piece(facts_.prompt_text, nullptr) : std::string(); }
  std::string token(const GeneratedToken& token) override {
    Json logprobs;
    if (logprobs_ && token.id >= 0) {
      logprobs = one(token);
      if (!stream_)
        for (const auto& [name, values] : logprobs.items())
          for (const Json& value : values) all_[name].push_back(value);
    }
    text_ += token.text;
    if (!stream_ || (token.text.empty() && logprobs.is_null())) return {};
    return piece(token.text, std::move(logprobs));
  }
  std::string whole(const Finished& finished) override {
    Json only = choice(engine::name_of(finished.reason));
    only["text"] = (echo_ ? facts_.prompt_text : std::string()) + text_;
    if (logprobs_) only["logprobs"] = all_;
    Json out = frame(Json::array({std::move(only)}), true);
    out["usage"] = usage_of(finished.usage, reasoning_tokens());
    return dump_json(out);
  }

 private:
  Json last_choice(const Finished& finished) override {
    Json last = choice(engine::name_of(finished.reason));
    last["text"] = "";
    return last;
  }
  std::string piece(const std::string& text, Json logprobs) const {
    Json next = choice(nullptr);
    next["text"] = text;
    next["logprobs"] = std::move(logprobs);
    return sse_data(dump_json(frame(Json::array({std::move(next)}))));
  }
  [[nodiscard]] Json one(const GeneratedToken& token) const {
    Json top = Json::object();
    for (const decode::TokenLogprob& other : token.top)
      top[shown_token(facts_.tokenizer, other.id)] = other.logprob;
    return {{"tokens", {shown_token(facts_.tokenizer, token.id)}},
            {"token_logprobs", {token.logprob}},
            {"top_logprobs", {top}},
            {"text_offset", {text_.size()}}};
  }

  const bool echo_;
  std::string text_;
  Json all_ = {{"tokens", Json::array()},
               {"token_logprobs", Json::array()},
               {"top_logprobs", Json::array()},
               {"text_offset", Json::array()}};
};

// A comment: clients read over it.
std::string heartbeat(const Call&, StreamState&) { return ": \n\n"; }

}  // namespace

std::unique_ptr<Reply> chat_completion_reply(const Call& call, const ReplyFacts& facts) {
  return std::make_unique<ChatReply>(call, facts);
}

std::unique_ptr<Reply> completion_reply(const Call& call, const ReplyFacts& facts) {
  return std::make_unique<CompletionReply>(call, facts);
}

const Endpoint& chat_completions() {
  static constexpr Endpoint kEndpoint{Protocol::kOpenAi, parse_chat_completion, chat_completion_reply,
                                      heartbeat};
  return kEndpoint;
}

const Endpoint& completions() {
  static constexpr Endpoint kEndpoint{Protocol::kOpenAi, parse_completion, completion_reply, heartbeat};
  return kEndpoint;
}

}  // namespace mlxf::api
