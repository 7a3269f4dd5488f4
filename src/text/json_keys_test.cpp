#include "text/json_keys.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>

#include "text/grammar.h"

namespace mlxf::text {
namespace {

using Where = JsonKeys::Where;

TEST(JsonKeys, TellsWhatWouldRepeatAKey) {
  const struct {
    const char *before, *next;
    bool repeats;
  } cases[] = {
      {R"({"a": 1, ")", R"(a")", true},
      {R"({"a": 1, ")", R"(a": 2)", true},
      {R"({"a": 1, ")", R"(ab")", false},
      {R"({"a": 1, ")", R"(a)", false},
      {R"({"a": 1, )", R"("a")", true},
      {R"({"a": 1)", R"(, "a":)", true},
      {R"({"a": "a)", R"(", "a")", true},
      {R"({"a": ")", R"(a")", false},
      {R"({"a": ")", R"(\", \"a\"")", false},
      {R"({"a": ["a", ")", R"(a")", false},
      {R"({"a": {")", R"(a")", false},
      {R"({"a": {"b": 1, ")", R"(b")", true},
      {R"({"a": {"b": 1}, ")", R"(b")", false},
      {R"({"a": {"b": 1}, ")", R"(a")", true},
      {R"({"a": {"b": 1)", R"(}, "a")", true},
      {R"({"a": {"b": 1)", R"(}, "b")", false},
      {R"([{"a": 1)", R"(}, {"a")", false},
      {R"([{"a": 1}, {"a": 1, )", R"("a")", true},
      {R"({"a": 1, ")", R"(\u0061")", true},
      {R"({"\u0061": 1, ")", R"(a")", true},
      {R"({"a\"b": 1, "a\)", R"("b")", true},
      {R"({"a": 1, "\)", R"(")", false},
      {R"({"\u00fc": 1, ")", "\xC3\xBC\"", true},
      {R"({"": 1, )", R"("")", true},
      {"", R"({"a": 1, "a")", true},
      {"", R"({"a": {"a": 1}, "b": {"a": 1}})", false},
      {"", R"({"a": {"a": 1}, "b": {"a": 1, "a")", true},
      {R"({"a": 1)", R"(, "b": {"c": 1}, "b")", true},
      {R"({"a": {"b": 1)", R"(, "c": 2}, "c": 3, "c")", true},
      {R"("{\"a\": 1, )", R"(\"a\"")", false},
  };
  for (const auto& c : cases) {
    JsonKeys keys(Where::kWhole);
    keys.push(c.before);
    EXPECT_EQ(keys.repeats(c.next), c.repeats) << c.before << " then " << c.next;
  }
}

// Marks in what stands around objects are no strings; a token that is no text ends whatever was open.
TEST(JsonKeys, ObjectsStandInATextThatIsNoJson) {
  JsonKeys keys(Where::kObjects);
  keys.push(R"(It's 5" wide, ["a", "a"]: )");
  EXPECT_FALSE(keys.repeats(R"({"a")"));
  keys.push(R"({"a": {"b": 1}, ")");
  EXPECT_TRUE(keys.repeats(R"(a")"));
  keys.restart();
  EXPECT_FALSE(keys.repeats(R"(a")"));
  keys.push(R"({"a": 1} {)");
  EXPECT_FALSE(keys.repeats(R"("a")"));
}

bool has(std::span<const uint32_t> words, TokenId token) {
  return (words[static_cast<size_t>(token) / 32] >> (static_cast<size_t>(token) % 32) & 1) != 0;
}

// Whether the grammar lets an answer go on with each token of the text, one byte each.
bool goes_on(const Tokenizer& tokenizer, const Grammar& grammar, const std::string& text) {
  GrammarMatcher matcher = grammar.start().value();
  for (const char byte : text) {
    const TokenId token = tokenizer.encode(std::string(1, byte), {.add_special_tokens = false})->front();
    const auto allowed = matcher.allowed();
    if (!allowed || !has(*allowed, token)) return false;
    EXPECT_TRUE(matcher.accept(token));
  }
  return true;
}

TEST(JsonKeys, AnswersRepeatNoKey) {
  std::ifstream file(std::string(MLXF_SOURCE_DIR) + "/tests/data/text/byte_bpe.json");
  const Tokenizer tokenizer = parse_tokenizer(std::string{std::istreambuf_iterator<char>(file), {}}).value();
  const GrammarCompiler compiler = GrammarCompiler::create(tokenizer).value();
  const Grammar any = compiler.compile(any_json_object()).value();
  EXPECT_TRUE(goes_on(tokenizer, any, R"({"a": {"a": 1}, "b": {"a": 2}})"));
  EXPECT_FALSE(goes_on(tokenizer, any, R"({"a": 1, "a")"));
  EXPECT_TRUE(goes_on(tokenizer, any, R"({"a": 1, "ab": 2})"));
  EXPECT_FALSE(goes_on(tokenizer, any, R"({"a": [{"b": 1, "b")"));
  // A listed property, written otherwise where others may come.
  const Grammar listed = compiler
                             .compile({GrammarText::Kind::kJsonSchema,
                                       R"({"type":"object","properties":{"a":{"type":"integer"}}})"})
                             .value();
  EXPECT_TRUE(goes_on(tokenizer, listed, R"({"a": 1, "\u0062": 2})"));
  EXPECT_FALSE(goes_on(tokenizer, listed, R"({"a": 1, "\u0061")"));
  // No key is left, but one more is asked for.
  const Grammar few = compiler
                          .compile({GrammarText::Kind::kJsonSchema,
                                    R"({"type":"object","patternProperties":{"^a$":{"type":"null"}},
                                        "additionalProperties":false,"minProperties":2})"})
                          .value();
  GrammarMatcher matcher = few.start().value();
  for (const char byte : std::string(R"({"a": null, "a)")) {
    ASSERT_TRUE(matcher.allowed());
    ASSERT_TRUE(
        matcher.accept(tokenizer.encode(std::string(1, byte), {.add_special_tokens = false})->front()));
  }
  const auto stuck = matcher.allowed();
  ASSERT_FALSE(stuck);
  EXPECT_EQ(stuck.error().code, ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace mlxf::text
