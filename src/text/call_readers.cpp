#include "text/call_readers.h"

#include "base/check.h"

namespace mlxf::text {

CallMarkers call_markers(CallStyle style) {
  switch (style) {
    case CallStyle::kNone:
    case CallStyle::kJson:
    case CallStyle::kHarmony:
      return {};
    case CallStyle::kHermes:
    case CallStyle::kGlm:
      return {{"<tool_call>"}, {"</tool_call>"}};
    case CallStyle::kQwenXml:  // The models at times leave the outer tag out.
      return {{"<tool_call>", "<function="}, {"</tool_call>"}};
    case CallStyle::kMiniMax:
      return {{"<minimax:tool_call>"}, {"</minimax:tool_call>"}};
    case CallStyle::kLlama:
      return {{"<|python_tag|>"}, {}};
    case CallStyle::kMistral:
      return {{"[TOOL_CALLS]"}, {}};
    case CallStyle::kDeepSeek:
      return {{"<｜tool▁calls▁begin｜>"}, {"<｜tool▁calls▁end｜>"}};
    case CallStyle::kKimi:
      return {{"<|tool_calls_section_begin|>"}, {"<|tool_calls_section_end|>"}};
    case CallStyle::kCommand:  // The answer's own marks say nothing more.
      return {{"<|START_ACTION|>"}, {"<|END_ACTION|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>"}};
    case CallStyle::kDsml:
      return {{"<｜DSML｜function_calls>"}, {"</｜DSML｜function_calls>"}};
    case CallStyle::kFunctionGemma:
      return {{"<start_function_call>"}, {"<end_function_call>"}};
    case CallStyle::kGemma4:
      return {{"<|tool_call>"}, {"<tool_call|>"}};
  }
  return {};
}

std::unique_ptr<CallReader> make_call_reader(CallStyle style, int marker) {
  if (marker < 0) return make_json_calls(JsonCallForm::kBare);
  switch (style) {
    case CallStyle::kHermes:
      return make_json_calls(JsonCallForm::kHermes);
    case CallStyle::kCommand:
      return make_json_calls(JsonCallForm::kCommand);
    case CallStyle::kLlama:
      return make_json_calls(JsonCallForm::kListed);
    case CallStyle::kMistral:
      return make_mistral_calls();
    case CallStyle::kDeepSeek:
    case CallStyle::kKimi:
      return make_framed_calls(style);
    case CallStyle::kQwenXml:
    case CallStyle::kGlm:
    case CallStyle::kMiniMax:
    case CallStyle::kDsml:
      return make_tagged_calls(style, style == CallStyle::kQwenXml && marker == 1);
    case CallStyle::kFunctionGemma:
    case CallStyle::kGemma4:
      return make_gemma_calls(style);
    case CallStyle::kNone:
    case CallStyle::kJson:
    case CallStyle::kHarmony:
      break;
  }
  CHECK(false);
}

std::string json_string(std::string_view text) { return dump_json(Json(std::string(text))); }

std::string json_of_text(std::string_view text) {
  const std::string plain(trimmed(text));
  // Numbers as they are: one of many digits would become another.
  if (const auto value = parse_json(plain)) return value->is_number() ? plain : dump_json(*value);
  if (plain == "True") return "true";
  if (plain == "False") return "false";
  if (plain == "None") return "null";
  return json_string(text);
}

CallReader::Step ArgumentsReader::push(char byte, AnswerWriter& writer) {
  if (!begun_) {
    if (is_blank(byte)) return CallReader::Step::kMore;
    if (byte != '{') return CallReader::Step::kBroken;
    begun_ = true;
  }
  std::string piece;
  const JsonScanner::Step step = scanner_.push(byte, piece);
  if (step == JsonScanner::Step::kBad) return CallReader::Step::kBroken;
  writer.arguments(piece);
  return step == JsonScanner::Step::kDone ? CallReader::Step::kEnd : CallReader::Step::kMore;
}

}  // namespace mlxf::text
