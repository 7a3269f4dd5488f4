#include "text/call_grammar.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <random>

#include "text/answer_parser.h"
#include "text/thinking.h"

namespace mlxf::text {
namespace {

constexpr CallStyle kStyles[] = {CallStyle::kJson,          CallStyle::kHermes,   CallStyle::kQwenXml,
                                 CallStyle::kGlm,           CallStyle::kMiniMax,  CallStyle::kLlama,
                                 CallStyle::kMistral,       CallStyle::kDeepSeek, CallStyle::kKimi,
                                 CallStyle::kFunctionGemma, CallStyle::kGemma4,   CallStyle::kHarmony,
                                 CallStyle::kCommand,       CallStyle::kDsml};

AnswerFormat format_of(CallStyle style) { return {style, {}, {}}; }

// Without tokens for markers, with a token for each, or with special ones as most vocabularies have them.
enum class Markers : uint8_t { kText, kTokens, kSpecial };

Tokenizer tokenizer_with(const AnswerFormat& format, Markers markers) {
  std::ifstream stream(std::string(MLXF_SOURCE_DIR) + "/tests/data/text/byte_bpe.json");
  Json file = parse_json(std::string{std::istreambuf_iterator<char>(stream), {}}).value();
  int id = 1406;
  if (markers != Markers::kText)
    for (const std::string& marker : marker_spellings(format))
      file["added_tokens"].push_back({{"id", id++},
                                      {"content", marker},
                                      {"single_word", false},
                                      {"lstrip", false},
                                      {"rstrip", false},
                                      {"normalized", false},
                                      {"special", markers == Markers::kSpecial}});
  return parse_tokenizer(dump_json(file)).value();
}

std::vector<CallableTool> tools(bool strict) {
  const auto tool = [strict](const char* name, std::string_view schema) {
    return CallableTool{name, schema.empty() ? OrderedJson() : parse_ordered_json(schema).value(), strict};
  };
  return {tool("weather",
               R"({"type": "object", "properties": {"zone": {"type": "integer", "minimum": 0, "maximum": 99},
              "city": {"enum": ["Rome", "New York"]}, "note": {"type": ["string", "null"], "enum": ["x", null]},
              "list": {"type": "array", "items": {"type": "boolean"}}}, "required": ["city", "zone"]})"),
          tool("write.it",
               R"({"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]})"),
          tool("now", {})};
}

// What a schema of the above lets be, as far as they say.
bool fits(const Json& value, const Json& schema) {
  if (const Json* values = find_member(schema, "enum")) {
    for (const Json& one : *values)
      if (one == value) return true;
    return false;
  }
  const std::string type = find_string(schema, "type").value_or("");
  if (type == "integer") return value.is_number_integer();
  if (type == "boolean") return value.is_boolean();
  if (type == "string") return value.is_string();
  if (type == "array") {
    for (const Json& one : value)
      if (!fits(one, schema["items"])) return false;
    return value.is_array();
  }
  if (!value.is_object()) return false;
  for (const auto& [name, member] : value.items())
    if (!schema["properties"].contains(name) || !fits(member, schema["properties"][name])) return false;
  const Json required = schema.value("required", Json::array());
  for (const Json& name : required)
    if (!value.contains(name.get<std::string>())) return false;
  return true;
}

// What ends a text within a call.
std::string text_end(CallStyle style) {
  switch (style) {
    case CallStyle::kQwenXml:
    case CallStyle::kMiniMax:
      return "</parameter>";
    case CallStyle::kGlm:
      return "</arg_value>";
    case CallStyle::kFunctionGemma:
      return "<escape>";
    case CallStyle::kGemma4:
      return "<|\"|>";
    case CallStyle::kHarmony:
      return "<|end|>";
    case CallStyle::kDsml:
      return "</｜DSML｜parameter>";
    default:
      return "\"";
  }
}

bool has(std::span<const uint32_t> words, TokenId token) {
  return (words[static_cast<size_t>(token) / 32] >> token % 32 & 1) != 0;
}

// What a model writes that knows nothing, but that texts end; it ends where it may, sooner or later.
std::string babble(const Grammar& grammar, const Tokenizer& tokenizer, CallStyle style, uint64_t seed) {
  std::minstd_rand random(seed);
  GrammarMatcher matcher = grammar.start().value();
  const std::vector<TokenId> end = tokenizer.encode(text_end(style), {.add_special_tokens = false}).value();
  const std::vector<TokenId> quote = tokenizer.encode("\"", {.add_special_tokens = false}).value();
  std::vector<TokenId> next;  // Wanted, the last one first.
  std::string text;
  for (size_t made = 0; made < 3000 && !matcher.must_end(); ++made) {
    const auto allowed = matcher.allowed();
    if (!allowed) return text + " ERROR " + allowed.error().message;
    if (matcher.may_end() && random() % 2 == 0) return text;
    std::vector<TokenId> all;
    for (uint32_t id = 0; id < tokenizer.vocab_size(); ++id)
      if (has(*allowed, static_cast<TokenId>(id))) all.push_back(static_cast<TokenId>(id));
    if (all.empty()) return text;
    constexpr size_t kManyTokens = 600;  // As within a text.
    if (next.empty() && all.size() > kManyTokens && random() % 2 == 0) {
      const std::vector<TokenId>& wanted = random() % 2 == 0 ? end : quote;
      next.assign(wanted.rbegin(), wanted.rend());
    }
    if (!next.empty() && !has(*allowed, next.back())) next.clear();
    const TokenId token = next.empty() ? all[random() % all.size()] : next.back();
    if (!next.empty()) next.pop_back();
    text += tokenizer.token_bytes(token);
    if (const Status taken = matcher.accept(token); !taken) return text + " ERROR " + taken.error().message;
  }
  return text;
}

struct Read {
  std::vector<std::string> names;
  std::vector<std::string> arguments;
  std::string rest;
};
Read read(const AnswerFormat& format, const std::string& text, const std::vector<CallableTool>& given) {
  std::vector<ToolSpec> specs;
  specs.reserve(given.size());
  for (const CallableTool& tool : given)
    specs.push_back(
        {tool.name, tool.parameters.is_null() ? Json() : parse_json(tool.parameters.dump()).value()});
  AnswerParser parser(format, specs, "<|start|>assistant");
  std::vector<AnswerEvent> events = parser.push(text);
  const std::vector<AnswerEvent> last = parser.finish();
  events.insert(events.end(), last.begin(), last.end());
  Read out;
  for (const AnswerEvent& event : events) {
    if (event.kind == AnswerEvent::Kind::kCallBegin) {
      out.names.push_back(event.text);
      out.arguments.emplace_back();
    } else if (event.kind == AnswerEvent::Kind::kArguments) {
      out.arguments.back() += event.text;
    } else if (event.kind != AnswerEvent::Kind::kCallEnd && event.kind != AnswerEvent::Kind::kReasoning) {
      out.rest += event.text;
    }
  }
  return out;
}

// `text` is whole calls of the tools and nothing else; how many.
size_t check_calls(const AnswerFormat& format, const std::string& text,
                   const std::vector<CallableTool>& given) {
  const Read calls = read(format, text, given);
  EXPECT_EQ(calls.rest, "") << text;
  for (size_t i = 0; i < calls.names.size(); ++i) {
    const auto tool = std::find_if(given.begin(), given.end(),
                                   [&](const CallableTool& one) { return one.name == calls.names[i]; });
    EXPECT_TRUE(tool != given.end()) << text;
    const auto value = parse_json(calls.arguments[i]);
    EXPECT_TRUE(value) << calls.arguments[i] << " in " << text;
    if (tool == given.end() || !value) continue;
    const Json schema = tool->parameters.is_null() ? Json{{"properties", Json::object()}}
                                                   : parse_json(tool->parameters.dump()).value();
    EXPECT_TRUE(fits(*value, schema)) << calls.arguments[i] << " in " << text;
  }
  return calls.names.size();
}

TEST(CallGrammar, ForcesCallsThatParseInEveryFamily) {
  for (const CallStyle style : kStyles)
    for (const Markers markers : {Markers::kText, Markers::kTokens, Markers::kSpecial}) {
      const AnswerFormat format = format_of(style);
      const Tokenizer tokenizer = tokenizer_with(format, markers);
      const GrammarCompiler compiler = GrammarCompiler::create(tokenizer).value();
      if (style == CallStyle::kHarmony && markers == Markers::kText) {
        EXPECT_FALSE(forced_calls(format, tools(true), false, tokenizer))
            << "it could not tell them from text";
        continue;
      }
      for (const bool several : {false, true}) {
        SCOPED_TRACE(std::to_string(static_cast<int>(style)) + " " +
                     std::to_string(static_cast<int>(markers)));
        const auto text = forced_calls(format, tools(several), several, tokenizer);
        ASSERT_TRUE(text) << text.error().message;
        const auto grammar = compiler.compile(*text);
        ASSERT_TRUE(grammar) << grammar.error().message << "\n" << text->text;
        size_t most = 0;
        for (uint64_t seed = 1; seed <= 8; ++seed) {
          const size_t calls = check_calls(format, babble(*grammar, tokenizer, style, seed), tools(several));
          EXPECT_GE(calls, 1u);
          most = std::max(most, calls);
        }
        if (!several || style == CallStyle::kHarmony) {
          EXPECT_EQ(most, 1u);
        } else {
          EXPECT_GT(most, 1u);
        }
      }
    }
}

TEST(CallGrammar, HoldsWhatFollowsAnOpeningMarker) {
  for (const CallStyle style : kStyles) {
    SCOPED_TRACE(static_cast<int>(style));
    const AnswerFormat format = format_of(style);
    const Tokenizer tokenizer = tokenizer_with(format, Markers::kSpecial);
    const auto opened = opened_calls(format, tools(true), tokenizer);
    if (style == CallStyle::kJson || style == CallStyle::kLlama || style == CallStyle::kHarmony) {
      ASSERT_FALSE(opened);
      EXPECT_EQ(opened.error().code, ErrorCode::kUnsupported);
      continue;
    }
    ASSERT_TRUE(opened) << opened.error().message;
    const auto grammar = GrammarCompiler::create(tokenizer).value().compile(opened->grammar);
    ASSERT_TRUE(grammar) << grammar.error().message;
    for (uint64_t seed = 1; seed <= 8; ++seed) {
      GrammarMatcher matcher = grammar->start().value();
      ASSERT_TRUE(matcher.allowed());
      EXPECT_FALSE(matcher.may_end());
      EXPECT_GE(check_calls(format, opened->marker + babble(*grammar, tokenizer, style, seed), tools(true)),
                1u);
    }
    // Tools that are not strict take what a model gives them; others still take what they say.
    std::vector<CallableTool> mixed = tools(false);
    mixed[2].strict = true;
    EXPECT_TRUE(
        GrammarCompiler::create(tokenizer).value().compile(opened_calls(format, mixed, tokenizer)->grammar));
  }
}

bool accepts(const Grammar& grammar, const Tokenizer& tokenizer, std::string_view text) {
  GrammarMatcher matcher = grammar.start().value();
  const std::vector<TokenId> tokens = tokenizer.encode(text, {.add_special_tokens = false}).value();
  for (const TokenId token : tokens) {
    const auto allowed = matcher.allowed();
    if (!allowed || !has(*allowed, token)) return false;
    if (!matcher.accept(token)) return false;
  }
  return matcher.must_end() || (matcher.allowed() && matcher.may_end());
}

bool takes(CallStyle style, std::string_view text, bool several = true) {
  const AnswerFormat format = format_of(style);
  const Tokenizer tokenizer = tokenizer_with(format, Markers::kSpecial);
  const auto grammar = GrammarCompiler::create(tokenizer)
                           .value()
                           .compile(forced_calls(format, tools(true), several, tokenizer).value())
                           .value();
  return accepts(grammar, tokenizer, text);
}

TEST(CallGrammar, TakesWhatModelsWrite) {
  constexpr std::string_view kRome = R"({"zone": 1, "city": "Rome"})";
  const std::string hermes =
      "<tool_call>\n{\"name\": \"weather\", \"arguments\": " + std::string(kRome) + "}\n</tool_call>";
  EXPECT_TRUE(takes(CallStyle::kHermes, hermes));
  EXPECT_TRUE(takes(CallStyle::kHermes, "\n\n" + hermes + "\n" + hermes));
  EXPECT_FALSE(takes(CallStyle::kHermes, hermes + "\n" + hermes, false)) << "one call only";
  EXPECT_FALSE(takes(CallStyle::kHermes, "I will. " + hermes)) << "nothing but calls";
  EXPECT_FALSE(
      takes(CallStyle::kHermes, "<tool_call>\n{\"name\": \"other\", \"arguments\": {}}\n</tool_call>"));
  EXPECT_FALSE(
      takes(CallStyle::kHermes, "<tool_call>\n{\"name\": \"now\", \"arguments\": {\"a\": 1}}\n</tool_call>"));
  EXPECT_TRUE(takes(CallStyle::kLlama, R"(<|python_tag|>{"name": "now", "parameters": {}})"));
  EXPECT_TRUE(
      takes(CallStyle::kLlama, R"({"name": "now", "parameters": {}}; {"name": "now", "parameters": {}})"));
  EXPECT_TRUE(
      takes(CallStyle::kJson, R"([{"name": "now", "arguments": {}}, {"name": "now", "arguments": {}}])"));
  EXPECT_TRUE(takes(CallStyle::kMistral, "[TOOL_CALLS]weather[CALL_ID]abcdefghi[ARGS]" + std::string(kRome) +
                                             "[TOOL_CALLS]now[ARGS]{}"));
  EXPECT_TRUE(takes(CallStyle::kDeepSeek,
                    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```"
                    "<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><"
                    "｜tool▁calls▁end｜>"));
  EXPECT_TRUE(
      takes(CallStyle::kKimi,
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.now:0<|tool_call_argument_begin|>"
            "{}<|tool_call_end|><|tool_calls_section_end|>"));
  EXPECT_TRUE(
      takes(CallStyle::kQwenXml,
            "<tool_call>\n<function=weather>\n<parameter=zone>\n5\n</parameter>\n<parameter=city>\nNew York\n"
            "</parameter>\n<parameter=list>\n[true]\n</parameter>\n</function>\n</tool_call>"));
  EXPECT_TRUE(
      takes(CallStyle::kQwenXml,
            "<tool_call>\n<function=write.it>\n<parameter=text>\na <b>\n\n\"c\"\n</parameter>\n</function>\n"
            "</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>"));
  EXPECT_FALSE(takes(
      CallStyle::kQwenXml,
      "<tool_call>\n<function=weather>\n<parameter=city>\nRome\n</parameter>\n</function>\n</tool_call>"))
      << "a parameter is missing";
  EXPECT_TRUE(
      takes(CallStyle::kGlm,
            "<tool_call>write.it\n<arg_key>text</arg_key>\n<arg_value>a\nb</arg_value>\n</tool_call>"));
  EXPECT_TRUE(takes(
      CallStyle::kMiniMax,
      "<minimax:tool_call>\n<invoke name=\"write.it\">\n<parameter name=\"text\">a</parameter>\n</invoke>\n"
      "<invoke name=\"now\">\n</invoke>\n</minimax:tool_call>"));
  EXPECT_TRUE(takes(CallStyle::kGemma4,
                    "<|tool_call>call:weather{zone:5,city:<|\"|>Rome<|\"|>,list:[true,false]}<tool_call|>"));
  EXPECT_TRUE(takes(CallStyle::kHarmony,
                    "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary "
                    "to=functions.now <|constrain|>json<|message|>{}"));
}

TEST(CallGrammar, TakesWhatCommandAndDeepSeekWrite) {
  EXPECT_TRUE(
      takes(CallStyle::kCommand,
            "<|START_ACTION|>[\n    {\"tool_call_id\": \"0\", \"tool_name\": \"write.it\", "
            "\"parameters\": {\"text\": \"a\"}},\n    {\"tool_call_id\": \"1\", \"tool_name\": \"now\", "
            "\"parameters\": {}}\n]<|END_ACTION|>"));
  EXPECT_TRUE(
      takes(CallStyle::kDsml,
            "<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"weather\">\n<｜DSML｜parameter name=\"zone\" "
            "string=\"false\">5</｜DSML｜parameter>\n<｜DSML｜parameter name=\"city\" string=\"true\">Rome"
            "</｜DSML｜parameter>\n</｜DSML｜invoke>\n<｜DSML｜invoke name=\"now\">\n</｜DSML｜invoke>\n"
            "</｜DSML｜function_calls>"));
}

TEST(CallGrammar, TakesAnyParametersWhereNothingIsSaidOfThem) {
  const AnswerFormat format = format_of(CallStyle::kGlm);
  const Tokenizer tokenizer = tokenizer_with(format, Markers::kSpecial);
  const std::vector<CallableTool> any = {{"any", {{"type", "object"}}, false}};
  const auto text = forced_calls(format, any, false, tokenizer);
  ASSERT_TRUE(text) << text.error().message;
  const auto grammar = GrammarCompiler::create(tokenizer).value().compile(*text);
  ASSERT_TRUE(grammar) << grammar.error().message;
  EXPECT_TRUE(accepts(*grammar, tokenizer,
                      "<tool_call>any\n<arg_key>a</arg_key>\n<arg_value>5</arg_value>\n</tool_call>"));
  EXPECT_TRUE(accepts(*grammar, tokenizer, "<tool_call>any\n</tool_call>"));
}

TEST(CallGrammar, NamesWhatItCannotHold) {
  const auto refused = [](CallStyle style, std::string_view schema, const char* name = "f",
                          bool strict = true) {
    const AnswerFormat format = format_of(style);
    const Tokenizer tokenizer = tokenizer_with(format, Markers::kTokens);
    const std::vector<CallableTool> one = {{name, parse_ordered_json(schema).value(), strict}};
    const auto text = forced_calls(format, one, false, tokenizer);
    if (!text) return text.error().message;
    const auto grammar = GrammarCompiler::create(tokenizer).value().compile(*text);
    return grammar ? std::string() : grammar.error().message;
  };
  constexpr std::string_view kPattern = R"({"properties": {"a": {"type": "string", "pattern": "x+"}}})";
  EXPECT_EQ(refused(CallStyle::kHermes, kPattern), "");
  EXPECT_EQ(
      refused(CallStyle::kQwenXml, kPattern),
      "calls of f cannot be held to a grammar in Qwen3-Coder's form of calls: pattern of its parameter a");
  EXPECT_EQ(refused(CallStyle::kQwenXml, kPattern, "f", false), "") << "as far as it can be kept";
  EXPECT_THAT(refused(CallStyle::kGemma4, kPattern), testing::HasSubstr("Gemma 4's form"));
  constexpr std::string_view kRecursive =
      R"({"properties": {"a": {"$ref": "#"}, "b": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"type": "integer"}}})";
  EXPECT_EQ(refused(CallStyle::kHermes, kRecursive), "");
  EXPECT_THAT(refused(CallStyle::kQwenXml, kRecursive),
              testing::HasSubstr("a $ref to more than its definitions"));
  EXPECT_EQ(
      refused(CallStyle::kQwenXml, R"({"properties": {"b": {"$ref": "#/$defs/x"}}, "$defs": {"x": {}}})"),
      "");
  EXPECT_THAT(refused(CallStyle::kMiniMax, R"({"additionalProperties": {"type": "integer"}})"),
              testing::HasSubstr("parameters without names"));
  EXPECT_THAT(refused(CallStyle::kGlm, R"({"anyOf": [{"type": "object"}]})"), testing::HasSubstr("anyOf"));
  EXPECT_THAT(refused(CallStyle::kHermes, R"({"type": "string"})"), testing::HasSubstr("not of type object"));
  EXPECT_THAT(refused(CallStyle::kKimi, "{}", "a:b"), testing::HasSubstr("its name has other signs"));
  EXPECT_EQ(refused(CallStyle::kHermes, "{}", "a: \"b\"\x7f"), "");
  constexpr std::string_view kUnknown =
      R"({"properties": {"a": {"type": "object", "properties": {"b": {"type": "array", "uniqueItems": true}}}}})";
  EXPECT_THAT(refused(CallStyle::kHermes, kUnknown),
              testing::AllOf(testing::StartsWith("the parameters of f cannot be used: "),
                             testing::HasSubstr("uniqueItems"),
                             testing::EndsWith("(at $.properties.a.properties.b)")));
  EXPECT_EQ(refused(CallStyle::kHermes, kUnknown, "f", false), "");
  EXPECT_THAT(refused(CallStyle::kHermes, R"({"properties": {}, "x-guidance": {}})"),
              testing::HasSubstr("x-guidance is not supported"));
}

// Schemas from strangers: what would become large is given up early, whatever its form.
TEST(CallGrammar, ManyPartsAndDeepOnesAreBounded) {
  std::string nested = R"({"type": "integer"})";
  for (int depth = 0; depth < 22; ++depth)
    nested = R"({"type": ["object", "object", "object"], "properties": {"a": )" + nested + "}}";
  std::string many, definitions, some, references;
  for (int i = 0; i < 20'000; ++i)
    many += (i == 0 ? "\"p" : ", \"p") + std::to_string(i) + "\": {\"type\": \"integer\"}";
  for (int i = 0; i < 300; ++i)
    definitions += (i == 0 ? "\"d" : ", \"d") + std::to_string(i) +
                   "\": {\"type\": \"object\", \"title\": \"" + std::string(60, 't') + "\"}";
  for (int i = 0; i < 50; ++i)
    some += (i == 0 ? "\"p" : ", \"p") + std::to_string(i) + "\": {\"type\": \"integer\"}";
  for (int i = 0; i < 1000; ++i)
    references += (i == 0 ? "\"p" : ", \"p") + std::to_string(i) + "\": {\"$ref\": \"#/$defs/d" +
                  std::to_string(i % 300) + "\"}";
  const std::string honest = "{\"properties\": {" + some + "}, \"$defs\": {" + definitions + "}}";
  const std::vector<std::string> hostile = {
      nested, "{\"type\": \"object\", \"properties\": {" + many + "}}",
      "{\"properties\": {" + references + "}, \"$defs\": {" + definitions + "}}"};
  for (const CallStyle style :
       {CallStyle::kHermes, CallStyle::kQwenXml, CallStyle::kGlm, CallStyle::kMiniMax, CallStyle::kGemma4}) {
    SCOPED_TRACE(static_cast<int>(style));
    const AnswerFormat format = format_of(style);
    const Tokenizer tokenizer = tokenizer_with(format, Markers::kTokens);
    const auto made = [&](const std::string& schema) {
      const std::vector<CallableTool> one = {{"f", parse_ordered_json(schema).value(), false}};
      return forced_calls(format, one, false, tokenizer);
    };
    for (const std::string& schema : hostile) {
      const auto text = made(schema);
      if (text) {
        EXPECT_LE(text->text.size(), size_t{256} << 10);
      } else {
        EXPECT_TRUE(text.error().code == ErrorCode::kInvalidArgument ||
                    text.error().code == ErrorCode::kUnsupported)
            << text.error().message;
      }
    }
    const auto text = made(honest);
    ASSERT_TRUE(text) << text.error().message;
    EXPECT_TRUE(GrammarCompiler::create(tokenizer).value().compile(*text));
  }
}

TEST(CallGrammar, HoldsOptionalTextsAndToolsNamedAsMarkersAre) {
  const std::string optional =
      R"({"properties": {"a": {"anyOf": [{"type": "string"}, {"type": "null"}], "title": "A"}}, "required": ["a"]})";
  for (const CallStyle style : {CallStyle::kQwenXml, CallStyle::kGlm, CallStyle::kMiniMax}) {
    const AnswerFormat format = format_of(style);
    const std::vector<CallableTool> one = {{"f", parse_ordered_json(optional).value(), true}};
    const auto text = forced_calls(format, one, false, tokenizer_with(format, Markers::kTokens));
    EXPECT_TRUE(text) << text.error().message;
  }
  const AnswerFormat format = format_of(CallStyle::kDeepSeek);
  const Tokenizer tokenizer = tokenizer_with(format, Markers::kSpecial);
  const std::vector<CallableTool> one = {{"function", parse_ordered_json("{}").value(), false}};
  const auto grammar =
      GrammarCompiler::create(tokenizer).value().compile(forced_calls(format, one, false, tokenizer).value());
  ASSERT_TRUE(grammar) << grammar.error().message;
  EXPECT_FALSE(
      accepts(*grammar, tokenizer,
              "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>{}<｜tool▁call▁end｜>"
              "<｜tool▁calls▁end｜>"))
      << "its reader takes that for the kind of tool";
  EXPECT_TRUE(
      accepts(*grammar, tokenizer,
              "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>function\n```json\n{}\n```"
              "<｜tool▁call▁end｜><｜tool▁calls▁end｜>"));
}

TEST(Thinking, IsToldByTheMarksOfTheFormat) {
  using State = Thinking::State;
  const AnswerFormat format{CallStyle::kHermes, "<think>", "</think>"};
  EXPECT_EQ(thinking_of(format, "x<think>\n").state, State::kOpen);
  EXPECT_EQ(thinking_of(format, "x<think>\n\n</think>\n\n").state, State::kNone);
  EXPECT_EQ(thinking_of(format, "<think>y</think>x").state, State::kMayOpen);
  EXPECT_EQ(thinking_of(format_of(CallStyle::kHermes), "<think>").state, State::kNone);
  EXPECT_EQ(thinking_of({CallStyle::kGemma4, "<|channel>thought", "<channel|>"}, "x").open, "<|channel>");
}

}  // namespace
}  // namespace mlxf::text
