#include "mcp/tools.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace mlxf::mcp {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

Json json(std::string_view text) { return parse_json(text).value(); }

api::Call generate(std::string_view arguments) {
  auto call = parse_generate(json(arguments));
  EXPECT_TRUE(call) << arguments << ": " << call.error().message;
  return call ? std::move(*call) : api::Call();
}

std::string refused(std::string_view arguments) {
  const auto call = parse_generate(json(arguments));
  EXPECT_FALSE(call) << arguments;
  return call ? "" : call.error().message;
}

TEST(McpTools, EveryToolHasItsSchema) {
  for (const Json& tool : tool_list()) {
    EXPECT_TRUE(find_tool(tool["name"].get<std::string>()));
    EXPECT_EQ(tool["inputSchema"]["type"], "object");
    EXPECT_EQ(tool["outputSchema"]["type"], "object");
    EXPECT_FALSE(tool["description"].get<std::string>().empty());
  }
  EXPECT_EQ(find_tool("generate"), Tool::kGenerate);
  EXPECT_EQ(find_tool("check_memory"), Tool::kCheckMemory);
  EXPECT_EQ(find_tool("list_models"), Tool::kListModels);
  EXPECT_EQ(find_tool("get_status"), Tool::kGetStatus);
  EXPECT_EQ(find_tool("switch_model"), Tool::kSwitchModel);
  EXPECT_EQ(find_tool("release_memory"), Tool::kReleaseMemory);
  EXPECT_FALSE(find_tool("Generate"));
}

TEST(McpTools, OnlyTwoAreForWhoRunsTheServer) {
  for (const Tool tool : {Tool::kGenerate, Tool::kCheckMemory, Tool::kListModels, Tool::kGetStatus})
    EXPECT_FALSE(is_administrative(tool));
  EXPECT_TRUE(is_administrative(Tool::kSwitchModel));
  EXPECT_TRUE(is_administrative(Tool::kReleaseMemory));
}

TEST(McpTools, SwitchingTakesOneName) {
  EXPECT_EQ(parse_switch(json(R"({"model": "org/a:Q4_K_M"})")).value(), "org/a:Q4_K_M");
  for (const char* wrong : {"{}", R"({"model": ""})", R"({"model": 5})", R"({"model": null})"})
    EXPECT_EQ(parse_switch(json(wrong)).error().param, "model") << wrong;
  EXPECT_THAT(parse_switch(json(R"({"model": "a", "now": true})")).error().message,
              HasSubstr("switch_model has no argument now"));
}

TEST(McpTools, APromptIsAUsersMessage) {
  const api::Call call =
      generate(R"({"prompt": "p", "max_tokens": 5, "temperature": 0, "top_k": 2, "seed": 3, "stop": ["a"]})");
  const auto& chat = std::get<api::ChatPrompt>(call.prompt);
  EXPECT_EQ(chat.messages.dump(), R"([{"role":"user","content":"p"}])");
  EXPECT_EQ(chat.text_without_template, "p");
  EXPECT_EQ(call.max_tokens, 5u);
  EXPECT_EQ(call.sampling.temperature, 0.0f);
  EXPECT_EQ(call.sampling.seed, 3u);
  EXPECT_THAT(call.stop, ElementsAre("a"));
  EXPECT_THAT(call.warnings, IsEmpty());
  EXPECT_EQ(generate(R"({"prompt": "p"})").max_tokens, 1024u);
  const auto with_system = std::get<api::ChatPrompt>(generate(R"({"prompt": "p", "system": "s"})").prompt);
  EXPECT_EQ(with_system.messages.dump(),
            R"([{"role":"system","content":"s"},{"role":"user","content":"p"}])");
  EXPECT_FALSE(with_system.text_without_template) << "the instructions would be lost";
  EXPECT_EQ(std::get<api::TextPrompt>(generate(R"({"prompt": "p", "raw": true})").prompt).text, "p");
  const auto talk = generate(R"({"messages": [{"role": "user", "content": "a"}]})").prompt;
  EXPECT_EQ(std::get<api::ChatPrompt>(talk).messages.dump(), R"([{"role":"user","content":"a"}])");
}

TEST(McpTools, NamesWhatItRefuses) {
  EXPECT_THAT(refused("{}"), HasSubstr("prompt or messages must be given"));
  EXPECT_THAT(refused(R"({"prompt": "a", "messages": []})"), HasSubstr("one of them"));
  EXPECT_THAT(refused(R"({"prompt": 1})"), HasSubstr("prompt must be a string"));
  EXPECT_THAT(refused(R"({"prompt": "a", "mood": "b"})"), HasSubstr("generate has no argument mood"));
  EXPECT_THAT(refused(R"({"prompt": "a", "temperature": "hot"})"), HasSubstr("temperature"));
  EXPECT_THAT(refused(R"({"prompt": "a", "max_tokens": 0})"), HasSubstr("max_tokens"));
  EXPECT_THAT(refused(R"({"messages": [{"role": "cook", "content": "a"}]})"), HasSubstr("messages[0].role"));
  EXPECT_THAT(refused(R"({"messages": [{"role": "user", "content": "a"}], "system": "s"})"),
              HasSubstr("system"));
  EXPECT_THAT(refused(R"({"prompt": "a", "raw": true, "system": "s"})"), HasSubstr("system"));
  EXPECT_EQ(check_no_arguments(json(R"({"a": 1})"))->param, "a");
  EXPECT_FALSE(check_no_arguments(Json::object()));
}

TEST(McpTools, AnErrorIsAResultThatSaysSo) {
  const ToolResult result = error_result({api::ErrorKind::kQueueFull, "full"});
  EXPECT_EQ(result.text, "queue_full: full");
  EXPECT_TRUE(result.is_error);
  EXPECT_EQ(json_result(json(R"({"a": 1})")).text, R"({"a":1})");
}

}  // namespace
}  // namespace mlxf::mcp
