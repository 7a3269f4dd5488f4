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
  for (const char* wrong : {R"([])", R"([{"role": "system", "content": "a"}])",
                            R"([{"role": "user", "content": [{"type": "image"}]}])",
                            R"([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])"})
    EXPECT_FALSE(
        parse_anthropic_message(json(R"({"max_tokens": 1, "messages": )" + std::string(wrong) + "}")))
        << wrong;
}

}  // namespace
}  // namespace mlxf::api
