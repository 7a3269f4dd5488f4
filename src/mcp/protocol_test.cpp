#include "mcp/protocol.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace mlxf::mcp {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

const std::string kMeta =
    R"("_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28",
                 "io.modelcontextprotocol/clientCapabilities": {}, "progressToken": "t"})";

Json json(std::string_view text) { return parse_json(text).value(); }

std::string request(const std::string& method, const std::string& params = "{}",
                    const std::string& id = "1") {
  return R"({"jsonrpc": "2.0", "id": )" + id + R"(, "method": ")" + method + R"(", "params": )" + params +
         "}";
}

Outcome receive_one(const std::string& message, const HttpHeaders* http = nullptr) {
  Received received = receive(message, "9.9", http);
  EXPECT_EQ(received.outcomes.size(), 1u);
  EXPECT_FALSE(received.batch);
  return std::move(received.outcomes.front());
}

// The message that goes back at once.
Json said(const std::string& message, const HttpHeaders* http = nullptr, int* status = nullptr) {
  const Outcome outcome = receive_one(message, http);
  const auto* out = std::get_if<Said>(&outcome);
  EXPECT_NE(out, nullptr) << message;
  if (out == nullptr || out->message.empty()) return nullptr;
  if (status != nullptr) *status = out->http_status;
  return json(out->message);
}

int code_of(const std::string& message, const HttpHeaders* http = nullptr, int* status = nullptr) {
  const Json answer = said(message, http, status);
  EXPECT_TRUE(answer.contains("error")) << message << answer.dump();
  return answer.contains("error") ? answer["error"]["code"].get<int>() : 0;
}

TEST(McpProtocol, RefusesWhatIsNoMessage) {
  for (const char* bad : {"", "{", "nonsense", "{\"a\": 1, \"a\": 2}", "\xff"})
    EXPECT_EQ(code_of(bad), kParseError) << bad;
  for (const char* bad :
       {"[]", "1", "{}", R"({"jsonrpc": "1.0", "id": 1, "method": "ping"})", R"({"jsonrpc": "2.0", "id": 1})",
        R"({"jsonrpc": "2.0", "id": 1, "method": 5})", R"({"jsonrpc": "2.0", "id": null, "method": "ping"})",
        R"({"jsonrpc": "2.0", "id": {}, "method": "ping"})"})
    EXPECT_EQ(code_of(bad), kInvalidRequest) << bad;
  EXPECT_EQ(code_of(request("ping", "[]")), kInvalidParams);
  EXPECT_EQ(said(request("nothing", "{}", "\"a\""))["id"], "a");
  EXPECT_TRUE(said(R"({"jsonrpc": "2.0", "id": 1, "result": {}})").is_null()) << "an answer nobody waits for";
}

TEST(McpProtocol, OlderClientsInitializeFirst) {
  const auto version = [](const std::string& asked) {
    return said(
        request("initialize", R"({"protocolVersion": ")" + asked + R"(", "capabilities": {}})"))["result"];
  };
  for (const char* known : {"2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"})
    EXPECT_EQ(version(known)["protocolVersion"], known);
  EXPECT_EQ(version("1999-01-01")["protocolVersion"], "2025-11-25");
  EXPECT_EQ(version("2025-11-25")["serverInfo"]["version"], "9.9");
  EXPECT_TRUE(version("2025-11-25")["capabilities"].contains("tools"));
  EXPECT_EQ(code_of(request("initialize")), kInvalidParams);
  EXPECT_TRUE(said(R"({"jsonrpc": "2.0", "method": "notifications/initialized"})").is_null());
  EXPECT_EQ(said(request("ping"))["result"], Json::object());
  const Json list = said(request("tools/list"))["result"];
  EXPECT_FALSE(list.contains("resultType"));
  std::vector<std::string> names;
  for (const Json& tool : list["tools"]) names.push_back(tool["name"].get<std::string>());
  EXPECT_THAT(names, ElementsAre("generate", "check_memory", "list_models", "get_status", "switch_model",
                                 "release_memory"));
  for (const char* absent : {"resources/list", "prompts/list", "logging/setLevel"})
    EXPECT_EQ(code_of(request(absent)), kMethodNotFound) << absent;
}

TEST(McpProtocol, ModernRequestsStandAlone) {
  const Json found = said(request("server/discover", "{" + kMeta + "}"))["result"];
  EXPECT_EQ(found["supportedVersions"], json(R"(["2026-07-28"])"));
  EXPECT_EQ(found["resultType"], "complete");
  EXPECT_EQ(found["cacheScope"], "public");
  EXPECT_GT(found["ttlMs"].get<int>(), 0);
  EXPECT_EQ(found["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "mlx-flash");
  const Json list = said(request("tools/list", "{" + kMeta + "}"))["result"];
  EXPECT_EQ(list["resultType"], "complete");
  EXPECT_TRUE(list.contains("ttlMs") && list.contains("cacheScope"));
  EXPECT_EQ(code_of(request("ping", "{" + kMeta + "}")), kMethodNotFound);
  EXPECT_EQ(code_of(request("initialize", "{" + kMeta + "}")), kMethodNotFound);
  EXPECT_EQ(code_of(request("server/discover")), kInvalidParams) << "no _meta";
  const Json old =
      said(request("tools/list", R"({"_meta": {"io.modelcontextprotocol/protocolVersion": "2099-01-01",
      "io.modelcontextprotocol/clientCapabilities": {}}})"))["error"];
  EXPECT_EQ(old["code"], kUnsupportedVersion);
  EXPECT_EQ(old["data"]["requested"], "2099-01-01");
  EXPECT_EQ(old["data"]["supported"], found["supportedVersions"]);
}

TEST(McpProtocol, HeadersMustSayWhatTheBodySays) {
  const std::string call = request("tools/call", R"({"name": "get_status", )" + kMeta + "}");
  const HttpHeaders right{"2026-07-28", "tools/call", "get_status"};
  EXPECT_TRUE(std::holds_alternative<ToolCall>(receive_one(call, &right)));
  int status = 0;
  for (const HttpHeaders& wrong : {HttpHeaders{}, HttpHeaders{"2026-07-28", "tools/list", "get_status"},
                                   HttpHeaders{"2026-07-28", "tools/call", "generate"},
                                   HttpHeaders{"2026-07-28", "tools/call", std::nullopt},
                                   HttpHeaders{"2025-11-25", "tools/call", "get_status"},
                                   HttpHeaders{"duplicate", "tools/call", "get_status"}}) {
    EXPECT_EQ(code_of(call, &wrong, &status), kHeaderMismatch);
    EXPECT_EQ(status, 400);
  }
  const HttpHeaders unknown{"2099-01-01", std::nullopt, std::nullopt};
  EXPECT_EQ(code_of(request("tools/list"), &unknown, &status), kUnsupportedVersion);
  EXPECT_EQ(status, 400);
  EXPECT_THAT(said(request("tools/list"), &unknown)["error"]["data"]["supported"].dump(),
              HasSubstr("2025-11-25"));
  EXPECT_EQ(code_of(R"({"jsonrpc": "2.0", "method": "notifications/x"})", &unknown, &status),
            kUnsupportedVersion);
  const HttpHeaders modern{"2026-07-28", "nothing", std::nullopt};
  EXPECT_EQ(code_of(request("nothing", "{" + kMeta + "}"), &modern, &status), kMethodNotFound);
  EXPECT_EQ(status, 404);
  const HttpHeaders none;
  EXPECT_EQ(code_of(request("nothing"), &none, &status), kMethodNotFound);
  EXPECT_EQ(status, 200) << "older revisions";
}

TEST(McpProtocol, CallsToolsAndCancels) {
  const Outcome outcome = receive_one(
      request("tools/call", R"({"name": "generate", "arguments": {"prompt": "x"}, )" + kMeta + "}", "\"a\""));
  const auto& call = std::get<ToolCall>(outcome);
  EXPECT_EQ(call.id, "a");
  EXPECT_EQ(call.tool, Tool::kGenerate);
  EXPECT_EQ(call.arguments["prompt"], "x");
  EXPECT_EQ(call.progress_token, "t");
  EXPECT_TRUE(call.modern);
  EXPECT_EQ(json(progress_message(call, 3, 0, "so")), json(R"({"jsonrpc": "2.0",
      "method": "notifications/progress", "params": {"progressToken": "t", "progress": 3, "message": "so"}})"));
  const Json answer = json(tool_answer(call, "9.9", {"text\nof it", json(R"({"text": "b"})"), false}));
  EXPECT_EQ(answer["id"], "a");
  EXPECT_EQ(answer["result"]["content"], json(R"([{"type": "text", "text": "text\nof it"}])"));
  EXPECT_EQ(answer["result"]["resultType"], "complete");
  EXPECT_EQ(answer["result"]["structuredContent"]["text"], "b");
  EXPECT_FALSE(answer["result"]["isError"].get<bool>());
  for (const char* bad :
       {R"({"name": "cook"})", R"({})", R"({"name": 1})", R"({"name": "generate", "arguments": []})"})
    EXPECT_EQ(code_of(request("tools/call", bad)), kInvalidParams) << bad;
  const std::string cancelled =
      R"({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "a"}})";
  EXPECT_EQ(std::get<Cancel>(receive_one(cancelled)).id, "a");
  const HttpHeaders none;
  const Outcome ignored = receive_one(cancelled, &none);
  EXPECT_EQ(std::get<Said>(ignored).http_status, 202);
}

TEST(McpProtocol, BatchesAreAnsweredByOneMessage) {
  const std::string batch = "[" + request("ping") + "," + request("no/such", "{}", "2") + "," +
                            R"({"jsonrpc": "2.0", "method": "notifications/initialized"},)" +
                            request("initialize", R"({"protocolVersion": "2025-03-26"})", "3") + "," +
                            request("tools/call", R"({"name": "get_status"})", "4") + ",5]";
  const Received received = receive(batch, "9.9", nullptr);
  ASSERT_TRUE(received.batch);
  ASSERT_EQ(received.outcomes.size(), 6u);
  BatchAnswer answer(received.outcomes.size());
  for (const Outcome& outcome : received.outcomes) {
    EXPECT_FALSE(answer.done());
    if (const auto* call = std::get_if<ToolCall>(&outcome)) answer.add(tool_answer(*call, "9.9", {"x"}));
    if (const auto* out = std::get_if<Said>(&outcome)) answer.add(out->message);
  }
  ASSERT_TRUE(answer.done());
  const Json said = json(answer.message());
  ASSERT_EQ(said.size(), 5u);
  EXPECT_EQ(said[0]["result"], Json::object());
  EXPECT_EQ(said[1]["error"]["code"], kMethodNotFound);
  EXPECT_EQ(said[2]["error"]["message"], "initialize cannot be part of a batch");
  EXPECT_EQ(said[3]["result"]["content"][0]["text"], "x");
  EXPECT_EQ(said[4]["error"]["code"], kInvalidRequest);

  const HttpHeaders absent, right{"2025-03-26", std::nullopt, std::nullopt};
  EXPECT_TRUE(receive(batch, "9.9", &absent).batch);
  EXPECT_TRUE(receive(batch, "9.9", &right).batch);
  for (const char* later : {"2024-11-05", "2025-06-18", "2025-11-25", "2026-07-28"}) {
    const HttpHeaders headers{later, std::nullopt, std::nullopt};
    EXPECT_EQ(code_of(batch, &headers), kInvalidRequest) << later;
  }
  std::string many = "[";
  for (int i = 0; i < 65; ++i) many += "1,";
  EXPECT_EQ(code_of(many + "1]"), kInvalidRequest);
  BatchAnswer silent(1);
  silent.add("");
  EXPECT_EQ(silent.message(), "");
}

}  // namespace
}  // namespace mlxf::mcp
