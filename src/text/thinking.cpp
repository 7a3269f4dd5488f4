#include "text/thinking.h"

#include <algorithm>
#include <array>
#include <utility>

namespace mlxf::text {
namespace {

using Marks = std::pair<std::string_view, std::string_view>;
// Those that bridge/src/guard.rs leaves alone in earlier answers.
constexpr std::array<Marks, 5> kMarks = {{{"<think>", "</think>"},
                                          {"<thinking>", "</thinking>"},
                                          {"<thought>", "</thought>"},
                                          {"<seed:think>", "</seed:think>"},
                                          {"[THINK]", "[/THINK]"}}};

// The message that is to be written goes on from behind the last <|start|>.
Thinking until_final(std::string_view prompt) {
  const std::string_view message = prompt.substr(std::min(prompt.rfind("<|start|>"), prompt.size()));
  if (message.find("<|channel|>final<|message|>") != std::string_view::npos) return {};
  return {Thinking::State::kOpen, {}, "<|channel|>final", "<|message|>"};
}

}  // namespace

Thinking thinking_after(std::string_view template_source, std::string_view prompt) {
  if (detect_answer_format(template_source).calls == CallStyle::kHarmony) return until_final(prompt);
  const size_t last = prompt.find_last_not_of(" \t\r\n");
  const std::string_view shown = prompt.substr(0, last == std::string_view::npos ? 0 : last + 1);
  for (const auto& [open, close] : kMarks) {
    if (template_source.find(close) == std::string_view::npos) continue;
    Thinking thinking{Thinking::State::kMayOpen, std::string(open), std::string(close)};
    if (shown.ends_with(open)) thinking.state = Thinking::State::kOpen;
    if (shown.ends_with(close)) thinking.state = Thinking::State::kNone;
    return thinking;
  }
  return {};
}

Thinking thinking_of(const AnswerFormat& format, std::string_view prompt) {
  if (format.think_end.empty()) return {};
  // Gemma's opening token, and the word that follows it.
  const std::string open = format.think_begin == "<|channel>thought" ? "<|channel>" : format.think_begin;
  Thinking thinking{Thinking::State::kMayOpen, open, format.think_end};
  const size_t last = prompt.find_last_not_of(" \t\r\n");
  if (last != std::string_view::npos && prompt.substr(0, last + 1).ends_with(format.think_end))
    thinking.state = Thinking::State::kNone;
  if (opens_thinking(format, prompt)) thinking.state = Thinking::State::kOpen;
  return thinking;
}

}  // namespace mlxf::text
