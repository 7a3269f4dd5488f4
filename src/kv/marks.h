// Marks: the lengths that a sequence goes on being able to go back to, however long it becomes.
//
// Layers that forget can go back a little way at any time, and beyond that to marks: a sliding layer keeps the pages
// that the token behind a mark sees, a recurrent one the state there. A value; ascending multiples of kPagePositions,
// so that no page has to be copied for one and no recurrent block is cut.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>

#include "base/check.h"
#include "kernels/kernel_table.h"

namespace mlxf::kv {

class Marks {
 public:
  static constexpr uint32_t kMax = 8;

  [[nodiscard]] std::span<const uint32_t> all() const { return {positions_.data(), count_}; }
  [[nodiscard]] bool contains(uint32_t position) const {
    return std::find(positions_.begin(), end(), position) != end();
  }
  [[nodiscard]] bool full() const { return count_ == kMax; }
  // REQUIRES: not full, and not there.
  void add(uint32_t position) {
    CHECK(!full() && !contains(position));
    auto* const place = std::upper_bound(positions_.begin(), positions_.begin() + count_, position);
    std::copy_backward(place, positions_.begin() + count_, positions_.begin() + count_ + 1);
    *place = position;
    ++count_;
  }
  // REQUIRES: it is there.
  void remove(uint32_t position) {
    auto* const place = std::find(positions_.begin(), positions_.begin() + count_, position);
    CHECK(place != end());
    std::copy(place + 1, positions_.begin() + count_, place);
    --count_;
  }
  // Removes those beyond `length`.
  void cut(uint32_t length) {
    while (count_ > 0 && positions_[count_ - 1] > length) --count_;
  }
  // The longest up to `length`; 0: there is none.
  [[nodiscard]] uint32_t longest(uint32_t length) const {
    const auto* const beyond = std::upper_bound(positions_.begin(), end(), length);
    return beyond == positions_.begin() ? 0 : *(beyond - 1);
  }
  // The one to give up for another at `position`: so that what has to be computed again, from the mark before to where
  // somebody wants to go back to, stays little beside the way from there to the end. REQUIRES: full.
  [[nodiscard]] uint32_t least_worth(uint32_t position) const {
    CHECK(full());
    const uint32_t last = std::max(position, positions_[count_ - 1]) + kernels::kPagePositions;
    uint32_t least = 0;
    double least_worth = 0.0;
    for (uint32_t i = 0; i < count_; ++i) {
      const uint32_t before = i == 0 ? 0 : positions_[i - 1];
      const uint32_t next = i + 1 == count_ ? last : positions_[i + 1];
      const double worth = static_cast<double>(next - before) / (last - positions_[i]);
      if (i != 0 && worth >= least_worth) continue;
      least_worth = worth;
      least = positions_[i];
    }
    return least;
  }

 private:
  [[nodiscard]] const uint32_t* end() const { return positions_.data() + count_; }

  std::array<uint32_t, kMax> positions_{};
  uint32_t count_ = 0;
};

}  // namespace mlxf::kv
