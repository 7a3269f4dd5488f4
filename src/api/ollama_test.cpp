#include "api/ollama.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "api/openai.h"
#include "base/duration.h"

namespace mlxf::api {
namespace {

using testing::Contains;
using testing::ElementsAre;

Json json(std::string_view text) { return parse_json(text).value(); }

Call generate(std::string_view text) {
  auto call = parse_ollama_generate(json(text));
  EXPECT_TRUE(call) << text << ": " << call.error().message;
  return call ? std::move(*call) : Call();
}

TEST(OllamaRequest, BecomesACall) {
  const Call call =
      generate(R"({"model": "m", "prompt": "p", "system": "s", "think": false, "keep_alive": "5m",
      "options": {"num_predict": 5, "num_ctx": 100, "seed": 3, "temperature": 0, "top_k": 2, "stop": "x",
                  "repeat_last_n": 0, "repeat_penalty": 1.5, "num_thread": 8, "odd": 1}})");
  EXPECT_TRUE(call.stream) << "unless told otherwise";
  EXPECT_EQ(std::get<ChatPrompt>(call.prompt).messages.dump(),
            R"([{"role":"system","content":"s"},{"role":"user","content":"p"}])");
  EXPECT_FALSE(std::get<ChatPrompt>(call.prompt).text_without_template);
  EXPECT_EQ(std::get<ChatPrompt>(call.prompt).render.enable_thinking, false);
  EXPECT_EQ(call.max_tokens, 5u);
  EXPECT_EQ(call.context_tokens, 100u);
  EXPECT_EQ(call.sampling.repetition_penalty, 1.0f) << "it looks back on nothing";
  EXPECT_THAT(call.stop, ElementsAre("x"));
  EXPECT_EQ(call.keep_alive, std::chrono::minutes(5));
  EXPECT_THAT(call.warnings, Contains("options.num_thread has no effect here"));
  EXPECT_THAT(call.warnings, Contains("unknown field options.odd ignored"));
  EXPECT_EQ(std::get<ChatPrompt>(generate(R"({"model": "m", "prompt": "p"})").prompt).text_without_template,
            "p");
  EXPECT_TRUE(std::get<TextPrompt>(generate(R"({"model": "m", "prompt": "p", "raw": true})").prompt).raw);
  EXPECT_TRUE(generate(R"({"model": "m"})").load_only);
  EXPECT_EQ(call.sampling.seed, 3u);
  EXPECT_FALSE(generate(R"({"model": "m", "prompt": "p", "options": {"seed": -1}})").sampling.seed);
  const Call thinks = generate(R"({"model": "m", "prompt": "p", "think": "high"})");
  EXPECT_TRUE(thinks.wants_reasoning);
  EXPECT_EQ(std::get<ChatPrompt>(thinks.prompt).render.variables.dump(), R"({"reasoning_effort":"high"})");
  EXPECT_EQ(generate(R"({"model": "m", "prompt": "p", "options": {"num_predict": -1}})").max_tokens, 0u);
  EXPECT_THAT(generate(R"({"model": "m", "prompt": "p", "truncate": true, "shift": true})").warnings,
              ElementsAre("shift has no effect: an answer ends where the context is full"));
}

TEST(OllamaRequest, SaysHowLongTheModelIsKept) {
  const auto kept = [](const std::string& value) {
    return generate(R"({"model": "m", "keep_alive": )" + value + "}").keep_alive;
  };
  for (const char* never : {"-1", R"("-1")", R"("-1m")", "-0.5"}) EXPECT_EQ(kept(never), kForever) << never;
  for (const char* now : {"0", R"("0")", R"("0s")"}) EXPECT_EQ(kept(now), std::chrono::seconds(0)) << now;
  EXPECT_EQ(kept("300"), std::chrono::minutes(5));
  EXPECT_EQ(kept("0.5"), std::chrono::milliseconds(500));
  EXPECT_EQ(kept("null"), std::nullopt);
  EXPECT_EQ(generate(R"({"model": "m"})").keep_alive, std::nullopt);
}

TEST(OllamaReply, SaysThatTheModelIsUnloaded) {
  Call call = generate(R"({"model": "m", "keep_alive": 0, "stream": false})");
  const StreamState stream{"id", "m", 0};
  Json whole = json(ollama_generate().unloaded(call, stream));
  EXPECT_EQ(whole["done_reason"], "unload");
  EXPECT_EQ(whole["done"], true);
  EXPECT_EQ(whole["response"], "");
  call.stream = true;
  EXPECT_EQ(ollama_chat().unloaded(call, stream).back(), '\n');
  whole = json(ollama_chat().unloaded(call, stream));
  EXPECT_EQ(whole["message"]["content"], "");
}

TEST(OllamaReply, SaysWhenTheModelExpires) {
  OllamaModel model;
  model.name = "m";
  EXPECT_EQ(ollama_running(model, 1764381600)["expires_at"], "2025-11-29T02:00:00Z");
}

TEST(OllamaReply, AStreamThatHasBegunSaysWhatHasNoEffect) {
  const Call call = generate(R"({"model": "m", "prompt": "p"})");
  StreamState stream{"1", "m", 0};
  const std::string text = stream_warnings(ollama_generate(), call, stream, {"a has no effect", "b"});
  const Json line = json(text);
  EXPECT_EQ(text.find('\n'), text.size() - 1) << "a line of its own";
  EXPECT_EQ(line["warnings"], json(R"(["a has no effect", "b"])"));
  EXPECT_EQ(line["response"], "");
  EXPECT_EQ(line["done"], false);
  EXPECT_EQ(stream_warnings(chat_completions(), call, stream, {"a has no effect", "b"}),
            ": warning: a has no effect\n: warning: b\n\n");
}

TEST(OllamaRequest, NamesWhatItRefuses) {
  for (const char* field :
       {R"("suffix": "x")", R"("template": "x")", R"("context": [1])", R"("images": ["x"])",
        R"("think": "deeply")", R"("keep_alive": "soon")", R"("keep_alive": true)",
        R"("options": {"temperature": -1})", R"("options": {"num_ctx": 0})", R"("stream": 1)",
        R"("top_logprobs": 2)", R"("truncate": "yes")", R"("shift": 1)", R"("think": true, "raw": true)"}) {
    const auto call =
        parse_ollama_generate(json(R"({"model": "m", "prompt": "p", )" + std::string(field) + "}"));
    ASSERT_FALSE(call) << field;
    EXPECT_EQ(call.error().param, std::string(field).substr(1, call.error().param.size()));
  }
  EXPECT_FALSE(parse_ollama_generate(json(R"({"prompt": "p"})"))) << "no model";
  EXPECT_EQ(parse_ollama_generate(json(R"({"model": "m", "prompt": "p", "raw": true, "system": "s"})"))
                .error()
                .param,
            "system");
  EXPECT_FALSE(parse_ollama_chat(
      json(R"({"model": "m", "messages": [{"role": "user", "content": "a"}], "tools": [1]})")));
  EXPECT_TRUE(parse_ollama_chat(json(R"({"model": "m", "messages": []})"))->load_only);
}

}  // namespace
}  // namespace mlxf::api
