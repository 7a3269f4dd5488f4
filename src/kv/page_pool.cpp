#include "kv/page_pool.h"

#include <cstdlib>
#include <cstring>

#include "base/check.h"

namespace mlxf::kv {

PagePool::PagePool() = default;

PagePool::~PagePool() {
  CHECK(free_bytes_ == bytes_);  // A sequence outlived its model otherwise.
  for (const SizeClass& size : classes_)
    for (uint16_t* page : size.free_pages) std::free(page);
}

PagePool::SizeClass& PagePool::size_class(uint64_t bytes) {
  for (SizeClass& size : classes_)
    if (size.page_bytes == bytes) return size;
  classes_.push_back({bytes, 0, {}});
  return classes_.back();
}

uint16_t* PagePool::take(uint64_t bytes) {
  CHECK(bytes > 0);
  SizeClass& size = size_class(bytes);
  if (!size.free_pages.empty()) {
    uint16_t* page = size.free_pages.back();
    size.free_pages.pop_back();
    free_bytes_ -= bytes;
    return page;
  }
  free_others(size, bytes);
  void* memory = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
  if (memory == nullptr) return nullptr;
  std::memset(memory, 0, bytes);
  bytes_ += bytes;
  ++size.pages;
  if (size.free_pages.capacity() < size.pages) size.free_pages.reserve(2 * size.pages);
  return static_cast<uint16_t*>(memory);
}

void PagePool::free_others(const SizeClass& size, uint64_t bytes) {
  uint64_t freed = 0;
  for (SizeClass& other : classes_) {
    if (&other == &size) continue;
    while (freed < bytes && !other.free_pages.empty()) {
      std::free(other.free_pages.back());
      other.free_pages.pop_back();
      --other.pages;
      freed += other.page_bytes;
    }
  }
  bytes_ -= freed;
  free_bytes_ -= freed;
}

void PagePool::give_back(uint16_t* page, uint64_t bytes) {
  size_class(bytes).free_pages.push_back(page);
  free_bytes_ += bytes;
}

}  // namespace mlxf::kv
