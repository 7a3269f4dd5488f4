// HugeMemory: anonymous memory backed by 2 MiB pages where the system gives them, zeroed, returned whole.
//
// For weights and slots: streaming through 4 KiB pages costs a TLB miss per page, and direct reads into them
// are several times slower than into huge pages. Move-only; the owner decides who may touch the bytes.
#pragma once

#include <cstdint>
#include <span>

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
  // Gives all behind the first `bytes`, rounded up to the system's page, back to the system.
  void shrink(uint64_t bytes);

 private:
  [[nodiscard]] static Result<HugeMemory> map(uint64_t bytes);
  uint8_t* data_ = nullptr;
  uint64_t bytes_ = 0;
};

// The system's own page, in bytes.
[[nodiscard]] uint64_t small_page_bytes();

// Has the system back anonymous memory with pages now, on this thread, and not at the first access; its contents stay.
// In one call where the kernel has one for it.
void touch(std::span<uint8_t> memory);

// Gives whole small pages of anonymous memory back to the system, which gives zeroed ones at the next access.
// REQUIRES: both ends lie at borders of small pages.
void let_go(std::span<uint8_t> memory);

}  // namespace mlxf::platform
