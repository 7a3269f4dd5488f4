// Utf8Repair: turns a stream of bytes into valid UTF-8, replacing each maximal invalid part by U+FFFD, as the
// Unicode standard recommends (section 3.9, "substitution of maximal subparts").
//
// Feeding bytes in pieces of any size gives the same text as feeding them at once: at most three bytes of an
// unfinished sequence are held back. A value type, one thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace mlxf::text {

class Utf8Repair {
 public:
  // Appends to `out` what `bytes` settles.
  void append(std::string_view bytes, std::string& out);
  // Replaces a held-back unfinished sequence, if there is one.
  void finish(std::string& out);

 private:
  void step(uint8_t byte, std::string& out);

  char held_[4] = {};       // The sequence so far.
  uint8_t held_bytes_ = 0;  // Bytes in held_; 0 between characters.
  uint8_t wanted_ = 0;      // Length that the first byte announced.
};

// True if `text` is well-formed UTF-8: no overlong forms, surrogates or values above U+10FFFF.
[[nodiscard]] bool is_utf8(std::string_view text);

}  // namespace mlxf::text
