#include "mcp/tools.h"

#include "api/fields.h"
#include "api/openai.h"
#include "base/check.h"

namespace mlxf::mcp {
namespace {

using api::ApiError;
using api::ErrorKind;
using Unexpected = tl::unexpected<ApiError>;

constexpr uint32_t kDefaultTokens = 1024;

constexpr const char* kTools = R"json([
{
  "name": "generate",
  "title": "Generate text",
  "description": "Writes text with the language model that this server has. Give prompt, or messages.",
  "inputSchema": {
    "type": "object",
    "properties": {
      "prompt": {"type": "string", "description": "What to answer, or with raw what to continue."},
      "messages": {
        "type": "array",
        "description": "A conversation, instead of prompt.",
        "items": {
          "type": "object",
          "properties": {
            "role": {"type": "string", "enum": ["system", "user", "assistant"]},
            "content": {"type": "string"}
          },
          "required": ["role", "content"]
        }
      },
      "system": {"type": "string", "description": "Instructions before prompt."},
      "raw": {
        "type": "boolean",
        "description": "Continue prompt as plain text, without the model's chat template.",
        "default": false
      },
      "max_tokens": {"type": "integer", "minimum": 1, "default": 1024},
      "temperature": {"type": "number", "minimum": 0, "description": "0: always the likeliest token."},
      "top_p": {"type": "number", "minimum": 0, "maximum": 1},
      "top_k": {"type": "integer", "minimum": 0},
      "min_p": {"type": "number", "minimum": 0, "maximum": 1},
      "repeat_penalty": {"type": "number"},
      "seed": {"type": "integer", "description": "The same seed gives the same text."},
      "stop": {"type": "array", "items": {"type": "string"}, "description": "Texts that end the answer."},
      "model": {"type": "string", "description": "One of list_models; without it the one that is served."}
    },
    "additionalProperties": false
  },
  "outputSchema": {
    "type": "object",
    "properties": {
      "text": {"type": "string"},
      "reasoning": {"type": "string"},
      "finish_reason": {"type": "string", "enum": ["stop", "length"]},
      "prompt_tokens": {"type": "integer"},
      "cached_tokens": {"type": "integer"},
      "completion_tokens": {"type": "integer"},
      "warnings": {"type": "array", "items": {"type": "string"}, "description": "What has no effect."}
    },
    "required": ["text", "finish_reason", "prompt_tokens", "cached_tokens", "completion_tokens"]
  },
  "annotations": {"readOnlyHint": true, "openWorldHint": false}
},
{
  "name": "check_memory",
  "title": "Check memory",
  "description": "The machine's memory, what this server holds of it, its caches and their budgets.",
  "inputSchema": {"type": "object", "properties": {}, "additionalProperties": false},
  "outputSchema": {"type": "object", "properties": {"memory": {"type": "object"}}, "required": ["memory"]},
  "annotations": {"readOnlyHint": true, "openWorldHint": false}
},
{
  "name": "list_models",
  "title": "List models",
  "description": "The model that is served, others on this machine, and which of them are loaded.",
  "inputSchema": {"type": "object", "properties": {}, "additionalProperties": false},
  "outputSchema": {
    "type": "object",
    "properties": {"models": {"type": "array", "items": {"type": "object"}}},
    "required": ["models"]
  },
  "annotations": {"readOnlyHint": true, "openWorldHint": false}
},
{
  "name": "get_status",
  "title": "Get status",
  "description": "Health, model, requests that run and wait, memory, and what streaming weights from disk costs.",
  "inputSchema": {"type": "object", "properties": {}, "additionalProperties": false},
  "outputSchema": {"type": "object", "properties": {"health": {"type": "string"}}, "required": ["health"]},
  "annotations": {"readOnlyHint": true, "openWorldHint": false}
},
{
  "name": "switch_model",
  "title": "Switch to another model",
  "description": "Loads another model in place of the one that is served, for all who use this server.",
  "inputSchema": {
    "type": "object",
    "properties": {"model": {"type": "string", "description": "A name that list_models tells."}},
    "required": ["model"],
    "additionalProperties": false
  },
  "outputSchema": {
    "type": "object",
    "properties": {
      "switched": {"type": "boolean"},
      "model": {"type": "string"},
      "previous": {"type": "string"}
    },
    "required": ["switched", "model", "previous"]
  },
  "annotations": {"readOnlyHint": false, "destructiveHint": false, "idempotentHint": true, "openWorldHint": false}
},
{
  "name": "release_memory",
  "title": "Release memory",
  "description": "Unloads the model, once answers under way have ended. The next generation loads it again.",
  "inputSchema": {"type": "object", "properties": {}, "additionalProperties": false},
  "outputSchema": {
    "type": "object",
    "properties": {"action": {"type": "string", "enum": ["released", "none"]}, "model": {"type": "string"}},
    "required": ["action", "model"]
  },
  "annotations": {"readOnlyHint": false, "destructiveHint": false, "idempotentHint": true, "openWorldHint": false}
}
])json";

std::optional<ApiError> unknown_argument(const Json& arguments, const Json& tool) {
  for (const auto& [name, value] : arguments.items())
    if (!tool["inputSchema"]["properties"].contains(name))
      return ApiError{ErrorKind::kInvalidRequest,
                      tool["name"].get<std::string>() + " has no argument " + name.substr(0, 80), name};
  return std::nullopt;
}

}  // namespace

const Json& tool_list() {
  static const Json tools = [] {
    auto parsed = parse_json(kTools);
    CHECK(parsed);
    return std::move(*parsed);
  }();
  return tools;
}

std::optional<Tool> find_tool(std::string_view name) {
  const Json& tools = tool_list();
  for (size_t i = 0; i < tools.size(); ++i)
    if (find_string(tools[i], "name") == name) return static_cast<Tool>(i);
  return std::nullopt;
}

bool is_administrative(Tool tool) { return tool == Tool::kSwitchModel || tool == Tool::kReleaseMemory; }

tl::expected<std::string, ApiError> parse_switch(const Json& arguments) {
  if (const auto error = unknown_argument(arguments, tool_list()[static_cast<size_t>(Tool::kSwitchModel)]))
    return Unexpected(*error);
  api::Fields fields(arguments);
  std::optional<std::string> name = fields.text("model");
  if (!name || name->empty()) fields.fail(ErrorKind::kInvalidRequest, "model", "must be a model's name");
  if (fields.error()) return Unexpected(*fields.error());
  return *std::move(name);
}

tl::expected<api::Call, ApiError> parse_generate(const Json& arguments) {
  if (const auto error = unknown_argument(arguments, tool_list()[0])) return Unexpected(*error);
  api::Fields fields(arguments);
  const std::optional<std::string> prompt = fields.text("prompt");
  const std::optional<std::string> system = fields.text("system");
  const Json* messages = fields.array("messages");
  const bool raw = fields.flag("raw").value_or(false);
  if (prompt.has_value() == (messages != nullptr))
    fields.fail(ErrorKind::kInvalidRequest, "prompt", "or messages must be given, one of them");
  if (messages != nullptr && (system || raw))
    fields.fail(ErrorKind::kInvalidRequest, system ? "system" : "raw", "belongs to prompt, not to messages");
  if (system && raw) fields.fail(ErrorKind::kInvalidRequest, "system", "cannot be given with raw");
  if (fields.error()) return Unexpected(*fields.error());
  // From here on it is a request that the server knows already.
  Json body = arguments;
  for (const char* name : {"system", "raw"}) body.erase(name);
  if (!raw) {
    body.erase("prompt");
    body["messages"] =
        messages != nullptr ? *messages : Json::array({{{"role", "user"}, {"content", *prompt}}});
    if (system)
      body["messages"].insert(body["messages"].begin(), Json{{"role", "system"}, {"content", *system}});
  }
  if (find_member(body, "max_tokens") == nullptr) body["max_tokens"] = kDefaultTokens;
  auto call = raw ? api::parse_completion(body) : api::parse_chat_completion(body);
  if (!call) return call;
  if (auto* chat = std::get_if<api::ChatPrompt>(&call->prompt); chat != nullptr && prompt && !system)
    chat->text_without_template = *prompt;
  return call;
}

std::optional<ApiError> check_no_arguments(const Json& arguments) {
  if (arguments.empty()) return std::nullopt;
  return ApiError{ErrorKind::kInvalidRequest, "this tool takes no arguments", arguments.begin().key()};
}

ToolResult error_result(const ApiError& error) {
  return {std::string(api::row_of(error.kind).code) + ": " + error.message, nullptr, true};
}

ToolResult json_result(Json structured) {
  std::string text = dump_json(structured);
  return {std::move(text), std::move(structured), false};
}

}  // namespace mlxf::mcp
