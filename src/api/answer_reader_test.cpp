#include "api/answer_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>

#include "api/anthropic.h"
#include "api/ollama.h"
#include "api/openai.h"
#include "api/responses.h"

namespace mlxf::api {
namespace {

using testing::HasSubstr;
using testing::Not;

Json json(std::string_view text) { return parse_json(text).value(); }

// What a model that was scripted to say `pieces`, one per token, answers to `body` by an endpoint.
struct Script {
  const Endpoint& endpoint;
  std::vector<std::string> pieces;
  text::AnswerFormat format = {text::CallStyle::kHermes, "<think>", "</think>"};
  engine::FinishReason reason = engine::FinishReason::kStop;

  [[nodiscard]] std::string answer(std::string_view body, bool stream) const {
    Json request = json(body);
    request["stream"] = stream;
    auto call = endpoint.parse(request);
    EXPECT_TRUE(call) << call.error().message;
    if (!call) return {};
    std::ifstream file(MLXF_SOURCE_DIR "/tests/data/text/byte_bpe.json");
    const auto tokenizer = text::parse_tokenizer(std::string(std::istreambuf_iterator<char>(file), {}));
    EXPECT_TRUE(tokenizer);
    if (!tokenizer) return {};
    ReplyFacts facts{"0123456789abcdef", "m", 1, *tokenizer, 5, {}};
    facts.format = format;
    const auto reply = endpoint.reply(*call, facts);
    engine::Finished finished;
    finished.reason = reason;
    finished.usage.prompt_tokens = 5;
    finished.usage.generated_tokens = static_cast<uint32_t>(pieces.size());
    std::string out = stream ? reply->begin() : std::string();
    for (const std::string& piece : pieces) out += reply->token({0, piece, 0.0f, {}});
    return out + (stream ? reply->end(finished) : reply->whole(finished));
  }
  [[nodiscard]] Json whole(std::string_view body) const { return json(answer(body, false)); }
  // The data of each event or line, without the end mark.
  [[nodiscard]] std::vector<Json> stream(std::string_view body) const {
    std::vector<Json> out;
    const std::string all = answer(body, true);
    for (size_t at = 0; at < all.size();) {
      const size_t end = all.find('\n', at);
      std::string_view text = std::string_view(all).substr(at, end - at);
      if (text.starts_with("data: ")) text.remove_prefix(6);
      if (text.starts_with("{")) out.push_back(json(text));
      at = end + 1;
    }
    return out;
  }
};

const std::vector<std::string> kPieces = {"<think>",
                                          "Hm",
                                          ".</th",
                                          "ink>\n\nI look",
                                          ".\n",
                                          "<tool_call>",
                                          "\n{\"name\": \"weather\",",
                                          " \"argu",
                                          "ments",
                                          "\": {\"ci",
                                          "ty\": \"Ro",
                                          "me\"}}\n</",
                                          "tool_call>",
                                          "<tool_call>{\"name\": \"now\"}",
                                          "</tool_call>"};
const std::vector<std::string> kCutOff = {"<tool_call>", "{\"name\": \"now\", \"arguments\": {\"a\": \"b"};
constexpr std::string_view kOpenAi = R"({"messages": [{"role": "user", "content": "x"}], "tools": [
  {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}},
  {"type": "function", "function": {"name": "now"}}]})";
constexpr std::string_view kOllama =
    R"({"model": "m", "messages": [{"role": "user", "content": "x"}], "tools": [
  {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}},
  {"type": "function", "function": {"name": "now"}}]})";
constexpr std::string_view kAnthropic =
    R"({"max_tokens": 99, "messages": [{"role": "user", "content": "x"}], "tools": [
  {"name": "weather", "input_schema": {"type": "object"}}, {"name": "now"}]})";

TEST(OpenAiReply, TellsOfReasoningAndCalls) {
  const Script script{chat_completions(), kPieces};
  const Json choice = script.whole(kOpenAi)["choices"][0];
  EXPECT_EQ(choice["finish_reason"], "tool_calls");
  EXPECT_EQ(choice["message"], json(R"({"role": "assistant", "content": "I look.", "refusal": null,
      "reasoning_content": "Hm.", "reasoning": "Hm.", "tool_calls": [
      {"id": "call_0123456789abcdef_0", "type": "function",
       "function": {"name": "weather", "arguments": "{\"city\": \"Rome\"}"}},
      {"id": "call_0123456789abcdef_1", "type": "function", "function": {"name": "now", "arguments": "{}"}}]})"));
  std::string content, reasoning;
  std::vector<Json> calls;
  Json finish;
  for (const Json& event : script.stream(kOpenAi)) {
    const Json& delta = event["choices"][0]["delta"];
    finish = event["choices"][0]["finish_reason"];
    content += delta.value("content", "");
    reasoning += delta.value("reasoning_content", "");
    if (!delta.contains("tool_calls")) continue;
    const Json& piece = delta["tool_calls"][0];
    if (piece.contains("id")) {
      EXPECT_EQ(piece["index"], calls.size());
      calls.push_back(piece);
      calls.back().erase("index");
    } else {
      ASSERT_EQ(piece["index"].get<size_t>() + 1, calls.size());
      Json& arguments = calls.back()["function"]["arguments"];
      arguments = arguments.get<std::string>() + piece["function"]["arguments"].get<std::string>();
    }
  }
  EXPECT_EQ(content, "I look.");
  EXPECT_EQ(reasoning, "Hm.");
  EXPECT_EQ(Json(calls), choice["message"]["tool_calls"]) << "a stream says the same";
  EXPECT_EQ(finish, "tool_calls");
}

TEST(OpenAiReply, CountsTheTokensOfReasoning) {
  // <think>, two of the thought, and the one that ends it.
  EXPECT_EQ(Script({chat_completions(), kPieces}).whole(kOpenAi)["usage"]["completion_tokens_details"],
            json(R"({"reasoning_tokens": 4})"));
  EXPECT_EQ(Script({responses(), kPieces}).whole(R"({"input": "x"})")["usage"]["output_tokens_details"],
            json(R"({"reasoning_tokens": 4})"));
  const std::vector<std::string> harmony = {"<|channel|>", "analysis", "<|message|>", "Hm",
                                            ".",           "<|end|>",  "<|start|>",   "assistant",
                                            "<|channel|>", "final",    "<|message|>", "Yes"};
  EXPECT_EQ(Script({chat_completions(), harmony, {text::CallStyle::kHarmony, {}, {}}})
                .whole(kOpenAi)["usage"]["completion_tokens_details"],
            json(R"({"reasoning_tokens": 4})"))
      << "from the mark that begins the thought to the one that ends it";
  EXPECT_EQ(Script({chat_completions(), kCutOff}).whole(kOpenAi)["usage"]["completion_tokens_details"],
            json(R"({"reasoning_tokens": 0})"));
}

TEST(OpenAiReply, GivesBackACallThatIsCutOff) {
  const Script script{
      chat_completions(), kCutOff, {text::CallStyle::kHermes, {}, {}}, engine::FinishReason::kLength};
  const Json choice = script.whole(kOpenAi)["choices"][0];
  EXPECT_EQ(choice["finish_reason"], "length");
  EXPECT_EQ(choice["message"]["content"], R"({"name": "now", "arguments": {"a": "b)");
  EXPECT_FALSE(choice["message"].contains("tool_calls"));
  EXPECT_EQ(script.stream(kOpenAi).back()["choices"][0]["finish_reason"], "length");
}

TEST(OpenAiReply, LooksForNoCallsWithoutTools) {
  const Script script{chat_completions(), kPieces};
  const Json choice = script.whole(R"({"messages": [{"role": "user", "content": "x"}]})")["choices"][0];
  EXPECT_EQ(choice["finish_reason"], "stop");
  EXPECT_THAT(choice["message"]["content"].get<std::string>(), HasSubstr("<tool_call>"));
  Json request = json(kOpenAi);
  request["tool_choice"] = "none";
  EXPECT_FALSE(script.whole(dump_json(request))["choices"][0]["message"].contains("tool_calls"));
  request["tool_choice"] = "auto";
  request["parallel_tool_calls"] = false;
  EXPECT_EQ(script.whole(dump_json(request))["choices"][0]["message"]["tool_calls"].size(), 1u);
}

TEST(OpenAiReply, NamesMistralsCallsAsItsTemplatesWant) {
  const Script script{chat_completions(), {"[TOOL_CALLS]now[ARGS]{}"}, {text::CallStyle::kMistral, {}, {}}};
  EXPECT_EQ(script.whole(kOpenAi)["choices"][0]["message"]["tool_calls"][0]["id"], "9abcdef00");
}

TEST(AnthropicReply, TellsOfReasoningAndCalls) {
  const Script script{anthropic_messages(), kPieces};
  const Json message = script.whole(kAnthropic);
  EXPECT_EQ(message["stop_reason"], "tool_use");
  EXPECT_EQ(message["content"], json(R"([{"type": "thinking", "thinking": "Hm.", "signature": ""},
      {"type": "text", "text": "I look."},
      {"type": "tool_use", "id": "call_0123456789abcdef_0", "name": "weather", "input": {"city": "Rome"}},
      {"type": "tool_use", "id": "call_0123456789abcdef_1", "name": "now", "input": {}}])"));
  Json blocks = Json::array();
  std::string input;
  bool open = false;
  for (const Json& event : script.stream(kAnthropic)) {
    const std::string type = event["type"];
    if (type == "content_block_start") {
      EXPECT_FALSE(std::exchange(open, true));
      EXPECT_EQ(event["index"], blocks.size());
      blocks.push_back(event["content_block"]);
      input.clear();
    } else if (type == "content_block_delta") {
      EXPECT_EQ(event["index"].get<size_t>() + 1, blocks.size());
      const Json& delta = event["delta"];
      for (const char* name : {"text", "thinking"})
        if (delta.contains(name))
          blocks.back()[name] = blocks.back()[name].get<std::string>() + delta[name].get<std::string>();
      input += delta.value("partial_json", "");
    } else if (type == "content_block_stop") {
      EXPECT_TRUE(std::exchange(open, false));
      if (!input.empty()) blocks.back()["input"] = json(input);
    } else if (type == "message_delta") {
      EXPECT_FALSE(open);
      EXPECT_EQ(event["delta"]["stop_reason"], "tool_use");
    }
  }
  EXPECT_EQ(blocks, message["content"]) << "a stream says the same";
}

TEST(AnthropicReply, HasATextWhereNothingIsSaid) {
  const Script script{anthropic_messages(), {}};
  EXPECT_EQ(script.whole(kAnthropic)["content"], json(R"([{"type": "text", "text": ""}])"));
  EXPECT_THAT(script.answer(kAnthropic, true), HasSubstr("content_block_start"));
}

TEST(OllamaReply, TellsOfReasoningAndCalls) {
  const Script script{ollama_chat(), kPieces};
  const Json message = script.whole(kOllama)["message"];
  EXPECT_EQ(message, json(R"({"role": "assistant", "content": "I look.", "thinking": "Hm.", "tool_calls": [
      {"id": "call_0123456789abcdef_0", "function": {"index": 0, "name": "weather", "arguments": {"city": "Rome"}}},
      {"id": "call_0123456789abcdef_1", "function": {"index": 1, "name": "now", "arguments": {}}}]})"));
  std::string content, thinking;
  Json calls = Json::array();
  for (const Json& line : script.stream(kOllama)) {
    content += line["message"]["content"].get<std::string>();
    thinking += line["message"].value("thinking", "");
    for (const Json& call : line["message"].value("tool_calls", Json::array())) calls.push_back(call);
  }
  EXPECT_EQ(content, "I look.");
  EXPECT_EQ(thinking, "Hm.");
  EXPECT_EQ(calls, message["tool_calls"]);
  const Script generate{ollama_generate(), {"<think>a</think>b"}};
  const Json answer = generate.whole(R"({"model": "m", "prompt": "p"})");
  EXPECT_EQ(answer["thinking"], "a");
  EXPECT_EQ(answer["response"], "b");
  EXPECT_THAT(generate.answer(R"({"model": "m", "prompt": "p"})", true), Not(HasSubstr("<think>")));
}

TEST(AnswerReader, ResponsesAreItemsInTheOrderInWhichTheyWereWritten) {
  const Script script{responses(),
                      {"<think>", "So", " f", "</think>", "Sure.", "<tool_call>", R"({"name": "f", "arg)",
                       R"(uments": {"a": 1}})", "</tool_call>"}};
  const std::string body = R"({"input": "a", "tools": [{"type": "function", "name": "f"}]})";
  const Json whole = script.whole(body);
  const Json& output = whole["output"];
  ASSERT_EQ(output.size(), 3u);
  EXPECT_EQ(output[0]["type"], "reasoning");
  EXPECT_EQ(output[0]["content"], json(R"([{"type": "reasoning_text", "text": "So f"}])"));
  EXPECT_EQ(output[1]["content"][0]["text"], "Sure.");
  EXPECT_EQ(output[2]["type"], "function_call");
  EXPECT_EQ(output[2]["name"], "f");
  EXPECT_EQ(json(output[2]["arguments"].get<std::string>()), json(R"({"a": 1})"));
  EXPECT_EQ(output[2]["status"], "completed");
  std::string arguments, thought;
  uint64_t number = 0;
  const std::vector<Json> events = script.stream(body);
  for (const Json& event : events) {
    EXPECT_EQ(event["sequence_number"], number++);
    if (event["type"] == "response.function_call_arguments.delta")
      arguments += event["delta"].get<std::string>();
    if (event["type"] == "response.reasoning_text.delta") thought += event["delta"].get<std::string>();
  }
  EXPECT_EQ(arguments, output[2]["arguments"]);
  EXPECT_EQ(thought, "So f");
  EXPECT_EQ(events.back()["type"], "response.completed");
  EXPECT_EQ(events.back()["response"]["output"], output);
}

TEST(AnswerReader, ResponsesGiveABrokenCallBackAsText) {
  const Script script{responses(), {"<tool_call>", R"({"name": "f", "arguments": {"a": )"}};
  const std::string body = R"({"input": "a", "tools": [{"type": "function", "name": "f"}]})";
  const Json output = script.whole(body)["output"];
  ASSERT_EQ(output.size(), 1u);
  EXPECT_THAT(output[0]["content"][0]["text"].get<std::string>(), HasSubstr("\"name\": \"f\""));
  const std::vector<Json> events = script.stream(body);
  const Json& streamed = events.back()["response"]["output"];
  ASSERT_EQ(streamed.size(), 2u) << "the client had heard of the call";
  EXPECT_EQ(streamed[0]["status"], "incomplete");
  EXPECT_EQ(streamed[1]["content"], output[0]["content"]);
}

}  // namespace
}  // namespace mlxf::api
