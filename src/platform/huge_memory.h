// HugeMemory: anonymous memory backed by 2 MiB pages where the system gives them, zeroed, returned whole.
//
// For weights and slots: streaming through 4 KiB pages costs a TLB miss per page, and direct reads into them
// are several times slower than into huge pages. Move-only; the owner decides who may touch the bytes.
#pragma once

#include <cstdint>

#include "base/result.h"

namespace mlxf::platform {

class HugeMemory {
 public:
  HugeMemory() = default;
  // `bytes` is rounded up to 2 MiB. kOutOfBudget when the system refuses.
  [[nodiscard]] static Result<HugeMemory> allocate(uint64_t bytes);
  // The same, rounded up to the system's small pages, of which it ends in some: for many pieces side by side.
  [[nodiscard]] static Result<HugeMemory> allocate_tight(uint64_t bytes);
  [[nodiscard]] static uint64_t tight_bytes(uint64_t bytes);  // What that comes to.
  ~HugeMemory();
  HugeMemory(HugeMemory&& other) noexcept;
  HugeMemory& operator=(HugeMemory&& other) noexcept;

  [[nodiscard]] uint8_t* data() const { return data_; }
  [[nodiscard]] uint64_t bytes() const { return bytes_; }

 private:
  [[nodiscard]] static Result<HugeMemory> map(uint64_t bytes, uint64_t granule);
  uint8_t* data_ = nullptr;
  uint64_t bytes_ = 0;
};

}  // namespace mlxf::platform
