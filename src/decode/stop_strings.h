// StopStrings: cuts a growing text before the first occurrence of any stop string.
//
// push() takes the text as it is generated, in pieces of any size, and returns what can be shown already: text that
// may still turn out to be the beginning of a stop string is held back. One text, one thread. Work is bounded by the
// longest stop string per piece, not by the text's length.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace mlxf::decode {

class StopStrings {
 public:
  // Empty strings are left out.
  explicit StopStrings(std::vector<std::string> stops);

  // Text to show. After a match stopped() is true, the match and what follows are dropped, and further pushes return
  // nothing.
  [[nodiscard]] std::string push(std::string_view piece);
  // The held-back rest, when the text ends without a match.
  [[nodiscard]] std::string finish();
  [[nodiscard]] bool stopped() const { return stopped_; }
  // The stop string that matched; empty before.
  [[nodiscard]] const std::string& matched() const { return matched_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  std::string matched_;
  bool stopped_ = false;
};

}  // namespace mlxf::decode
