// Calls whose parameters stand between tags: Qwen3-Coder's, GLM's, MiniMax's and DeepSeek V3.2's. Values are plain
// text; what a tool's schema calls a string stays one, the rest is read as JSON where it is JSON. DeepSeek's tags say
// which.
#include <utility>

#include "text/call_readers.h"
#include "text/marker_matcher.h"

namespace mlxf::text {
namespace {

using Step = CallReader::Step;

struct Tags {
  std::string call_open, name_end, parameter_open, parameter_name_end, value_open, value_close, call_close,
      section_close;
  bool lines = false;  // A value stands on lines of its own.
  std::string json_name_end =
      {};  // Instead of parameter_name_end, where the value is JSON; empty: the schema tells.
};

Tags tags_of(CallStyle style) {
  if (style == CallStyle::kGlm)
    return {"",
            "<arg_key>",
            "<arg_key>",
            "</arg_key>",
            "<arg_value>",
            "</arg_value>",
            "</tool_call>",
            "</tool_call>",
            false};
  if (style == CallStyle::kDsml)
    return {"<｜DSML｜invoke name=\"",
            "\">",
            "<｜DSML｜parameter name=\"",
            "\" string=\"true\">",
            "",
            "</｜DSML｜parameter>",
            "</｜DSML｜invoke>",
            "</｜DSML｜function_calls>",
            false,
            "\" string=\"false\">"};
  if (style == CallStyle::kMiniMax)
    return {"<invoke name=\"", "\">",       "<parameter name=\"",   "\">", "",
            "</parameter>",    "</invoke>", "</minimax:tool_call>", true};
  return {"<function=", ">", "<parameter=", ">", "", "</parameter>", "</function>", "</tool_call>", true};
}

void add_type(AllowedTypes& allowed, const Json& type) {
  (type == "string" ? allowed.text : type == "null" ? allowed.null : allowed.other) = true;
}

AllowedTypes allowed_by(const Json& schema, int depth) {
  AllowedTypes out;
  if (const Json* type = find_member(schema, "type")) {
    if (type->is_array()) {
      for (const Json& one : *type) add_type(out, one);
    } else {
      add_type(out, *type);
    }
    return out;
  }
  if (const Json* values = find_member(schema, "enum"); values != nullptr && values->is_array()) {
    for (const Json& value : *values)
      add_type(out, value.is_string() ? Json("string") : value.is_null() ? Json("null") : Json("other"));
    return out;
  }
  for (const char* any : {"anyOf", "oneOf", "allOf"}) {
    const Json* choices = find_member(schema, any);
    if (choices == nullptr || !choices->is_array() || depth == 4) continue;
    for (const Json& choice : *choices) {
      const AllowedTypes more = allowed_by(choice, depth + 1);
      out.text = out.text || more.text;
      out.null = out.null || more.null;
      out.other = out.other || more.other;
    }
    return out;
  }
  return {.text = true, .null = true, .other = true};
}

class TaggedCalls final : public CallReader {
 public:
  TaggedCalls(CallStyle style, bool inside) : glm_(style == CallStyle::kGlm), tags_(tags_of(style)) {
    enter(glm_ || inside ? State::kName : State::kOutside);
  }

  Step push(char byte, AnswerWriter& writer) override {
    const auto found = marks_.push(byte);
    switch (state_) {
      case State::kOutside:
        if (!trimmed(found.text).empty()) return Step::kBroken;
        if (found.marker == 1) return calls_ > 0 ? Step::kEnd : Step::kBroken;
        if (found.marker == 0) enter(State::kName);
        return Step::kMore;
      case State::kName:
        return name(found, writer);
      case State::kParameters:
        if (!trimmed(found.text).empty()) return Step::kBroken;
        if (found.marker == 0) enter(State::kKey);
        if (found.marker > 0) return end_call(found.marker == 2 || glm_, writer);
        return Step::kMore;
      case State::kKey:
        key_ += found.text;
        if (key_.size() > AnswerWriter::kNameBytesMax) return Step::kBroken;
        if (found.marker < 0) return Step::kMore;
        enter(glm_ ? State::kValueOpen : State::kValue);
        if (state_ == State::kValue) begin_value(writer, found.marker);
        return Step::kMore;
      case State::kValueOpen:
        if (!trimmed(found.text).empty()) return Step::kBroken;
        if (found.marker == 0) {
          enter(State::kValue);
          begin_value(writer, 0);
        }
        return Step::kMore;
      case State::kValue:
        for (const char c : found.text) value(c, writer);
        if (found.marker == 0) {
          end_value(writer);
          enter(State::kParameters);
        }
        return Step::kMore;
    }
    return Step::kBroken;
  }

  bool finish(AnswerWriter&) override { return state_ == State::kOutside && calls_ > 0; }

 private:
  enum class State : uint8_t { kOutside, kName, kParameters, kKey, kValueOpen, kValue };

  void enter(State state) {
    state_ = state;
    switch (state) {
      case State::kOutside:
        marks_ = MarkerMatcher({tags_.call_open, tags_.section_close});
        break;
      case State::kName:
        name_.clear();
        marks_ = glm_ ? MarkerMatcher({tags_.name_end, tags_.call_close}) : MarkerMatcher({tags_.name_end});
        break;
      case State::kParameters:
        marks_ = glm_ ? MarkerMatcher({tags_.parameter_open, tags_.call_close})
                      : MarkerMatcher({tags_.parameter_open, tags_.call_close, tags_.section_close});
        break;
      case State::kKey:
        key_.clear();
        marks_ = tags_.json_name_end.empty() ? MarkerMatcher({tags_.parameter_name_end})
                                             : MarkerMatcher({tags_.parameter_name_end, tags_.json_name_end});
        break;
      case State::kValueOpen:
        marks_ = MarkerMatcher({tags_.value_open});
        break;
      case State::kValue:
        marks_ = MarkerMatcher({tags_.value_close});
        break;
    }
  }
  Step name(const MarkerMatcher::Found& found, AnswerWriter& writer) {
    name_ += found.text;
    if (name_.size() > AnswerWriter::kNameBytesMax) return Step::kBroken;
    if (found.marker < 0) return Step::kMore;
    name_ = trimmed(name_);
    if (!writer.begin_call(name_)) return Step::kBroken;
    first_ = true;
    writer.arguments("{");
    if (!glm_) {
      enter(State::kParameters);
      return Step::kMore;
    }
    if (found.marker == 1) return end_call(true, writer);
    enter(State::kKey);
    return Step::kMore;
  }

  // `form`: which of the ends its name had.
  void begin_value(AnswerWriter& writer, int form) {
    const std::string key(trimmed(key_));
    writer.arguments((first_ ? "" : ", ") + json_string(key) + ": ");
    first_ = false;
    const Json* schema = writer.find_parameter(name_, key);
    allowed_ = allowed_types(schema == nullptr ? Json::object() : *schema);
    if (!tags_.json_name_end.empty()) allowed_ = {.text = form == 0, .null = false, .other = form != 0};
    streams_ = allowed_.text && !allowed_.other && !allowed_.null;
    text_.clear();
    held_line_ = false;
    at_start_ = true;
    if (streams_) writer.arguments("\"");
  }
  // Passes a string on, but for the line end before the closing tag.
  void value(char byte, AnswerWriter& writer) {
    const bool at_start = std::exchange(at_start_, false);
    if (tags_.lines && byte == '\n') {
      if (at_start) return;
      if (held_line_) pass('\n', writer);
      held_line_ = true;
      return;
    }
    if (std::exchange(held_line_, false)) pass('\n', writer);
    pass(byte, writer);
  }
  void pass(char byte, AnswerWriter& writer) {
    if (!streams_) {
      text_ += byte;
      return;
    }
    std::string piece;
    append_json_escaped(byte, piece);
    writer.arguments(piece);
  }
  void end_value(AnswerWriter& writer) {
    if (streams_) return writer.arguments("\"");
    if (allowed_.text && !allowed_.other) {
      writer.arguments(trimmed(text_) == "null" ? "null" : json_string(text_));
    } else {
      writer.arguments(json_of_text(text_));
    }
  }

  Step end_call(bool section_ends, AnswerWriter& writer) {
    writer.arguments("}");
    if (!writer.end_call()) return Step::kBroken;
    ++calls_;
    enter(State::kOutside);
    return section_ends ? Step::kEnd : Step::kMore;
  }

  const bool glm_;
  const Tags tags_;
  MarkerMatcher marks_;
  State state_ = State::kOutside;
  std::string name_, key_, text_;
  AllowedTypes allowed_;
  bool streams_ = false;    // The value is a string, passed on as it comes.
  bool held_line_ = false;  // A line end that may be the value's frame.
  bool at_start_ = false;
  bool first_ = true;
  uint32_t calls_ = 0;
};

}  // namespace

AllowedTypes allowed_types(const Json& schema) { return allowed_by(schema, 0); }

std::unique_ptr<CallReader> make_tagged_calls(CallStyle style, bool inside) {
  return std::make_unique<TaggedCalls>(style, inside);
}

}  // namespace mlxf::text
