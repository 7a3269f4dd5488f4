// What agents really send: recorded requests (tests/data/clients), each with what becomes of it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "api/anthropic.h"
#include "api/responses.h"

namespace mlxf::api {
namespace {

using testing::ElementsAre;

Json recorded(const std::string& name) {
  std::ifstream file(MLXF_SOURCE_DIR "/tests/data/clients/" + name);
  std::stringstream text;
  text << file.rdbuf();
  return parse_json(text.str()).value();
}

// "system user assistant+1 tool": the roles, with the number of calls.
std::string roles_of(const Call& call) {
  std::string out;
  for (const OrderedJson& message : std::get<ChatPrompt>(call.prompt).messages) {
    out.append(out.empty() ? "" : " ").append(message["role"].get<std::string>());
    if (message.contains("tool_calls")) out.append("+").append(std::to_string(message["tool_calls"].size()));
  }
  return out;
}

std::vector<std::string> names_of(const Call& call) {
  std::vector<std::string> names;
  names.reserve(call.tools.size());
  for (const text::ToolSpec& tool : call.tools) names.push_back(tool.name);
  return names;
}

TEST(Recorded, Codex) {
  const auto call = parse_response_request(recorded("codex.json"));
  ASSERT_TRUE(call) << call.error().message;
  EXPECT_EQ(roles_of(*call), "system system user user assistant+1 tool assistant+1 tool");
  const OrderedJson& messages = std::get<ChatPrompt>(call->prompt).messages;
  EXPECT_EQ(messages[4]["reasoning_content"], "I must write the file.");
  EXPECT_EQ(messages[4]["content"], "I write it.");
  EXPECT_EQ(messages[7]["name"], "exec_command");
  EXPECT_THAT(names_of(*call),
              ElementsAre("exec_command", "write_stdin", "request_user_input", "view_image",
                          "multi_agent_v1__close_agent", "multi_agent_v1__resume_agent",
                          "multi_agent_v1__send_input", "multi_agent_v1__spawn_agent",
                          "multi_agent_v1__wait_agent", "get_goal", "create_goal", "update_goal"));
  EXPECT_EQ(call->origins.at("multi_agent_v1__wait_agent").name, "wait_agent");
  EXPECT_THAT(call->warnings, ElementsAre("include reasoning.encrypted_content ignored: there is none",
                                          "reasoning.summary ignored: no summaries are made",
                                          "tools[8] of type web_search is left out"));
}

TEST(Recorded, ClaudeCode) {
  const auto call = parse_anthropic_message(recorded("claude_code.json"));
  ASSERT_TRUE(call) << call.error().message;
  EXPECT_EQ(roles_of(*call), "system user system assistant+1 tool assistant+1 tool");
  const OrderedJson& messages = std::get<ChatPrompt>(call->prompt).messages;
  EXPECT_EQ(messages[3]["reasoning_content"], "I must write the file.");
  EXPECT_EQ(messages[3]["tool_calls"][0]["function"]["name"], "Write");
  EXPECT_EQ(messages[6]["content"], "1\tHello, world.\n2\t");
  EXPECT_EQ(call->tools.size(), 12u);
  EXPECT_EQ(call->max_tokens, 32000u);
  EXPECT_TRUE(call->repeated.contains("context_management"));
  EXPECT_THAT(call->warnings,
              ElementsAre("thinking.display ignored: thinking is shown", "tools[10].defer_loading ignored"));
}

}  // namespace
}  // namespace mlxf::api
