#include "api/tools.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "api/anthropic.h"
#include "api/messages.h"
#include "api/ollama.h"
#include "api/openai.h"
#include "api/responses.h"

namespace mlxf::api {
namespace {

Json json(std::string_view text) { return parse_json(text).value(); }

constexpr std::string_view kOpenAi = R"({"messages": [{"role": "user", "content": "x"}], "tools": [
    {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties":
    {"b": {"type": "string"}, "a": {"type": "integer"}}}, "strict": true}}]})";

const text::RenderOptions& render_of(const Call& call) { return std::get<ChatPrompt>(call.prompt).render; }

TEST(Tools, ReachTheTemplateInTheOrderOfTheRequest) {
  auto call = parse_chat_completion(json(kOpenAi));
  ASSERT_TRUE(call) << call.error().message;
  ASSERT_EQ(call->tools.size(), 1u);
  EXPECT_EQ(call->tools[0].name, "f");
  EXPECT_EQ(call->tools[0].parameters["properties"]["b"]["type"], "string");
  EXPECT_TRUE(call->warnings.empty());
  keep_tool_order(std::string(kOpenAi), Protocol::kOpenAi, *call);
  EXPECT_EQ(render_of(*call).tools.dump(),
            R"([{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object",)"
            R"("properties":{"b":{"type":"string"},"a":{"type":"integer"}}},"strict":true}}])");
  const std::string anthropic =
      R"({"max_tokens": 1, "messages": [{"role": "user", "content": "x"}], "tools": [
      {"type": "web_search_20250305", "name": "web_search"},
      {"name": "f", "description": "d", "input_schema": {"type": "object"}, "cache_control": {"type": "ephemeral"}}],
      "tool_choice": {"type": "auto", "disable_parallel_tool_use": true}})";
  call = parse_anthropic_message(json(anthropic));
  ASSERT_TRUE(call) << call.error().message;
  EXPECT_FALSE(call->parallel_tool_calls);
  EXPECT_THAT(call->warnings, testing::ElementsAre("tools[0] of type web_search_20250305 is left out"));
  keep_tool_order(anthropic, Protocol::kAnthropic, *call);
  EXPECT_EQ(
      render_of(*call).tools.dump(),
      R"([{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object"}}}])");
}

TEST(Tools, AreLeftOutWhereNoneMayBeCalled) {
  Json request = json(kOpenAi);
  request["tool_choice"] = "none";
  const auto call = parse_chat_completion(request);
  ASSERT_TRUE(call);
  EXPECT_TRUE(call->tools.empty());
  EXPECT_TRUE(render_of(*call).tools.is_null());
}

TEST(Tools, NameWhatIsWrongWithThem) {
  const auto refused = [](const char* member, std::string_view value) {
    Json request = json(kOpenAi);
    request[member] = json(value);
    const auto call = parse_chat_completion(request);
    EXPECT_FALSE(call) << member << " " << value;
    return call ? ApiError() : call.error();
  };
  EXPECT_EQ(refused("tools", R"([{"type": "custom", "custom": {"name": "f"}}])").param, "tools[0]");
  EXPECT_EQ(refused("tools", R"([{"type": "custom", "custom": {"name": "f"}}])").kind,
            ErrorKind::kUnsupported);
  EXPECT_EQ(refused("tools", R"([{"function": {"name": ""}}])").kind, ErrorKind::kInvalidRequest);
  EXPECT_EQ(refused("tools", R"([{"function": {"name": "f"}}, {"function": {"name": "f"}}])").param,
            "tools[1]");
  EXPECT_EQ(refused("tools", R"([{"function": {"name": "f", "parameters": 1}}])").param, "tools[0]");
  EXPECT_EQ(refused("tools", "[1]").param, "tools[0]");
  for (const char* choice :
       {"\"always\"", "5", R"({"type": "function"})", R"({"type": "function", "function": {}})",
        R"({"type": "allowed_tools", "allowed_tools": {"mode": "auto"}})",
        R"({"type": "allowed_tools", "allowed_tools": {"mode": "x", "tools": [{}]}})"})
    EXPECT_EQ(refused("tool_choice", choice).kind, ErrorKind::kInvalidRequest) << choice;
  EXPECT_EQ(refused("tool_choice", R"({"type": "custom", "custom": {"name": "f"}})").kind,
            ErrorKind::kUnsupported);
  EXPECT_EQ(refused("tool_choice", R"({"type": "function", "function": {"name": "g"}})").message,
            "tool_choice names g, which is none of the tools");
  EXPECT_EQ(refused("tools", R"([{"function": {"name": "f", "strict": 1}}])").param, "tools[0]");
  EXPECT_EQ(refused("functions", R"([{"name": "f"}])").param, "functions");
}

TEST(Tools, CanBeForcedAndHeldToTheirSchemas) {
  const auto chosen = [](std::string_view choice) {
    Json request = json(kOpenAi);
    request["tools"].push_back({{"type", "function"}, {"function", {{"name", "g"}}}});
    request["tool_choice"] = json(choice);
    auto call = parse_chat_completion(request);
    EXPECT_TRUE(call) << choice << ": " << call.error().message;
    return call ? std::move(*call) : Call();
  };
  Call call = chosen("\"auto\"");
  EXPECT_FALSE(call.must_call);
  EXPECT_THAT(call.callable, testing::IsEmpty());
  EXPECT_THAT(call.strict_tools, testing::ElementsAre("f"));
  EXPECT_TRUE(chosen("\"required\"").must_call);
  call = chosen(R"({"type": "function", "function": {"name": "g"}})");
  EXPECT_TRUE(call.must_call);
  EXPECT_THAT(call.callable, testing::ElementsAre("g"));
  EXPECT_EQ(call.tools.size(), 2u) << "the prompt stays the same";
  call = chosen(R"({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools":
      [{"type": "function", "function": {"name": "f"}}]}})");
  EXPECT_FALSE(call.must_call);
  EXPECT_THAT(call.callable, testing::ElementsAre("f"));
  Json request = json(kOpenAi);
  request.erase("tools");
  request["tool_choice"] = "required";
  EXPECT_EQ(parse_chat_completion(request).error().message,
            "tool_choice asks for a call, but there are no tools");

  const auto anthropic = [](std::string_view choice) {
    Json body = json(R"({"max_tokens": 1, "messages": [{"role": "user", "content": "x"}],
        "tools": [{"name": "f", "input_schema": {}, "strict": true}]})");
    body["tool_choice"] = json(choice);
    return parse_anthropic_message(body);
  };
  auto message = anthropic(R"({"type": "any", "disable_parallel_tool_use": true})");
  ASSERT_TRUE(message);
  EXPECT_TRUE(message->must_call);
  EXPECT_FALSE(message->parallel_tool_calls);
  EXPECT_THAT(message->strict_tools, testing::ElementsAre("f"));
  message = anthropic(R"({"type": "tool", "name": "f"})");
  ASSERT_TRUE(message);
  EXPECT_THAT(message->callable, testing::ElementsAre("f"));
  EXPECT_FALSE(anthropic(R"({"type": "tool"})"));
  EXPECT_FALSE(anthropic(R"({"type": "tool", "name": "g"})"));

  const auto responses = [](std::string_view choice) {
    Json body = json(R"({"input": "x", "tools": [{"type": "function", "name": "f", "parameters": {}}]})");
    body["tool_choice"] = json(choice);
    return parse_response_request(body);
  };
  EXPECT_TRUE(responses("\"required\"")->must_call);
  EXPECT_THAT(responses(R"({"type": "function", "name": "f"})")->callable, testing::ElementsAre("f"));
  EXPECT_TRUE(
      responses(
          R"({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]})")
          ->must_call);
  EXPECT_EQ(responses(R"({"type": "web_search_preview"})").error().kind, ErrorKind::kUnsupported);
}

TEST(Messages, CarryCallsAndTheirResults) {
  std::vector<std::string> warnings;
  const auto messages = chat_messages(json(R"([{"role": "user", "content": "x"},
      {"role": "assistant", "content": null, "reasoning_content": "hm", "tool_calls": [{"id": "c1", "type": "function",
       "function": {"name": "f", "arguments": "{\"b\": 1, \"a\": [2]}"}}]},
      {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "y"}]},
      {"role": "assistant", "tool_calls": [{"function": {"name": "g", "arguments": {"a": 1}}}]},
      {"role": "tool", "tool_name": "g", "content": "z"}])"),
                                      warnings);
  ASSERT_TRUE(messages) << messages.error().message;
  EXPECT_EQ(
      messages->dump(),
      R"([{"role":"user","content":"x"},{"role":"assistant","content":"","reasoning_content":"hm","tool_calls":)"
      R"([{"id":"c1","type":"function","function":{"name":"f","arguments":{"b":1,"a":[2]}}}]},)"
      R"({"role":"tool","content":"y","tool_call_id":"c1","name":"f"},)"
      R"({"role":"assistant","content":"","tool_calls":[{"type":"function","function":{"name":"g",)"
      R"("arguments":{"a":1}}}]},{"role":"tool","content":"z","name":"g"}])");
  for (const char* bad :
       {R"([{"role": "assistant", "tool_calls": [{}]}])", R"([{"role": "tool"}])",
        R"([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}])",
        R"([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": [1]}}]}])",
        R"([{"role": "assistant", "tool_calls": 5}])", R"([{"role": "function", "content": "x"}])"})
    EXPECT_FALSE(chat_messages(json(bad), warnings)) << bad;
  EXPECT_TRUE(warnings.empty());
}

TEST(Messages, MembersThatAreNotUnderstoodAreTold) {
  std::vector<std::string> warnings;
  ASSERT_TRUE(chat_messages(json(R"([{"role": "user", "content": "x", "name": "n", "weight": 1},
      {"role": "assistant", "content": "y", "refusal": null, "audio": null, "annotations": [], "prefix": true},
      {"role": "assistant", "content": "y", "prefix": true, "refusal": "no"}])"),
                            warnings));
  EXPECT_EQ(warnings, (std::vector<std::string>{"messages[0].weight ignored", "messages[1].prefix ignored",
                                                "messages[2].refusal ignored"}));
}

TEST(Messages, AreAdaptedToTemplatesOfTheirOwnKind) {
  const OrderedJson messages =
      parse_ordered_json(R"([{"role": "assistant", "content": "", "reasoning_content": "hm",
      "tool_calls": [{"id": "toolu_1", "type": "function", "function": {"name": "f", "arguments": {"b": 1}}}]},
      {"role": "tool", "tool_call_id": "toolu_1", "content": "y"}])")
          .value();
  const OrderedJson mistral = adapted_messages(messages, text::CallStyle::kMistral);
  const std::string id = mistral[0]["tool_calls"][0]["id"];
  EXPECT_EQ(id.size(), 9u);
  EXPECT_EQ(mistral[1]["tool_call_id"], id);
  EXPECT_EQ(adapted_messages(messages, text::CallStyle::kHarmony)[0]["thinking"], "hm");
  EXPECT_EQ(
      adapted_messages(messages, text::CallStyle::kDeepSeek)[0]["tool_calls"][0]["function"]["arguments"],
      R"({"b":1})");
  EXPECT_EQ(adapted_messages(messages, text::CallStyle::kHermes), messages);
}

TEST(Messages, AreGivenInTheTurnsThatATemplateTakes) {
  const OrderedJson messages = parse_ordered_json(R"([{"role": "system", "content": "a"},
      {"role": "system", "content": "b"}, {"role": "user", "content": "c"}, {"role": "user", "content": "d"},
      {"role": "system", "content": "e"}, {"role": "assistant", "content": "f"}, {"role": "user", "content": "g"}])")
                                   .value();
  const auto turns = [&messages](const text::TurnRules& rules, std::vector<std::string>& warnings) {
    std::string out;
    for (const OrderedJson& message : in_turns(messages, rules, warnings))
      out += message["role"].get<std::string>()[0] + (":" + message["content"].get<std::string>()) + "|";
    return out;
  };
  std::vector<std::string> warnings;
  EXPECT_EQ(turns({}, warnings), "s:a|s:b|u:c|u:d|s:e|a:f|u:g|");
  EXPECT_EQ(turns({.users_in_a_row = false}, warnings), "s:a|s:b|u:c\n\nd|s:e|a:f|u:g|");
  EXPECT_THAT(warnings, testing::IsEmpty());
  EXPECT_EQ(turns({.system_later = false}, warnings), "s:a\n\nb|u:c|u:d|u:e|a:f|u:g|");
  EXPECT_THAT(warnings,
              testing::ElementsAre(testing::HasSubstr("1 of the system messages given as the user's")));
  EXPECT_EQ(turns({.system_first = false, .system_later = false, .users_in_a_row = false}, warnings),
            "u:a\n\nb\n\nc\n\nd\n\ne|a:f|u:g|");
}

TEST(AnthropicRequest, TurnsBlocksIntoCallsAndResults) {
  const auto call =
      parse_anthropic_message(json(R"({"max_tokens": 1, "messages": [{"role": "user", "content": "x"},
      {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": ""},
       {"type": "text", "text": "I look."}, {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}]},
      {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1",
        "content": [{"type": "text", "text": "y"}]},
       {"type": "text", "text": "And?"}]},
      {"role": "assistant",
       "content": [{"type": "tool_use", "id": "t2", "name": "g", "input": {}}]},
      {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t2"}]}]})"));
  ASSERT_TRUE(call) << call.error().message;
  EXPECT_EQ(
      std::get<ChatPrompt>(call->prompt).messages.dump(),
      R"([{"role":"user","content":"x"},{"role":"assistant","content":"I look.","reasoning_content":"hm","tool_calls":)"
      R"([{"id":"t1","type":"function","function":{"name":"f","arguments":{"a":1}}}]},)"
      R"({"role":"tool","content":"y","tool_call_id":"t1","name":"f"},{"role":"user","content":"And?"},)"
      R"({"role":"assistant","content":"","tool_calls":[{"id":"t2","type":"function","function":{"name":"g",)"
      R"("arguments":{}}}]},{"role":"tool","content":"","tool_call_id":"t2","name":"g"}])");
}

}  // namespace
}  // namespace mlxf::api
