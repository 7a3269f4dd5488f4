#include <algorithm>
#include <limits>
#include <map>

#include "api/fields.h"
#include "api/messages.h"
#include "api/responses.h"
#include "api/structured.h"
#include "api/tools.h"

namespace mlxf::api {
namespace {

using Unexpected = tl::unexpected<ApiError>;
constexpr int64_t kMostTokens = std::numeric_limits<int32_t>::max();
constexpr size_t kStopsMax = 64;
constexpr size_t kMetadataMax = 16;
constexpr std::string_view kStateless =
    "is not supported: nothing is stored here, send the whole conversation as input";

std::optional<float> as_float(std::optional<double> value) {
  return value ? std::optional(static_cast<float>(*value)) : std::nullopt;
}
std::optional<uint32_t> as_count(std::optional<int64_t> value) {
  return value ? std::optional(static_cast<uint32_t>(*value)) : std::nullopt;
}

// ---- input ----

Unexpected refused(ErrorKind kind, const std::string& where, const std::string& what) {
  return Unexpected({kind, where + " " + what, where});
}

// The text of parts of the types `text` names: of a message, of a reasoning, of what a tool returned.
tl::expected<std::string, ApiError> parts_text(const Json& parts, const std::string& where,
                                               std::initializer_list<std::string_view> types) {
  if (parts.is_string()) return parts.get<std::string>();
  if (!parts.is_array())
    return refused(ErrorKind::kInvalidRequest, where, "must be a string or an array of parts");
  std::string text;
  for (size_t i = 0; i < parts.size(); ++i) {
    const std::string part_at = where + "[" + std::to_string(i) + "]";
    const std::optional<std::string> type = find_string(parts[i], "type");
    if (!type) return refused(ErrorKind::kInvalidRequest, part_at, "has no type");
    if (std::find(types.begin(), types.end(), *type) == types.end())
      return refused(ErrorKind::kUnsupported, part_at,
                     "is of type " + *type + "; only text is understood here");
    const std::optional<std::string> part = find_string(parts[i], *type == "refusal" ? "refusal" : "text");
    if (!part) return refused(ErrorKind::kInvalidRequest, part_at, "has no text");
    if (i != 0) text += '\n';
    text += *part;
  }
  return text;
}

// Items become the messages that chat templates know: what the assistant thought, said and called in one turn is one
// message of theirs and several items here.
class Items {
 public:
  explicit Items(std::vector<std::string>& warnings) : warnings_(warnings) {}

  [[nodiscard]] std::optional<ApiError> add(const Json& item, const std::string& where) {
    if (!item.is_object()) return ApiError{ErrorKind::kInvalidRequest, where + " must be an object", where};
    const std::string type = find_string(item, "type").value_or("message");
    if (type == "message") return add_message(item, where);
    if (type == "function_call" || type == "custom_tool_call") return add_call(item, type, where);
    if (type == "function_call_output" || type == "custom_tool_call_output") return add_output(item, where);
    if (type == "reasoning") return add_reasoning(item, where);
    return ApiError{
        ErrorKind::kUnsupported,
        where + " is of type " + type +
            "; message, reasoning, and calls of functions and custom tools with their outputs are "
            "understood",
        where};
  }
  [[nodiscard]] OrderedJson take() {
    end_reasoning();
    return std::move(messages_);
  }

 private:
  void push(OrderedJson message) {
    end_reasoning();
    messages_.push_back(std::move(message));
  }
  // A reasoning that no message of the assistant followed.
  void end_reasoning() {
    if (reasoning_.empty()) return;
    OrderedJson message = {{"role", "assistant"}, {"content", ""}, {"reasoning_content", reasoning_}};
    reasoning_.clear();
    messages_.push_back(std::move(message));
  }
  OrderedJson assistant(const std::string& content) {
    OrderedJson message = {{"role", "assistant"}, {"content", content}};
    if (!reasoning_.empty()) message["reasoning_content"] = reasoning_;
    reasoning_.clear();
    return message;
  }

  [[nodiscard]] std::optional<ApiError> add_message(const Json& item, const std::string& where) {
    std::optional<std::string> role = find_string(item, "role");
    if (role == "developer") role = "system";
    if (role != "system" && role != "user" && role != "assistant")
      return ApiError{ErrorKind::kInvalidRequest,
                      where + ".role must be system, developer, user or assistant", where + ".role"};
    const Json* content = find_member(item, "content");
    if (content == nullptr)
      return ApiError{ErrorKind::kInvalidRequest, where + ".content is missing", where + ".content"};
    auto text = parts_text(*content, where + ".content", {"input_text", "output_text", "text", "refusal"});
    if (!text) return text.error();
    push(role == "assistant" ? assistant(*text) : OrderedJson{{"role", *role}, {"content", *text}});
    return std::nullopt;
  }
  [[nodiscard]] std::optional<ApiError> add_call(const Json& item, const std::string& type,
                                                 const std::string& where) {
    const bool custom = type == "custom_tool_call";
    const auto id = find_string(item, "call_id");
    auto name = find_string(item, "name");
    const char* member = custom ? "input" : "arguments";
    const auto text = find_string(item, member);
    if (!id || !name || !text)
      return ApiError{ErrorKind::kInvalidRequest, where + " must have call_id, name and " + member, where};
    if (const auto space = find_string(item, "namespace")) name = name_in_space(*space, *name);
    // Templates print arguments themselves, so they get them as what they are.
    OrderedJson arguments = *text;
    if (custom) {
      arguments = {{"input", *text}};
    } else if (auto parsed = parse_ordered_json(*text); parsed && parsed->is_object()) {
      arguments = std::move(*parsed);
    }
    const OrderedJson call = {{"id", *id},
                              {"type", "function"},
                              {"function", {{"name", *name}, {"arguments", std::move(arguments)}}}};
    names_[*id] = *name;
    if (!reasoning_.empty() || messages_.empty() || messages_.back()["role"] != "assistant")
      messages_.push_back(assistant(""));
    messages_.back()["tool_calls"].push_back(call);
    return std::nullopt;
  }
  [[nodiscard]] std::optional<ApiError> add_output(const Json& item, const std::string& where) {
    const auto id = find_string(item, "call_id");
    const Json* output = find_member(item, "output");
    if (!id || output == nullptr)
      return ApiError{ErrorKind::kInvalidRequest, where + " must have call_id and output", where};
    auto text =
        parts_text(result_parts(*output, where), where + ".output", {"input_text", "output_text", "text"});
    if (!text) return text.error();
    OrderedJson result = {{"role", "tool"}, {"tool_call_id", *id}, {"content", *text}};
    if (const auto name = names_.find(*id); name != names_.end()) result["name"] = name->second;
    push(std::move(result));
    return std::nullopt;
  }
  // What a tool returned beside text, as an image that it looked at, for a line that says so.
  [[nodiscard]] Json result_parts(const Json& output, const std::string& where) {
    if (!output.is_array()) return output;
    Json parts = output;
    LeftOutParts out;
    for (Json& part : parts) {
      const std::string type = find_string(part, "type").value_or("");
      if (type != "input_image" && type != "input_file") continue;
      part = {{"type", "input_text"}, {"text", left_out(type)}};
      out.add(type);
    }
    out.warn(where, warnings_);
    return parts;
  }
  [[nodiscard]] std::optional<ApiError> add_reasoning(const Json& item, const std::string& where) {
    std::string all;
    for (const char* name : {"content", "summary"}) {
      const Json* parts = find_member(item, name);
      if (parts == nullptr || !all.empty()) continue;
      auto text = parts_text(*parts, where + "." + name, {"reasoning_text", "summary_text"});
      if (!text) return text.error();
      all = std::move(*text);
    }
    if (all.empty()) {
      warnings_.push_back(where + " left out: reasoning without a text that can be read here");
    } else {
      if (!reasoning_.empty()) reasoning_ += '\n';
      reasoning_ += all;
    }
    return std::nullopt;
  }

  std::vector<std::string>& warnings_;
  OrderedJson messages_ = OrderedJson::array();
  std::string reasoning_;                     // For the assistant's message to come.
  std::map<std::string, std::string> names_;  // Of the functions, by their call's id.
};

// ---- options ----

void read_tools(Fields& fields, Call& call, ChatPrompt& chat) {
  const Json* tools = fields.array("tools");
  const Json* choice = fields.find("tool_choice");
  fields.accept("max_tool_calls");
  read_response_tools(fields, call, chat.render);
  call.repeated["tools"] = tools != nullptr ? *tools : Json::array();
  call.repeated["tool_choice"] = choice != nullptr ? *choice : Json("auto");
  call.repeated["parallel_tool_calls"] = call.parallel_tool_calls;
}

void read_include(Fields& fields, Call& call) {
  const Json* include = fields.array("include");
  if (include == nullptr) return;
  for (const Json& what : *include) {
    if (!what.is_string())
      return fields.fail(ErrorKind::kInvalidRequest, "include", "must be an array of strings");
    if (what == "message.output_text.logprobs") {
      call.logprobs = true;
    } else {
      call.warnings.push_back("include " + what.get<std::string>() + " ignored: there is none");
    }
  }
}

void read_text(Fields& fields, Call& call) {
  const Json* text = fields.object("text");
  call.repeated["text"] = {{"format", {{"type", "text"}}}};
  if (text == nullptr) return;
  Fields inner(*text, "text.");
  if (const Json* format = inner.object("format")) {
    call.repeated["text"]["format"] = *format;
    read_response_format(inner, *format, call.structure);
  }
  if (const auto verbosity = inner.text("verbosity"); verbosity && *verbosity != "medium")
    call.warnings.emplace_back("text.verbosity has no effect here");
  if (inner.error()) fields.fail(inner.error()->kind, "text", "is refused: " + inner.error()->message);
  for (const std::string& name : inner.unknown())
    call.warnings.push_back("unknown field " + name + " ignored");
}

// What a template makes of thinking: "none" switches it off where the template knows how.
void read_reasoning(Fields& fields, Call& call, text::RenderOptions& render) {
  const Json* reasoning = fields.object("reasoning");
  call.repeated["reasoning"] =
      reasoning != nullptr ? *reasoning : Json{{"effort", nullptr}, {"summary", nullptr}};
  if (reasoning == nullptr) return;
  Fields inner(*reasoning, "reasoning.");
  if (const auto effort = inner.text("effort")) {
    render.enable_thinking = *effort != "none";
    if (*effort != "none") render.variables["reasoning_effort"] = *effort;
  }
  for (const char* name : {"summary", "generate_summary"})
    if (inner.find(name) != nullptr)
      call.warnings.push_back(std::string("reasoning.") + name + " ignored: no summaries are made");
  if (inner.error()) fields.fail(inner.error()->kind, "reasoning", "is refused: " + inner.error()->message);
  for (const std::string& name : inner.unknown())
    call.warnings.push_back("unknown field " + name + " ignored");
}

void read_metadata(Fields& fields, Call& call) {
  const Json* metadata = fields.object("metadata");
  call.repeated["metadata"] = metadata != nullptr ? *metadata : Json::object();
  if (metadata == nullptr) return;
  const bool texts =
      std::all_of(metadata->begin(), metadata->end(), [](const Json& value) { return value.is_string(); });
  if (metadata->size() > kMetadataMax || !texts)
    fields.fail(ErrorKind::kInvalidRequest, "metadata",
                "must have at most " + std::to_string(kMetadataMax) + " members, all of them strings");
}

void refuse_what_is_missing(Fields& fields, Call& call) {
  fields.refuse("previous_response_id", kStateless);
  fields.refuse("conversation", kStateless);
  fields.refuse("background", kStateless, {false});
  fields.refuse("prompt", "is not supported: there are no stored prompts");
  fields.refuse("context_management", "is not supported");
  if (fields.flag("store").value_or(false))
    call.warnings.push_back("store ignored: nothing is stored, the answer cannot be asked for again");
  if (const auto truncation = fields.text("truncation"); truncation && *truncation != "disabled") {
    if (*truncation != "auto")
      fields.fail(ErrorKind::kInvalidRequest, "truncation", "must be \"auto\" or \"disabled\"");
    call.warnings.push_back("truncation ignored: an input that is too long is refused, not shortened");
  }
  fields.warn("service_tier", {"auto", "default"}, call.warnings);
  for (const char* name :
       {"user", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "client_metadata"})
    fields.accept(name);
}

// The protocol's own, and the extensions of chat completions.
void read_sampling(Fields& fields, Call& call) {
  Sampling& s = call.sampling;
  s.temperature = as_float(fields.number("temperature", 0.0, 100.0));
  s.top_p = as_float(fields.number("top_p", 0.0, 1.0));
  s.min_p = as_float(fields.number("min_p", 0.0, 1.0));
  s.top_k = as_count(fields.integer("top_k", 0, kMostTokens));
  s.presence_penalty = as_float(fields.number("presence_penalty", -2.0, 2.0));
  s.frequency_penalty = as_float(fields.number("frequency_penalty", -2.0, 2.0));
  if (const auto seed =
          fields.integer("seed", std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max()))
    s.seed = static_cast<uint64_t>(*seed);
  call.stop = fields.texts("stop", kStopsMax);
  call.ignore_end = fields.flag("ignore_eos").value_or(false);
  call.context_tokens = as_count(fields.integer("num_ctx", 1, kMostTokens)).value_or(0);
  call.max_tokens = as_count(fields.integer("max_output_tokens", 1, kMostTokens)).value_or(0);
  if (const auto top = fields.integer("top_logprobs", 0, 20); top && *top > 0) {
    call.top_logprobs = static_cast<uint32_t>(*top);
    call.logprobs = true;
  }
  const auto or_null = [](const auto& value) { return value ? Json(*value) : Json(nullptr); };
  call.repeated["temperature"] = or_null(s.temperature);
  call.repeated["top_p"] = or_null(s.top_p);
  call.repeated["max_output_tokens"] = call.max_tokens == 0 ? Json(nullptr) : Json(call.max_tokens);
  call.repeated["top_logprobs"] = call.top_logprobs;
}

}  // namespace

tl::expected<OrderedJson, ApiError> response_messages(const Json& input, const std::string& instructions,
                                                      std::vector<std::string>& warnings) {
  OrderedJson messages = OrderedJson::array();
  if (!instructions.empty()) messages.push_back({{"role", "system"}, {"content", instructions}});
  if (input.is_string()) {
    messages.push_back({{"role", "user"}, {"content", input.get<std::string>()}});
    return messages;
  }
  if (!input.is_array() || input.empty())
    return refused(ErrorKind::kInvalidRequest, "input", "must be a string or a non-empty array of items");
  Items items(warnings);
  for (size_t i = 0; i < input.size(); ++i)
    if (auto error = items.add(input[i], "input[" + std::to_string(i) + "]")) return Unexpected(*error);
  for (OrderedJson& message : items.take()) messages.push_back(std::move(message));
  return messages;
}

tl::expected<Call, ApiError> parse_response_request(const Json& body) {
  Call call;
  call.repeated = Json::object();
  Fields fields(body);
  call.model = fields.text("model").value_or("");
  call.stream = fields.flag("stream").value_or(false);
  fields.accept("stream_options");  // Padding against eavesdroppers on a network is all that it has.
  read_sampling(fields, call);
  read_include(fields, call);
  read_text(fields, call);
  ChatPrompt chat;
  read_reasoning(fields, call, chat.render);
  read_tools(fields, call, chat);
  read_metadata(fields, call);
  refuse_what_is_missing(fields, call);
  const std::optional<std::string> instructions = fields.text("instructions");
  call.repeated["instructions"] = instructions ? Json(*instructions) : Json(nullptr);
  const Json* input = fields.find("input");
  if (input == nullptr) fields.fail(ErrorKind::kInvalidRequest, "input", "is missing");
  if (fields.error()) return Unexpected(*fields.error());
  auto messages = response_messages(*input, instructions.value_or(""), call.warnings);
  if (!messages) return Unexpected(messages.error());
  chat.messages = std::move(*messages);
  call.prompt = std::move(chat);
  for (const std::string& name : fields.unknown())
    call.warnings.push_back("unknown field " + name + " ignored");
  return call;
}

}  // namespace mlxf::api
