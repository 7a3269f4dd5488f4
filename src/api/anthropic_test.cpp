#include "api/anthropic.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace mlxf::api {
namespace {

Json json(std::string_view text) { return parse_json(text).value(); }

TEST(AnthropicRequest, BecomesACall) {
  const auto call = parse_anthropic_message(json(R"({"model": "m", "max_tokens": 9,
      "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
      "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": [{"type": "text", "text": "b"}]},
                   {"role": "user", "content": "c"}],
      "stop_sequences": ["x"], "temperature": 1, "top_k": 5, "thinking": {"type": "disabled"}, "metadata": {}})"));
  ASSERT_TRUE(call) << call.error().message;
  EXPECT_EQ(
      std::get<ChatPrompt>(call->prompt).messages.dump(),
      R"([{"role":"system","content":"s"},{"role":"user","content":"a"},{"role":"assistant","content":"b"},)"
      R"({"role":"user","content":"c"}])");
  EXPECT_EQ(std::get<ChatPrompt>(call->prompt).render.enable_thinking, false);
  EXPECT_EQ(call->max_tokens, 9u);
  EXPECT_EQ(call->sampling.top_k, 5u);
  EXPECT_TRUE(call->warnings.empty());
}

TEST(AnthropicRequest, NamesWhatItRefuses) {
  const std::string messages = R"("messages": [{"role": "user", "content": "a"}])";
  EXPECT_EQ(parse_anthropic_message(json("{" + messages + "}")).error().param, "max_tokens");
  EXPECT_TRUE(parse_anthropic_count(json("{" + messages + "}")));
  for (const char* field :
       {R"("tools": [{"input_schema": {}}])", R"("tool_choice": {"type": "any"})",
        R"("thinking": {"type": "deep"})", R"("temperature": 3)", R"("stop_sequences": [1])"}) {
    const auto call = parse_anthropic_message(json(R"({"max_tokens": 1, )" + messages + ", " + field + "}"));
    ASSERT_FALSE(call) << field;
    const std::string param = call.error().param.substr(0, call.error().param.find('['));
    EXPECT_EQ(param, std::string(field).substr(1, param.size()));
  }
  for (const char* wrong : {R"([])", R"([{"role": "cook", "content": "a"}])",
                            R"([{"role": "user", "content": [{"type": "image"}]}])",
                            R"([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])"})
    EXPECT_FALSE(
        parse_anthropic_message(json(R"({"max_tokens": 1, "messages": )" + std::string(wrong) + "}")))
        << wrong;
}

TEST(AnthropicRequest, WarnsOfWhatHasNoEffect) {
  const auto call =
      parse_anthropic_message(json(R"({"max_tokens": 1, "messages": [{"role": "user", "content": "a"}],
      "thinking": {"type": "adaptive", "display": "omitted", "depth": 1}, "output_config": {"effort": "low", "x": 1},
      "service_tier": "auto", "inference_geo": "us", "metadata": {"user_id": "u"},
      "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"},
        {"type": "clear_tool_uses_20250919", "keep": {"type": "tool_uses", "value": 3}}]},
      "tools": [{"name": "f", "input_schema": {}, "defer_loading": true, "cache_control": {"type": "ephemeral"}}]})"));
  ASSERT_TRUE(call) << call.error().message;
  EXPECT_THAT(call->warnings,
              testing::UnorderedElementsAre(
                  "thinking.display ignored: thinking is shown", "unknown field thinking.depth ignored",
                  "unknown field output_config.x ignored", "tools[0].defer_loading ignored",
                  "inference_geo has no effect here",
                  "context_management.edits ignored: the whole conversation is kept"));
  EXPECT_EQ(std::get<ChatPrompt>(call->prompt).render.variables.dump(), R"({"reasoning_effort":"low"})");
  EXPECT_EQ(call->repeated, json(R"({"context_management": {"applied_edits": []}})"));
  const auto refused = parse_anthropic_message(json(
      R"({"max_tokens": 1, "messages": [{"role": "user", "content": "a"}], "context_management": {"edits": 1}})"));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().param, "context_management");
}

TEST(AnthropicRequest, WhatToolsReturnBesideTextIsToldOf) {
  const auto call =
      parse_anthropic_message(json(R"({"max_tokens": 1, "messages": [{"role": "user", "content": "x"},
      {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "f", "input": {}},
        {"type": "tool_use", "id": "t2", "name": "f", "input": {}}]},
      {"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "a"}, {"type": "image"}]},
        {"type": "tool_result", "tool_use_id": "t2", "is_error": true, "content": "no such file"}]},
      {"role": "system", "content": [{"type": "text", "text": "s"}]}]})"));
  ASSERT_TRUE(call) << call.error().message;
  const OrderedJson& messages = std::get<ChatPrompt>(call->prompt).messages;
  ASSERT_EQ(messages.size(), 5u);
  EXPECT_EQ(messages[2]["content"], "a\n[a part of type image is left out: this model reads text alone]");
  EXPECT_EQ(messages[3]["content"], "The tool failed:\nno such file");
  EXPECT_EQ(messages[4].dump(), R"({"role":"system","content":"s"})");
  EXPECT_THAT(call->warnings, testing::ElementsAre("messages[2]: a result's part of type image is left out"));
}

}  // namespace
}  // namespace mlxf::api
