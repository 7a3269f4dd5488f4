#include "text/grammar.h"

#include <gtest/gtest.h>

#include <atomic>
#include <fstream>
#include <iterator>
#include <thread>

#include "formats/manifest.h"
#include "text/thinking.h"

namespace mlxf::text {
namespace {

using Kind = GrammarText::Kind;

Tokenizer bundled() {
  const auto manifest = formats::open_model(std::string(MLXF_SOURCE_DIR) + "/models/classics-moe-4bit");
  EXPECT_TRUE(manifest);
  return load_tokenizer(*manifest).value();
}

Tokenizer of_file(const std::string& name) {
  std::ifstream file(std::string(MLXF_SOURCE_DIR) + "/tests/data/text/" + name);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  return parse_tokenizer(text).value();
}

bool has(std::span<const uint32_t> words, TokenId token) {
  const auto at = static_cast<size_t>(token);
  return at / 32 < words.size() && (words[at / 32] >> (at % 32) & 1) != 0;
}

bool none(std::span<const uint32_t> words) {
  for (const uint32_t word : words)
    if (word != 0) return false;
  return true;
}

enum class Fit { kNo, kBegins, kWhole, kWholeAndNothingFollows };

// How `text`, as the tokenizer splits it, fits the grammar.
Fit fit(const Tokenizer& tokenizer, const GrammarCompiler& compiler, const GrammarText& grammar,
        const std::string& text) {
  const auto compiled = compiler.compile(grammar);
  EXPECT_TRUE(compiled) << grammar.text << ": " << (compiled ? "" : compiled.error().message);
  if (!compiled) return Fit::kNo;
  GrammarMatcher matcher = compiled->start().value();
  const auto tokens = tokenizer.encode(text, {.add_special_tokens = false, .parse_special = false});
  for (const TokenId token : tokens.value()) {
    if (matcher.must_end() || !has(matcher.allowed().value(), token)) return Fit::kNo;
    EXPECT_TRUE(matcher.accept(token));
  }
  const auto allowed = matcher.allowed();
  EXPECT_TRUE(allowed);
  for (const TokenId end : tokenizer.end_of_generation()) EXPECT_EQ(has(*allowed, end), matcher.may_end());
  if (!matcher.may_end()) return Fit::kBegins;
  return matcher.must_end() ? Fit::kWholeAndNothingFollows : Fit::kWhole;
}

// More forms than are remembered, asked for by several at once: each gets what it asked for.
TEST(Grammar, CompilesForSeveralThreadsAtOnce) {
  const Tokenizer tokenizer = bundled();
  const GrammarCompiler compiler = GrammarCompiler::create(tokenizer).value();
  std::vector<std::thread> threads;
  threads.reserve(3);
  std::atomic<int> wrong{0};
  for (int first = 0; first < 3; ++first)
    threads.emplace_back([&, first] {
      for (int i = 0; i < 24; ++i) {
        const std::string word = "word" + std::to_string((first + i) % 12);
        const Kind kind = i % 2 == 0 ? Kind::kLark : Kind::kRegex;
        const GrammarText text{kind, kind == Kind::kLark ? "start: \"" + word + "\"" : word};
        if (fit(tokenizer, compiler, text, word) != Fit::kWholeAndNothingFollows) ++wrong;
        if (fit(tokenizer, compiler, text, "other") != Fit::kNo) ++wrong;
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST(Grammar, SchemasRegexesAndLarkFitWhatTheySay) {
  const std::string object =
      R"({"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer","minimum":0}},
          "required":["name","age"],"additionalProperties":false})";
  // In the order in which cases are read. NOLINTNEXTLINE(clang-analyzer-optin.performance.Padding)
  const struct {
    Kind kind;
    std::string grammar, text;
    Fit expected;
  } cases[] = {
      {Kind::kJsonSchema, object, R"({"name": "Ada", "age": 36})", Fit::kWholeAndNothingFollows},
      {Kind::kJsonSchema, object, R"({"name": "Zoë 🦙 \n", "age": 36)", Fit::kBegins},
      {Kind::kJsonSchema, object, R"({"name": "Ada", "age": -1})", Fit::kNo},
      {Kind::kJsonSchema, object, R"({"age": 36})", Fit::kNo},
      {Kind::kJsonSchema, object, R"({"name": "Ada", "age": 36, "more": 1})", Fit::kNo},
      {Kind::kJsonSchema, object, "Here is it: ", Fit::kNo},
      {Kind::kJsonSchema, object, "{\n  \"name\": \"Ada\",\n  \"age\": 36\n}", Fit::kWholeAndNothingFollows},
      {Kind::kJsonSchema, object, "{\n\n\n\"", Fit::kNo},
      {Kind::kJsonSchema, "true", "[1, {}]", Fit::kWholeAndNothingFollows},
      {Kind::kJsonSchema, R"({"$ref":"#/$defs/x","$defs":{"x":{"enum":["a","b"]}}})", R"("b")",
       Fit::kWholeAndNothingFollows},
      {Kind::kRegex, "[a-z]+[0-9]?", "abc", Fit::kWhole},
      {Kind::kRegex, "[a-z]+[0-9]?", "abc1", Fit::kWholeAndNothingFollows},
      {Kind::kRegex, "^[a-z]+/x$", "ab/x", Fit::kWholeAndNothingFollows},
      {Kind::kRegex, R"(5\$)", "5$", Fit::kWholeAndNothingFollows},
      {Kind::kRegex, "[a-z]+", "Abc", Fit::kNo},
      {Kind::kLark, "start: \"yes\" | \"no\" (\", \" /[a-z]+/)*", "no, never, ever", Fit::kWhole},
      {Kind::kLark, "start: \"yes\" | \"no\"", "yes", Fit::kWholeAndNothingFollows},
      {Kind::kLark, "start: \"yes\" | \"no\"", "maybe", Fit::kNo},
  };
  for (const Tokenizer& tokenizer : {bundled(), of_file("byte_bpe.json")}) {
    const GrammarCompiler compiler = GrammarCompiler::create(tokenizer).value();
    for (const auto& c : cases)
      EXPECT_EQ(fit(tokenizer, compiler, {c.kind, c.grammar}, c.text), c.expected)
          << c.grammar << " : " << c.text;
  }
}

TEST(Grammar, ObjectsAndChoices) {
  const Tokenizer tokenizer = bundled();
  const GrammarCompiler compiler = GrammarCompiler::create(tokenizer).value();
  EXPECT_EQ(fit(tokenizer, compiler, any_json_object(), R"({"a": [1, null, {"b": "c"}]})"),
            Fit::kWholeAndNothingFollows);
  EXPECT_EQ(fit(tokenizer, compiler, any_json_object(), "[1]"), Fit::kNo);
  const std::vector<std::string> choices = {"a \"quoted\"\n/word\\", "a", "ü"};
  for (const std::string& choice : choices)
    EXPECT_GE(fit(tokenizer, compiler, one_of(choices), choice), Fit::kWhole) << choice;
  EXPECT_EQ(fit(tokenizer, compiler, one_of(choices), "b"), Fit::kNo);
}

// Special tokens are never allowed, not even by grammars that name them; ends only where the grammar may end.
TEST(Grammar, SpecialTokensStayOut) {
  const Tokenizer tokenizer = bundled();
  ASSERT_FALSE(tokenizer.end_of_generation().empty());
  const TokenId end = tokenizer.end_of_generation().front();
  const GrammarCompiler compiler = GrammarCompiler::create(tokenizer).value();
  GrammarMatcher matcher = compiler.compile({Kind::kRegex, "(?s:.)*"})->start().value();
  const auto allowed = matcher.allowed().value();
  EXPECT_TRUE(matcher.may_end());
  size_t text_tokens = 0;
  for (uint32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const auto token = static_cast<TokenId>(id);
    if (tokenizer.traits(token).special || tokenizer.traits(token).control)
      EXPECT_EQ(has(allowed, token), tokenizer.is_end_of_generation(token)) << tokenizer.token_text(token);
    else
      text_tokens += has(allowed, token) ? 1 : 0;
  }
  EXPECT_GT(text_tokens, tokenizer.vocab_size() / 2);
  const auto named = compiler.compile({Kind::kLark, "start: <[" + std::to_string(end) + "]> \"a\""});
  if (!named) return;
  GrammarMatcher stuck = named->start().value();
  const auto nothing = stuck.allowed();
  EXPECT_TRUE(!nothing || none(*nothing));
}

// Parts that are apart as they are, by what they refer to, or once each leaves out what another one asks for.
TEST(Grammar, OneOfKeepsItsPartsApart) {
  const Tokenizer tokenizer = of_file("byte_bpe.json");
  const GrammarCompiler compiler = GrammarCompiler::create(tokenizer).value();
  const std::string pets = R"({"oneOf":[{"$ref":"#/$defs/cat"},{"$ref":"#/$defs/dog"}],
      "discriminator":{"propertyName":"kind"},"$defs":{
      "cat":{"type":"object","properties":{"kind":{"const":"cat"},"lives":{"type":"integer"}},"required":["kind"]},
      "dog":{"type":"object","properties":{"kind":{"enum":["dog","puppy"]}},"required":["kind"]}}})";
  const std::string keys = R"({"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"integer"}},
      "oneOf":[{"required":["a"]},{"required":["b"]}],"additionalProperties":false})";
  const std::string shapes = R"({"oneOf":[
      {"type":"object","properties":{"radius":{"type":"integer"}},"required":["radius"]},
      {"type":"object","properties":{"width":{"type":"integer"}},"required":["width"]}]})";
  const std::string optional = R"({"oneOf":[
      {"type":"object","properties":{"x":{"type":"null"},"y":{"type":"null"}},"additionalProperties":false},
      {"type":"object","properties":{"x":{"type":"null"},"z":{"type":"null"}},"additionalProperties":false}]})";
  const std::string lists = R"({"oneOf":[{"type":"array","items":{"type":"integer"}},
      {"type":"array","items":{"type":"string"}},{"type":["null","string"]},{"type":["null","boolean"]}]})";
  const std::string numbers = R"({"oneOf":[{"type":"integer","maximum":5},{"type":"integer","minimum":3}]})";
  const std::string words =
      R"({"oneOf":[{"enum":["a","b"]},{"enum":["b","c"]},{"type":"string","minLength":3},
      {"type":"string","pattern":"^[0-9]{2}$"}]})";
  const std::string within = R"({"oneOf":[{"type":"string"},{"type":["string","integer"]}]})";
  const struct {
    const std::string& schema;
    std::string text;
    bool fits;
  } cases[] = {
      {pets, R"({"kind": "cat", "lives": 9})", true},
      {pets, R"({"kind": "puppy"})", true},
      {pets, R"({"kind": "cow"})", false},
      {keys, R"({"a": 1})", true},
      {keys, R"({"b": 1})", true},
      {keys, R"({"a": 1, "b": 1})", false},
      {keys, "{}", false},
      {shapes, R"({"radius": 1})", true},
      {shapes, R"({"width": 1, "more": 2})", true},
      {shapes, R"({"radius": 1, "width": 2})", false},
      {optional, R"({"x": null, "y": null})", true},
      {optional, R"({"z": null})", true},
      {optional, R"({"x": null})", false},
      {lists, "[1, 2]", true},
      {lists, R"(["a"])", true},
      {lists, "[]", false},
      {lists, R"([1, "a"])", false},
      {lists, "null", false},
      {lists, "true", true},
      {numbers, "2", true},
      {numbers, "4", false},
      {numbers, "6", true},
      {words, R"("a")", true},
      {words, R"("b")", false},
      {words, R"("c")", true},
      {words, R"("12")", true},
      {words, R"("abc")", true},
      {within, R"("a")", false},
      {within, "3", true},
  };
  for (const auto& c : cases) {
    EXPECT_EQ(fit(tokenizer, compiler, {Kind::kJsonSchema, c.schema}, c.text) >= Fit::kWhole, c.fits)
        << c.schema << " : " << c.text;
    EXPECT_TRUE(compiler.compile({Kind::kJsonSchema, c.schema})->notes().empty()) << c.schema;
  }
}

// What cannot be told apart is anyOf, and says so: also when the grammar is remembered.
TEST(Grammar, OneOfThatOverlapsIsAnyOfAndTold) {
  const Tokenizer tokenizer = of_file("byte_bpe.json");
  const GrammarCompiler compiler = GrammarCompiler::create(tokenizer).value();
  const GrammarText text{
      Kind::kJsonSchema,
      R"({"type":"object","properties":{"oneOf":{"oneOf":[{"type":"string"},{"enum":["auto"]}]}}})"};
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(fit(tokenizer, compiler, text, R"({"oneOf": "auto"})"), Fit::kWholeAndNothingFollows);
    const std::vector<std::string> notes = compiler.compile(text)->notes();
    ASSERT_EQ(notes.size(), 1u);
    EXPECT_NE(notes[0].find("$.properties.oneOf.oneOf"), std::string::npos) << notes[0];
  }
  // Comparing all of many parts stops somewhere.
  std::string many = R"({"oneOf":[)";
  for (int i = 0; i < 400; ++i) many += R"({"type":"string","pattern":"^a)" + std::to_string(i) + R"(x*"},)";
  many += R"({"$ref":"#"}]})";
  (void)compiler.compile({Kind::kJsonSchema, many});
}

TEST(Grammar, ErrorsNameWhatIsWrongAndWhere) {
  const GrammarCompiler compiler = GrammarCompiler::create(of_file("byte_bpe.json")).value();
  const struct {
    Kind kind;
    std::string grammar, words, where;
  } cases[] = {
      {Kind::kJsonSchema, "{", "not JSON", "line 1"},
      {Kind::kJsonSchema, "3", "a schema is an object", "$"},
      {Kind::kJsonSchema, "false", "nothing fits", "$"},
      {Kind::kJsonSchema, R"({"type":"strin"})", "strin", "(at $)"},
      {Kind::kJsonSchema, R"({"properties":{"a":{"type":"array","items":{"type":"strin"}}}})", "strin",
       "(at $.properties.a.items)"},
      {Kind::kJsonSchema, R"({"anyOf":[{"type":"null"},{"not":{"type":"null"}}]})", "not", "(at $.anyOf[1])"},
      {Kind::kJsonSchema, R"({"$ref":"#/$defs/none"})", "none", "$"},
      {Kind::kJsonSchema, R"({"$ref":"https://example.com/x.json"})", "example.com", "$"},
      {Kind::kJsonSchema, R"({"type":"string","pattern":"("})", "(", "$"},
      {Kind::kJsonSchema,
       R"({"type":"object","properties":{"a":{"type":"integer","minimum":3,"maximum":1}},"required":["a"]})",
       "", "$"},
      {Kind::kJsonSchema, R"({"x-guidance":{"lenient":true}})", "x-guidance", "$"},
      {Kind::kJsonSchema,
       R"({"$ref":"#/$defs/a","$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}}})",
       "no answer fits", ""},
      {Kind::kLark, "start: a\na: b\nb: a", "no answer fits", ""},
      {Kind::kRegex, "((", "the regular expression '((' cannot be used: at character 2: unclosed group", ""},
      {Kind::kRegex, "^\xC3\xA9(?=b)$", "'^\xC3\xA9(?=b)$' cannot be used: at character 3: look-around", ""},
      {Kind::kRegex, "a\n[z-a]", "'a\\n[z-a]' cannot be used: at character 4: invalid character class range",
       ""},
      {Kind::kRegex, "a\\b!", "'a\\b!' cannot be used: ", ""},
      {Kind::kRegex, std::string(100, 'a') + ")",
       std::string(60, 'a') + "…' cannot be used: at character 101", ""},
      {Kind::kLark, "root ::= \"a\"", "Lark", ""},
      {Kind::kLark, "start: missing", "missing", ""},
      {Kind::kLark, "", "Lark", ""},
      {Kind::kLark, std::string(300 << 10, 'a'), "at most 262144", ""},
      {Kind::kRegex, "\xff", "UTF-8", ""},
  };
  for (const auto& c : cases) {
    const auto compiled = compiler.compile({c.kind, c.grammar});
    ASSERT_FALSE(compiled) << c.grammar.substr(0, 200);
    EXPECT_EQ(compiled.error().code, ErrorCode::kInvalidArgument) << compiled.error().message;
    EXPECT_NE(compiled.error().message.find(c.words), std::string::npos) << compiled.error().message;
    EXPECT_NE(compiled.error().message.find(c.where), std::string::npos) << compiled.error().message;
    EXPECT_LT(compiled.error().message.size(), 2000u);
    if (c.kind == Kind::kRegex) {
      EXPECT_EQ(compiled.error().message.find('\n'), std::string::npos) << compiled.error().message;
      EXPECT_LT(compiled.error().message.size(), 200u) << compiled.error().message;
    }
  }
}

std::string repeated(const std::string& text, size_t times) {
  std::string out;
  for (size_t i = 0; i < times; ++i) out += text;
  return out;
}

// Made to take time, memory or stack: refused, or compiled and then usable for a step.
TEST(Grammar, HostileGrammarsEnd) {
  const Tokenizer tokenizer = bundled();
  const GrammarCompiler compiler = GrammarCompiler::create(tokenizer).value();
  std::string rules = "start: r0\n", terminals = "start: T0\n";
  for (int i = 0; i < 5000; ++i) {
    rules += "r" + std::to_string(i) + ": \"a\" r" + std::to_string(i + 1) + " | \"b\"\n";
    terminals += "T" + std::to_string(i) + ": \"a\" T" + std::to_string(i + 1) + " | \"b\"\n";
  }
  rules += "r5000: \"c\"\n";
  terminals += "T5000: \"c\"\n";
  const GrammarText cases[] = {
      {Kind::kJsonSchema, repeated(R"({"items":)", 20000) + "{}" + repeated("}", 20000)},
      {Kind::kJsonSchema, repeated(R"({"items":)", 60) + "{}" + repeated("}", 60)},
      {Kind::kJsonSchema, R"({"type":"array","minItems":1000000000})"},
      {Kind::kJsonSchema, R"({"type":"array","items":{"type":"array","minItems":3000},"minItems":3000})"},
      {Kind::kJsonSchema, R"({"type":"string","minLength":100000,"maxLength":2000000000})"},
      {Kind::kJsonSchema, R"({"type":"string","pattern":"^(a{100}){100}{100}$"})"},
      {Kind::kJsonSchema, R"({"type":"number","multipleOf":1e-300})"},
      {Kind::kJsonSchema, R"({"allOf":[{"$ref":"#"},{"$ref":"#"}]})"},
      {Kind::kJsonSchema, R"({"anyOf":[{"$ref":"#"},{"$ref":"#"}]})"},
      {Kind::kRegex, repeated("(", 100000)},
      {Kind::kRegex, repeated("(a|", 240) + repeated(")*", 240)},
      {Kind::kRegex, "(.*a.{24}){9}"},
      {Kind::kRegex, "a{5000000}"},
      {Kind::kLark, "start: " + repeated("(", 100000)},
      {Kind::kLark, "start: start start | \"a\" | "},
      {Kind::kLark, "start: a\na: b\nb: a"},
      {Kind::kLark, "start: " + repeated("\"a\"? ", 20000)},
      {Kind::kLark, "start: \"a\"{1000000}"},
      {Kind::kLark, rules},
      {Kind::kLark, terminals},
      {Kind::kLark, "start: A\nA: B\nB: A"},
  };
  for (const GrammarText& grammar : cases) {
    const auto compiled = compiler.compile(grammar);
    if (!compiled) {
      EXPECT_FALSE(compiled.error().message.empty());
      continue;
    }
    GrammarMatcher matcher = compiled->start().value();
    for (int step = 0; step < 3; ++step) {
      const auto allowed = matcher.allowed();
      if (!allowed) break;
      TokenId token = 0;
      while (static_cast<uint32_t>(token) < tokenizer.vocab_size() &&
             (!has(*allowed, token) || tokenizer.is_end_of_generation(token)))
        ++token;
      if (static_cast<uint32_t>(token) == tokenizer.vocab_size() || !matcher.accept(token)) break;
    }
  }
}

// Many forms, and some that are large: what is kept stays within its bytes, those used last are kept, and all of it is
// given back.
TEST(Grammar, KeptGrammarsStayWithinTheirBytes) {
  const GrammarCompiler compiler = GrammarCompiler::create(of_file("byte_bpe.json")).value();
  EXPECT_EQ(compiler.kept_bytes(), 0u);
  const GrammarText small = any_json_object();
  ASSERT_TRUE(compiler.compile(small));
  const uint64_t one = compiler.kept_bytes();
  EXPECT_GT(one, uint64_t{20} << 10);
  EXPECT_LT(one, uint64_t{8} << 20);
  ASSERT_TRUE(compiler.compile(small));
  EXPECT_EQ(compiler.kept_bytes(), one);
  for (int i = 0; i < 40; ++i) {
    std::string schema = R"({"type":"object","properties":{)";
    for (int j = 0; j < 400; ++j) {
      schema += j == 0 ? "\"p" : ",\"p";
      schema += std::to_string(i) + "_" + std::to_string(j) + R"(":{"type":"string","maxLength":3})";
    }
    ASSERT_TRUE(compiler.compile({Kind::kJsonSchema, schema + "}}"}));
    EXPECT_LE(compiler.kept_bytes(), GrammarCompiler::kKeptBytesMax);
    EXPECT_GT(compiler.kept_bytes(), one);
  }
  compiler.forget();
  EXPECT_EQ(compiler.kept_bytes(), 0u);
  ASSERT_TRUE(compiler.compile(small));
  EXPECT_EQ(compiler.kept_bytes(), one);
}

TEST(Grammar, MatchersAreIndependent) {
  const Tokenizer tokenizer = of_file("spm_bpe.json");
  const GrammarCompiler compiler = GrammarCompiler::create(tokenizer).value();
  const Grammar grammar = compiler.compile({Kind::kRegex, "ab|cd"}).value();
  GrammarMatcher one = grammar.start().value(), other = grammar.start().value();
  const TokenId a = tokenizer.find_token("a").value(), b = tokenizer.find_token("b").value();
  ASSERT_TRUE(has(one.allowed().value(), a));
  ASSERT_TRUE(one.accept(a));
  EXPECT_TRUE(has(one.allowed().value(), b));
  EXPECT_FALSE(has(other.allowed().value(), b));
  ASSERT_TRUE(one.accept(b));
  EXPECT_TRUE(one.must_end());
  EXPECT_TRUE(none(one.allowed().value()));  // This tokenizer was given no end tokens.
  EXPECT_TRUE(one.may_end());
}

TEST(Thinking, FollowsFromTheTemplateAndThePromptsEnd) {
  using State = Thinking::State;
  const std::string thinks = "{% if x %}<think>{% endif %}...</think>";
  EXPECT_EQ(thinking_after("plain", "<think>").state, State::kNone);
  EXPECT_EQ(thinking_after(thinks, "Hi <|assistant|>\n").state, State::kMayOpen);
  EXPECT_EQ(thinking_after(thinks, "a <think> b </think> <|assistant|>\n").state, State::kMayOpen);
  EXPECT_EQ(thinking_after(thinks, "<|assistant|><think>\n").state, State::kOpen);
  EXPECT_EQ(thinking_after(thinks, "<|assistant|><think>\n\n</think>\n\n").state, State::kNone);
  EXPECT_EQ(thinking_after("[THINK] [/THINK]", "x[THINK]").close, "[/THINK]");
  EXPECT_EQ(thinking_after(thinks, "").state, State::kMayOpen);
  const std::string channels = "<|start|><|channel|>analysis<|message|>";
  EXPECT_EQ(thinking_after(channels, "<|start|>assistant").close, "<|channel|>final");
  EXPECT_EQ(thinking_after(channels, "").state, State::kOpen);
  EXPECT_EQ(thinking_after(channels, "<|channel|>final<|message|>Hi<|end|><|start|>assistant").state,
            State::kOpen);
  EXPECT_EQ(thinking_after(channels, "<|start|>assistant<|channel|>final<|message|>").state, State::kNone);
}

}  // namespace
}  // namespace mlxf::text
