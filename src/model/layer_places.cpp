#include "model/layer_places.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "base/check.h"

namespace mlxf::model {
namespace {

// The ring holds as many layers for good as it has slots: to stream fewer reads no less.
constexpr uint32_t kStreamedMin = kRingSlots;
// Of the streamed layers, those that may be moved in one pass: a copy takes a few times what computing its layer does.
constexpr uint32_t kMovesDivisor = 8;

}  // namespace

// The last layer is streamed, and from there back every `step`-th of a round of all layers and the head. Where the head
// takes more than a step, the others share what is left.
std::vector<uint32_t> spread_layers(const WeightSizes& sizes, uint32_t count) {
  const auto layers = static_cast<double>(sizes.layers.size());
  CHECK(count >= 1 && count <= sizes.layers.size());
  const uint64_t bytes = std::accumulate(sizes.layers.begin(), sizes.layers.end(), uint64_t{0});
  const double head = bytes != 0 ? layers * static_cast<double>(sizes.trunk) / static_cast<double>(bytes) : 0;
  const double step = std::min((layers + head) / count, (layers - 1) / std::max(1.0, count - 1.0));
  constexpr double kRounding = 1e-9;  // So that thirds add up to a whole.
  std::vector<uint32_t> spread(count);
  for (uint32_t i = 0; i < count; ++i)
    spread[count - 1 - i] = static_cast<uint32_t>(layers - 1 - std::floor(i * step + kRounding));
  return spread;
}

std::vector<uint32_t> streamed_within(const WeightSizes& sizes, uint64_t bytes, uint32_t least) {
  const auto layers = static_cast<uint32_t>(sizes.layers.size());
  const uint64_t all = std::accumulate(sizes.layers.begin(), sizes.layers.end(), uint64_t{0});
  for (uint32_t count = std::min(least, layers);; ++count) {
    std::vector<uint32_t> streamed = spread_layers(sizes, count);
    uint64_t resident = all;
    for (const uint32_t layer : streamed) resident -= sizes.layers[layer];
    if (resident <= bytes || count == layers) return streamed;
  }
}

LayerPlaces::LayerPlaces(WeightSizes sizes, uint64_t ring_bytes, const std::vector<uint32_t>& streamed)
    : sizes_(std::move(sizes)),
      ring_bytes_(ring_bytes),
      here_(sizes_.layers.size(), true),
      streams_(!streamed.empty()) {
  for (const uint32_t layer : streamed) here_[layer] = false;
  stays_ = here_;
  held_ = streams_ ? ring_bytes_ : 0;
  for (size_t i = 0; i < here_.size(); ++i) held_ += here_[i] ? sizes_.layers[i] : 0;
  room_ = held_;
}

// Once there is a ring, it holds the last layers.
uint64_t LayerPlaces::most_bytes() const {
  const uint64_t all = std::accumulate(sizes_.layers.begin(), sizes_.layers.end(), uint64_t{0});
  uint64_t with_ring = all + ring_bytes_;
  for (const uint32_t layer : spread_layers(sizes_, kStreamedMin)) with_ring -= sizes_.layers[layer];
  return std::max(all, with_ring);
}

std::vector<uint32_t> LayerPlaces::set_bytes(uint64_t bytes) {
  room_ = bytes;
  std::vector<uint32_t> leaving;
  if (!streams_ && held_ <= bytes) return leaving;
  const uint64_t spare = bytes > ring_bytes_ ? bytes - ring_bytes_ : 0;
  stays_.assign(stays_.size(), true);
  for (const uint32_t layer : streamed_within(sizes_, spare, kStreamedMin)) stays_[layer] = false;
  if (!streams_) held_ += ring_bytes_;
  streams_ = true;
  for (uint32_t i = 0; i < here_.size(); ++i)
    if (here_[i] && !stays_[i]) leaving.push_back(i);
  // As many of those that are to go as must go at once, evenly from among them. The others go as others come.
  std::vector<uint32_t> now;
  for (size_t count = 0; count <= leaving.size(); ++count) {
    now.clear();
    uint64_t left = held_;
    for (size_t i = 0; i < count; ++i) {
      now.push_back(leaving[(2 * i + 1) * leaving.size() / (2 * count)]);
      left -= sizes_.layers[now.back()];
    }
    if (left <= bytes) break;
  }
  for (const uint32_t layer : now) {
    here_[layer] = false;
    held_ -= sizes_.layers[layer];
  }
  count_moves();
  return now;
}

void LayerPlaces::count_moves() {
  moves_ = 0;
  for (size_t i = 0; i < here_.size(); ++i) moves_ += here_[i] != stays_[i] ? 1 : 0;
}

// Some layer is to stay, and there is no room for any of those.
bool LayerPlaces::waits_for_memory() const {
  bool waits = false;
  for (uint32_t i = 0; i < here_.size(); ++i) {
    if (here_[i] || !stays_[i]) continue;
    if (fits(i)) return false;
    waits = true;
  }
  return waits;
}

LayerPlaces::Move LayerPlaces::next_move(uint32_t layer) {
  if (moves_ == 0) return Move::kNone;
  if (layer == 0) {
    const auto streamed = static_cast<uint32_t>(std::count(here_.begin(), here_.end(), false));
    takes_in_pass_ = gives_in_pass_ = 1 + streamed / kMovesDivisor;
  }
  if (!here_[layer] && stays_[layer] && takes_in_pass_ > 0 && fits(layer)) {
    --takes_in_pass_;
    return Move::kTake;
  }
  if (here_[layer] && !stays_[layer] && gives_in_pass_ > 0 && waits_for_memory()) {
    --gives_in_pass_;
    return Move::kGiveBack;
  }
  return Move::kNone;
}

void LayerPlaces::took(uint32_t layer) {
  CHECK(!here_[layer]);
  here_[layer] = true;
  held_ += sizes_.layers[layer];
  count_moves();
}

void LayerPlaces::gave_back(uint32_t layer) {
  CHECK(here_[layer]);
  here_[layer] = false;
  held_ -= sizes_.layers[layer];
  count_moves();
}

}  // namespace mlxf::model
