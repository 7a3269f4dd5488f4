// Answers in harmony: messages of a header and a body, <|start|>assistant<|channel|>analysis<|message|>...<|end|>. The
// header's channel and recipient say what the body is.
#include "text/answer_splitter.h"
#include "text/call_readers.h"
#include "text/marker_matcher.h"

namespace mlxf::text {
namespace {

constexpr size_t kHeaderBytesMax = 1024;
constexpr std::string_view kFunctions = "functions.";
enum Mark : int { kStart, kMessage, kChannel, kConstrain, kEnd, kCall, kReturn };
const std::vector<std::string>& marks() {
  static const std::vector<std::string> kMarks = {"<|start|>", "<|message|>", "<|channel|>", "<|constrain|>",
                                                  "<|end|>",   "<|call|>",    "<|return|>"};
  return kMarks;
}

// What stands behind `key` in a header, until a blank or a marker.
std::string_view word_behind(std::string_view header, std::string_view key) {
  const size_t at = header.find(key);
  if (at == std::string_view::npos) return {};
  const std::string_view rest = header.substr(at + key.size());
  return rest.substr(0, rest.find_first_of(" \t\r\n<"));
}

class HarmonySplitter final : public AnswerParser::Splitter {
 public:
  explicit HarmonySplitter(std::string_view prompt) : marks_(marks()) {
    const size_t start = prompt.rfind("<|start|>");
    if (start == std::string_view::npos) return;
    AnswerWriter nobody({});
    for (const char byte : prompt.substr(start)) push(byte, nobody);
  }

  void push(char byte, AnswerWriter& writer) override {
    const auto found = marks_.push(byte);
    if (state_ == State::kHeader) {
      header_ += found.text;
    } else {
      for (const char c : found.text) body(c, writer);
    }
    if (found.marker >= 0) marker(static_cast<Mark>(found.marker), writer);
    if (state_ == State::kHeader && header_.size() > kHeaderBytesMax) {
      writer.content(header_);
      state_ = State::kContent;
    }
  }

  void finish(AnswerWriter& writer) override {
    const std::string rest = marks_.finish();
    for (const char c : rest) {
      if (state_ == State::kHeader) {
        header_ += c;
      } else {
        body(c, writer);
      }
    }
    // A text without any header.
    if (state_ == State::kHeader && !marked_) writer.content(header_);
    end_body(writer);
  }
  [[nodiscard]] bool thinks() const override { return state_ == State::kReasoning; }

 private:
  enum class State : uint8_t { kHeader, kContent, kReasoning, kArguments };

  void marker(Mark mark, AnswerWriter& writer) {
    if (mark == kStart || mark == kEnd || mark == kCall || mark == kReturn) {
      if (state_ == State::kHeader && !marked_) writer.content(header_);
      end_body(writer);
      state_ = State::kHeader;
      header_.clear();
    } else if (state_ == State::kHeader && mark == kMessage) {
      begin_body(writer);
    } else if (mark == kChannel && state_ != State::kHeader) {  // A header that lacks its start.
      end_body(writer);
      state_ = State::kHeader;
      header_ = marks()[mark];
    } else if (state_ == State::kHeader) {
      header_ += marks()[static_cast<size_t>(mark)];
    }
    marked_ = true;
  }

  void begin_body(AnswerWriter& writer) {
    writer.cut();
    const std::string_view channel = word_behind(header_, "<|channel|>");
    std::string_view to = word_behind(header_, "to=");
    const bool function = to.starts_with(kFunctions);
    if (function) to.remove_prefix(kFunctions.size());
    raw_.clear();
    arguments_ = ArgumentsReader();
    whole_ = false;
    if (writer.has_tools() && (function || writer.knows(to)) && writer.begin_call(to)) {
      state_ = State::kArguments;
    } else {
      state_ = channel == "analysis" ? State::kReasoning : State::kContent;
    }
  }

  void body(char byte, AnswerWriter& writer) {
    if (state_ == State::kReasoning) return writer.reasoning({&byte, 1});
    if (state_ == State::kContent) return writer.content({&byte, 1});
    if (whole_) {
      if (is_blank(byte)) return;
      state_ = State::kContent;
      return writer.content({&byte, 1});
    }
    raw_ += byte;
    const CallReader::Step step = arguments_.push(byte, writer);
    whole_ = step == CallReader::Step::kEnd && writer.end_call();
    if (whole_ || (step == CallReader::Step::kMore && raw_.size() < AnswerWriter::kCallBytesMax)) return;
    writer.broken(raw_);
    state_ = State::kContent;
  }

  void end_body(AnswerWriter& writer) {
    if (state_ == State::kArguments && !whole_) writer.broken(raw_);
    if (state_ == State::kReasoning || state_ == State::kArguments) writer.cut();
    if (state_ == State::kArguments) state_ = State::kContent;
  }

  MarkerMatcher marks_;
  State state_ = State::kHeader;
  std::string header_, raw_;
  ArgumentsReader arguments_;
  bool whole_ = false;   // The call has ended.
  bool marked_ = false;  // A marker was seen.
};

}  // namespace

std::unique_ptr<AnswerParser::Splitter> make_harmony_splitter(std::string_view prompt) {
  return std::make_unique<HarmonySplitter>(prompt);
}

}  // namespace mlxf::text
