#include "kv/latent_pages.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace mlxf::kv {

bool LatentPages::grow(uint32_t positions) {
  if (shared_.splits) {
    uint16_t* const page = pool_.unshared(pages_.back(), page_bytes());
    if (page == nullptr) return false;
    pages_.back() = page;
    shared_ = {static_cast<uint32_t>(pages_.size() - 1), false};
  }
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
  shared_.cut(positions);
}

void LatentPages::advance(uint32_t length) { CHECK(pages_.size() >= pages_for(length)); }

uint64_t LatentPages::missing_bytes(uint32_t positions) const {
  const uint64_t pages = pages_for(positions);
  const uint64_t bytes = pages > pages_.size() ? (pages - pages_.size()) * page_bytes() : 0;
  return bytes + (shared_.splits && pool_.shared(pages_.back()) ? page_bytes() : 0);
}

void LatentPages::fill_from(uint32_t position, uint32_t& random) {
  for (size_t page = pages_for(position); page < pages_.size(); ++page)
    fill_with_noise(pages_[page], page_bytes(), random);
}

void LatentPages::add_contents(Contents& contents) {
  for (uint16_t* page : pages_) contents.emplace_back(reinterpret_cast<uint8_t*>(page), page_bytes());
}

Status LatentPages::restore(uint32_t length, const Marks&, std::span<const uint32_t>&) {
  if (!grow(length)) return fail(ErrorCode::kOutOfBudget, "no memory for latents");
  return {};
}

bool LatentPages::share(LatentPages& source, uint32_t length) {
  const uint32_t whole = length / kernels::kPagePositions;
  CHECK(pages_.empty() && pages_for(length) <= source.pages_.size());
  pages_.assign(source.pages_.begin(), source.pages_.begin() + whole);
  for (const uint16_t* page : pages_) pool_.share(page, page_bytes());
  shared_.end = whole;
  source.shared_.end = std::max(source.shared_.end, whole);
  if (length % kernels::kPagePositions == 0) return true;
  // The source goes on writing to this one.
  if (!grow(length)) return false;
  std::memcpy(pages_.back(), source.pages_[whole], page_bytes());
  return true;
}

}  // namespace mlxf::kv
