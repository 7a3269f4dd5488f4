// PagePool: memory for key/value pages, in a few size classes, kept for reuse once freed.
//
// A new page first gives as much of other sizes' free pages back to the system, so that the pool holds no more than was
// once in use together, and not each size's own peak. Owned by the model, borrowed by its sequences, which it outlives.
// One thread (the engine's). Pages are 64-byte aligned; a fresh page is zeroed and a reused one holds old finite
// values, so that kernels may read the rest of a partly filled page without meeting a NaN. Sizes are in bytes.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace mlxf::kv {

class PagePool {
 public:
  PagePool();
  ~PagePool();
  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;

  // Null when the operating system has no memory left. REQUIRES: bytes > 0.
  [[nodiscard]] uint16_t* take(uint64_t bytes);
  // `page` came from take(bytes).
  void give_back(uint16_t* page, uint64_t bytes);

  // All pages, in use or waiting for reuse.
  [[nodiscard]] uint64_t bytes() const { return bytes_; }
  [[nodiscard]] uint64_t free_bytes() const { return free_bytes_; }

 private:
  struct SizeClass {
    uint64_t page_bytes = 0;
    uint64_t pages = 0;                 // In use or free.
    std::vector<uint16_t*> free_pages;  // Has room for all of them, so that giving back takes no memory.
  };
  SizeClass& size_class(uint64_t bytes);
  // Gives at least `bytes` of free pages that are not of `size` back to the system, where there are so many.
  void free_others(const SizeClass& size, uint64_t bytes);

  std::vector<SizeClass> classes_;
  uint64_t bytes_ = 0;
  uint64_t free_bytes_ = 0;
};

}  // namespace mlxf::kv
