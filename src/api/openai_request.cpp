#include <charconv>
#include <limits>

#include "api/fields.h"
#include "api/messages.h"
#include "api/openai.h"
#include "api/tools.h"
#include "text/utf8.h"

namespace mlxf::api {
namespace {

using Unexpected = tl::unexpected<ApiError>;
constexpr int64_t kMostTokens = std::numeric_limits<int32_t>::max();
constexpr size_t kStopsMax = 64;
constexpr size_t kBiasesMax = 4096;

std::optional<float> as_float(std::optional<double> value) {
  return value ? std::optional(static_cast<float>(*value)) : std::nullopt;
}
std::optional<uint32_t> as_count(std::optional<int64_t> value) {
  return value ? std::optional(static_cast<uint32_t>(*value)) : std::nullopt;
}

void read_logit_bias(Fields& fields, Sampling& sampling) {
  const Json* biases = fields.object("logit_bias");
  if (biases == nullptr) return;
  if (biases->size() > kBiasesMax)
    fields.fail(ErrorKind::kInvalidRequest, "logit_bias", "has too many members");
  for (const auto& [name, bias] : biases->items()) {
    TokenId id = 0;
    const auto [end, problem] = std::from_chars(name.data(), name.data() + name.size(), id);
    if (problem != std::errc() || end != name.data() + name.size() || !bias.is_number() ||
        !(bias.get<double>() >= -100.0 && bias.get<double>() <= 100.0)) {
      fields.fail(ErrorKind::kInvalidRequest, "logit_bias",
                  "must map token ids to numbers between -100 and 100");
      return;
    }
    sampling.logit_bias.emplace_back(id, bias.get<float>());
  }
}

// What both endpoints have, the extensions of other local servers included.
void read_common(Fields& fields, Call& call) {
  call.model = fields.text("model").value_or("");
  call.stream = fields.flag("stream").value_or(false);
  if (const Json* options = fields.object("stream_options")) {
    Fields inner(*options, "stream_options.");
    call.include_usage = inner.flag("include_usage").value_or(false);
    inner.accept("include_obfuscation");  // Padding against eavesdroppers on a network.
    if (inner.error())
      fields.fail(inner.error()->kind, "stream_options", "include_usage must be true or false");
    for (const std::string& name : inner.unknown())
      call.warnings.push_back("unknown field " + name + " ignored");
  }
  Sampling& s = call.sampling;
  s.temperature = as_float(fields.number("temperature", 0.0, 100.0));
  s.top_p = as_float(fields.number("top_p", 0.0, 1.0));
  s.min_p = as_float(fields.number("min_p", 0.0, 1.0));
  s.typical_p = as_float(fields.number("typical_p", 0.0, 1.0));
  s.top_k = as_count(fields.integer("top_k", -1, kMostTokens));
  if (s.top_k == static_cast<uint32_t>(-1)) s.top_k = 0;
  s.presence_penalty = as_float(fields.number("presence_penalty", -2.0, 2.0));
  s.frequency_penalty = as_float(fields.number("frequency_penalty", -2.0, 2.0));
  s.repetition_penalty = as_float(fields.number("repeat_penalty", 0.01, 100.0));
  if (const auto other = fields.number("repetition_penalty", 0.01, 100.0))
    s.repetition_penalty = as_float(other);
  s.repeat_last_n = as_count(fields.integer("repeat_last_n", 0, kMostTokens));
  if (const auto seed =
          fields.integer("seed", std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max()))
    s.seed = static_cast<uint64_t>(*seed);
  read_logit_bias(fields, s);
  call.stop = fields.texts("stop", kStopsMax);
  call.ignore_end = fields.flag("ignore_eos").value_or(false);
  call.context_tokens = as_count(fields.integer("num_ctx", 1, kMostTokens)).value_or(0);
  call.max_tokens = as_count(fields.integer("max_tokens", 1, kMostTokens)).value_or(0);
  const auto n = fields.integer("n", 1, 128);
  if (n && *n != 1) fields.fail(ErrorKind::kUnsupported, "n", "must be 1: one answer is made per request");
  fields.warn("service_tier", {"auto", "default"}, call.warnings);
  for (const char* name :
       {"user", "metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier"})
    fields.accept(name);
  fields.refuse("lora", "is not supported");
}

// The first error, or the call with its warnings.
tl::expected<Call, ApiError> checked(const Fields& fields, Call call) {
  if (fields.error()) return Unexpected(*fields.error());
  for (const std::string& name : fields.unknown())
    call.warnings.push_back("unknown field " + name + " ignored");
  return call;
}

void read_chat_logprobs(Fields& fields, Call& call) {
  call.logprobs = fields.flag("logprobs").value_or(false);
  const auto top = fields.integer("top_logprobs", 0, 20);
  call.top_logprobs = as_count(top).value_or(0);
  if (top && !call.logprobs)
    fields.fail(ErrorKind::kInvalidRequest, "top_logprobs", "needs logprobs to be true");
}

// What a template makes of thinking: "none" switches it off where the template knows how.
void read_reasoning(Fields& fields, text::RenderOptions& render) {
  if (const auto effort = fields.text("reasoning_effort")) {
    render.enable_thinking = *effort != "none";
    if (*effort != "none") render.variables["reasoning_effort"] = *effort;
  }
  if (const Json* variables = fields.object("chat_template_kwargs"))
    for (const auto& [name, value] : variables->items()) {
      if (name == "enable_thinking" && value.is_boolean()) {
        render.enable_thinking = value.get<bool>();
      } else {
        render.variables[name] = value;
      }
    }
}

void refuse_what_chat_lacks(Fields& fields) {
  constexpr std::string_view kOlder = "is not supported: it is the older form of tools";
  fields.refuse("functions", kOlder);
  fields.refuse("function_call", kOlder, {"none", "auto"});
  fields.refuse("modalities", "is not supported but for text", {Json::array({"text"})});
  fields.refuse("audio", "is not supported");
  fields.refuse("prediction", "is not supported");
  fields.refuse("web_search_options", "is not supported");
  fields.refuse("verbosity", "is not supported", {"medium"});
  fields.refuse("store", "is not supported: nothing is stored", {false});
}

// A completion's prompt: a string, token ids, or an array of one of them.
void read_prompt(Fields& fields, Call& call) {
  const Json* prompt = fields.find("prompt");
  constexpr const char* kForms = "must be a string or an array of token ids";
  if (prompt == nullptr) return fields.fail(ErrorKind::kInvalidRequest, "prompt", "is missing");
  if (prompt->is_array() && !prompt->empty() && !prompt->front().is_number()) {
    if (prompt->size() > 1)
      return fields.fail(ErrorKind::kUnsupported, "prompt", "must be one: one answer is made per request");
    prompt = &prompt->front();
  }
  if (prompt->is_string()) {
    call.prompt = TextPrompt{prompt->get<std::string>(), true};
    return;
  }
  if (!prompt->is_array()) return fields.fail(ErrorKind::kInvalidRequest, "prompt", kForms);
  TokenPrompt tokens;
  for (const Json& id : *prompt) {
    if (!id.is_number_integer() || id < 0 || id > std::numeric_limits<TokenId>::max())
      return fields.fail(ErrorKind::kInvalidRequest, "prompt", kForms);
    tokens.push_back(id.get<TokenId>());
  }
  call.prompt = std::move(tokens);
}

}  // namespace

tl::expected<Call, ApiError> parse_chat_completion(const Json& body) {
  Call call;
  Fields fields(body);
  read_common(fields, call);
  if (const auto most = fields.integer("max_completion_tokens", 1, kMostTokens))
    call.max_tokens = static_cast<uint32_t>(*most);
  read_chat_logprobs(fields, call);
  ChatPrompt chat;
  read_reasoning(fields, chat.render);
  read_tools(fields, Protocol::kOpenAi, call, chat.render);
  refuse_what_chat_lacks(fields);
  read_openai_structure(fields, call.structure);
  const Json* messages = fields.find("messages");
  if (messages == nullptr)
    return Unexpected({ErrorKind::kInvalidRequest, "missing required field: messages", "messages"});
  auto plain = chat_messages(*messages, call.warnings);
  if (!plain) return Unexpected(plain.error());
  chat.messages = std::move(*plain);
  call.prompt = std::move(chat);
  return checked(fields, std::move(call));
}

tl::expected<Call, ApiError> parse_completion(const Json& body) {
  Call call;
  Fields fields(body);
  read_common(fields, call);
  if (call.max_tokens == 0) call.max_tokens = 16;  // The protocol's own default.
  if (const auto logprobs = fields.integer("logprobs", 0, 20)) {
    call.logprobs = true;
    call.top_logprobs = static_cast<uint32_t>(*logprobs);
  }
  call.echo = fields.flag("echo").value_or(false);
  if (call.echo && call.logprobs)
    fields.fail(ErrorKind::kUnsupported, "echo", "together with logprobs is not supported");
  fields.refuse("suffix", "is not supported", {""});
  const auto best_of = fields.integer("best_of", 1, 128);
  if (best_of && *best_of != 1)
    fields.fail(ErrorKind::kUnsupported, "best_of", "must be 1: one answer is made per request");
  read_openai_structure(fields, call.structure);
  read_prompt(fields, call);
  return checked(fields, std::move(call));
}

}  // namespace mlxf::api
