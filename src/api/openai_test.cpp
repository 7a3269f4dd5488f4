#include "api/openai.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "api/fields.h"
#include "api/messages.h"

namespace mlxf::api {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

Json json(std::string_view text) { return parse_json(text).value(); }

Call chat(std::string_view text) {
  auto call = parse_chat_completion(json(text));
  EXPECT_TRUE(call) << text << ": " << call.error().message;
  return call ? std::move(*call) : Call();
}

ApiError refused(std::string_view text) {
  const auto call = parse_chat_completion(json(text));
  EXPECT_FALSE(call) << text;
  return call ? ApiError() : call.error();
}

TEST(OpenAiRequest, BecomesACall) {
  const Call call = chat(R"({"model": "m", "messages": [{"role": "developer", "content": "a"},
      {"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}], "name": "n"},
      {"role": "assistant", "content": null}],
      "temperature": 0.5, "top_p": 0.25, "top_k": 7, "seed": -1, "max_tokens": 5, "max_completion_tokens": 6,
      "stop": ["x", "y"], "stream": true, "stream_options": {"include_usage": true}, "logprobs": true,
      "top_logprobs": 2, "logit_bias": {"3": -100}, "reasoning_effort": "none", "n": 1, "tools": [],
      "response_format": {"type": "text"}, "chat_template_kwargs": {"a": 1}, "user": "u",
      "service_tier": "flex", "surprise": 1})");
  EXPECT_EQ(std::get<ChatPrompt>(call.prompt).messages.dump(),
            R"([{"role":"system","content":"a"},{"role":"user","content":"b\nc","name":"n"},)"
            R"({"role":"assistant","content":""}])");
  EXPECT_EQ(std::get<ChatPrompt>(call.prompt).render.enable_thinking, false);
  EXPECT_EQ(std::get<ChatPrompt>(call.prompt).render.variables.dump(), R"({"a":1})");
  EXPECT_EQ(call.sampling.temperature, 0.5f);
  EXPECT_EQ(call.sampling.top_k, 7u);
  EXPECT_EQ(call.sampling.seed, ~uint64_t{0});
  EXPECT_EQ(call.max_tokens, 6u);
  EXPECT_THAT(call.stop, ElementsAre("x", "y"));
  EXPECT_TRUE(call.stream && call.include_usage && call.logprobs);
  EXPECT_THAT(call.sampling.logit_bias, ElementsAre(std::pair(3, -100.0f)));
  EXPECT_THAT(call.warnings,
              ElementsAre("service_tier has no effect here", "unknown field surprise ignored"));
}

TEST(OpenAiRequest, LeavesWhatIsNotSaidToTheModel) {
  decode::SamplingParams params;
  params.temperature = 0.3f;
  params.top_p = 0.9f;
  chat(R"({"messages": [{"role": "user", "content": "a"}], "top_p": 0.5})").sampling.apply_to(params);
  EXPECT_EQ(params.temperature, 0.3f);
  EXPECT_EQ(params.top_p, 0.5f);
}

TEST(OpenAiRequest, NamesWhatItRefuses) {
  const std::string messages = R"({"messages": [{"role": "user", "content": "a"}], )";
  EXPECT_EQ(refused(messages + R"("n": 2})").param, "n");
  EXPECT_EQ(refused(messages + R"("n": 2})").kind, ErrorKind::kUnsupported);
  EXPECT_EQ(refused(messages + R"("temperature": "hot"})").message,
            "temperature must be a number between 0 and 100");
  EXPECT_EQ(refused(messages + R"("max_tokens": 9223372036854775808})").param, "max_tokens");
  EXPECT_EQ(refused(messages + R"("tools": [{}]})").param, "tools[0]");
  EXPECT_EQ(refused(messages + R"("temperature": -1, "n": 2})").param, "temperature") << "the first one";
  EXPECT_EQ(refused(R"({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})").param,
            "messages[0].content[0]");
}

TEST(OpenAiRequest, TakesPromptsInEveryForm) {
  const auto prompt = [](std::string_view text) {
    auto call = parse_completion(json(text));
    EXPECT_TRUE(call) << text << ": " << call.error().message;
    return call->prompt;
  };
  EXPECT_EQ(std::get<TextPrompt>(prompt(R"({"prompt": "a"})")).text, "a");
  EXPECT_EQ(std::get<TextPrompt>(prompt(R"({"prompt": ["a"]})")).text, "a");
  EXPECT_THAT(std::get<TokenPrompt>(prompt(R"({"prompt": [1, 2]})")), ElementsAre(1, 2));
  EXPECT_THAT(std::get<TokenPrompt>(prompt(R"({"prompt": [[1, 2]]})")), ElementsAre(1, 2));
  for (const char* bad :
       {R"({})", R"({"prompt": [1, "a"]})", R"({"prompt": ["a", "b"]})", R"({"prompt": [[1], [2]]})",
        R"({"prompt": [-1]})", R"({"prompt": [2147483648]})", R"({"prompt": 1})"})
    EXPECT_FALSE(parse_completion(json(bad))) << bad;
}

TEST(Fields, TellsWrongTypesRangesAndUnknownNames) {
  const Json object =
      json(R"({"a": 1.0, "b": 1.5, "c": null, "d": 99999999999999999999, "e": [], "f": "x"})");
  Fields fields(object, "options.");
  EXPECT_EQ(fields.integer("a", 0, 5), 1);
  EXPECT_EQ(fields.integer("c", 0, 5), std::nullopt);
  EXPECT_FALSE(fields.error());
  EXPECT_EQ(fields.integer("b", 0, 5), std::nullopt);
  EXPECT_EQ(fields.error()->message, "options.b must be a whole number between 0 and 5");
  EXPECT_EQ(fields.error()->param, "options.b");
  EXPECT_EQ(fields.integer("d", INT64_MIN, INT64_MAX), std::nullopt);
  fields.refuse("e", "is empty, which asks for nothing");
  EXPECT_THAT(fields.unknown(), ElementsAre("options.f"));
}

TEST(Fields, CountsTheMemoryOfValuesBeforeTheyAreParsed) {
  const auto many = [](const std::string& part, size_t count) {
    std::string text = "[";
    for (size_t i = 0; i < count; ++i) text += part;
    return text + "1]";
  };
  EXPECT_FALSE(has_too_many_values(many("[],", 500'000)));
  EXPECT_TRUE(has_too_many_values(many("[],", 1'000'000)));
  EXPECT_FALSE(has_too_many_values(many("12345,", 4'000'000))) << "tokens of a very long prompt";
  EXPECT_TRUE(has_too_many_values(many("12345,", 4'200'000)));
  EXPECT_TRUE(has_too_many_values(many(R"({"a":1},)", 500'000)));
  EXPECT_FALSE(has_too_many_values("[\"" + many(R"([],\"{:\\)", 500'000))) << "in a string they are text";
  const auto body = parse_body(R"({"messages": )" + many("[],", 1'000'000) + "}");
  ASSERT_FALSE(body);
  EXPECT_THAT(body.error().message, HasSubstr("too many values"));
}

TEST(Errors, HaveOneNameInEveryProtocol) {
  const ApiError error{ErrorKind::kContextLength, "too \"long\"", "messages"};
  EXPECT_EQ(
      json(error_body(Protocol::kOpenAi, error, "id")),
      json(R"({"error": {"message": "too \"long\"", "type": "invalid_request_error", "param": "messages",
                     "code": "context_length_exceeded"}})"));
  EXPECT_EQ(json(error_body(Protocol::kAnthropic, error, "id")),
            json(R"({"type": "error", "error": {"type": "invalid_request_error", "message": "too \"long\""},
                     "request_id": "id"})"));
  EXPECT_EQ(json(error_body(Protocol::kOllama, error, "id")), json(R"({"error": "too \"long\""})"));
  EXPECT_EQ(stream_error(Protocol::kOpenAi, error, "id").substr(0, 7), "data: {");
  EXPECT_EQ(stream_error(Protocol::kAnthropic, error, "id").substr(0, 19), "event: error\ndata: ");
  EXPECT_EQ(stream_error(Protocol::kOllama, error, "id").back(), '\n');
  for (int kind = 0; kind <= static_cast<int>(ErrorKind::kInternal); ++kind)
    EXPECT_GE(row_of(static_cast<ErrorKind>(kind)).status, 400);
  EXPECT_EQ(from_engine({ErrorCode::kIo, "x"}).kind, ErrorKind::kModelIo);
  EXPECT_EQ(kind_of_status(431), ErrorKind::kTooLarge);
  EXPECT_EQ(kind_of_status(505), ErrorKind::kInternal);
}

}  // namespace
}  // namespace mlxf::api
