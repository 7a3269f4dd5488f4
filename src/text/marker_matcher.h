// MarkerMatcher: finds markers in a text that comes byte by byte.
//
// Text that may still become a marker is held back. REQUIRES: behind its first byte no marker holds the first byte of
// any marker of the set, so that a match that fails hides no other. A value type, one thread.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mlxf::text {

class MarkerMatcher {
 public:
  struct Found {
    std::string text;  // What is certainly no part of a marker; it stands before `marker`.
    int marker = -1;   // Its place in the set, or -1.
  };

  MarkerMatcher() = default;
  explicit MarkerMatcher(std::vector<std::string> markers) : markers_(std::move(markers)) {}

  [[nodiscard]] Found push(char byte) {
    Found found;
    held_ += byte;
    while (!held_.empty()) {
      bool may_become = false;
      for (size_t i = 0; i < markers_.size(); ++i) {
        if (markers_[i].size() < held_.size() || markers_[i].compare(0, held_.size(), held_) != 0) continue;
        if (markers_[i].size() > held_.size()) {
          may_become = true;
          continue;
        }
        held_.clear();
        found.marker = static_cast<int>(i);
        return found;
      }
      if (may_become) break;
      found.text += held_.front();
      held_.erase(0, 1);
    }
    return found;
  }
  [[nodiscard]] bool holds() const { return !held_.empty(); }
  // The held-back rest.
  [[nodiscard]] std::string finish() { return std::exchange(held_, {}); }

 private:
  std::vector<std::string> markers_;
  std::string held_;
};

}  // namespace mlxf::text
