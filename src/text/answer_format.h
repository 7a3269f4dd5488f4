// AnswerFormat: how a model writes tool calls and reasoning, told once per model from its chat template.
//
// A template shows earlier calls to the model in the very form in which the model writes new ones, so its text names
// the markers. Pure functions and values; any thread. The formats' sources are the models' own chat templates on the
// Hugging Face hub and, for harmony, OpenAI's "harmony response format" guide.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace mlxf::text {

enum class CallStyle : uint8_t {
  kNone,     // The template knows no tools.
  kJson,     // It does, but names no markers: {"name", "arguments"} as the whole answer.
  kHermes,   // <tool_call>{"name", "arguments"}</tool_call>: Hermes, Qwen 2.5 and 3.
  kQwenXml,  // <tool_call><function=f><parameter=p>v</parameter></function></tool_call>: Qwen3-Coder.
  kGlm,      // <tool_call>f<arg_key>p</arg_key><arg_value>v</arg_value></tool_call>: GLM 4.5 on.
  kMiniMax,  // <minimax:tool_call><invoke name="f"><parameter name="p">v</parameter></invoke>...: MiniMax M2.
  kLlama,    // <|python_tag|>{"name", "parameters"}, or without the tag: Llama 3.
  kMistral,  // [TOOL_CALLS][{"name", "arguments"}], or [TOOL_CALLS]f[ARGS]{}.
  kDeepSeek,  // <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{}<｜tool▁call▁end｜>...: V3, R1, V3.1.
  kKimi,      // <|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{}...
  kFunctionGemma,  // <start_function_call>call:f{p:<escape>v<escape>}<end_function_call>
  kGemma4,         // <|tool_call>call:f{p:<|"|>v<|"|>}<tool_call|>
  kHarmony,        // <|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>: gpt-oss.
  kCommand,  // <|START_ACTION|>[{"tool_call_id", "tool_name", "parameters"}]<|END_ACTION|>: Command R7B on.
  kDsml,  // <｜DSML｜function_calls><｜DSML｜invoke name="f"><｜DSML｜parameter name="p" string="true">v...: DeepSeek V3.2.
};

struct AnswerFormat {
  CallStyle calls = CallStyle::kNone;
  std::string think_begin, think_end;  // Around reasoning; empty: none, or harmony's channels.

  [[nodiscard]] bool thinks() const { return !think_begin.empty() || calls == CallStyle::kHarmony; }
  [[nodiscard]] bool plain() const { return calls == CallStyle::kNone && think_begin.empty(); }
};

[[nodiscard]] AnswerFormat detect_answer_format(std::string_view template_source);

// True when `prompt`, the end of a rendered prompt, leaves the model inside its reasoning.
[[nodiscard]] bool opens_thinking(const AnswerFormat& format, std::string_view prompt);

// The spellings that a parser of answers must see. Vocabularies mark many of them as special tokens, which are
// otherwise left out of generated text.
[[nodiscard]] std::vector<std::string> marker_spellings(const AnswerFormat& format);

}  // namespace mlxf::text
