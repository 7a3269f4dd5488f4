#include "text/answer_format.h"

#include <initializer_list>

namespace mlxf::text {
namespace {

struct Clue {
  CallStyle style;
  std::string_view marker;
};

// The first that a template mentions decides: the particular ones stand before those that others mention as well.
constexpr Clue kClues[] = {
    {CallStyle::kHarmony, "<|channel|>"},
    {CallStyle::kKimi, "<|tool_calls_section_begin|>"},
    {CallStyle::kDsml, "｜DSML｜"},
    {CallStyle::kCommand, "<|START_ACTION|>"},
    {CallStyle::kDeepSeek, "<｜tool▁calls▁begin｜>"},
    {CallStyle::kMiniMax, "<minimax:tool_call>"},
    {CallStyle::kGemma4, "<|tool_call>"},
    {CallStyle::kFunctionGemma, "<start_function_call>"},
    {CallStyle::kQwenXml, "<function="},
    {CallStyle::kGlm, "<arg_key>"},
    {CallStyle::kMistral, "[TOOL_CALLS]"},
    {CallStyle::kHermes, "<tool_call>"},
    {CallStyle::kLlama, "<|python_tag|>"},
    {CallStyle::kJson, "tools"},
};

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

bool is_blank(std::string_view text) { return text.find_first_not_of(" \t\r\n") == std::string_view::npos; }

}  // namespace

AnswerFormat detect_answer_format(std::string_view template_source) {
  AnswerFormat format;
  for (const Clue& clue : kClues) {
    if (!contains(template_source, clue.marker)) continue;
    format.calls = clue.style;
    break;
  }
  if (format.calls == CallStyle::kHarmony) return format;
  if (contains(template_source, "<|channel>") && contains(template_source, "<channel|>")) {
    format.think_begin = "<|channel>thought";
    format.think_end = "<channel|>";
  } else if (contains(template_source, "[THINK]")) {
    format.think_begin = "[THINK]";
    format.think_end = "[/THINK]";
  } else if (contains(template_source, "<seed:think>")) {
    format.think_begin = "<seed:think>";
    format.think_end = "</seed:think>";
  } else if (contains(template_source, "<|START_THINKING|>")) {
    format.think_begin = "<|START_THINKING|>";
    format.think_end = "<|END_THINKING|>";
  } else if (contains(template_source, "<think>") || contains(template_source, "</think>")) {
    format.think_begin = "<think>";
    format.think_end = "</think>";
  }
  return format;
}

bool opens_thinking(const AnswerFormat& format, std::string_view prompt) {
  if (format.think_begin.empty()) return false;
  const size_t begin = prompt.rfind(format.think_begin);
  return begin != std::string_view::npos && is_blank(prompt.substr(begin + format.think_begin.size()));
}

std::vector<std::string> marker_spellings(const AnswerFormat& format) {
  std::vector<std::string> out;
  const auto add = [&out](std::initializer_list<const char*> markers) {
    out.insert(out.end(), markers.begin(), markers.end());
  };
  if (format.think_begin == "<|channel>thought") {
    add({"<|channel>", "<channel|>"});
  } else if (!format.think_begin.empty()) {
    out.insert(out.end(), {format.think_begin, format.think_end});
  }
  switch (format.calls) {
    case CallStyle::kNone:
    case CallStyle::kJson:
      break;
    case CallStyle::kHermes:
    case CallStyle::kQwenXml:
      add({"<tool_call>", "</tool_call>"});
      break;
    case CallStyle::kGlm:
      add({"<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"});
      break;
    case CallStyle::kMiniMax:
      add({"<minimax:tool_call>", "</minimax:tool_call>"});
      break;
    case CallStyle::kLlama:
      add({"<|python_tag|>"});
      break;
    case CallStyle::kMistral:
      add({"[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"});
      break;
    case CallStyle::kDeepSeek:
      add({"<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>",
           "<｜tool▁sep｜>"});
      break;
    case CallStyle::kKimi:
      add({"<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_begin|>",
           "<|tool_call_argument_begin|>", "<|tool_call_end|>"});
      break;
    case CallStyle::kFunctionGemma:
      add({"<start_function_call>", "<end_function_call>", "<escape>"});
      break;
    case CallStyle::kGemma4:
      add({"<|tool_call>", "<tool_call|>", "<|\"|>"});
      break;
    case CallStyle::kCommand:
      add({"<|START_ACTION|>", "<|END_ACTION|>"});
      break;
    case CallStyle::kDsml:
      add({"｜DSML｜"});
      break;
    case CallStyle::kHarmony:
      add({"<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|call|>", "<|return|>"});
      break;
  }
  return out;
}

}  // namespace mlxf::text
