#include "api/responses.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "api/tools.h"

namespace mlxf::api {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

Json json(std::string_view text) { return parse_json(text).value(); }

Call request(std::string_view text) {
  auto call = parse_response_request(json(text));
  EXPECT_TRUE(call) << text << ": " << call.error().message;
  return call ? std::move(*call) : Call();
}

ApiError refused(const std::string& members) {
  const auto call =
      parse_response_request(json(R"({"input": "a")" + (members.empty() ? "" : ", " + members) + "}"));
  EXPECT_FALSE(call) << members;
  return call ? ApiError() : call.error();
}

std::string messages_of(const Call& call) { return std::get<ChatPrompt>(call.prompt).messages.dump(); }

TEST(ResponsesRequest, BecomesACall) {
  const Call call = request(R"({"model": "m", "input": "a", "instructions": "i", "max_output_tokens": 5,
      "temperature": 0.5, "top_p": 0.25, "top_logprobs": 2, "seed": -1, "stream": true, "store": false,
      "stream_options": {"include_obfuscation": false}, "text": {"format": {"type": "text"}, "verbosity": "medium"},
      "reasoning": {"effort": "high"}, "metadata": {"k": "v"}, "truncation": "disabled", "background": false,
      "include": ["message.output_text.logprobs"], "previous_response_id": null, "user": "u", "surprise": 1})");
  EXPECT_EQ(messages_of(call), R"([{"role":"system","content":"i"},{"role":"user","content":"a"}])");
  EXPECT_EQ(std::get<ChatPrompt>(call.prompt).render.variables.dump(), R"({"reasoning_effort":"high"})");
  EXPECT_EQ(call.max_tokens, 5u);
  EXPECT_EQ(call.sampling.temperature, 0.5f);
  EXPECT_EQ(call.sampling.top_p, 0.25f);
  EXPECT_TRUE(call.stream && call.logprobs);
  EXPECT_EQ(call.top_logprobs, 2u);
  EXPECT_EQ(call.repeated["metadata"], json(R"({"k": "v"})"));
  EXPECT_EQ(call.repeated["instructions"], "i");
  EXPECT_THAT(call.warnings, ElementsAre("unknown field surprise ignored"));
}

TEST(ResponsesRequest, ItemsBecomeTheMessagesOfTemplates) {
  const Call call = request(R"({"input": [
      {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "d"}]},
      {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
      {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
      {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "c"}]},
      {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{\"z\": 1, \"a\": 2}"},
      {"type": "function_call", "call_id": "2", "name": "g", "arguments": "not JSON"},
      {"type": "function_call_output", "call_id": "1", "output": "x"},
      {"type": "function_call_output", "call_id": "2", "output": [{"type": "input_text", "text": "y"}]},
      {"type": "reasoning", "summary": [{"type": "summary_text", "text": "so"}]},
      {"type": "function_call", "call_id": "3", "name": "f", "arguments": "{}"},
      {"type": "reasoning", "summary": [], "encrypted_content": "00"}]})");
  EXPECT_EQ(messages_of(call),
            R"([{"role":"system","content":"d"},{"role":"user","content":"a\nb"},)"
            R"({"role":"assistant","content":"c","reasoning_content":"hm","tool_calls":[)"
            R"({"id":"1","type":"function","function":{"name":"f","arguments":{"z":1,"a":2}}},)"
            R"({"id":"2","type":"function","function":{"name":"g","arguments":"not JSON"}}]},)"
            R"({"role":"tool","tool_call_id":"1","content":"x","name":"f"},)"
            R"({"role":"tool","tool_call_id":"2","content":"y","name":"g"},)"
            R"({"role":"assistant","content":"","reasoning_content":"so","tool_calls":[)"
            R"({"id":"3","type":"function","function":{"name":"f","arguments":{}}}]}])");
  EXPECT_THAT(call.warnings, ElementsAre(HasSubstr("input[10] left out")));
}

TEST(ResponsesRequest, NamesWhatItRefuses) {
  for (const char* name : {"previous_response_id", "conversation", "prompt"})
    EXPECT_EQ(refused("\"" + std::string(name) + R"(": "x")").param, name);
  EXPECT_EQ(refused(R"("background": true)").kind, ErrorKind::kUnsupported);
  EXPECT_EQ(refused(R"("tools": [{"type": "function"}])").param, "tools[0]");
  EXPECT_EQ(refused(R"("tool_choice": "required")").param, "tool_choice");
  EXPECT_EQ(refused(R"("text": {"format": {"type": "json_schema"}})").param, "text");
  EXPECT_EQ(refused(R"("metadata": {"a": 1})").param, "metadata");
  EXPECT_EQ(refused(R"("temperature": "hot")").kind, ErrorKind::kInvalidRequest);
  EXPECT_EQ(refused(R"("max_output_tokens": 0)").param, "max_output_tokens");
  EXPECT_EQ(refused(R"("include": [1])").param, "include");
  EXPECT_EQ(refused(R"("truncation": "some")").param, "truncation");
  const auto input = [](std::string_view text) {
    std::vector<std::string> warnings;
    const auto messages = response_messages(json(text), "", warnings);
    EXPECT_FALSE(messages) << text;
    return messages ? ApiError() : messages.error();
  };
  EXPECT_EQ(
      input(R"([{"type": "item_reference", "id": "x"}])").message,
      "input[0] is of type item_reference; message, reasoning, and calls of functions and custom tools with "
      "their outputs are understood");
  EXPECT_EQ(input(R"([{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}])").param,
            "input[0].content[0]");
  EXPECT_EQ(input(R"([{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}])").kind,
            ErrorKind::kUnsupported);
  for (const char* bad :
       {"[]", "1", "[1]", R"([{"role": "user"}])", R"([{"role": "cook", "content": "a"}])",
        R"([{"role": 1, "content": "a"}])", R"([{"role": "user", "content": 1}])",
        R"([{"role": "user", "content": [{"text": "a"}]}])",
        R"([{"role": "user", "content": [{"type": "text"}]}])",
        R"([{"type": "function_call", "call_id": "1", "name": "f"}])",
        R"([{"type": "function_call_output", "call_id": "1"}])", R"([{"type": "reasoning", "content": 1}])"})
    EXPECT_EQ(input(bad).kind, ErrorKind::kInvalidRequest) << bad;
}

TEST(ResponsesRequest, TakesToolsAndFormats) {
  const std::string body = R"({"input": "a", "parallel_tool_calls": false, "tools": [
      {"type": "function", "name": "f", "strict": true, "parameters": {"properties": {"z": {}, "b": {}}}},
      {"type": "local_shell"}]})";
  Call call = request(body);
  ASSERT_EQ(call.tools.size(), 1u);
  EXPECT_EQ(call.tools[0].name, "f");
  EXPECT_FALSE(call.parallel_tool_calls);
  EXPECT_THAT(call.warnings, ElementsAre(HasSubstr("local_shell")));
  EXPECT_EQ(call.repeated["tools"].size(), 2u);
  keep_tool_order(body, Protocol::kOpenAi, call);
  EXPECT_EQ(std::get<ChatPrompt>(call.prompt).render.tools.dump(),
            R"([{"type":"function","function":{"name":"f","parameters":{"properties":{"z":{},"b":{}}}}}])");
  EXPECT_TRUE(request(R"({"input": "a", "text": {"format": {"type": "json_object"}}})").structure);
  const Call schema = request(
      R"({"input": "a", "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}}})");
  ASSERT_TRUE(schema.structure);
  EXPECT_EQ(schema.structure->pointer, "/text/format/schema");
  EXPECT_FALSE(request(R"({"input": "a", "text": {"format": {"type": "text"}}})").structure);
}

constexpr std::string_view kSpaces = R"({"input": "a", "stream": true, "tools": [
    {"type": "namespace", "name": "agents", "description": "Others.", "tools": [
      {"type": "function", "name": "spawn", "description": "d", "parameters": {"type": "object"}},
      {"type": "custom", "name": "say"}]},
    {"type": "custom", "name": "patch", "description": "Edits.",
     "format": {"type": "grammar", "syntax": "lark", "definition": "start: /x/"}}]})";

TEST(ResponsesRequest, NamespacesAndCustomToolsAreFunctionsToTheModel) {
  Call call = request(kSpaces);
  keep_tool_order(std::string(kSpaces), Protocol::kOpenAi, call);
  const std::string text =
      R"("parameters":{"type":"object","properties":{"input":{"type":"string"}},"required":["input"],)"
      R"("additionalProperties":false}}})";
  EXPECT_EQ(
      std::get<ChatPrompt>(call.prompt).render.tools.dump(),
      R"([{"type":"function","function":{"name":"agents__spawn","description":"Others.\n\nd","parameters":)"
      R"({"type":"object"}}},{"type":"function","function":{"name":"agents__say","description":"",)" +
          text +
          R"(,{"type":"function","function":{"name":"patch","description":"Edits.\n\nThe input is free )" +
          R"(text in this grammar (lark):\nstart: /x/",)" + text + "]");
  EXPECT_EQ(call.tools.size(), 3u);
  EXPECT_FALSE(call.origins.at("agents__spawn").custom);
  EXPECT_EQ(call.origins.at("agents__say").space, "agents");
  EXPECT_TRUE(call.origins.at("agents__say").custom && call.origins.at("patch").custom);
  EXPECT_THAT(call.warnings, ElementsAre("tools[1].format is shown to the model, which is not held to it"));
  const auto chosen = [](const std::string& choice) {
    Json body = json(kSpaces);
    body["tool_choice"] = json(choice);
    return parse_response_request(body).value().callable;
  };
  EXPECT_THAT(chosen(R"({"type": "custom", "name": "patch"})"), ElementsAre("patch"));
  EXPECT_THAT(chosen(R"({"type": "function", "name": "spawn", "namespace": "agents"})"),
              ElementsAre("agents__spawn"));
  EXPECT_EQ(refused(R"("tools": [{"type": "custom"}])").param, "tools[0]");
  EXPECT_EQ(
      refused(R"("tools": [{"type": "namespace", "name": "a", "tools": [{"type": "function"}]}])").param,
      "tools[0].tools[0]");
}

TEST(ResponsesRequest, CallsOfThemComeBackByTheNamesThatTheModelKnows) {
  const Call call = request(R"({"input": [{"role": "user", "content": "a"},
      {"type": "function_call", "call_id": "1", "namespace": "agents", "name": "spawn", "arguments": "{}"},
      {"type": "custom_tool_call", "call_id": "2", "name": "patch", "input": "a \"b\""},
      {"type": "function_call_output", "call_id": "1", "output": [{"type": "input_text", "text": "x"},
        {"type": "input_image", "image_url": "data:"}]},
      {"type": "custom_tool_call_output", "call_id": "2", "output": "y"}]})");
  EXPECT_EQ(
      messages_of(call),
      R"([{"role":"user","content":"a"},{"role":"assistant","content":"","tool_calls":[)"
      R"({"id":"1","type":"function","function":{"name":"agents__spawn","arguments":{}}},)"
      R"({"id":"2","type":"function","function":{"name":"patch","arguments":{"input":"a \"b\""}}}]},)"
      R"({"role":"tool","tool_call_id":"1","content":"x\n[a part of type input_image is left out: this model )"
      R"(reads text alone]","name":"agents__spawn"},)"
      R"({"role":"tool","tool_call_id":"2","content":"y","name":"patch"}])");
  EXPECT_THAT(call.warnings, ElementsAre("input[3]: a result's part of type input_image is left out"));
}

TEST(ResponsesRequest, WarnsOfWhatHasNoEffect) {
  const Call call =
      request(R"({"input": "a", "store": true, "truncation": "auto", "reasoning": {"summary": "auto"},
      "include": ["reasoning.encrypted_content"], "tools": [{"type": "web_search"}, {"type": "namespace"}]})");
  EXPECT_THAT(call.warnings,
              testing::UnorderedElementsAre(HasSubstr("store"), HasSubstr("truncation"), HasSubstr("summary"),
                                            HasSubstr("encrypted_content"), HasSubstr("web_search"),
                                            HasSubstr("namespace")));
  const Call none = request(
      R"({"input": "a", "tool_choice": "none", "tools": [{"type": "function", "name": "f"}, {"type": "x"}]})");
  EXPECT_THAT(none.warnings, IsEmpty());
  EXPECT_EQ(none.repeated["tools"].size(), 2u);
}

// ---- answers ----

text::Tokenizer tokenizer() {
  std::ifstream file(MLXF_SOURCE_DIR "/tests/data/text/byte_bpe.json");
  std::stringstream text;
  text << file.rdbuf();
  return text::parse_tokenizer(text.str()).value();
}

// The events of a stream, each with its name checked against its data and its number against its place.
std::vector<Json> events_of(const std::string& bytes) {
  std::vector<Json> events;
  for (size_t at = 0; at < bytes.size();) {
    const size_t end = bytes.find("\n\n", at);
    const std::string block = bytes.substr(at, end - at);
    at = end + 2;
    const size_t data = block.find("\ndata: ");
    events.push_back(json(block.substr(data + 7)));
    EXPECT_EQ(block.substr(0, data), "event: " + events.back()["type"].get<std::string>());
    EXPECT_EQ(events.back()["sequence_number"], events.size() - 1);
  }
  return events;
}

engine::GeneratedToken piece(TokenId id, const char* text) { return {id, text, -0.5f, {}}; }

std::vector<std::string> types_of(const std::vector<Json>& events) {
  std::vector<std::string> types;
  types.reserve(events.size());
  for (const Json& event : events) types.push_back(event["type"].get<std::string>());
  return types;
}

TEST(ResponsesReply, NumbersEveryEventOfAStream) {
  const Call call = request(R"({"input": "a", "stream": true, "metadata": {"k": "v"}})");
  StreamState stream{"7", "m", 5};
  std::string bytes = open_response(call, stream);
  bytes += response_heartbeat(call, stream);
  const auto reply = response_reply(call, {"7", "m", 5, tokenizer(), 3, {}, {}, {}, &stream});
  bytes += reply->begin();
  bytes += reply->token(piece(1, "On"));
  bytes += reply->token(piece(2, ""));
  bytes += response_heartbeat(call, stream);
  bytes += reply->token(piece(3, "ce"));
  engine::Finished finished;
  finished.usage.prompt_tokens = 3;
  finished.usage.cached_tokens = 1;
  finished.usage.generated_tokens = 2;
  bytes += reply->end(finished);
  const std::vector<Json> events = events_of(bytes);
  EXPECT_THAT(
      types_of(events),
      ElementsAre("response.created", "response.in_progress", "response.in_progress",
                  "response.output_item.added", "response.content_part.added", "response.output_text.delta",
                  "response.in_progress", "response.output_text.delta", "response.output_text.done",
                  "response.content_part.done", "response.output_item.done", "response.completed"));
  EXPECT_EQ(events[8]["text"], "Once");
  const Json& response = events.back()["response"];
  EXPECT_EQ(response["id"], "resp_7");
  EXPECT_EQ(response["status"], "completed");
  EXPECT_EQ(response["metadata"], json(R"({"k": "v"})"));
  EXPECT_EQ(response["output"][0]["content"][0]["text"], "Once");
  EXPECT_EQ(response["usage"], json(R"({"input_tokens": 3, "input_tokens_details": {"cached_tokens": 1},
      "output_tokens": 2, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 5})"));
  EXPECT_EQ(events[0]["response"]["status"], "in_progress");
  EXPECT_TRUE(events[0]["response"]["usage"].is_null());
}

TEST(ResponsesReply, CallsToolsAsTheClientKnowsThem) {
  const Call call = request(kSpaces);
  StreamState stream{"7", "m", 5};
  text::AnswerFormat format;
  format.calls = text::CallStyle::kHermes;
  const auto reply = response_reply(call, {"7", "m", 5, tokenizer(), 3, {}, format, {}, &stream});
  std::string bytes =
      reply->token(piece(1, "<tool_call>{\"name\": \"agents__spawn\", \"arguments\": {}}</tool_call>"));
  bytes += reply->token(piece(2, "<tool_call>{\"name\": \"patch\", \"arguments\": {\"in"));
  bytes += reply->token(piece(3, "put\": \"a \\\"b\\\"\\n\"}}</tool_call>"));
  bytes += reply->end({});
  const std::vector<Json> events = events_of(bytes);
  EXPECT_THAT(
      types_of(events),
      ElementsAre("response.output_item.added", "response.function_call_arguments.delta",
                  "response.function_call_arguments.done", "response.output_item.done",
                  "response.output_item.added", "response.custom_tool_call_input.delta",
                  "response.custom_tool_call_input.done", "response.output_item.done", "response.completed"));
  EXPECT_EQ(events[0]["item"]["namespace"], "agents");
  EXPECT_EQ(events[3]["item"]["name"], "spawn");
  EXPECT_EQ(events[4]["item"]["input"], "");
  EXPECT_EQ(events[6]["input"], "a \"b\"\n");
  const Json& output = events.back()["response"]["output"];
  EXPECT_EQ(output[1]["type"], "custom_tool_call");
  EXPECT_EQ(output[1]["input"], "a \"b\"\n");
  EXPECT_FALSE(output[1].contains("arguments") || output[1].contains("namespace"));
  // What small models write instead.
  EXPECT_EQ(custom_input(R"({"patch": "a"})"), "a");
  EXPECT_EQ(custom_input(R"({"a": "b", "c": 1})"), R"({"a": "b", "c": 1})");
}

TEST(ResponsesReply, EndsIncompleteAtTheLimit) {
  const Call call = request(R"({"input": "a", "max_output_tokens": 1, "top_logprobs": 1})");
  const auto reply = response_reply(call, {"7", "m", 5, tokenizer(), 3, {}});
  EXPECT_EQ(reply->token(piece(1, "On")), "");
  engine::Finished finished;
  finished.reason = engine::FinishReason::kLength;
  const Json whole = json(reply->whole(finished));
  EXPECT_EQ(whole["status"], "incomplete");
  EXPECT_EQ(whole["incomplete_details"]["reason"], "max_output_tokens");
  EXPECT_EQ(whole["output"][0]["status"], "incomplete");
  EXPECT_EQ(whole["output"][0]["content"][0]["logprobs"].size(), 1u);
  EXPECT_EQ(whole["max_output_tokens"], 1);
  EXPECT_FALSE(whole["store"].get<bool>());
}

TEST(ResponsesReply, AFailureIsAnEventWithACodeThatClientsKnow) {
  const Call call = request(R"({"input": "a", "stream": true})");
  StreamState stream{"7", "m", 5};
  const auto failed = [&](ErrorKind kind) {
    const std::string bytes = response_failure(call, stream, {kind, "why"});
    stream.events = 0;
    return events_of(bytes)[0];
  };
  EXPECT_EQ(failed(ErrorKind::kContextLength)["response"]["error"],
            json(R"({"code": "context_length_exceeded", "message": "why"})"));
  EXPECT_EQ(failed(ErrorKind::kUnsupported)["response"]["error"]["code"], "invalid_prompt");
  EXPECT_EQ(failed(ErrorKind::kModelIo)["response"]["error"]["code"], "model_io_error");
  EXPECT_EQ(failed(ErrorKind::kModelIo)["response"]["status"], "failed");
  EXPECT_EQ(failed(ErrorKind::kModelIo)["type"], "response.failed");
}

}  // namespace
}  // namespace mlxf::api
