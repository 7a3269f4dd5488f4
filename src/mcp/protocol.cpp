#include "mcp/protocol.h"

#include <algorithm>
#include <array>

#include "api/fields.h"
#include "base/check.h"

namespace mlxf::mcp {
namespace {

constexpr std::string_view kModern = "2026-07-28";
// Newest first: what is offered to a client that asks for a version nobody knows.
constexpr std::array<std::string_view, 4> kLegacy = {"2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"};
constexpr std::string_view kVersionKey = "io.modelcontextprotocol/protocolVersion";
constexpr std::string_view kCapabilitiesKey = "io.modelcontextprotocol/clientCapabilities";
constexpr const char* kServerKey = "io.modelcontextprotocol/serverInfo";
constexpr std::string_view kBatches = "2025-03-26";
constexpr size_t kBatchMax = 64;
constexpr int kDepthMax = 64;
constexpr int kToolsFreshMs = 3'600'000;  // The list is part of the program.
constexpr const char* kInstructions =
    "Tools of a local language model server: generate runs the model that is served, check_memory, "
    "list_models and "
    "get_status tell about it. A generation can take minutes: ask for progress.";

bool is_legacy(const std::string& version) {
  return std::find(kLegacy.begin(), kLegacy.end(), version) != kLegacy.end();
}

struct RpcError {
  int code = kInvalidRequest;
  std::string message;
  Json data = nullptr;
};

std::string error_message(const Json& id, const RpcError& error) {
  Json body = {{"code", error.code}, {"message", error.message}};
  if (!error.data.is_null()) body["data"] = error.data;
  return dump_json({{"jsonrpc", "2.0"}, {"id", id}, {"error", std::move(body)}});
}

// Older revisions answer a request that was read with 200, whatever became of it.
Said refused(const Json& id, const RpcError& error, bool modern) {
  int status = 400;
  if (error.code == kMethodNotFound) status = 404;
  if (!modern && error.code != kParseError && error.code != kInvalidRequest) status = 200;
  return {error_message(id, error), status};
}

Json server_info(const std::string& version) {
  return {{"name", "mlx-flash"}, {"title", "MLX-Flash"}, {"version", version}};
}

Json with_era(Json result, bool modern, const std::string& version) {
  if (modern) {
    result["resultType"] = "complete";
    result["_meta"][kServerKey] = server_info(version);
  }
  return result;
}

Said answered(const Json& id, Json result) {
  return {dump_json({{"jsonrpc", "2.0"}, {"id", id}, {"result", std::move(result)}}), 200};
}

// `modern`: the request had the form of that era, and is told of its revisions, as server/discover would.
RpcError unsupported_version(const std::string& requested, bool modern) {
  Json supported = Json::array();
  if (modern) {
    supported.push_back(kModern);
  } else {
    for (const std::string_view version : kLegacy) supported.push_back(version);
  }
  return {kUnsupportedVersion,
          "Unsupported protocol version",
          {{"supported", std::move(supported)}, {"requested", requested}}};
}

// A request or a notification, as JSON-RPC has them.
struct Message {
  Json id = nullptr;  // Null: a notification.
  std::string method;
  Json params = Json::object();
};

// What the modern revision asks of every request; the first fault counts.
std::optional<RpcError> check_modern(const Message& message, const HttpHeaders* http) {
  const Json* meta = find_member(message.params, "_meta");
  for (const std::string_view key : {kVersionKey, kCapabilitiesKey})
    if (meta == nullptr || find_member(*meta, key) == nullptr)
      return RpcError{kInvalidParams, "params._meta must have " + std::string(key)};
  const std::optional<std::string> version = find_string(*meta, kVersionKey);
  if (http != nullptr) {
    const auto mismatch = [](const char* header, const char* what) {
      return RpcError{kHeaderMismatch,
                      std::string("the header ") + header + " must be the request's " + what};
    };
    if (!http->version || http->version != version)
      return mismatch("MCP-Protocol-Version", "protocol version");
    if (http->method != message.method) return mismatch("Mcp-Method", "method");
    // None of our tools has a name that would have to be encoded.
    const std::optional<std::string> name = find_string(message.params, "name");
    if (message.method == "tools/call" && name && http->name != name)
      return mismatch("Mcp-Name", "tool name");
  }
  if (!version) return RpcError{kInvalidParams, std::string(kVersionKey) + " must be a string"};
  if (*version != kModern) return unsupported_version(*version, true);
  return std::nullopt;
}

Outcome call_tool(const Message& message, bool modern) {
  const auto fail = [&](const std::string& why) {
    return refused(message.id, {kInvalidParams, why}, modern);
  };
  const std::optional<std::string> name = find_string(message.params, "name");
  if (!name) return fail("params.name must be a string");
  const std::optional<Tool> tool = find_tool(*name);
  if (!tool) return fail("Unknown tool: " + name->substr(0, 80));
  ToolCall call;
  call.id = message.id;
  call.tool = *tool;
  call.modern = modern;
  if (const Json* arguments = find_member(message.params, "arguments")) {
    if (!arguments->is_object()) return fail("params.arguments must be an object");
    call.arguments = *arguments;
  }
  if (const Json* meta = find_member(message.params, "_meta")) {
    const Json* token = find_member(*meta, "progressToken");
    if (token != nullptr && (token->is_string() || token->is_number())) call.progress_token = *token;
  }
  return call;
}

Said initialize(const Message& message, const std::string& version) {
  const std::optional<std::string> asked = find_string(message.params, "protocolVersion");
  if (!asked) return refused(message.id, {kInvalidParams, "params.protocolVersion must be a string"}, false);
  return answered(message.id, {{"protocolVersion", is_legacy(*asked) ? *asked : std::string(kLegacy.front())},
                               {"capabilities", {{"tools", {{"listChanged", false}}}}},
                               {"serverInfo", server_info(version)},
                               {"instructions", kInstructions}});
}

Outcome dispatch(const Message& message, bool modern, const std::string& version) {
  if (message.method == "tools/call") return call_tool(message, modern);
  if (message.method == "tools/list") {
    Json result = {{"tools", tool_list()}};
    if (modern) {
      result["ttlMs"] = kToolsFreshMs;
      result["cacheScope"] = "public";
    }
    return answered(message.id, with_era(std::move(result), modern, version));
  }
  if (modern && message.method == "server/discover")
    return answered(message.id, with_era({{"supportedVersions", {kModern}},
                                          {"capabilities", {{"tools", {{"listChanged", false}}}}},
                                          {"instructions", kInstructions},
                                          {"ttlMs", kToolsFreshMs},
                                          {"cacheScope", "public"}},
                                         true, version));
  if (!modern && message.method == "initialize") return initialize(message, version);
  if (!modern && message.method == "ping") return answered(message.id, Json::object());
  return refused(message.id, {kMethodNotFound, "Method not found: " + message.method.substr(0, 80)}, modern);
}

Outcome notified(const Message& message, const HttpHeaders* http) {
  if (http != nullptr && http->version && *http->version != kModern && !is_legacy(*http->version))
    return refused(nullptr, unsupported_version(*http->version, false), true);
  const Json* id = find_member(message.params, "requestId");
  // Over HTTP nothing tells whose request it was; there, who leaves cancels.
  if (http == nullptr && message.method == "notifications/cancelled" && id != nullptr) return Cancel{*id};
  return Said{"", 202};
}

// The message in `json`, or what is wrong with it; nothing for a response, which nobody waits for.
tl::expected<std::optional<Message>, RpcError> read_message(const Json& json, Json& id) {
  using Wrong = tl::unexpected<RpcError>;
  if (!json.is_object()) return Wrong({kInvalidRequest, "a message must be a JSON object"});
  if (json.contains("id")) {
    if (!json["id"].is_string() && !json["id"].is_number())
      return Wrong({kInvalidRequest, "id must be a string or a number"});
    id = json["id"];
  }
  if (find_string(json, "jsonrpc") != "2.0") return Wrong({kInvalidRequest, "jsonrpc must be \"2.0\""});
  if (!json.contains("method") && (json.contains("result") || json.contains("error"))) return std::nullopt;
  const std::optional<std::string> method = find_string(json, "method");
  if (!method) return Wrong({kInvalidRequest, "method must be a string"});
  Message message;
  message.id = id;
  message.method = *method;
  if (json.contains("params")) {
    if (!json["params"].is_object()) return Wrong({kInvalidParams, "params must be an object"});
    message.params = json["params"];
  }
  return message;
}

Outcome receive_one(const Json& json, const std::string& version, const HttpHeaders* http) {
  Json id;
  const auto message = read_message(json, id);
  if (!message) return refused(id, message.error(), true);
  if (!*message) return Said{"", 202};
  if (id.is_null()) return notified(**message, http);
  const Json* meta = find_member((*message)->params, "_meta");
  const bool header = http != nullptr && http->version && !is_legacy(*http->version);
  const bool modern = (meta != nullptr && find_member(*meta, kVersionKey) != nullptr) ||
                      (*message)->method == "server/discover" || header;
  if (modern) {
    if (header && *http->version != kModern &&
        (meta == nullptr || find_member(*meta, kVersionKey) == nullptr))
      return refused(id, unsupported_version(*http->version, false), true);
    if (const auto error = check_modern(**message, http)) return refused(id, *error, true);
  }
  return dispatch(**message, modern, version);
}

}  // namespace

std::string parse_error(const std::string& why) { return error_message(nullptr, {kParseError, why}); }

void BatchAnswer::add(const std::string& message) {
  CHECK(waiting_ > 0);
  --waiting_;
  if (message.empty()) return;
  if (!answers_.empty()) answers_ += ',';
  answers_ += message;
}

Received receive(std::string_view text, const std::string& version, const HttpHeaders* http) {
  const auto wrong = [](int code, const std::string& why) {
    return Received{{refused(nullptr, {code, why}, true)}, false};
  };
  if (api::has_too_many_values(text)) return wrong(kParseError, "the message has too many values");
  const Result<Json> json = parse_json(text, {kMessageBytesMax, kDepthMax});
  if (!json) return wrong(kParseError, json.error().message);
  if (!json->is_array()) return {{receive_one(*json, version, http)}, false};
  if (http != nullptr && http->version && *http->version != kBatches)
    return wrong(kInvalidRequest, "batches are those of revision " + std::string(kBatches) + " alone");
  if (json->empty() || json->size() > kBatchMax)
    return wrong(kInvalidRequest, "a batch has 1 to " + std::to_string(kBatchMax) + " messages");
  Received received{{}, true};
  received.outcomes.reserve(json->size());
  for (const Json& message : *json) {
    if (find_string(message, "method") == "initialize") {
      const Json* id = find_member(message, "id");
      received.outcomes.emplace_back(refused(
          id == nullptr ? Json() : *id, {kInvalidRequest, "initialize cannot be part of a batch"}, false));
    } else {
      received.outcomes.push_back(receive_one(message, version, http));
    }
  }
  return received;
}

std::string tool_answer(const ToolCall& call, const std::string& version, const ToolResult& result) {
  Json body = {{"content", Json::array({{{"type", "text"}, {"text", result.text}}})},
               {"isError", result.is_error}};
  if (!result.structured.is_null()) body["structuredContent"] = result.structured;
  return answered(call.id, with_era(std::move(body), call.modern, version)).message;
}

std::string progress_message(const ToolCall& call, uint64_t progress, uint64_t total,
                             const std::string& text) {
  Json params = {{"progressToken", call.progress_token}, {"progress", progress}, {"message", text}};
  if (total != 0) params["total"] = total;
  return dump_json({{"jsonrpc", "2.0"}, {"method", "notifications/progress"}, {"params", std::move(params)}});
}

}  // namespace mlxf::mcp
