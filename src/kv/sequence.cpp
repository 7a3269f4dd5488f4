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
    for (auto& grown : layers_) std::visit([&](auto& cache) { cache.shrink(length_); }, grown);
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
  for (auto& layer : layers_) std::visit([&](auto& cache) { cache.truncate(length); }, layer);
  return {};
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
  Words words;
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
  pool_.begin_run(missing_bytes(length));
  for (size_t i = 0; i < layers_.size() && status; ++i)
    status = std::visit([&](auto& cache) { return cache.restore(length, layout); }, layers_[i]);
  if (status && !layout.empty()) status = fail(ErrorCode::kCorrupt, "the layout is of more layers");
  const std::span<uint8_t> untouched = pool_.end_run();
  if (status) {
    length_ = length;
    untouched_ = untouched;
  } else {
    for (auto& layer : layers_) std::visit([](auto& cache) { cache.shrink(0); }, layer);
  }
  return status;
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
    for (auto& layer : layers_) std::visit([](auto& cache) { cache.shrink(0); }, layer);
    return fail(ErrorCode::kOutOfBudget,
                "no memory for what sequences that share " + std::to_string(length) + " tokens do not share");
  }
  length_ = length;
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

}  // namespace mlxf::kv
