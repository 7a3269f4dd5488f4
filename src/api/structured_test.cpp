#include "api/structured.h"

#include <gtest/gtest.h>

#include "api/anthropic.h"
#include "api/ollama.h"
#include "api/openai.h"

namespace mlxf::api {
namespace {

using Kind = text::GrammarText::Kind;

struct Case {
  std::string field;
  Kind kind;
  std::string text, param;
};

// What `parse` makes of a request with the field added, its schema in the order of the text.
template <typename Parse>
std::optional<Structure> structure(Parse parse, const std::string& rest, const std::string& field) {
  const std::string body = "{" + field + ", " + rest + "}";
  const auto call = parse(*parse_body(body));
  EXPECT_TRUE(call) << body << ": " << (call ? "" : call.error().message);
  if (!call || !call->structure) return std::nullopt;
  Structure found = *call->structure;
  restore_schema_order(body, found);
  return found;
}

template <typename Parse>
void expect_all(Parse parse, const std::string& rest, const std::vector<Case>& cases) {
  for (const Case& c : cases) {
    const auto found = structure(parse, rest, c.field);
    ASSERT_TRUE(found) << c.field;
    EXPECT_EQ(found->grammar.kind, c.kind) << c.field;
    EXPECT_EQ(found->grammar.text, c.text) << c.field;
    EXPECT_EQ(found->param, c.param) << c.field;
  }
}

template <typename Parse>
void expect_refused(Parse parse, const std::string& rest, const std::string& field,
                    const std::string& param) {
  const auto call = parse(*parse_body("{" + field + ", " + rest + "}"));
  ASSERT_FALSE(call) << field;
  EXPECT_EQ(call.error().param, param) << field;
}

const std::string kSchema = R"({"type":"object","properties":{"z":{"type":"null"},"a":{"type":"integer"}}})";
const std::string kMessages = R"("messages": [{"role": "user", "content": "a"}])";

TEST(Structured, OpenAisFields) {
  const std::vector<Case> cases = {
      {R"("response_format": {"type": "json_object"})", Kind::kJsonSchema, R"({"type":"object"})",
       "response_format"},
      {R"("response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": true, "schema": )" +
           kSchema + "}}",
       Kind::kJsonSchema, kSchema, "response_format.json_schema.schema"},
      {R"("response_format": {"type": "json_object", "schema": )" + kSchema + "}", Kind::kJsonSchema, kSchema,
       "response_format.schema"},
      {R"("json_schema": )" + kSchema, Kind::kJsonSchema, kSchema, "json_schema"},
      {R"("grammar": "start: \"a\"")", Kind::kLark, "start: \"a\"", "grammar"},
      {R"("grammar": "# note\nroot ::= \"a\"")", Kind::kGbnf, "# note\nroot ::= \"a\"", "grammar"},
      {R"("structured_outputs": {"grammar": "root ::= [a]"})", Kind::kGbnf, "root ::= [a]",
       "structured_outputs.grammar"},
      {R"("structured_outputs": {"json": )" + kSchema + "}", Kind::kJsonSchema, kSchema,
       "structured_outputs.json"},
      {R"("structured_outputs": {"json": "{\"z\":1,\"a\":2}"})", Kind::kJsonSchema, R"({"z":1,"a":2})",
       "structured_outputs.json"},
      {R"("structured_outputs": {"regex": "a+"})", Kind::kRegex, "a+", "structured_outputs.regex"},
      {R"("structured_outputs": {"grammar": "start: \"a\""})", Kind::kLark, "start: \"a\"",
       "structured_outputs.grammar"},
      {R"("structured_outputs": {"choice": ["a", "\""]})", Kind::kLark, R"(start: "a" | "\"")",
       "structured_outputs.choice"},
  };
  expect_all(parse_chat_completion, kMessages, cases);
  expect_all(parse_completion, R"("prompt": "a")", cases);
  for (const char* nothing :
       {R"("response_format": {"type": "text"})", R"("response_format": null)", R"("n": 1)"})
    EXPECT_FALSE(structure(parse_chat_completion, kMessages, nothing)) << nothing;
  const std::pair<std::string, std::string> wrong[] = {
      {R"("response_format": {"type": "xml"})", "response_format.type"},
      {R"("response_format": "json")", "response_format"},
      {R"("response_format": {"type": "json_schema"})", "response_format.json_schema.schema"},
      {R"("response_format": {"type": "json_schema", "json_schema": []})",
       "response_format.json_schema.schema"},
      {R"("grammar": 1)", "grammar"},
      {R"("grammar": "start: \"a\"", "json_schema": {})", "grammar"},
      {R"("structured_outputs": {"regex": 1})", "structured_outputs.regex"},
      {R"("structured_outputs": {"regex": "a", "grammar": "b"})", "structured_outputs"},
      {R"("structured_outputs": {"structural_tag": "a"})", "structured_outputs"},
      {R"("structured_outputs": {})", "structured_outputs"},
  };
  for (const auto& [field, param] : wrong) expect_refused(parse_chat_completion, kMessages, field, param);
}

TEST(Structured, AnthropicsFormat) {
  const std::string rest = R"("max_tokens": 5, )" + kMessages;
  expect_all(parse_anthropic_message, rest,
             {{R"("output_config": {"format": {"type": "json_schema", "schema": )" + kSchema + "}}",
               Kind::kJsonSchema, kSchema, "output_config.format"},
              {R"("output_format": {"type": "json_schema", "schema": )" + kSchema + "}", Kind::kJsonSchema,
               kSchema, "output_format"}});
  expect_refused(parse_anthropic_message, rest, R"("output_config": {"format": {"type": "json_schema"}})",
                 "output_config.format");
  expect_refused(parse_anthropic_message, rest, R"("output_format": "json")", "output_format");
}

TEST(Structured, OllamasFormat) {
  const std::vector<Case> cases = {
      {R"("format": "json")", Kind::kJsonSchema, R"({"type":"object"})", "format"},
      {R"("format": )" + kSchema, Kind::kJsonSchema, kSchema, "format"},
  };
  expect_all(parse_ollama_generate, R"("model": "m", "prompt": "p")", cases);
  expect_all(parse_ollama_chat, R"("model": "m", )" + kMessages, cases);
  EXPECT_FALSE(structure(parse_ollama_generate, R"("model": "m", "prompt": "p")", R"("format": "")"));
  expect_refused(parse_ollama_generate, R"("model": "m", "prompt": "p")", R"("format": "xml")", "format");
  expect_refused(parse_ollama_generate, R"("model": "m", "prompt": "p")", R"("format": 1)", "format");
}

}  // namespace
}  // namespace mlxf::api
