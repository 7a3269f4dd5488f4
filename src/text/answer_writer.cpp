#include "text/answer_writer.h"

#include <algorithm>

#include "text/json_scanner.h"

namespace mlxf::text {
namespace {
constexpr size_t kBlanksMax = 4096;
}

void AnswerWriter::write(AnswerEvent::Kind kind, std::string_view text) {
  if (!blanks_.empty() && blanks_kind_ != kind) cut();
  blanks_kind_ = kind;
  for (const char byte : text) {
    if (is_blank(byte)) {
      if (skip_blanks_) continue;
      if (blanks_.size() == kBlanksMax) {
        emit(kind, blanks_);
        blanks_.clear();
      }
      blanks_ += byte;
      continue;
    }
    if (!blanks_.empty()) emit(kind, blanks_);
    blanks_.clear();
    skip_blanks_ = false;
    if (kind == AnswerEvent::Kind::kContent) silent_ = false;
    emit(kind, std::string_view(&byte, 1));
  }
}

void AnswerWriter::emit(AnswerEvent::Kind kind, std::string_view text) {
  const uint32_t call = open_ ? calls_ - 1 : 0;
  if (events_.empty() || events_.back().kind != kind || events_.back().call != call)
    events_.push_back({kind, call, {}});
  events_.back().text += text;
}

void AnswerWriter::cut() {
  blanks_.clear();
  skip_blanks_ = true;
}

bool AnswerWriter::begin_call(std::string_view name) {
  if (open_ || name.empty() || name.size() > kNameBytesMax) return false;
  cut();
  silent_ = false;
  open_ = true;
  arguments_.clear();
  events_.push_back({AnswerEvent::Kind::kCallBegin, calls_++, std::string(name)});
  return true;
}

void AnswerWriter::arguments(std::string_view piece) {
  if (piece.empty()) return;
  arguments_ += piece;
  emit(AnswerEvent::Kind::kArguments, piece);
}

bool AnswerWriter::end_call() {
  const auto object = parse_json(arguments_);
  if (!open_ || !object || !object->is_object()) return false;
  open_ = false;
  ++ended_;
  events_.push_back({AnswerEvent::Kind::kCallEnd, calls_ - 1, {}});
  return true;
}

void AnswerWriter::broken(std::string_view raw) {
  if (!open_) return content(raw);
  open_ = false;
  events_.push_back({AnswerEvent::Kind::kCallBroken, calls_ - 1, std::string(raw)});
}

const ToolSpec* AnswerWriter::find_tool(std::string_view name) const {
  const auto found =
      std::find_if(tools_.begin(), tools_.end(), [&](const ToolSpec& tool) { return tool.name == name; });
  return found == tools_.end() ? nullptr : &*found;
}

const Json* AnswerWriter::find_parameter(std::string_view tool, std::string_view parameter) const {
  const ToolSpec* spec = find_tool(tool);
  const Json* properties = spec == nullptr ? nullptr : find_member(spec->parameters, "properties");
  return properties == nullptr ? nullptr : find_member(*properties, parameter);
}

void AnswerWriter::finish() {
  if (!skip_blanks_ && !blanks_.empty()) emit(blanks_kind_, blanks_);
  blanks_.clear();
}

}  // namespace mlxf::text
