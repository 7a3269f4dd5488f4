#include <chrono>
#include <cmath>
#include <utility>

#include "api/answer_reader.h"
#include "api/ollama.h"

namespace mlxf::api {
namespace {

using engine::Finished;
using engine::GeneratedToken;

std::string now_text() {
  return time_text(
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
          .count());
}

int64_t nanoseconds(double seconds) { return std::llround(seconds * 1e9); }

// Generate says {"response": text}, chat says {"message": {"role", "content"}}.
enum class Form : uint8_t { kGenerate, kChat };

Json line(Form form, const std::string& model, const std::string& text) {
  Json out = {{"model", model}, {"created_at", now_text()}, {"done", false}};
  if (form == Form::kGenerate) {
    out["response"] = text;
  } else {
    out["message"] = {{"role", "assistant"}, {"content", text}};
  }
  return out;
}

class OllamaReply final : public Reply {
 public:
  OllamaReply(const Call& call, const ReplyFacts& facts, Form form)
      : facts_(facts),
        reader_(call, facts),
        logprobs_(call.logprobs),
        load_only_(call.load_only),
        stream_(call.stream),
        form_(form) {}

  std::string begin() override { return {}; }
  std::string token(const GeneratedToken& token) override {
    Json entry;
    if (logprobs_ && token.id >= 0) {
      entry = one(token.id, token.logprob);
      for (const decode::TokenLogprob& other : token.top)
        entry["top_logprobs"].push_back(one(other.id, other.logprob));
      if (!stream_) all_.push_back(entry);
    }
    return tell(reader_.push(token), std::move(entry));
  }
  std::string end(const Finished& finished) override {
    return tell(reader_.finish(), nullptr) + dump_json(last(finished, "")) + "\n";
  }
  std::string whole(const Finished& finished) override {
    (void)reader_.finish();
    const Turn& turn = reader_.turn();
    Json out = last(finished, turn.content);
    if (!turn.reasoning.empty()) body(out)["thinking"] = turn.reasoning;
    for (size_t i = 0; i < turn.calls.size(); ++i) body(out)["tool_calls"].push_back(shown_call(i));
    if (logprobs_) out["logprobs"] = all_;
    return dump_json(out);
  }

 private:
  // Where an answer's parts stand.
  [[nodiscard]] Json& body(Json& out) const { return form_ == Form::kChat ? out["message"] : out; }
  [[nodiscard]] Json shown_call(size_t i) const {
    const ToolCall& call = reader_.turn().calls[i];
    return {{"id", call.id},
            {"function",
             {{"index", i},
              {"name", call.name},
              {"arguments", parse_json(call.arguments).value_or(Json::object())}}}};
  }
  // A line for each event; calls come whole. The token's log-probabilities go with the first.
  std::string tell(const std::vector<text::AnswerEvent>& events, Json entry) {
    using Kind = text::AnswerEvent::Kind;
    if (!stream_) return {};
    std::string lines;
    const auto add = [&](Json out) {
      if (!entry.is_null()) out["logprobs"] = Json::array({std::exchange(entry, nullptr)});
      lines += dump_json(out);
      lines += '\n';
    };
    for (const text::AnswerEvent& event : events) {
      Json out = line(form_, facts_.model, "");
      if (event.kind == Kind::kContent || event.kind == Kind::kCallBroken) {
        out = line(form_, facts_.model, event.text);
      } else if (event.kind == Kind::kReasoning) {
        body(out)["thinking"] = event.text;
      } else if (event.kind == Kind::kCallEnd) {
        body(out)["tool_calls"] = Json::array({shown_call(told_++)});
      } else {
        continue;
      }
      add(std::move(out));
    }
    if (!entry.is_null()) add(line(form_, facts_.model, ""));
    return lines;
  }
  [[nodiscard]] Json last(const Finished& finished, const std::string& text) const {
    Json out = line(form_, facts_.model, text);
    out["done"] = true;
    if (load_only_) {
      out["done_reason"] = "load";
      return out;
    }
    const engine::Usage& usage = finished.usage;
    out["done_reason"] = engine::name_of(finished.reason);
    out["total_duration"] = nanoseconds(usage.queue_seconds + usage.prompt_seconds + usage.generate_seconds);
    out["load_duration"] = 0;
    out["prompt_eval_count"] = usage.prompt_tokens;
    out["prompt_eval_duration"] = nanoseconds(usage.prompt_seconds);
    out["eval_count"] = usage.generated_tokens;
    out["eval_duration"] = nanoseconds(usage.generate_seconds);
    return out;
  }
  [[nodiscard]] Json one(TokenId id, float logprob) const {
    return {{"token", shown_token(facts_.tokenizer, id)}, {"logprob", logprob}};
  }

  const ReplyFacts facts_;
  AnswerReader reader_;
  const bool logprobs_, load_only_, stream_;
  const Form form_;
  size_t told_ = 0;  // Calls, in a stream.
  Json all_ = Json::array();
};

// A line without text: clients read every line as an object.
std::string generate_heartbeat(const Call& call, StreamState&) {
  return dump_json(line(Form::kGenerate, call.model, "")) + "\n";
}
std::string chat_heartbeat(const Call& call, StreamState&) {
  return dump_json(line(Form::kChat, call.model, "")) + "\n";
}

std::string unloaded(Form form, const Call& call, const StreamState& stream) {
  Json out = line(form, stream.model, "");
  out["done"] = true;
  out["done_reason"] = "unload";
  return dump_json(out) + (call.stream ? "\n" : "");
}
std::string generate_unloaded(const Call& call, const StreamState& stream) {
  return unloaded(Form::kGenerate, call, stream);
}
std::string chat_unloaded(const Call& call, const StreamState& stream) {
  return unloaded(Form::kChat, call, stream);
}

Json capabilities(const OllamaModel& model) {
  const text::AnswerFormat format = text::detect_answer_format(model.chat_template);
  Json out = {"completion"};
  if (format.calls != text::CallStyle::kNone) out.push_back("tools");
  if (format.thinks()) out.push_back("thinking");
  return out;
}

Json details(const OllamaModel& model) {
  return {{"parent_model", ""},           {"format", model.format},
          {"family", model.architecture}, {"families", {model.architecture}},
          {"parameter_size", ""},         {"quantization_level", ""}};
}

}  // namespace

std::unique_ptr<Reply> ollama_generate_reply(const Call& call, const ReplyFacts& facts) {
  return std::make_unique<OllamaReply>(call, facts, Form::kGenerate);
}

std::unique_ptr<Reply> ollama_chat_reply(const Call& call, const ReplyFacts& facts) {
  return std::make_unique<OllamaReply>(call, facts, Form::kChat);
}

const Endpoint& ollama_generate() {
  static constexpr Endpoint kEndpoint{
      Protocol::kOllama, parse_ollama_generate, ollama_generate_reply, generate_heartbeat, nullptr,
      nullptr,           generate_unloaded};
  return kEndpoint;
}

const Endpoint& ollama_chat() {
  static constexpr Endpoint kEndpoint{Protocol::kOllama, parse_ollama_chat, ollama_chat_reply, chat_heartbeat,
                                      nullptr,           nullptr,           chat_unloaded};
  return kEndpoint;
}

Json ollama_tag(const OllamaModel& model) {
  return {{"name", model.name + ":latest"},
          {"model", model.name + ":latest"},
          {"modified_at", time_text(model.modified)},
          {"size", model.bytes},
          {"details", details(model)},
          {"capabilities", capabilities(model)}};
}

Json ollama_running(const OllamaModel& model, int64_t expires) {
  Json out = ollama_tag(model);
  out.erase("modified_at");
  out["expires_at"] = time_text(expires);
  out["size_vram"] = 0;
  out["context_length"] = model.context_tokens;
  return out;
}

Json ollama_show(const OllamaModel& model) {
  return {{"template", model.chat_template},
          {"details", details(model)},
          {"model_info",
           {{"general.architecture", model.architecture},
            {model.architecture + ".context_length", model.context_tokens_max}}},
          {"capabilities", capabilities(model)},
          {"modified_at", time_text(model.modified)}};
}

}  // namespace mlxf::api
