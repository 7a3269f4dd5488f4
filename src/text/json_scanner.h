// JsonScanner: follows one JSON object, array or string byte by byte, so that it can be passed on while it is written.
//
// What it passes on is JSON wherever the scan succeeds: control characters that a model wrote into a string as they are
// become escapes; anything else that is not JSON (RFC 8259) is an error at its first byte. Bounded: it keeps one byte
// per open bracket and one scalar. A value type, one thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace mlxf::text {

class JsonScanner {
 public:
  enum class Step : uint8_t { kMore, kDone, kBad };
  // Takes the next byte, and appends what it comes to. After kDone or kBad nothing more may follow.
  [[nodiscard]] Step push(char byte, std::string& out);

 private:
  enum class State : uint8_t {
    kValue,
    kValueOrEnd,
    kKey,
    kKeyOrEnd,
    kColon,
    kAfter,
    kString,
    kEscape,
    kHex,
    kScalar
  };
  [[nodiscard]] Step in_string(char byte, std::string& out);
  [[nodiscard]] Step begin_value(char byte);
  [[nodiscard]] Step close(char bracket);
  [[nodiscard]] Step end_value();

  std::string open_;  // Brackets, the outermost first.
  std::string scalar_;
  State state_ = State::kValue;
  bool key_ = false;  // The string is a member's name.
  uint8_t hex_left_ = 0;
};

// Appends `byte` of a text as it stands inside a JSON string.
void append_json_escaped(char byte, std::string& out);

[[nodiscard]] inline bool is_blank(char byte) {
  return byte == ' ' || byte == '\t' || byte == '\n' || byte == '\r';
}
[[nodiscard]] std::string_view trimmed(std::string_view text);

}  // namespace mlxf::text
