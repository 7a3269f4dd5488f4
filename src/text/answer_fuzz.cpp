// Any bytes as a model's answer in any family's form: the same events however it is cut, calls that end are whole, and
// every byte of the answer's text is bounded by what came.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "text/answer_parser.h"

namespace {

using mlxf::text::AnswerEvent;
using mlxf::text::AnswerFormat;
using mlxf::text::AnswerParser;
using mlxf::text::CallStyle;
using mlxf::text::ToolSpec;

constexpr uint8_t kStyles = static_cast<uint8_t>(CallStyle::kDsml) + 1;

// Joins neighbours of one kind, and checks the order of calls.
class Collector {
 public:
  void add(std::vector<AnswerEvent> events) {
    for (AnswerEvent& event : events) {
      check(event);
      if (!all_.empty() && all_.back().kind == event.kind && all_.back().call == event.call &&
          event.kind <= AnswerEvent::Kind::kArguments && event.kind != AnswerEvent::Kind::kCallBegin) {
        all_.back().text += event.text;
      } else {
        all_.push_back(std::move(event));
      }
    }
  }
  [[nodiscard]] const std::vector<AnswerEvent>& all() const { return all_; }
  [[nodiscard]] bool open() const { return open_; }

 private:
  void check(const AnswerEvent& event) {
    switch (event.kind) {
      case AnswerEvent::Kind::kCallBegin:
        CHECK(!open_ && event.call == calls_++ && !event.text.empty());
        open_ = true;
        arguments_.clear();
        return;
      case AnswerEvent::Kind::kArguments:
        CHECK(open_ && event.call + 1 == calls_ && !event.text.empty());
        arguments_ += event.text;
        return;
      case AnswerEvent::Kind::kCallEnd: {
        const auto object = mlxf::parse_json(arguments_);
        CHECK(open_ && object && object->is_object());
        open_ = false;
        return;
      }
      case AnswerEvent::Kind::kCallBroken:
        CHECK(open_);
        open_ = false;
        return;
      case AnswerEvent::Kind::kContent:
      case AnswerEvent::Kind::kReasoning:
        CHECK(!open_ && !event.text.empty());
    }
  }

  std::vector<AnswerEvent> all_;
  std::string arguments_;
  bool open_ = false;
  uint32_t calls_ = 0;
};

std::vector<ToolSpec> tools() {
  return {{"f", mlxf::Json{{"properties", {{"a", {{"type", "string"}}}, {"b", {{"type", "integer"}}}}}}},
          {"weather", nullptr}};
}

std::vector<AnswerEvent> read(const AnswerFormat& format, bool has_tools, std::string_view prompt,
                              std::string_view text, size_t step) {
  AnswerParser parser(format, has_tools ? tools() : std::vector<ToolSpec>(), prompt);
  Collector out;
  for (size_t at = 0; at < text.size(); at += step) out.add(parser.push(text.substr(at, step)));
  out.add(parser.finish());
  CHECK(!out.open());
  return out.all();
}

}  // namespace

// A family, whether it thinks, whether there are tools and how the prompt ends; then the answer.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  AnswerFormat format;
  format.calls = static_cast<CallStyle>(data[0] % kStyles);
  if ((data[1] & 1) != 0) format.think_begin = "<think>", format.think_end = "</think>";
  const bool has_tools = (data[1] & 2) == 0;
  const std::string_view prompt = (data[1] & 4) != 0 ? "<|start|>assistant<think>\n" : "<|start|>assistant";
  const std::string_view text(reinterpret_cast<const char*>(data) + 2, size - 2);
  const std::vector<AnswerEvent> whole = read(format, has_tools, prompt, text, text.size() + 1);
  for (const size_t step : {size_t{1}, size_t{3}, text.size() / 2 + 1}) {
    const std::vector<AnswerEvent> pieces = read(format, has_tools, prompt, text, step);
    CHECK(pieces.size() == whole.size());
    for (size_t i = 0; i < whole.size(); ++i)
      CHECK(pieces[i].kind == whole[i].kind && pieces[i].call == whole[i].call &&
            pieces[i].text == whole[i].text);
  }
  return 0;
}
