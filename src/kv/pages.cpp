#include "kv/pages.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace mlxf::kv {

using kernels::kPagePositions;

void fill_with_noise(uint16_t* page, uint64_t bytes, uint32_t& random) {
  for (uint64_t i = 0; i < bytes / sizeof(uint16_t); ++i) {
    random = random * 1664525u + 1013904223u;
    // Sign and mantissa at random, magnitudes in [0.25, 0.5).
    page[i] = static_cast<uint16_t>((random >> 16 & 0x83ffu) | 0x3400u);
  }
}

bool take_word(std::span<const uint32_t>& words, uint32_t& word) {
  if (words.empty()) return false;
  word = words.front();
  words = words.subspan(1);
  return true;
}

uint64_t PageShape::bytes_max(uint32_t positions, uint32_t step, Element element) const {
  // A layer that forgets keeps what it sees and the rollback; both ends may lie inside a page.
  const uint32_t seen = window == 0 || chunk == 0 ? std::max(window, chunk) : std::min(window, chunk);
  const uint64_t kept = uint64_t{seen} + kRollbackPositions + step;
  const bool slides = seen != 0 && kept + kPagePositions < positions;
  const uint64_t pages = slides ? pages_for(static_cast<uint32_t>(kept)) + 1 : pages_for(positions);
  return bytes(pages * kPagePositions, element);
}

Pages::Pages(PagePool& pool, const PageShape& shape, Element element)
    : pool_(pool), shape_(shape), element_(element) {}

uint64_t Pages::key_bytes() const {
  return uint64_t{shape_.kv_heads} * kPagePositions * shape_.key_dim * (element_ == Element::kF32 ? 4 : 2);
}

uint64_t Pages::value_bytes() const {
  return uint64_t{shape_.kv_heads} * kPagePositions * shape_.value_dim * (element_ == Element::kF32 ? 4 : 2);
}

uint32_t Pages::first_visible(uint32_t position) const {
  const uint32_t by_window =
      shape_.window == 0 || position < shape_.window ? 0 : position + 1 - shape_.window;
  return std::max(by_window, shape_.chunk == 0 ? 0 : position / shape_.chunk * shape_.chunk);
}

// Whether the last page is this cache's own.
bool Pages::split_last() {
  uint16_t* const key = pool_.unshared(keys_.back(), key_bytes());
  if (key == nullptr) return false;
  keys_.back() = key;
  uint16_t* const value = pool_.unshared(values_.back(), value_bytes());
  if (value == nullptr) return false;
  values_.back() = value;
  shared_ = {static_cast<uint32_t>(keys_.size() - 1), false};
  return true;
}

bool Pages::grow(uint32_t positions) {
  if (shared_.splits && !split_last()) return false;
  while (keys_.size() < pages_for(positions)) {
    uint16_t *key = nullptr, *value = nullptr;
    if (!take_page(key, value)) return false;
    keys_.push_back(key);
    values_.push_back(value);
  }
  return true;
}

bool Pages::take_page(uint16_t*& key, uint16_t*& value) {
  key = pool_.take(key_bytes());
  value = key != nullptr ? pool_.take(value_bytes()) : nullptr;
  if (value != nullptr) return true;
  if (key != nullptr) pool_.give_back(key, key_bytes());
  key = nullptr;
  return false;
}

void Pages::give_back(uint32_t page) {
  pool_.give_back(keys_[page], key_bytes());
  pool_.give_back(values_[page], value_bytes());
  keys_[page] = nullptr;
  values_[page] = nullptr;
}

bool Pages::marked(uint32_t page) const {
  const auto marks = marks_.all();
  return std::any_of(marks.begin(), marks.end(), [&](uint32_t mark) {
    return page >= first_visible_page(mark) && page < mark / kPagePositions;
  });
}

uint32_t Pages::first_held() const {
  auto first = static_cast<uint32_t>(keys_.size());
  while (first > 0 && keys_[first - 1] != nullptr) --first;
  return first;
}

bool Pages::mark(uint32_t position) {
  if (forgets()) marks_.add(position);
  return true;
}

void Pages::unmark(uint32_t position) {
  if (!forgets()) return;
  marks_.remove(position);
  const uint32_t end = std::min(position / kPagePositions, first_page_);
  for (uint32_t page = first_visible_page(position); page < end; ++page)
    if (keys_[page] != nullptr && !marked(page)) give_back(page);
}

uint64_t Pages::mark_bytes(std::span<const uint32_t> marks) const {
  if (!forgets()) return 0;
  uint64_t pages = 0;
  uint32_t counted = 0;  // Up to where.
  for (const uint32_t mark : marks) {
    pages += mark / kPagePositions - std::max(counted, first_visible_page(mark));
    counted = mark / kPagePositions;
  }
  return pages * (key_bytes() + value_bytes());
}

void Pages::shrink(uint32_t positions) {
  const uint32_t pages = pages_for(positions);
  while (keys_.size() > pages) {
    if (keys_.back() != nullptr) give_back(static_cast<uint32_t>(keys_.size() - 1));
    keys_.pop_back();
    values_.pop_back();
  }
  marks_.cut(positions);
  // What leads back to a mark, or was kept for one beyond, is now what is seen.
  first_page_ = first_held();
  shared_.cut(positions);
}

void Pages::advance(uint32_t length) {
  CHECK(keys_.size() >= pages_for(length));
  if (shape_.window == 0 && shape_.chunk == 0) return;
  const uint32_t kept_from = first_visible(length > kRollbackPositions ? length - kRollbackPositions : 0);
  const uint32_t end = std::min<uint32_t>(kept_from / kPagePositions, static_cast<uint32_t>(keys_.size()));
  for (; first_page_ < end; ++first_page_)
    if (!marked(first_page_)) give_back(first_page_);
}

uint32_t Pages::truncatable(uint32_t length) const {
  return first_visible(length) >= first_page_ * kPagePositions ? length : marks_.longest(length);
}

uint64_t Pages::missing_bytes(uint32_t positions) const {
  const uint64_t pages = pages_for(positions);
  uint64_t bytes = pages > keys_.size() ? (pages - keys_.size()) * (key_bytes() + value_bytes()) : 0;
  if (shared_.splits && pool_.shared(keys_.back())) bytes += key_bytes();
  if (shared_.splits && pool_.shared(values_.back())) bytes += value_bytes();
  return bytes;
}

uint64_t Pages::bytes() const {
  const auto given_back = std::count(keys_.begin(), keys_.begin() + first_page_, nullptr);
  return (keys_.size() - static_cast<size_t>(given_back)) * (key_bytes() + value_bytes());
}

void Pages::fill_from(uint32_t position, uint32_t& random) {
  for (size_t page = pages_for(position); page < keys_.size(); ++page) {
    fill_with_noise(keys_[page], key_bytes(), random);
    fill_with_noise(values_[page], value_bytes(), random);
  }
}

void Pages::add_geometry(Words& words) const {
  words.insert(words.end(), {shape_.kv_heads, shape_.key_dim, shape_.value_dim, shape_.window, shape_.chunk});
}

void Pages::add_layout(Words& words) const { words.push_back(first_page_); }

void Pages::add_contents(Contents& contents) {
  for (size_t page = 0; page < keys_.size(); ++page) {
    if (keys_[page] == nullptr) continue;
    contents.emplace_back(reinterpret_cast<uint8_t*>(keys_[page]), key_bytes());
    contents.emplace_back(reinterpret_cast<uint8_t*>(values_[page]), value_bytes());
  }
}

Status Pages::restore(uint32_t length, const Marks& marks, std::span<const uint32_t>& layout) {
  uint32_t first = 0;
  // All that the next token sees must be there.
  if (!take_word(layout, first) || uint64_t{first} * kPagePositions > first_visible(length) ||
      first > pages_for(length))
    return fail(ErrorCode::kCorrupt, "keys and values do not begin where a layer of this shape needs them");
  keys_.assign(first, nullptr);
  values_.assign(first, nullptr);
  first_page_ = first;
  if (forgets()) marks_ = marks;
  bool room = true;
  for (uint32_t page = 0; page < first && room; ++page)
    if (marked(page)) room = take_page(keys_[page], values_[page]);
  if (!room || !grow(length)) return fail(ErrorCode::kOutOfBudget, "no memory for keys and values");
  return {};
}

bool Pages::share(Pages& source, uint32_t length) {
  const uint32_t whole = length / kPagePositions;
  CHECK(keys_.empty() && pages_for(length) <= source.keys_.size());
  keys_.assign(source.keys_.begin(), source.keys_.begin() + whole);
  values_.assign(source.values_.begin(), source.values_.begin() + whole);
  marks_ = source.marks_;
  marks_.cut(length);
  first_page_ = first_held();
  for (uint32_t page = 0; page < whole; ++page) {
    if (keys_[page] == nullptr) continue;
    pool_.share(keys_[page], forgets() ? 0 : key_bytes());
    pool_.share(values_[page], forgets() ? 0 : value_bytes());
  }
  shared_.end = whole;
  source.shared_.end = std::max(source.shared_.end, whole);
  if (length % kPagePositions == 0) return true;
  // The source goes on writing to this one.
  if (!grow(length)) return false;
  std::memcpy(keys_.back(), source.keys_[whole], key_bytes());
  std::memcpy(values_.back(), source.values_[whole], value_bytes());
  return true;
}

}  // namespace mlxf::kv
