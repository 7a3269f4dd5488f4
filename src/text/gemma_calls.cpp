// Gemma's calls, call:f{key:<escape>text<escape>,count:5,list:[true]}, with signs of their own around strings, turned
// into JSON as they come.
#include "text/call_readers.h"
#include "text/marker_matcher.h"

namespace mlxf::text {
namespace {

using Step = CallReader::Step;
constexpr size_t kDepthMax = 64;
constexpr size_t kScalarBytesMax = 4096;

class GemmaCalls final : public CallReader {
 public:
  explicit GemmaCalls(CallStyle style)
      : marks_(style == CallStyle::kGemma4 ? std::vector<std::string>{"<|\"|>", "<tool_call|>"}
                                           : std::vector<std::string>{"<escape>", "<end_function_call>"}) {}

  Step push(char byte, AnswerWriter& writer) override {
    const auto found = marks_.push(byte);
    for (const char c : found.text)
      if (const Step step = plain(c, writer); step != Step::kMore) return step;
    if (found.marker == 0) return quote(writer);
    if (found.marker == 1) return state_ == State::kTail ? Step::kEnd : Step::kBroken;
    return Step::kMore;
  }

  bool finish(AnswerWriter&) override { return state_ == State::kTail && trimmed(marks_.finish()).empty(); }

 private:
  enum class State : uint8_t { kHead, kKey, kValue, kString, kScalar, kAfter, kTail };

  Step plain(char byte, AnswerWriter& writer) {
    switch (state_) {
      case State::kHead:
        if (byte == '{') return begin(writer);
        text_ += byte;
        return text_.size() > AnswerWriter::kNameBytesMax ? Step::kBroken : Step::kMore;
      case State::kKey:
        return key(byte, writer);
      case State::kValue:
        return value(byte, writer);
      case State::kString: {
        std::string piece;
        append_json_escaped(byte, piece);
        writer.arguments(piece);
        return Step::kMore;
      }
      case State::kScalar:
        if (byte != ',' && byte != '}' && byte != ']') {
          text_ += byte;
          return text_.size() > kScalarBytesMax ? Step::kBroken : Step::kMore;
        }
        writer.arguments(json_of_text(trimmed(text_)));
        state_ = State::kAfter;
        return after(byte, writer);
      case State::kAfter:
        return after(byte, writer);
      case State::kTail:
        return is_blank(byte) ? Step::kMore : Step::kBroken;
    }
    return Step::kBroken;
  }

  Step quote(AnswerWriter& writer) {
    if (state_ == State::kKey) return Step::kMore;  // Around a key, where they say nothing.
    if (state_ != State::kValue && state_ != State::kString) return Step::kBroken;
    state_ = state_ == State::kValue ? State::kString : State::kAfter;
    writer.arguments("\"");
    return Step::kMore;
  }

  Step begin(AnswerWriter& writer) {
    constexpr std::string_view kCall = "call:";
    const std::string_view head = trimmed(text_);
    if (!head.starts_with(kCall) || !writer.begin_call(trimmed(head.substr(kCall.size()))))
      return Step::kBroken;
    return open('{', writer);
  }
  Step open(char bracket, AnswerWriter& writer) {
    open_ += bracket;
    writer.arguments(std::string_view(&bracket, 1));
    text_.clear();
    state_ = bracket == '{' ? State::kKey : State::kValue;
    return open_.size() > kDepthMax ? Step::kBroken : Step::kMore;
  }

  Step key(char byte, AnswerWriter& writer) {
    if (byte == '}' && trimmed(text_).empty()) return after(byte, writer);
    if (byte == ':') {
      std::string member = json_string(trimmed(text_));
      member += ':';
      writer.arguments(member);
      text_.clear();
      state_ = State::kValue;
      return Step::kMore;
    }
    text_ += byte;
    return text_.size() > AnswerWriter::kNameBytesMax ? Step::kBroken : Step::kMore;
  }

  Step value(char byte, AnswerWriter& writer) {
    if (is_blank(byte)) return Step::kMore;
    if (byte == '{' || byte == '[') return open(byte, writer);
    if (byte == ']') return after(byte, writer);
    text_ = byte;
    state_ = State::kScalar;
    return Step::kMore;
  }

  Step after(char byte, AnswerWriter& writer) {
    if (is_blank(byte)) return Step::kMore;
    text_.clear();
    const bool closes = byte == (open_.back() == '{' ? '}' : ']');
    if (byte != ',' && !closes) return Step::kBroken;
    writer.arguments(std::string_view(&byte, 1));
    if (!closes) {
      state_ = open_.back() == '{' ? State::kKey : State::kValue;
      return Step::kMore;
    }
    open_.pop_back();
    state_ = open_.empty() ? State::kTail : State::kAfter;
    return !open_.empty() || writer.end_call() ? Step::kMore : Step::kBroken;
  }

  MarkerMatcher marks_;
  State state_ = State::kHead;
  std::string open_;  // Brackets, the outermost first.
  std::string text_;  // The name, a key or a scalar.
};

}  // namespace

std::unique_ptr<CallReader> make_gemma_calls(CallStyle style) { return std::make_unique<GemmaCalls>(style); }

}  // namespace mlxf::text
