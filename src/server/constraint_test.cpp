#include "server/constraint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/manifest.h"

namespace mlxf::server {
namespace {

using testing::HasSubstr;

// A model that writes Hermes' calls, as far as constraints go.
class ConstraintTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto manifest = formats::open_model(MLXF_SOURCE_DIR "/models/classics-moe-4bit");
    model_.tokenizer = text::load_tokenizer(*manifest).value();
    model_.grammars = text::GrammarCompiler::create(*model_.tokenizer).value();
    model_.answers.calls = text::CallStyle::kHermes;
    prompt_.chat = true;
  }
  // Tools whose names alone are too much for a grammar, each of which may be called.
  void allow(size_t count, size_t name_bytes) {
    api::ChatPrompt chat;
    chat.render.tools = OrderedJson::array();
    for (size_t i = 0; i < count; ++i) {
      std::string name = std::to_string(i);
      name.resize(name_bytes, 'x');
      chat.render.tools.push_back({{"type", "function"}, {"function", {{"name", name}}}});
      call_.tools.push_back({name, nullptr});
      call_.callable.insert(name);
    }
    call_.prompt = std::move(chat);
  }
  auto made() { return make_constraint(call_, model_, prompt_, warnings_); }

  ServedModel model_;
  Prompt prompt_;
  api::Call call_;
  std::vector<std::string> warnings_;
};

TEST_F(ConstraintTest, AllowedToolsHoldCallsThatMayCome) {
  allow(3, 20);
  const auto constraint = made();
  ASSERT_TRUE(constraint);
  ASSERT_NE(*constraint, nullptr);
  EXPECT_EQ((*constraint)->opening, "<tool_call>");
  EXPECT_TRUE(warnings_.empty());
}

TEST_F(ConstraintTest, TooManyToolsAreServedWithoutAGrammarAndToldOf) {
  allow(1024, 230);
  const auto constraint = made();
  ASSERT_TRUE(constraint) << constraint.error().message;
  EXPECT_EQ(*constraint, nullptr);
  ASSERT_EQ(warnings_.size(), 1u);
  EXPECT_THAT(warnings_[0], HasSubstr("not held to the allowed tools"));
  EXPECT_THAT(warnings_[0], HasSubstr("bytes"));
}

TEST_F(ConstraintTest, WhatIsPromisedIsRefusedWhereItCannotBeKept) {
  allow(1024, 230);
  call_.strict_tools = {*call_.callable.begin()};
  const auto strict = made();
  ASSERT_FALSE(strict);
  EXPECT_EQ(strict.error().kind, api::ErrorKind::kInvalidRequest);
  EXPECT_THAT(strict.error().message, HasSubstr("bytes"));
  call_.callable.clear();
  ASSERT_FALSE(made());
  call_.strict_tools.clear();
  call_.must_call = true;
  const auto forced = made();
  ASSERT_FALSE(forced);
  EXPECT_EQ(forced.error().kind, api::ErrorKind::kInvalidRequest);
  EXPECT_TRUE(warnings_.empty());
}

TEST_F(ConstraintTest, FormsWithoutAMarkerCannotAllowSomeTools) {
  allow(2, 20);
  model_.answers.calls = text::CallStyle::kLlama;
  const auto refused = made();
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().param, "tool_choice");
}

TEST_F(ConstraintTest, OneOfThatOverlapsIsToldOf) {
  call_.prompt = api::TextPrompt{"x"};
  prompt_.chat = false;
  call_.structure = api::Structure{
      {text::GrammarText::Kind::kJsonSchema, R"({"oneOf":[{"type":"string"},{"const":"auto"}]})"},
      "response_format",
      {}};
  ASSERT_TRUE(made());
  ASSERT_EQ(warnings_.size(), 1u);
  EXPECT_THAT(warnings_[0], HasSubstr("response_format: what fits several parts of $.oneOf"));
}

}  // namespace
}  // namespace mlxf::server
