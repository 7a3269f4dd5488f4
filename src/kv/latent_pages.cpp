#include "kv/latent_pages.h"

#include "base/check.h"

namespace mlxf::kv {

bool LatentPages::grow(uint32_t positions) {
  while (pages_.size() < pages_for(positions)) {
    uint16_t* page = pool_.take(page_bytes());
    if (page == nullptr) return false;
    pages_.push_back(page);
  }
  return true;
}

void LatentPages::shrink(uint32_t positions) {
  while (pages_.size() > pages_for(positions)) {
    pool_.give_back(pages_.back(), page_bytes());
    pages_.pop_back();
  }
}

void LatentPages::advance(uint32_t length) { CHECK(pages_.size() >= pages_for(length)); }

uint64_t LatentPages::missing_bytes(uint32_t positions) const {
  const uint64_t pages = pages_for(positions);
  return pages > pages_.size() ? (pages - pages_.size()) * page_bytes() : 0;
}

void LatentPages::fill_from(uint32_t position, uint32_t& random) {
  for (size_t page = pages_for(position); page < pages_.size(); ++page)
    fill_with_noise(pages_[page], page_bytes(), random);
}

void LatentPages::add_contents(Contents& contents) {
  for (uint16_t* page : pages_) contents.emplace_back(reinterpret_cast<uint8_t*>(page), page_bytes());
}

Status LatentPages::restore(uint32_t length, std::span<const uint32_t>&) {
  if (!grow(length)) return fail(ErrorCode::kOutOfBudget, "no memory for latents");
  return {};
}

}  // namespace mlxf::kv
