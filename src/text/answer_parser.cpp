#include "text/answer_parser.h"

#include <utility>

#include "text/answer_splitter.h"
#include "text/call_readers.h"
#include "text/marker_matcher.h"

namespace mlxf::text {
namespace {

class PlainSplitter final : public AnswerParser::Splitter {
 public:
  void push(char byte, AnswerWriter& writer) override { writer.content(std::string_view(&byte, 1)); }
  void finish(AnswerWriter&) override {}
  [[nodiscard]] bool thinks() const override { return false; }
};

// Content, with reasoning and calls between markers.
class MarkedSplitter final : public AnswerParser::Splitter {
 public:
  MarkedSplitter(AnswerFormat format, std::string_view prompt)
      : format_(std::move(format)), calls_(call_markers(format_.calls)) {
    opened_ = opens_thinking(format_, prompt);
    if (!format_.think_begin.empty()) markers_ = {format_.think_begin, format_.think_end};
    first_call_ = static_cast<int>(markers_.size());
    markers_.insert(markers_.end(), calls_.open.begin(), calls_.open.end());
    markers_.insert(markers_.end(), calls_.close.begin(), calls_.close.end());
    enter(opened_ ? State::kThinking : State::kText);
  }

  void push(char byte, AnswerWriter& writer) override {
    if (std::exchange(opened_, false)) writer.cut();
    if (state_ == State::kCall) return in_call(byte, writer);
    if (state_ == State::kText && begins_bare_call(byte, writer)) return begin_call(-1, {&byte, 1}, writer);
    const auto found = marks_.push(byte);
    if (state_ == State::kThinking) {
      writer.reasoning(found.text);
      if (found.marker < 0) return;
      writer.cut();
      return enter(State::kText);
    }
    writer.content(found.text);
    if (found.marker < 0) return;
    if (found.marker < first_call_) return think_marker(found.marker, writer);
    const int call = found.marker - first_call_;
    if (call >= static_cast<int>(calls_.open.size())) return;  // What is left of a section that was none.
    // The call's own tag is a part of the call, where there is none around it.
    const bool own_tag = format_.calls == CallStyle::kQwenXml && call == 1;
    if (own_tag) raw_ = calls_.open[1];
    begin_call(call, {}, writer);
  }

  void finish(AnswerWriter& writer) override {
    if (state_ == State::kCall) {
      if (!reader_->finish(writer)) writer.broken(raw_);
    } else if (state_ == State::kThinking) {
      writer.reasoning(marks_.finish());
      writer.cut();
    } else {
      writer.content(marks_.finish());
    }
  }
  [[nodiscard]] bool thinks() const override { return state_ == State::kThinking; }

 private:
  enum class State : uint8_t { kText, kThinking, kCall };

  void enter(State state) {
    state_ = state;
    raw_.clear();
    marks_ = state == State::kThinking ? MarkerMatcher({format_.think_end}) : MarkerMatcher(markers_);
  }

  [[nodiscard]] bool begins_bare_call(char byte, const AnswerWriter& writer) const {
    return (format_.calls == CallStyle::kLlama || format_.calls == CallStyle::kJson) &&
           (byte == '{' || byte == '[') && writer.silent() && !marks_.holds();
  }

  // Reasoning begins before anything is said, or behind a call; elsewhere the marker is a word like others.
  void think_marker(int marker, AnswerWriter& writer) {
    if (writer.silent() || after_call_) {
      if (marker == 0) enter(State::kThinking);
      writer.cut();
    } else {
      writer.content(marker == 0 ? format_.think_begin : format_.think_end);
    }
  }

  void begin_call(int marker, std::string_view first, AnswerWriter& writer) {
    const std::string tag = std::exchange(raw_, {});
    enter(State::kCall);
    raw_ = tag;
    ended_ = writer.calls_ended();
    reader_ = make_call_reader(format_.calls, marker);
    for (const char byte : first) in_call(byte, writer);
  }

  void in_call(char byte, AnswerWriter& writer) {
    raw_ += byte;
    CallReader::Step step = reader_->push(byte, writer);
    if (writer.calls_ended() != ended_) raw_.clear();
    ended_ = writer.calls_ended();
    if (step == CallReader::Step::kMore && raw_.size() < AnswerWriter::kCallBytesMax) return;
    after_call_ = step == CallReader::Step::kEnd;
    if (step == CallReader::Step::kEnd) {
      writer.cut();
    } else {
      writer.broken(raw_);
    }
    enter(State::kText);
  }

  const AnswerFormat format_;
  const CallMarkers calls_;
  std::vector<std::string> markers_;  // Around reasoning, then those of calls.
  int first_call_ = 0;
  State state_ = State::kText;
  MarkerMatcher marks_;
  std::unique_ptr<CallReader> reader_;
  std::string raw_;     // Of the section, what belongs to no whole call.
  uint32_t ended_ = 0;  // Calls, before the last byte.
  bool after_call_ = false;
  bool opened_ = false;  // The prompt began the reasoning, and nothing came since.
};

std::unique_ptr<AnswerParser::Splitter> make_splitter(AnswerFormat format, bool has_tools,
                                                      std::string_view prompt) {
  if (format.calls == CallStyle::kHarmony) return make_harmony_splitter(prompt);
  if (!has_tools) format.calls = CallStyle::kNone;
  if (format.plain()) return std::make_unique<PlainSplitter>();
  return std::make_unique<MarkedSplitter>(std::move(format), prompt);
}

}  // namespace

AnswerParser::AnswerParser(const AnswerFormat& format, std::vector<ToolSpec> tools, std::string_view prompt)
    : writer_(std::move(tools)), splitter_(make_splitter(format, writer_.has_tools(), prompt)) {}
AnswerParser::~AnswerParser() = default;
AnswerParser::AnswerParser(AnswerParser&&) noexcept = default;
AnswerParser& AnswerParser::operator=(AnswerParser&&) noexcept = default;

std::vector<AnswerEvent> AnswerParser::push(std::string_view text) {
  for (const char byte : text) splitter_->push(byte, writer_);
  return writer_.take();
}

bool AnswerParser::thinks() const { return splitter_->thinks(); }

std::vector<AnswerEvent> AnswerParser::finish() {
  splitter_->finish(writer_);
  writer_.finish();
  return writer_.take();
}

}  // namespace mlxf::text
