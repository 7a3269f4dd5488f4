#include "kv/sequence.h"

#include <algorithm>
#include <string>
#include <type_traits>

#include "base/check.h"

namespace mlxf::kv {
namespace {

using Cache = std::variant<Pages, LatentPages, Recurrent, NoCache>;

Cache make_cache(PagePool& pool, const PageShape& shape, Element element) {
  return Pages(pool, shape, element);
}
Cache make_cache(PagePool& pool, const RecurrentShape& shape, Element element) {
  return Recurrent(pool, shape, element);
}

Cache make_cache(PagePool& pool, const LatentShape& shape, Element element) {
  return LatentPages(pool, shape, element);
}

Cache make_cache(PagePool&, const NoShape&, Element) { return NoCache{}; }

}  // namespace

Sequence::Sequence(PagePool& pool, std::span<const LayerShape> layers, uint32_t context_max, Element element)
    : pool_(pool), context_max_(context_max), element_(element) {
  layers_.reserve(layers.size());
  for (const LayerShape& layer : layers)
    layers_.push_back(std::visit([&](const auto& shape) { return make_cache(pool, shape, element); }, layer));
}

Status Sequence::reserve(uint32_t tokens) {
  if (tokens > context_max_ - length_)
    return fail(ErrorCode::kInvalidArgument, "the context of " + std::to_string(context_max_) +
                                                 " tokens holds " + std::to_string(length_) +
                                                 " and has no room for " + std::to_string(tokens) + " more");
  for (auto& layer : layers_) {
    if (std::visit([&](auto& cache) { return cache.grow(length_ + tokens); }, layer)) continue;
    shrink(length_);
    return fail(ErrorCode::kOutOfBudget,
                "no memory for the keys and values of " + std::to_string(tokens) + " more tokens");
  }
  return {};
}

uint64_t Sequence::missing_bytes(uint32_t tokens) const {
  const uint32_t positions = length_ + std::min(tokens, context_max_ - length_);
  uint64_t total = 0;
  for (const auto& layer : layers_)
    total += std::visit([&](const auto& cache) { return cache.missing_bytes(positions); }, layer);
  return total;
}

void Sequence::advance(uint32_t tokens) {
  length_ += tokens;
  CHECK(length_ <= context_max_);
  for (auto& layer : layers_) std::visit([&](auto& cache) { cache.advance(length_); }, layer);
}

uint32_t Sequence::truncatable(uint32_t length) const {
  uint32_t longest = std::min(length, length_);
  // A layer that goes back further than the ones before it makes them look again.
  for (bool agreed = false; !agreed;) {
    agreed = true;
    for (const auto& layer : layers_) {
      const uint32_t own = std::visit([&](const auto& cache) { return cache.truncatable(longest); }, layer);
      agreed = agreed && own == longest;
      longest = own;
    }
  }
  return longest;
}

bool Sequence::forgets() const {
  return std::any_of(layers_.begin(), layers_.end(), [](const auto& layer) {
    return std::visit([](const auto& cache) { return cache.forgets(); }, layer);
  });
}

Status Sequence::truncate(uint32_t length) {
  if (length > length_)
    return fail(ErrorCode::kInvalidArgument, "cannot truncate a sequence of " + std::to_string(length_) +
                                                 " tokens to " + std::to_string(length));
  if (truncatable(length) != length)
    return fail(ErrorCode::kInvalidArgument,
                "a sliding window, a chunk or a recurrent state has forgotten what position " +
                    std::to_string(length) + " would see; the sequence can go back to " +
                    std::to_string(truncatable(length)));
  length_ = length;
  marks_.cut(length);
  for (auto& layer : layers_) std::visit([&](auto& cache) { cache.truncate(length); }, layer);
  return {};
}

void Sequence::shrink(uint32_t length) {
  marks_.cut(length);
  for (auto& layer : layers_) std::visit([&](auto& cache) { cache.shrink(length); }, layer);
}

bool Sequence::mark(uint32_t position) {
  CHECK(position % kStateBlock == 0 && position > length_ && position <= context_max_ && forgets());
  if (marks_.contains(position)) return true;
  if (marks_.full()) unmark(marks_.least_worth(position));
  for (size_t i = 0; i < layers_.size(); ++i) {
    if (std::visit([&](auto& cache) { return cache.mark(position); }, layers_[i])) continue;
    while (i-- > 0) std::visit([&](auto& cache) { cache.unmark(position); }, layers_[i]);
    return false;
  }
  marks_.add(position);
  return true;
}

void Sequence::unmark(uint32_t position) {
  marks_.remove(position);
  for (auto& layer : layers_) std::visit([&](auto& cache) { cache.unmark(position); }, layer);
}

void Sequence::unmark_all() {
  while (!marks_.all().empty()) unmark(marks_.all().back());
}

uint64_t Sequence::mark_bytes(std::span<const uint32_t> marks) const {
  uint64_t total = 0;
  for (const auto& layer : layers_)
    total += std::visit([&](const auto& cache) { return cache.mark_bytes(marks); }, layer);
  return total;
}

Status Sequence::fill(uint32_t positions) {
  uint32_t random = 12345;
  while (positions > 0) {
    // In steps, so that sliding layers never hold more than a step beyond their window.
    const uint32_t step = std::min(positions, 8 * kernels::kPagePositions);
    RETURN_IF_ERROR(reserve(step));
    for (auto& layer : layers_) std::visit([&](auto& cache) { cache.fill_from(length_, random); }, layer);
    advance(step);
    positions -= step;
  }
  return {};
}

Words Sequence::geometry() const {
  Words words = {context_max_, static_cast<uint32_t>(element_), static_cast<uint32_t>(layers_.size())};
  for (const auto& layer : layers_) {
    words.push_back(static_cast<uint32_t>(layer.index()));
    std::visit([&](const auto& cache) { cache.add_geometry(words); }, layer);
  }
  return words;
}

Words Sequence::layout() const {
  const auto marks = marks_.all();
  Words words = {static_cast<uint32_t>(marks.size())};
  words.insert(words.end(), marks.begin(), marks.end());
  for (const auto& layer : layers_) std::visit([&](const auto& cache) { cache.add_layout(words); }, layer);
  return words;
}

Contents Sequence::contents() {
  Contents contents;
  for (auto& layer : layers_) std::visit([&](auto& cache) { cache.add_contents(contents); }, layer);
  return contents;
}

Status Sequence::restore(uint32_t length, std::span<const uint32_t> layout) {
  CHECK(length_ == 0);
  Status status;
  if (length == 0 || length > context_max_)
    return fail(ErrorCode::kInvalidArgument, "a context of " + std::to_string(context_max_) +
                                                 " tokens cannot take " + std::to_string(length));
  const std::optional<Marks> marks = marks_of(layout);
  if (!marks || marks->longest(UINT32_MAX) > length || (!marks->all().empty() && !forgets()))
    return fail(ErrorCode::kCorrupt, "the layout's marks are none that a sequence of this geometry can have");
  pool_.begin_run(missing_bytes(length) + mark_bytes(marks->all()));
  for (size_t i = 0; i < layers_.size() && status; ++i)
    status = std::visit([&](auto& cache) { return cache.restore(length, *marks, layout); }, layers_[i]);
  if (status && !layout.empty()) status = fail(ErrorCode::kCorrupt, "the layout is of more layers");
  const std::span<uint8_t> untouched = pool_.end_run();
  if (status) {
    length_ = length;
    marks_ = *marks;
    untouched_ = untouched;
  } else {
    shrink(0);
  }
  return status;
}

std::optional<Marks> Sequence::marks_of(std::span<const uint32_t>& layout) {
  Marks marks;
  uint32_t count = 0, before = 0;
  if (!take_word(layout, count) || count > Marks::kMax) return std::nullopt;
  for (uint32_t i = 0; i < count; ++i) {
    uint32_t position = 0;
    if (!take_word(layout, position) || position <= before || position % kStateBlock != 0)
      return std::nullopt;
    marks.add(position);
    before = position;
  }
  return marks;
}

Status Sequence::share(Sequence& source, uint32_t length) {
  CHECK(length_ == 0 && &pool_ == &source.pool_ && layers_.size() == source.layers_.size());
  CHECK(length > 0 && length <= context_max_ && source.truncatable(length) == length);
  for (size_t i = 0; i < layers_.size(); ++i) {
    const auto share_layer = [&](auto& cache) {
      auto* from = std::get_if<std::remove_reference_t<decltype(cache)>>(&source.layers_[i]);
      CHECK(from != nullptr);
      return cache.share(*from, length);
    };
    if (std::visit(share_layer, layers_[i])) continue;
    shrink(0);
    return fail(ErrorCode::kOutOfBudget,
                "no memory for what sequences that share " + std::to_string(length) + " tokens do not share");
  }
  length_ = length;
  marks_ = source.marks_;
  marks_.cut(length);
  return {};
}

uint64_t Sequence::bytes() const {
  uint64_t total = 0;
  for (const auto& layer : layers_)
    total += std::visit([](const auto& cache) { return cache.bytes(); }, layer);
  return total;
}

uint64_t Sequence::bytes_max(std::span<const LayerShape> layers, Element element, uint32_t positions,
                             uint32_t chunk) {
  uint64_t total = 0;
  for (const LayerShape& layer : layers)
    total += std::visit([&](const auto& shape) { return shape.bytes_max(positions, chunk, element); }, layer);
  return total;
}

uint64_t Sequence::lasting_bytes(std::span<const LayerShape> layers, Element element, uint32_t positions) {
  uint64_t total = 0;
  for (const LayerShape& layer : layers)
    total += std::visit([&](const auto& shape) { return shape.lasting_bytes(positions, element); }, layer);
  return total;
}

}  // namespace mlxf::kv
