// Calls whose name and arguments stand between special tokens: DeepSeek's and Kimi's.
#include <algorithm>

#include "text/call_readers.h"
#include "text/marker_matcher.h"

namespace mlxf::text {
namespace {

using Step = CallReader::Step;

// "functions.get_weather:0" is get_weather.
std::string_view kimi_name(std::string_view id) {
  constexpr std::string_view kPrefix = "functions.";
  id = trimmed(id);
  if (id.starts_with(kPrefix)) id.remove_prefix(kPrefix.size());
  const size_t colon = id.rfind(':');
  if (colon != std::string_view::npos && colon + 1 < id.size() &&
      std::all_of(id.begin() + static_cast<std::ptrdiff_t>(colon) + 1, id.end(),
                  [](char c) { return c >= '0' && c <= '9'; }))
    id = id.substr(0, colon);
  return id;
}

class FramedCalls final : public CallReader {
 public:
  explicit FramedCalls(CallStyle style)
      : kimi_(style == CallStyle::kKimi),
        marks_(kimi_ ? std::vector<std::string>{"<|tool_call_begin|>", "<|tool_call_argument_begin|>",
                                                "<|tool_call_end|>", "<|tool_calls_section_end|>"}
                     : std::vector<std::string>{"<｜tool▁call▁begin｜>", "<｜tool▁sep｜>",
                                                "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"}) {}

  Step push(char byte, AnswerWriter& writer) override {
    if (state_ == State::kArguments) {
      // V3 and R1 fence the object: ```json.
      if (!arguments_.begun() && byte != '{') {
        fence_ += byte;
        const std::string_view fence = trimmed(fence_);
        return fence_.size() < 16 && std::string_view("```json").starts_with(fence) ? Step::kMore
                                                                                    : Step::kBroken;
      }
      const Step step = arguments_.push(byte, writer);
      if (step != Step::kEnd) return step;
      if (!writer.end_call()) return Step::kBroken;
      called_ = true;
      state_ = State::kAfter;
      return Step::kMore;
    }
    const auto found = marks_.push(byte);
    text_ += found.text;
    if (state_ == State::kName) return name(found.marker, byte, writer);
    if (!is_filler(text_)) return Step::kBroken;
    if (found.marker < 0) return Step::kMore;
    text_.clear();
    if (found.marker == kSectionEnd) return called_ ? Step::kEnd : Step::kBroken;
    if (found.marker == kCallEnd && state_ == State::kAfter) {
      state_ = State::kOutside;
      return Step::kMore;
    }
    if (found.marker != kCallBegin) return Step::kBroken;
    state_ = State::kName;
    arguments_ = ArgumentsReader();
    fence_.clear();
    on_next_line_ = false;
    return Step::kMore;
  }

  bool finish(AnswerWriter&) override {
    return called_ && (state_ == State::kAfter || state_ == State::kOutside);
  }

 private:
  enum class State : uint8_t { kOutside, kName, kArguments, kAfter };
  enum Mark : int { kCallBegin, kSeparator, kCallEnd, kSectionEnd };

  [[nodiscard]] bool is_filler(std::string_view text) const {
    text = trimmed(text);
    return text.empty() || (state_ == State::kAfter && std::string_view("```").starts_with(text));
  }

  Step name(int marker, char byte, AnswerWriter& writer) {
    if (text_.size() > AnswerWriter::kNameBytesMax) return Step::kBroken;
    if (on_next_line_) {
      if (marker >= 0) return Step::kBroken;
      return byte == '\n' && !trimmed(text_).empty() ? begin(trimmed(text_), writer) : Step::kMore;
    }
    if (marker < 0) return Step::kMore;
    if (marker != kSeparator) return Step::kBroken;
    if (kimi_) return begin(kimi_name(text_), writer);
    // V3 and R1 write the kind of tool here, and the name on the rest of the line; V3.1 writes the name.
    if (trimmed(text_) != "function") return begin(trimmed(text_), writer);
    on_next_line_ = true;
    text_.clear();
    return Step::kMore;
  }
  Step begin(std::string_view name, AnswerWriter& writer) {
    if (!writer.begin_call(name)) return Step::kBroken;
    text_.clear();
    state_ = State::kArguments;
    return Step::kMore;
  }

  const bool kimi_;
  MarkerMatcher marks_;
  State state_ = State::kOutside;
  ArgumentsReader arguments_;
  std::string text_, fence_;
  bool on_next_line_ = false;
  bool called_ = false;
};

}  // namespace

std::unique_ptr<CallReader> make_framed_calls(CallStyle style) {
  return std::make_unique<FramedCalls>(style);
}

}  // namespace mlxf::text
