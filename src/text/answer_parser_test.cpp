#include "text/answer_parser.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "text/json_scanner.h"

namespace mlxf::text {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using Lines = std::vector<std::string>;
using Kind = AnswerEvent::Kind;

std::vector<ToolSpec> tools() {
  return {{"weather", parse_json(R"({"type": "object", "properties": {"city": {"type": "string"},
      "days": {"type": "integer"}, "note": {"type": ["string", "null"]}, "zip": {"type": "string"},
      "kind": {"enum": ["a", "b"]}, "either": {"anyOf": [{"type": "string"}, {"type": "number"}]}}})")
                          .value()},
          {"write",
           parse_json(R"({"properties": {"text": {"type": "string"}, "list": {"type": "array"}}})").value()},
          {"now", nullptr}};
}

// Events with neighbours of one kind joined: "say X", "think X", "call 0 f {arguments}", "broken 0 f {arguments | X".
struct Reading {
  Lines lines;
  std::string name, arguments;

  void add(const std::vector<AnswerEvent>& events) {
    for (const AnswerEvent& event : events) {
      switch (event.kind) {
        case Kind::kContent:
          join("say ", event.text);
          break;
        case Kind::kReasoning:
          join("think ", event.text);
          break;
        case Kind::kCallBegin:
          name = event.text;
          arguments.clear();
          break;
        case Kind::kArguments:
          arguments += event.text;
          break;
        case Kind::kCallEnd:
          lines.push_back("call " + std::to_string(event.call) + " " + name + " " + arguments);
          break;
        case Kind::kCallBroken:
          lines.push_back("broken " + std::to_string(event.call) + " " + name + " " + arguments + " | " +
                          event.text);
          break;
      }
    }
  }
  void join(const std::string& kind, const std::string& text) {
    if (lines.empty() || !lines.back().starts_with(kind)) lines.push_back(kind);
    lines.back() += text;
  }
};

Lines read(const AnswerFormat& format, const std::vector<std::string_view>& pieces,
           const std::string& prompt = {}, std::vector<ToolSpec> given = tools()) {
  AnswerParser parser(format, std::move(given), prompt);
  Reading reading;
  for (const std::string_view piece : pieces) reading.add(parser.push(piece));
  reading.add(parser.finish());
  return reading.lines;
}

// As a whole, in two pieces cut anywhere, and byte by byte: always the same.
Lines read_all_ways(const AnswerFormat& format, std::string_view text, const std::string& prompt = {}) {
  const Lines whole = read(format, {text}, prompt);
  std::vector<std::string_view> bytes;
  for (size_t cut = 0; cut < text.size(); ++cut) {
    EXPECT_EQ(read(format, {text.substr(0, cut), text.substr(cut)}, prompt), whole) << "cut at " << cut;
    bytes.push_back(text.substr(cut, 1));
  }
  EXPECT_EQ(read(format, bytes, prompt), whole) << "byte by byte";
  return whole;
}

AnswerFormat format_of(CallStyle style, bool thinks = false) {
  return thinks ? AnswerFormat{style, "<think>", "</think>"} : AnswerFormat{style, {}, {}};
}

TEST(AnswerFormat, IsToldFromATemplatesMarkers) {
  const auto style = [](std::string_view source) { return detect_answer_format(source).calls; };
  EXPECT_EQ(style("{{ messages[0].content }}"), CallStyle::kNone);
  EXPECT_EQ(style("{% if tools %}{{ tools | tojson }}{% endif %}"), CallStyle::kJson);
  EXPECT_EQ(style("{{ tools }}<tool_call>{}</tool_call>"), CallStyle::kHermes);
  EXPECT_EQ(style("{{ tools }}<tool_call><function=f>"), CallStyle::kQwenXml);
  EXPECT_EQ(style("{{ tools }}<tool_call>f<arg_key>"), CallStyle::kGlm);
  EXPECT_EQ(style("{{ tools }}<minimax:tool_call>"), CallStyle::kMiniMax);
  EXPECT_EQ(style("{{ tools }}<|python_tag|>"), CallStyle::kLlama);
  EXPECT_EQ(style("{{ tools }}[TOOL_CALLS]"), CallStyle::kMistral);
  EXPECT_EQ(style("{{ tools }}<｜tool▁calls▁begin｜>"), CallStyle::kDeepSeek);
  EXPECT_EQ(style("{{ tools }}<|tool_calls_section_begin|>"), CallStyle::kKimi);
  EXPECT_EQ(style("{{ tools }}<start_function_call>"), CallStyle::kFunctionGemma);
  EXPECT_EQ(style("{{ tools }}<|tool_call>call:<tool_call|>"), CallStyle::kGemma4);
  EXPECT_EQ(style("<|start|>assistant<|channel|>final<|message|>"), CallStyle::kHarmony);
  EXPECT_EQ(style("{{ tools }}<|START_ACTION|>[<|END_ACTION|>"), CallStyle::kCommand);
  EXPECT_EQ(style("{% set dsml = '｜DSML｜' %}{{ tools }}"), CallStyle::kDsml);
  EXPECT_EQ(detect_answer_format("<|START_THINKING|> <|START_ACTION|>").think_end, "<|END_THINKING|>");
  EXPECT_EQ(detect_answer_format("<think></think>").think_end, "</think>");
  EXPECT_EQ(detect_answer_format("[THINK] [TOOL_CALLS]").think_begin, "[THINK]");
  EXPECT_EQ(detect_answer_format("<|channel>thought\n<channel|>").think_begin, "<|channel>thought");
  EXPECT_TRUE(detect_answer_format("{{ messages }}").plain());
  EXPECT_THAT(marker_spellings(format_of(CallStyle::kMistral, true)),
              ElementsAre("<think>", "</think>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"));
}

TEST(AnswerFormat, SeesThatAPromptLeavesTheModelThinking) {
  const AnswerFormat format = format_of(CallStyle::kHermes, true);
  EXPECT_TRUE(opens_thinking(format, "<|im_start|>assistant\n<think>\n"));
  EXPECT_FALSE(opens_thinking(format, "<|im_start|>assistant\n<think>\n\n</think>\n\n"));
  EXPECT_FALSE(opens_thinking(format, "<|im_start|>assistant\n"));
  EXPECT_FALSE(opens_thinking(format_of(CallStyle::kNone), "<think>"));
}

TEST(AnswerParser, LeavesAPlainAnswerAsItIs) {
  const std::string text = "\n  Hi <tool_call> [ </think> {\"name\": 1}\n\n";
  EXPECT_THAT(read_all_ways(format_of(CallStyle::kNone), text), ElementsAre("say " + text));
  EXPECT_THAT(read(format_of(CallStyle::kHermes), {text}, "", {}), ElementsAre("say " + text)) << "no tools";
  EXPECT_THAT(read_all_ways(format_of(CallStyle::kHermes, true), "a < b, <tool or <think, [x] \xC3\xA9\n"),
              ElementsAre("say a < b, <tool or <think, [x] \xC3\xA9\n"));
  EXPECT_THAT(read_all_ways(format_of(CallStyle::kHermes), ""), IsEmpty());
}

TEST(AnswerParser, SplitsReasoning) {
  const AnswerFormat format = format_of(CallStyle::kHermes, true);
  EXPECT_THAT(read_all_ways(format, "<think>\nHm. 1 < 2\n</think>\n\nYes.\n"),
              ElementsAre("think Hm. 1 < 2", "say Yes.\n"));
  EXPECT_THAT(read_all_ways(format, "\nHm.\n</think>\n\nYes.", "<think>\n"),
              ElementsAre("think Hm.", "say Yes."));
  EXPECT_THAT(read_all_ways(format, "<think>\n\n</think>\n\nYes."), ElementsAre("say Yes."));
  EXPECT_THAT(read_all_ways(format, "<think>cut o"), ElementsAre("think cut o"));
  EXPECT_THAT(read_all_ways(format, "The tag <think> opens, </think> closes."),
              ElementsAre("say The tag <think> opens, </think> closes."));
  EXPECT_THAT(read_all_ways({CallStyle::kMistral, "[THINK]", "[/THINK]"}, "[THINK]a[/THINK]b"),
              ElementsAre("think a", "say b"));
  EXPECT_THAT(read_all_ways({CallStyle::kGemma4, "<|channel>thought", "<channel|>"},
                            "<|channel>thought\na<channel|>b"),
              ElementsAre("think a", "say b"));
}

TEST(AnswerParser, ReadsHermes) {
  const AnswerFormat format = format_of(CallStyle::kHermes, true);
  EXPECT_THAT(read_all_ways(
                  format,
                  "<think>\nx\n</think>\n\nI look.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": "
                  "{\"city\": \"K\\u00f6ln\", \"days\": 2}}\n</tool_call>\n<tool_call>\n{\"arguments\": {}, "
                  "\"name\": \"now\"}\n</tool_call>"),
              ElementsAre("think x", "say I look.", R"(call 0 weather {"city": "K\u00f6ln", "days": 2})",
                          "call 1 now {}"));
  EXPECT_THAT(read_all_ways(format, R"(<tool_call>{"name": "now"}</tool_call>)"),
              ElementsAre("call 0 now {}"));
  EXPECT_THAT(read_all_ways(format, R"(<tool_call>{"name": "now", "arguments": "{\"a\": 1}"})"),
              ElementsAre(R"(call 0 now {"a": 1})"))
      << "arguments as a string, and the end of the answer for the closing tag";
  EXPECT_THAT(read_all_ways(format, R"(<tool_call>{"id": 5, "type": "function", "function": {"name": "now",
                                       "arguments": {}}}</tool_call>)"),
              ElementsAre("call 0 now {}"));
  EXPECT_THAT(
      read_all_ways(format,
                    "<tool_call>{\"name\": \"write\", \"arguments\": {\"text\": \"a\nb\"}}</tool_call>"),
      ElementsAre(R"(call 0 write {"text": "a\nb"})"))
      << "a line end inside of a string";
}

TEST(AnswerParser, GivesBackWhatIsNoCall) {
  const AnswerFormat format = format_of(CallStyle::kHermes);
  EXPECT_THAT(read_all_ways(format, "<tool_call>none</tool_call> of that"), ElementsAre("say none of that"));
  EXPECT_THAT(read_all_ways(format, R"(<tool_call>{"name": "now", "arguments": [1]}</tool_call>)"),
              ElementsAre(R"(say {"name": "now", "arguments": [1]})"));
  EXPECT_THAT(read_all_ways(format, R"(<tool_call>{"arguments": {}}</tool_call>)"),
              ElementsAre(R"(say {"arguments": {}})"));
  EXPECT_THAT(read_all_ways(format, R"(<tool_call>{"na)"), ElementsAre(R"(say {"na)"));
  EXPECT_THAT(read_all_ways(format, R"(<tool_call>{"name": "write", "arguments": {"text": "cut)"),
              ElementsAre(R"(broken 0 write {"text": "cut | {"name": "write", "arguments": {"text": "cut)"));
  EXPECT_THAT(read_all_ways(format, R"(<tool_call>{"name": "now", "arguments": {"a": tru!}}</tool_call>
<tool_call>{"name": "now", "arguments": {}}</tool_call>)"),
              ElementsAre(R"(broken 0 now {"a": tru! | {"name": "now", "arguments": {"a": tru!})", "say }",
                          "call 1 now {}"));
  EXPECT_THAT(
      read_all_ways(format, R"(<tool_call>{"name": "now", "arguments": {"a": 1, "a": 2}}</tool_call>)"),
      ElementsAre(testing::StartsWith("broken 0 now")))
      << "a member twice";
  EXPECT_THAT(read_all_ways(format, R"(<tool_call>{"name": "now"}</tool_call><tool_call>{"name": )"),
              ElementsAre("call 0 now {}", R"(say {"name": )"))
      << "what is whole counts";
}

TEST(AnswerParser, ReadsLlamaAndBareJson) {
  const AnswerFormat llama = format_of(CallStyle::kLlama);
  EXPECT_THAT(read_all_ways(llama, R"({"name": "weather", "parameters": {"city": "Rome"}})"),
              ElementsAre(R"(call 0 weather {"city": "Rome"})"));
  EXPECT_THAT(
      read_all_ways(llama,
                    R"(<|python_tag|>{"name": "now", "parameters": {}}; {"name": "now", "parameters": {}})"),
      ElementsAre("call 0 now {}", "call 1 now {}"));
  EXPECT_THAT(read_all_ways(llama, R"({"name": "Ada", "parameters": {}})"),
              ElementsAre(R"(say {"name": "Ada", "parameters": {}})"))
      << "no tool is called that";
  EXPECT_THAT(read_all_ways(llama, R"(Say {"name": "now", "parameters": {}})"),
              ElementsAre(R"(say Say {"name": "now", "parameters": {}})"));
  const AnswerFormat bare = format_of(CallStyle::kJson);
  EXPECT_THAT(
      read_all_ways(bare, R"( [{"name": "now", "arguments": {}}, {"name": "now", "arguments": {"a": []}}])"),
      ElementsAre("call 0 now {}", R"(call 1 now {"a": []})"));
  EXPECT_THAT(read_all_ways(bare, "[1, 2]"), ElementsAre("say [1, 2]"));
  EXPECT_THAT(read_all_ways(bare, R"({"name": "now"} is all)"), ElementsAre(R"(say {"name": "now"} is all)"));
}

TEST(AnswerParser, ReadsMistral) {
  const AnswerFormat format = format_of(CallStyle::kMistral);
  EXPECT_THAT(
      read_all_ways(format,
                    R"([TOOL_CALLS][{"name": "weather", "arguments": {"city": "Rome"}, "id": "abcdefghi"},
                                      {"name": "now", "arguments": {}}])"),
      ElementsAre(R"(call 0 weather {"city": "Rome"})", "call 1 now {}"));
  EXPECT_THAT(
      read_all_ways(format,
                    R"(Well.[TOOL_CALLS]weather[ARGS]{"city": "Rome"}[TOOL_CALLS]now[CALL_ID]x1[ARGS]{})"),
      ElementsAre("say Well.", R"(call 0 weather {"city": "Rome"})", "call 1 now {}"));
  EXPECT_THAT(read_all_ways(format, R"([TOOL_CALLS]now{"a": 1})"), ElementsAre(R"(call 0 now {"a": 1})"));
  EXPECT_THAT(read_all_ways(format, "[TOOL_CALLS]now[ARGS]none"),
              ElementsAre("broken 0 now  | now[ARGS]n", "say one"));
  EXPECT_THAT(read_all_ways(format, "[TOOL_CALLS]nobody"), ElementsAre("say nobody"));
}

TEST(AnswerParser, ReadsDeepSeekAndKimi) {
  const AnswerFormat deepseek = format_of(CallStyle::kDeepSeek, true);
  EXPECT_THAT(
      read_all_ways(
          deepseek,
          "x</think>Hm<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n"
          "{\"city\": \"Rome\"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n"
          "```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
          "<think>"),
      ElementsAre("think x", "say Hm", R"(call 0 weather {"city": "Rome"})", "call 1 now {}"));
  EXPECT_THAT(
      read_all_ways(deepseek,
                    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜>"
                    "<｜tool▁call▁begin｜>weather<｜tool▁sep｜>{\"city\": "
                    "\"Rome\"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"),
      ElementsAre("call 0 now {}", R"(call 1 weather {"city": "Rome"})"));
  EXPECT_THAT(read_all_ways(deepseek, "<｜tool▁calls▁begin｜>a<｜tool▁calls▁end｜>b ｜"),
              ElementsAre("say ab ｜"));
  EXPECT_THAT(
      read_all_ways(
          format_of(CallStyle::kKimi),
          "<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>"
          "{\"city\": \"Rome\"}<|tool_call_end|><|tool_call_begin|>functions.now:1"
          "<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>"),
      ElementsAre(R"(call 0 weather {"city": "Rome"})", "call 1 now {}"));
}

TEST(AnswerParser, ReadsTagsByTheToolsSchema) {
  EXPECT_THAT(
      read_all_ways(
          format_of(CallStyle::kQwenXml),
          "Let me.\n<tool_call>\n<function=weather>\n<parameter=city>\nRome\n</parameter>\n"
          "<parameter=days>\n3\n</parameter>\n<parameter=zip>\n00100\n</parameter>\n<parameter=note>\n"
          "null\n</parameter>\n<parameter=either>\n5\n</parameter>\n</function>\n</tool_call>\n"
          "<tool_call>\n<function=now>\n</function>\n</tool_call>"),
      ElementsAre("say Let me.",
                  R"(call 0 weather {"city": "Rome", "days": 3, "zip": "00100", "note": null, "either": 5})",
                  "call 1 now {}"));
  EXPECT_THAT(
      read_all_ways(format_of(CallStyle::kQwenXml),
                    "<function=write>\n<parameter=text>\n\n a < \"b\"\n\n</parameter>\n<parameter=list>\n[1, "
                    "\"x\"]\n</parameter>\n</function>\n</tool_call>"),
      ElementsAre(R"(call 0 write {"text": "\n a < \"b\"\n", "list": [1,"x"]})"))
      << "without the outer tag";
  EXPECT_THAT(
      read_all_ways(
          format_of(CallStyle::kGlm, true),
          "<think>x</think>\n<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Rome</arg_value>\n"
          "<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>\n<tool_call>now</tool_call>"),
      ElementsAre("think x", R"(call 0 weather {"city": "Rome", "days": 3})", "call 1 now {}"));
  EXPECT_THAT(
      read_all_ways(
          format_of(CallStyle::kMiniMax, true),
          "x\n</think>\n\n<minimax:tool_call>\n<invoke name=\"weather\">\n<parameter name=\"city\">Rome"
          "</parameter>\n<parameter name=\"kind\">a</parameter>\n</invoke>\n<invoke name=\"now\">\n"
          "<parameter name=\"odd\">True</parameter>\n</invoke>\n</minimax:tool_call>",
          "<think>\n"),
      ElementsAre("think x", R"(call 0 weather {"city": "Rome", "kind": "a"})",
                  R"(call 1 now {"odd": true})"));
  EXPECT_THAT(read_all_ways(format_of(CallStyle::kQwenXml), "<tool_call><function=write><parameter=text>cut"),
              ElementsAre(R"(broken 0 write {"text": "cut | <function=write><parameter=text>cut)"));
}

TEST(AnswerParser, ReadsCommand) {
  const AnswerFormat format{CallStyle::kCommand, "<|START_THINKING|>", "<|END_THINKING|>"};
  EXPECT_THAT(
      read_all_ways(
          format,
          "<|START_THINKING|>I look.<|END_THINKING|><|START_ACTION|>[\n    {\"tool_call_id\": \"0\", "
          "\"tool_name\": \"weather\", \"parameters\": {\"city\": \"Rome\"}},\n    {\"tool_call_id\": "
          "\"1\", \"tool_name\": \"now\", \"parameters\": {}}\n]<|END_ACTION|>"),
      ElementsAre("think I look.", R"(call 0 weather {"city": "Rome"})", "call 1 now {}"));
  EXPECT_THAT(read_all_ways(format, "<|START_RESPONSE|>It is [5].<|END_RESPONSE|>"),
              ElementsAre("say It is [5]."));
  EXPECT_THAT(
      read_all_ways(format, "<|START_ACTION|>[{\"tool_name\": \"now\", \"parameters\": [1]}]<|END_ACTION|>"),
      ElementsAre(testing::StartsWith("say [{\"tool_name\"")));
}

TEST(AnswerParser, ReadsDeepSeeksTags) {
  const AnswerFormat format = format_of(CallStyle::kDsml, true);
  EXPECT_THAT(
      read_all_ways(
          format,
          "x</think>I look.\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"weather\">\n"
          "<｜DSML｜parameter name=\"city\" string=\"true\">5 < \"6\"\n</｜DSML｜parameter>\n"
          "<｜DSML｜parameter name=\"days\" string=\"false\">3</｜DSML｜parameter>\n"
          "<｜DSML｜parameter name=\"either\" string=\"true\">5</｜DSML｜parameter>\n</｜DSML｜invoke>\n"
          "<｜DSML｜invoke name=\"now\">\n</｜DSML｜invoke>\n</｜DSML｜function_calls>",
          "<think>"),
      ElementsAre("think x", "say I look.",
                  R"(call 0 weather {"city": "5 < \"6\"\n", "days": 3, "either": "5"})", "call 1 now {}"));
  EXPECT_THAT(read_all_ways(format, "<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"now\">\ncut"),
              ElementsAre(testing::StartsWith("broken 0 now"), "say ut"));
}

TEST(AnswerParser, ReadsGemma) {
  EXPECT_THAT(
      read_all_ways(
          format_of(CallStyle::kFunctionGemma),
          "<start_function_call>call:weather{city:<escape>Ro\"me, {x}<escape>,days:3,list:[true,<escape>a"
          "<escape>,{n:null}],free:word}<end_function_call><start_function_call>call:now{}"
          "<end_function_call>"),
      ElementsAre(
          R"(call 0 weather {"city":"Ro\"me, {x}","days":3,"list":[true,"a",{"n":null}],"free":"word"})",
          "call 1 now {}"));
  EXPECT_THAT(read_all_ways(format_of(CallStyle::kGemma4),
                            "<|tool_call>call:weather{city:<|\"|>Rome<|\"|>}<tool_call|>"),
              ElementsAre(R"(call 0 weather {"city":"Rome"})"));
  EXPECT_THAT(read_all_ways(format_of(CallStyle::kGemma4), "<|tool_call>call:now{a:}<tool_call|>x"),
              ElementsAre(testing::StartsWith("broken 0 now"), "say x"));
}

TEST(AnswerParser, ReadsHarmony) {
  const AnswerFormat format = format_of(CallStyle::kHarmony);
  const std::string prompt = "<|start|>user<|message|>Hi<|end|><|start|>assistant";
  EXPECT_THAT(
      read_all_ways(
          format,
          "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary<|message|>I "
          "look.<|end|><|start|>assistant<|channel|>commentary to=functions.weather "
          "<|constrain|>json<|message|>{\"city\": \"Rome\"}",
          prompt),
      ElementsAre("think Hm.", "say I look.", R"(call 0 weather {"city": "Rome"})"));
  EXPECT_THAT(
      read_all_ways(
          format,
          "<|channel|>analysis<|message|>a<|end|><|start|>assistant to=functions.now<|channel|>commentary "
          "json<|message|>{}<|call|>",
          prompt),
      ElementsAre("think a", "call 0 now {}"));
  EXPECT_THAT(read_all_ways(format, "<|channel|>final<|message|>a < b <|x|>\n<|return|>", prompt),
              ElementsAre("say a < b <|x|>\n"));
  EXPECT_THAT(read_all_ways(format, "Yes.", prompt + "<|channel|>final<|message|>"), ElementsAre("say Yes."));
  EXPECT_THAT(read_all_ways(format, "no header at all"), ElementsAre("say no header at all"));
  EXPECT_THAT(
      read_all_ways(format, "<|channel|>commentary to=functions.write<|message|>{\"text\": \"cu", prompt),
      ElementsAre(R"(broken 0 write {"text": "cu | {"text": "cu)"));
  EXPECT_THAT(read(format, {"<|channel|>commentary to=functions.now<|message|>{}"}, prompt, {}),
              ElementsAre("say {}"))
      << "no tools";
}

TEST(JsonScanner, TakesWhatJsonIs) {
  const auto scan = [](std::string_view text) -> std::optional<std::string> {
    JsonScanner scanner;
    std::string out;
    for (size_t i = 0; i < text.size(); ++i) {
      const JsonScanner::Step step = scanner.push(text[i], out);
      if (step == JsonScanner::Step::kDone && i + 1 == text.size()) return out;
      if (step != JsonScanner::Step::kMore) return std::nullopt;
    }
    return std::nullopt;
  };
  for (const char* good :
       {R"({})", R"([])", R"("a\"\u00e9")", R"({"a": [1, -2.5e3, true, null, {"b": "c"}], "d": {}})"})
    EXPECT_EQ(scan(good), good);
  EXPECT_EQ(scan("\"a\x01\n\""), R"("a\u0001\n")");
  for (const char* bad : {"{,}", "{\"a\"}", "{\"a\": }", "[1 2]", "[1,]", "{\"a\": 01}", "[1e999]", "[tru]",
                          "{a: 1}", "\"\\x\"", "\"\\u12g4\"", "[}", "1", "{'a': 1}", "[NaN]"})
    EXPECT_EQ(scan(bad), std::nullopt) << bad;
  EXPECT_EQ(scan(std::string(100, '[')), std::nullopt);
}

}  // namespace
}  // namespace mlxf::text
