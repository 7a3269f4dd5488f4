#include "text/utf8.h"

namespace mlxf::text {

namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// Length of the sequence that starts with `byte`; 0 if none does.
uint8_t sequence_bytes(uint8_t byte) {
  if (byte < 0x80) return 1;
  if (byte >= 0xC2 && byte <= 0xDF) return 2;
  if (byte >= 0xE0 && byte <= 0xEF) return 3;
  if (byte >= 0xF0 && byte <= 0xF4) return 4;
  return 0;
}

// Table 3-7 of the Unicode standard: the second byte's range depends on the first and excludes overlong forms,
// surrogates and values above U+10FFFF.
bool may_follow(uint8_t first, uint8_t position, uint8_t byte) {
  if (position > 1) return byte >= 0x80 && byte <= 0xBF;
  switch (first) {
    case 0xE0:
      return byte >= 0xA0 && byte <= 0xBF;
    case 0xED:
      return byte >= 0x80 && byte <= 0x9F;
    case 0xF0:
      return byte >= 0x90 && byte <= 0xBF;
    case 0xF4:
      return byte >= 0x80 && byte <= 0x8F;
    default:
      return byte >= 0x80 && byte <= 0xBF;
  }
}

}  // namespace

void Utf8Repair::step(uint8_t byte, std::string& out) {
  if (held_bytes_ > 0 && !may_follow(static_cast<uint8_t>(held_[0]), held_bytes_, byte)) {
    held_bytes_ = 0;
    out += kReplacement;
  }
  if (held_bytes_ == 0) {
    wanted_ = sequence_bytes(byte);
    if (wanted_ == 0) {
      out += kReplacement;
      return;
    }
  }
  held_[held_bytes_++] = static_cast<char>(byte);
  if (held_bytes_ == wanted_) {
    out.append(held_, held_bytes_);
    held_bytes_ = 0;
  }
}

void Utf8Repair::append(std::string_view bytes, std::string& out) {
  for (const char c : bytes) step(static_cast<uint8_t>(c), out);
}

void Utf8Repair::finish(std::string& out) {
  if (held_bytes_ > 0) out += kReplacement;
  held_bytes_ = 0;
}

bool is_utf8(std::string_view text) {
  size_t position = 0;
  while (position < text.size()) {
    const auto first = static_cast<uint8_t>(text[position]);
    const uint8_t length = sequence_bytes(first);
    if (length == 0 || text.size() - position < length) return false;
    for (uint8_t i = 1; i < length; ++i) {
      if (!may_follow(first, i, static_cast<uint8_t>(text[position + i]))) return false;
    }
    position += length;
  }
  return true;
}

}  // namespace mlxf::text
