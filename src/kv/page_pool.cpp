#include "kv/page_pool.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "base/check.h"

namespace mlxf::kv {

PagePool::PagePool(uint64_t bytes_max) : bytes_max_(bytes_max) {}

PagePool::~PagePool() {
  CHECK(free_bytes_ == bytes_ && shared_.empty());  // A sequence outlived its model otherwise.
  for (const SizeClass& size : classes_)
    for (uint16_t* page : size.free_pages) free_page(page, size.page_bytes);
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
  void* memory = take_from_run(bytes);
  if (memory == nullptr) {
    free_others(&size, bytes);
    if (bytes > bytes_max_ - bytes_) return nullptr;
    memory = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (memory == nullptr) return nullptr;
    std::memset(memory, 0, bytes);
  }
  bytes_ += bytes;
  ++size.pages;
  if (size.free_pages.capacity() < size.pages) size.free_pages.reserve(2 * size.pages);
  return static_cast<uint16_t*>(memory);
}

void PagePool::begin_run(uint64_t bytes_max) {
  CHECK(!open_);
  open_.emplace(Run{});
  // Address space alone so far. Without it pages are taken one by one.
  if (auto memory = platform::HugeMemory::allocate_tight(bytes_max)) open_->memory = std::move(*memory);
}

std::span<uint8_t> PagePool::end_run() {
  CHECK(open_);
  Run run = std::move(*open_);
  open_.reset();
  if (run.pages == 0) return {};
  const uint64_t bytes = run.taken_bytes;
  run.memory.shrink(bytes);
  uint8_t* const begin = run.memory.data();
  runs_.push_back(std::move(run));
  // Whatever is free now was not wanted for what took the run.
  free_others(nullptr, bytes);
  return {begin, bytes};
}

uint16_t* PagePool::take_from_run(uint64_t bytes) {
  if (!open_ || bytes % platform::small_page_bytes() != 0 || bytes > bytes_max_ - bytes_ ||
      bytes > open_->memory.bytes() - open_->taken_bytes)
    return nullptr;
  uint8_t* page = open_->memory.data() + open_->taken_bytes;
  open_->taken_bytes += bytes;
  ++open_->pages;
  return reinterpret_cast<uint16_t*>(page);
}

void PagePool::free_page(uint16_t* page, uint64_t bytes) {
  auto* const begin = reinterpret_cast<uint8_t*>(page);
  const auto run = std::find_if(runs_.begin(), runs_.end(), [&](const Run& one) {
    return begin >= one.memory.data() && begin < one.memory.data() + one.memory.bytes();
  });
  if (run == runs_.end()) return std::free(page);
  if (--run->pages != 0) return platform::let_go({begin, bytes});
  if (run != runs_.end() - 1) std::swap(*run, runs_.back());
  runs_.pop_back();
}

void PagePool::free_others(const SizeClass* size, uint64_t bytes) {
  uint64_t freed = 0;
  for (SizeClass& other : classes_) {
    if (&other == size) continue;
    while (freed < bytes && !other.free_pages.empty()) {
      free_page(other.free_pages.back(), other.page_bytes);
      other.free_pages.pop_back();
      --other.pages;
      freed += other.page_bytes;
    }
  }
  bytes_ -= freed;
  free_bytes_ -= freed;
}

void PagePool::give_back(uint16_t* page, uint64_t bytes) {
  if (!shared_.empty()) {
    if (const auto others = shared_.find(page); others != shared_.end()) {
      doubled_bytes_ -= others->second.lasting_bytes;
      if (--others->second.others == 0) shared_.erase(others);
      return;
    }
  }
  size_class(bytes).free_pages.push_back(page);
  free_bytes_ += bytes;
}

uint16_t* PagePool::unshared(uint16_t* page, uint64_t bytes) {
  if (!shared(page)) return page;
  uint16_t* const copy = take(bytes);
  if (copy == nullptr) return nullptr;
  std::memcpy(copy, page, bytes);
  give_back(page, bytes);
  return copy;
}

}  // namespace mlxf::kv
