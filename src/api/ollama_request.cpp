#include <limits>

#include "api/fields.h"
#include "api/messages.h"
#include "api/ollama.h"
#include "api/tools.h"

namespace mlxf::api {
namespace {

using Unexpected = tl::unexpected<ApiError>;
constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
constexpr size_t kStopsMax = 64;

std::optional<float> as_float(std::optional<double> value) {
  return value ? std::optional(static_cast<float>(*value)) : std::nullopt;
}

void read_sampling(Fields& options, Call& call) {
  Sampling& s = call.sampling;
  s.temperature = as_float(options.number("temperature", 0.0, 100.0));
  s.top_p = as_float(options.number("top_p", 0.0, 1.0));
  s.min_p = as_float(options.number("min_p", 0.0, 1.0));
  s.typical_p = as_float(options.number("typical_p", 0.0, 1.0));
  s.repetition_penalty = as_float(options.number("repeat_penalty", 0.01, 100.0));
  s.presence_penalty = as_float(options.number("presence_penalty", -10.0, 10.0));
  s.frequency_penalty = as_float(options.number("frequency_penalty", -10.0, 10.0));
  if (const auto k = options.integer("top_k", -1, kMost)) s.top_k = *k < 0 ? 0 : static_cast<uint32_t>(*k);
  if (const auto seed =
          options.integer("seed", std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max());
      seed && *seed >= 0)  // Below zero: a new one each time.
    s.seed = static_cast<uint64_t>(*seed);
  // -1: as far as the context goes; 0: the repetition penalty is off.
  if (const auto last = options.integer("repeat_last_n", -1, kMost)) {
    s.repeat_last_n = *last < 0 ? 0 : static_cast<uint32_t>(*last);
    if (*last == 0) s.repetition_penalty = 1.0f;
  }
}

void read_options(Fields& fields, Call& call) {
  const Json* object = fields.object("options");
  if (object == nullptr) return;
  Fields options(*object, "options.");
  read_sampling(options, call);
  // -1 and -2: until the end, or until the context is full.
  if (const auto most = options.integer("num_predict", -2, kMost))
    call.max_tokens = *most < 0 ? 0 : static_cast<uint32_t>(*most);
  call.context_tokens = static_cast<uint32_t>(options.integer("num_ctx", 1, kMost).value_or(0));
  call.stop = options.texts("stop", kStopsMax);
  for (const char* name : {"num_batch", "num_gpu", "main_gpu", "use_mmap", "use_mlock", "num_thread",
                           "num_keep", "numa", "low_vram", "f16_kv", "vocab_only"})
    if (options.find(name) != nullptr)
      call.warnings.push_back("options." + std::string(name) + " has no effect here");
  if (options.error()) fields.fail(options.error()->kind, "options", options.error()->message);
  for (const std::string& name : options.unknown())
    call.warnings.push_back("unknown field " + name + " ignored");
}

// true, false or how much.
void read_think(Fields& fields, Call& call, text::RenderOptions& render) {
  const Json* think = fields.find("think");
  if (think == nullptr) return;
  if (*think == false || *think == "none") {
    render.enable_thinking = false;
    return;
  }
  const bool effort = *think == "low" || *think == "medium" || *think == "high" || *think == "max";
  if (*think != true && !effort)
    return fields.fail(ErrorKind::kInvalidRequest, "think",
                       "must be true, false, \"low\", \"medium\", \"high\" or \"max\"");
  render.enable_thinking = true;
  call.wants_reasoning = true;
  if (effort) render.variables["reasoning_effort"] = think->get<std::string>();
}

void read_common(Fields& fields, Call& call, text::RenderOptions& render) {
  call.model = fields.text("model").value_or("");
  if (call.model.empty()) fields.fail(ErrorKind::kInvalidRequest, "model", "is required");
  call.stream = fields.flag("stream").value_or(true);
  read_options(fields, call);
  read_ollama_format(fields, call.structure);
  read_think(fields, call, render);
  call.logprobs = fields.flag("logprobs").value_or(false);
  call.top_logprobs = static_cast<uint32_t>(fields.integer("top_logprobs", 0, 20).value_or(0));
  call.keep_alive = fields.duration("keep_alive");
  if (call.top_logprobs != 0 && !call.logprobs)
    fields.fail(ErrorKind::kInvalidRequest, "top_logprobs", "needs logprobs to be true");
  (void)fields.flag("truncate");  // A prompt that is too long is never cut here: it is refused.
  if (fields.flag("shift").value_or(false))
    call.warnings.emplace_back("shift has no effect: an answer ends where the context is full");
}

tl::expected<Call, ApiError> checked(const Fields& fields, Call call) {
  if (fields.error()) return Unexpected(*fields.error());
  for (const std::string& name : fields.unknown())
    call.warnings.push_back("unknown field " + name + " ignored");
  return call;
}

}  // namespace

tl::expected<Call, ApiError> parse_ollama_generate(const Json& body) {
  Call call;
  Fields fields(body);
  ChatPrompt chat;
  read_common(fields, call, chat.render);
  const std::string prompt = fields.text("prompt").value_or("");
  const auto system = fields.text("system");
  const bool raw = fields.flag("raw").value_or(false);
  fields.refuse("suffix", "is not supported", {""});
  fields.refuse("template", "is not supported", {""});
  fields.refuse("context",
                "is not supported: send the text itself; what it shares with the last is still there");
  fields.refuse("images", "are not understood here; only text is");
  if (prompt.empty()) {
    call.load_only = true;
  } else if (raw) {
    if (system && !system->empty())
      fields.fail(ErrorKind::kInvalidRequest, "system", "has no place in a raw prompt");
    if (call.wants_reasoning)
      fields.fail(ErrorKind::kUnsupported, "think", "has no place in a raw prompt: no template is applied");
    call.prompt = TextPrompt{prompt, true};
  } else {
    if (system && !system->empty()) chat.messages.push_back({{"role", "system"}, {"content", *system}});
    chat.messages.push_back({{"role", "user"}, {"content", prompt}});
    // A model without a template continues the text, as Ollama has it.
    if (chat.messages.size() == 1) chat.text_without_template = prompt;
    call.prompt = std::move(chat);
  }
  return checked(fields, std::move(call));
}

tl::expected<Call, ApiError> parse_ollama_chat(const Json& body) {
  Call call;
  Fields fields(body);
  ChatPrompt chat;
  read_common(fields, call, chat.render);
  read_tools(fields, Protocol::kOllama, call, chat.render);
  const Json* messages = fields.find("messages");
  if (fields.error()) return Unexpected(*fields.error());
  if (messages == nullptr || (messages->is_array() && messages->empty())) {
    call.load_only = true;
    return checked(fields, std::move(call));
  }
  auto plain = chat_messages(*messages, call.warnings);
  if (!plain) return Unexpected(plain.error());
  chat.messages = std::move(*plain);
  call.prompt = std::move(chat);
  return checked(fields, std::move(call));
}

}  // namespace mlxf::api
