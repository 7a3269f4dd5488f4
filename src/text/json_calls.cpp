// Calls that are JSON objects, {"name": f, "arguments": {...}}, in the forms of Hermes, Llama, Command and bare lists,
// and Mistral's, which puts the name before the object.
#include <utility>

#include "text/call_readers.h"
#include "text/marker_matcher.h"

namespace mlxf::text {
namespace {

using Step = CallReader::Step;
constexpr size_t kScalarBytesMax = 512;

class JsonCalls final : public CallReader {
 public:
  explicit JsonCalls(JsonCallForm form)
      : form_(form),
        close_(form == JsonCallForm::kHermes    ? "</tool_call>"
               : form == JsonCallForm::kCommand ? "<|END_ACTION|>"
                                                : "") {}

  Step push(char byte, AnswerWriter& writer) override {
    switch (state_) {
      case State::kOutside:
        return outside(byte);
      case State::kKeyOrEnd:
        if (is_blank(byte)) return Step::kMore;
        if (byte == '}') return end_object(writer);
        if (byte != '"') return Step::kBroken;
        state_ = State::kKey;
        return begin_scan(byte);
      case State::kKey:
        return scan(byte, writer);
      case State::kColon:
        if (byte == ':') state_ = State::kValueBegin;
        return byte == ':' || is_blank(byte) ? Step::kMore : Step::kBroken;
      case State::kValueBegin:
        return is_blank(byte) ? Step::kMore : begin_value(byte, writer);
      case State::kValue:
        return scan(byte, writer);
      case State::kScalar:
        if (!is_blank(byte) && byte != ',' && byte != '}') {
          value_ += byte;
          return value_.size() > kScalarBytesMax ? Step::kBroken : Step::kMore;
        }
        if (!end_value()) return Step::kBroken;
        return after(byte, writer);
      case State::kAfter:
        return after(byte, writer);
    }
    return Step::kBroken;
  }

  bool finish(AnswerWriter&) override { return state_ == State::kOutside && calls_ > 0; }

 private:
  enum class State : uint8_t { kOutside, kKeyOrEnd, kKey, kColon, kValueBegin, kValue, kScalar, kAfter };

  Step outside(char byte) {
    if (!close_.empty() && byte == close_[matched_]) {
      if (++matched_ < close_.size()) return Step::kMore;
      return calls_ > 0 ? Step::kEnd : Step::kBroken;
    }
    if (matched_ > 0) return Step::kBroken;
    if (is_blank(byte)) return Step::kMore;
    if (byte == '{') {
      state_ = State::kKeyOrEnd;
      nested_ = begun_ = has_arguments_ = streams_ = false;
      name_.clear();
      arguments_.clear();
      return Step::kMore;
    }
    if (byte == ',' || byte == ';' || byte == '[' || byte == ']') return Step::kMore;
    return Step::kBroken;
  }

  Step begin_scan(char byte) {
    scanner_ = JsonScanner();
    value_.clear();
    return scanner_.push(byte, value_) == JsonScanner::Step::kBad ? Step::kBroken : Step::kMore;
  }

  Step scan(char byte, AnswerWriter& writer) {
    std::string piece;
    const JsonScanner::Step step = scanner_.push(byte, piece);
    if (step == JsonScanner::Step::kBad) return Step::kBroken;
    if (streams_) {
      writer.arguments(piece);
    } else {
      value_ += piece;
    }
    if (step == JsonScanner::Step::kMore) return Step::kMore;
    if (state_ == State::kKey) {
      const auto key = parse_json(value_);
      if (!key) return Step::kBroken;
      key_ = key->get<std::string>();
      state_ = State::kColon;
      return Step::kMore;
    }
    return end_value() ? Step::kMore : Step::kBroken;
  }

  [[nodiscard]] bool is_arguments() const {
    return key_ == "arguments" || key_ == "parameters" || key_ == "args";
  }

  Step begin_value(char byte, AnswerWriter& writer) {
    if (byte == '{' && key_ == "function" && !nested_ && name_.empty()) {
      nested_ = true;
      state_ = State::kKeyOrEnd;
      return Step::kMore;
    }
    if (byte == '{' || byte == '[' || byte == '"') {
      state_ = State::kValue;
      if (const Step step = begin_scan(byte); step != Step::kMore) return step;
      if (!is_arguments()) return Step::kMore;
      if (has_arguments_) return Step::kBroken;
      if (byte == '{' && !name_.empty()) {
        if (!begin_call(writer)) return Step::kBroken;
        streams_ = true;
        writer.arguments(value_);
      }
      return Step::kMore;
    }
    value_ = byte;
    state_ = State::kScalar;
    return Step::kMore;
  }

  // A member is whole: keeps what it says of the call.
  bool end_value() {
    state_ = State::kAfter;
    if (std::exchange(streams_, false)) {
      has_arguments_ = true;
      return true;
    }
    const auto value = parse_json(value_);
    if (!value) return false;
    if (key_ == "name" || key_ == "function" || (form_ == JsonCallForm::kCommand && key_ == "tool_name")) {
      if (begun_ || !name_.empty() || !value->is_string()) return false;
      name_ = value->get<std::string>();
    } else if (is_arguments()) {
      if (has_arguments_) return false;
      has_arguments_ = true;
      // Some models write the object as a string.
      arguments_ = value->is_string() ? value->get<std::string>() : value->is_null() ? "{}" : value_;
    }
    return true;
  }

  bool begin_call(AnswerWriter& writer) {
    if (form_ == JsonCallForm::kBare && !writer.knows(name_)) return false;
    begun_ = writer.begin_call(name_);
    return begun_;
  }

  Step after(char byte, AnswerWriter& writer) {
    if (is_blank(byte)) return Step::kMore;
    if (byte == '}') return end_object(writer);
    state_ = State::kKeyOrEnd;
    return byte == ',' ? Step::kMore : Step::kBroken;
  }

  Step end_object(AnswerWriter& writer) {
    state_ = State::kAfter;
    if (std::exchange(nested_, false)) return Step::kMore;
    if (!begun_) {
      if (!has_arguments_ && form_ == JsonCallForm::kBare) return Step::kBroken;
      // Checked before the call begins, so that a call that is none is not told of.
      const auto object = has_arguments_ ? parse_json(arguments_) : Result<Json>(Json::object());
      if (!object || !object->is_object() || !begin_call(writer)) return Step::kBroken;
      writer.arguments(has_arguments_ ? arguments_ : "{}");
    }
    if (!writer.end_call()) return Step::kBroken;
    ++calls_;
    state_ = State::kOutside;
    return Step::kMore;
  }

  const JsonCallForm form_;
  const std::string_view close_;
  size_t matched_ = 0;  // Bytes of close_.
  State state_ = State::kOutside;
  JsonScanner scanner_;
  std::string key_, value_, name_, arguments_;
  bool nested_ = false;  // Within "function": {...}.
  bool begun_ = false, has_arguments_ = false, streams_ = false;
  uint32_t calls_ = 0;
};

class MistralCalls final : public CallReader {
 public:
  Step push(char byte, AnswerWriter& writer) override {
    if (list_ != nullptr) return list_->push(byte, writer);
    if (state_ == State::kHead) return head(byte, writer);
    if (state_ == State::kArguments) {
      const Step step = arguments_.push(byte, writer);
      if (step != Step::kEnd) return step;
      if (!writer.end_call()) return Step::kBroken;
      state_ = State::kAfter;
      return Step::kMore;
    }
    const auto found = next_.push(byte);
    if (found.marker == 0) {
      *this = MistralCalls();
      called_ = true;
    }
    return trimmed(found.text).empty() ? Step::kMore : Step::kBroken;
  }
  bool finish(AnswerWriter& writer) override {
    return list_ != nullptr ? list_->finish(writer)
                            : state_ == State::kAfter && trimmed(next_.finish()).empty();
  }

 private:
  enum class State : uint8_t { kHead, kArguments, kAfter };

  // The name, and perhaps an id, until [ARGS] or the object itself.
  Step head(char byte, AnswerWriter& writer) {
    if (head_.empty() && id_.empty() && !is_id_) {
      if (is_blank(byte)) return Step::kMore;
      if (byte == '{' || (byte == '[' && !called_)) {
        list_ = make_json_calls(JsonCallForm::kListed);
        return list_->push(byte, writer);
      }
    }
    if (byte == '{') return begin(writer) ? push(byte, writer) : Step::kBroken;
    const auto found = marks_.push(byte);
    (is_id_ ? id_ : head_) += found.text;
    if (found.marker == 0) return begin(writer) ? Step::kMore : Step::kBroken;
    if (found.marker == 1) is_id_ = true;
    return head_.size() + id_.size() > AnswerWriter::kNameBytesMax ? Step::kBroken : Step::kMore;
  }
  bool begin(AnswerWriter& writer) {
    state_ = State::kArguments;
    return writer.begin_call(trimmed(head_));
  }

  std::unique_ptr<CallReader> list_;
  MarkerMatcher marks_{{"[ARGS]", "[CALL_ID]"}}, next_{{"[TOOL_CALLS]"}};
  State state_ = State::kHead;
  ArgumentsReader arguments_;
  std::string head_, id_;
  bool is_id_ = false;
  bool called_ = false;
};

}  // namespace

std::unique_ptr<CallReader> make_json_calls(JsonCallForm form) { return std::make_unique<JsonCalls>(form); }
std::unique_ptr<CallReader> make_mistral_calls() { return std::make_unique<MistralCalls>(); }

}  // namespace mlxf::text
