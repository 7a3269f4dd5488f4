#include "formats/name_text.h"

#include <cstdint>
#include <cstring>

namespace mlxf::formats {
namespace {

// Bytes of the sequence that starts `text`, or 0 if it is not valid: the ranges of RFC 3629, table in
// section 4.
size_t sequence_bytes(std::string_view text) {
  const auto at = [&](size_t i) { return i < text.size() ? static_cast<uint8_t>(text[i]) : uint8_t{0}; };
  const auto continues = [&](size_t i) { return (at(i) & 0xc0) == 0x80; };
  const uint8_t lead = at(0);
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead <= 0xdf) return continues(1) ? 2 : 0;
  if (lead >= 0xe0 && lead <= 0xef) {
    if (lead == 0xe0 && at(1) < 0xa0) return 0;
    if (lead == 0xed && at(1) > 0x9f) return 0;
    return continues(1) && continues(2) ? 3 : 0;
  }
  if (lead >= 0xf0 && lead <= 0xf4) {
    if (lead == 0xf0 && at(1) < 0x90) return 0;
    if (lead == 0xf4 && at(1) > 0x8f) return 0;
    return continues(1) && continues(2) && continues(3) ? 4 : 0;
  }
  return 0;
}

}  // namespace

std::optional<size_t> find_invalid_utf8(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    // Headers are nearly all ASCII: eight bytes at a time.
    uint64_t word = 0;
    if (text.size() - i >= sizeof word) {
      std::memcpy(&word, text.data() + i, sizeof word);
      if ((word & 0x8080808080808080U) == 0) {
        i += sizeof word;
        continue;
      }
    }
    const size_t bytes = sequence_bytes(text.substr(i));
    if (bytes == 0) return i;
    i += bytes;
  }
  return std::nullopt;
}

const char* name_fault(std::string_view name, size_t bytes_max) {
  if (name.empty()) return "is empty";
  if (name.size() > bytes_max) return "is too long";
  for (const char c : name) {
    if (c == '\0') return "holds a NUL byte";
    if (static_cast<uint8_t>(c) < 0x20 || c == 0x7f) return "holds a control character";
  }
  return find_invalid_utf8(name) ? "is not valid UTF-8" : nullptr;
}

std::string quoted_name(std::string_view name) {
  constexpr size_t kShownBytesMax = 80;
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text = "\"";
  for (const char c : name.substr(0, kShownBytesMax)) {
    const auto byte = static_cast<uint8_t>(c);
    if (byte >= 0x20 && byte < 0x7f) {
      if (c == '"' || c == '\\') text += '\\';
      text += c;
    } else {
      text += "\\x";
      text += kDigits[byte >> 4];
      text += kDigits[byte & 15];
    }
  }
  text += '"';
  if (name.size() > kShownBytesMax) text += "... (" + std::to_string(name.size()) + " bytes)";
  return text;
}

}  // namespace mlxf::formats
