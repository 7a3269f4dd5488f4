#include "api/embeddings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace mlxf::api {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;

Json json(std::string_view text) { return parse_json(text).value(); }

TEST(Embeddings, TakeTextsAndTokens) {
  const auto one = openai_embeddings().parse(json(R"({"model": "m", "input": "a", "odd": 1})"));
  ASSERT_TRUE(one);
  EXPECT_EQ(std::get<std::string>(one->inputs.at(0)), "a");
  EXPECT_FALSE(one->base64);
  EXPECT_THAT(one->warnings, Contains("unknown field odd ignored"));
  const auto several = openai_embeddings().parse(
      json(R"({"input": ["a", "b"], "encoding_format": "base64", "dimensions": 2, "user": "u"})"));
  ASSERT_TRUE(several);
  EXPECT_EQ(several->inputs.size(), 2u);
  EXPECT_TRUE(several->base64);
  EXPECT_EQ(several->dimensions, 2u);
  const auto tokens = openai_embeddings().parse(json(R"({"input": [1, 2]})"));
  ASSERT_TRUE(tokens);
  EXPECT_THAT(std::get<std::vector<TokenId>>(tokens->inputs.at(0)), ElementsAre(1, 2));
  EXPECT_EQ(openai_embeddings().parse(json(R"({"input": [[1], [2, 3]]})"))->inputs.size(), 2u);
  const auto ollama =
      ollama_embed().parse(json(R"({"model": "m", "input": "a", "options": {"num_ctx": 9}})"));
  ASSERT_TRUE(ollama);
  EXPECT_TRUE(ollama->truncate);
  EXPECT_EQ(ollama->context_tokens, 9u);
  EXPECT_EQ(
      std::get<std::string>(ollama_embeddings().parse(json(R"({"model": "m", "prompt": "p"})"))->inputs[0]),
      "p");
}

TEST(Embeddings, NameWhatIsWrong) {
  const std::string many = "[\"a\"" + [] {
    std::string rest;
    for (size_t i = 0; i < kEmbeddingInputsMax; ++i) rest += ",\"a\"";
    return rest;
  }() + "]";
  for (const std::string& input :
       std::initializer_list<std::string>{"null", "1", "[]", "[\"a\", 1]", "[1, \"a\"]", "[-1]", "[1.5]",
                                          "[[]]", "[[1], []]", "{}", "[99999999999]", many}) {
    const auto call = openai_embeddings().parse(json("{\"input\": " + input + "}"));
    ASSERT_FALSE(call) << input.substr(0, 20);
    EXPECT_EQ(call.error().param, "input");
  }
  EXPECT_EQ(openai_embeddings().parse(json(R"({"input": "a", "encoding_format": "x"})")).error().param,
            "encoding_format");
  EXPECT_EQ(openai_embeddings().parse(json(R"({"input": "a", "dimensions": 0})")).error().param,
            "dimensions");
  EXPECT_EQ(ollama_embed().parse(json(R"({"input": "a"})")).error().param, "model");
  EXPECT_EQ(ollama_embeddings().parse(json(R"({"model": "m"})")).error().param, "prompt");
}

TEST(Embeddings, AreAnsweredInEachForm) {
  EmbedCall call;
  call.model = "m";
  const Embeddings embeddings{"served", {{1.0f, 0.0f}, {0.0f, -1.0f}}, 7, 2.0, 0.5};
  EXPECT_EQ(json(openai_embeddings().answer(call, embeddings)), json(R"({"object": "list", "model": "served",
      "data": [{"object": "embedding", "index": 0, "embedding": [1.0, 0.0]},
               {"object": "embedding", "index": 1, "embedding": [0.0, -1.0]}],
      "usage": {"prompt_tokens": 7, "total_tokens": 7}})"));
  call.base64 = true;
  EXPECT_EQ(json(openai_embeddings().answer(call, embeddings))["data"][1]["embedding"], "AAAAAAAAgL8=");
  EXPECT_EQ(json(ollama_embed().answer(call, embeddings)),
            json(R"({"model": "m", "embeddings": [[1.0, 0.0], [0.0, -1.0]], "total_duration": 2000000000,
                     "load_duration": 500000000, "prompt_eval_count": 7})"));
  EXPECT_EQ(json(ollama_embeddings().answer(call, embeddings)), json(R"({"embedding": [1.0, 0.0]})"));
}

TEST(Embeddings, AreShortenedToLengthOne) {
  std::vector<float> vector = {3.0f, 4.0f, 12.0f};
  shorten(vector, 2);
  EXPECT_THAT(vector, ElementsAre(testing::FloatEq(0.6f), testing::FloatEq(0.8f)));
}

TEST(Base64, PadsAsTheRfcSays) {
  const std::string text = "foobar";
  const char* expected[] = {"", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"};
  for (size_t i = 0; i <= text.size(); ++i) EXPECT_EQ(base64_text(text.data(), i), expected[i]);
}

}  // namespace
}  // namespace mlxf::api
