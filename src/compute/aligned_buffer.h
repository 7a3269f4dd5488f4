// AlignedBuffer: 64-byte-aligned scratch memory that only grows.
// Its contents do not survive growing. Owned by whoever computes with it; one thread at a time.
// Sizes are in bytes.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>

#include "base/check.h"

namespace mlxf::compute {

class AlignedBuffer {
 public:
  // Memory of at least `bytes`.
  uint8_t* at_least(uint64_t bytes) {
    if (bytes > capacity_) {
      capacity_ = (bytes + bytes / 4 + 63) / 64 * 64;
      memory_.reset();
      memory_.reset(static_cast<uint8_t*>(std::aligned_alloc(64, capacity_)));
      CHECK(memory_ != nullptr);
    }
    return memory_.get();
  }
  [[nodiscard]] uint8_t* data() const { return memory_.get(); }
  [[nodiscard]] uint64_t capacity() const { return capacity_; }

 private:
  struct Free {
    void operator()(uint8_t* memory) const { std::free(memory); }
  };
  std::unique_ptr<uint8_t, Free> memory_;
  uint64_t capacity_ = 0;
};

}  // namespace mlxf::compute
