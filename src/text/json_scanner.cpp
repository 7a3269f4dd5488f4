#include "text/json_scanner.h"

#include <cctype>

#include "base/json.h"

namespace mlxf::text {
namespace {
constexpr size_t kDepthMax = 64;
constexpr size_t kScalarBytesMax = 512;
}  // namespace

void append_json_escaped(char byte, std::string& out) {
  constexpr const char* kHex = "0123456789abcdef";
  const auto value = static_cast<unsigned char>(byte);
  if (byte == '"' || byte == '\\') {
    out += '\\';
    out += byte;
  } else if (byte == '\n') {
    out += "\\n";
  } else if (byte == '\t') {
    out += "\\t";
  } else if (byte == '\r') {
    out += "\\r";
  } else if (value < 0x20) {
    out += "\\u00";
    out += kHex[value >> 4];
    out += kHex[value & 15];
  } else {
    out += byte;
  }
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && is_blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_blank(text.back())) text.remove_suffix(1);
  return text;
}

JsonScanner::Step JsonScanner::push(char byte, std::string& out) {
  if (state_ == State::kString || state_ == State::kEscape || state_ == State::kHex)
    return in_string(byte, out);
  if (state_ == State::kScalar) {
    if (!is_blank(byte) && byte != ',' && byte != '}' && byte != ']') {
      scalar_ += byte;
      out += byte;
      return scalar_.size() > kScalarBytesMax ? Step::kBad : Step::kMore;
    }
    if (!parse_json(scalar_)) return Step::kBad;
    state_ = State::kAfter;
  }
  out += byte;
  if (is_blank(byte)) return Step::kMore;
  switch (state_) {
    case State::kValueOrEnd:
      if (byte == ']') return close('[');
      [[fallthrough]];
    case State::kValue:
      return begin_value(byte);
    case State::kKeyOrEnd:
      if (byte == '}') return close('{');
      [[fallthrough]];
    case State::kKey:
      key_ = true;
      state_ = State::kString;
      return byte == '"' ? Step::kMore : Step::kBad;
    case State::kColon:
      state_ = State::kValue;
      return byte == ':' ? Step::kMore : Step::kBad;
    default:  // kAfter
      if (byte == '}' || byte == ']') return close(byte == '}' ? '{' : '[');
      state_ = !open_.empty() && open_.back() == '{' ? State::kKey : State::kValue;
      return byte == ',' ? Step::kMore : Step::kBad;
  }
}

JsonScanner::Step JsonScanner::in_string(char byte, std::string& out) {
  if (state_ == State::kEscape) {
    out += byte;
    state_ = byte == 'u' ? State::kHex : State::kString;
    hex_left_ = 4;
    return std::string_view("\"\\/bfnrtu").find(byte) != std::string_view::npos ? Step::kMore : Step::kBad;
  }
  if (state_ == State::kHex) {
    out += byte;
    if (--hex_left_ == 0) state_ = State::kString;
    return std::isxdigit(static_cast<unsigned char>(byte)) != 0 ? Step::kMore : Step::kBad;
  }
  if (byte == '"') {
    out += byte;
    if (!key_) return end_value();
    state_ = State::kColon;
  } else if (byte == '\\') {
    out += byte;
    state_ = State::kEscape;
  } else if (static_cast<unsigned char>(byte) < 0x20) {
    append_json_escaped(byte, out);
  } else {
    out += byte;
  }
  return Step::kMore;
}

JsonScanner::Step JsonScanner::begin_value(char byte) {
  if (byte == '{' || byte == '[') {
    open_ += byte;
    state_ = byte == '{' ? State::kKeyOrEnd : State::kValueOrEnd;
    return open_.size() > kDepthMax ? Step::kBad : Step::kMore;
  }
  if (byte == '"') {
    key_ = false;
    state_ = State::kString;
    return Step::kMore;
  }
  if (open_.empty() || std::string_view("-0123456789tfn").find(byte) == std::string_view::npos)
    return Step::kBad;
  scalar_ = byte;
  state_ = State::kScalar;
  return Step::kMore;
}

JsonScanner::Step JsonScanner::close(char bracket) {
  if (open_.empty() || open_.back() != bracket) return Step::kBad;
  open_.pop_back();
  return end_value();
}

JsonScanner::Step JsonScanner::end_value() {
  state_ = State::kAfter;
  return open_.empty() ? Step::kDone : Step::kMore;
}

}  // namespace mlxf::text
