// Arena: lays scratch memory out, in pieces of 64-byte alignment.
//
// A value without ownership. Without memory it only counts: the same code lays out first to learn the size, then for
// good. A copy lays out a second time from the same place, for users that take turns; cover() then continues behind
// both. Pieces are uninitialised.
#pragma once

#include <algorithm>
#include <cstdint>

namespace mlxf::model {

class Arena {
 public:
  Arena() = default;
  explicit Arena(uint8_t* memory) : memory_(memory) {}

  // Null without memory.
  template <typename T>
  [[nodiscard]] T* take(uint64_t count) {
    uint8_t* taken = memory_ == nullptr ? nullptr : memory_ + bytes_;
    bytes_ += (count * sizeof(T) + 63) / 64 * 64;
    return reinterpret_cast<T*>(taken);
  }
  // REQUIRES: `other` is a copy of this, or this of it, some takes later.
  void cover(const Arena& other) { bytes_ = std::max(bytes_, other.bytes_); }

  [[nodiscard]] uint64_t bytes() const { return bytes_; }

 private:
  uint8_t* memory_ = nullptr;
  uint64_t bytes_ = 0;
};

}  // namespace mlxf::model
