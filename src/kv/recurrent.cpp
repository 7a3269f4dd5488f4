#include "kv/recurrent.h"

#include <algorithm>
#include <iterator>

#include "base/check.h"

namespace mlxf::kv {

Recurrent::Recurrent(PagePool& pool, const RecurrentShape& shape, Element) : pool_(pool), shape_(shape) {}

bool Recurrent::take_states() {
  while (states_.size() < RecurrentShape::kStates) {
    uint16_t* memory = pool_.take(shape_.state_bytes());
    if (memory == nullptr) {
      shrink(0);
      return false;
    }
    states_.push_back({memory, 0, false});
  }
  return true;
}

bool Recurrent::grow(uint32_t positions) {
  if (positions == 0 || !states_.empty()) return true;
  if (!take_states()) return false;
  std::fill_n(states_[0].values(), shape_.state_floats, 0.0f);
  states_[0].holds = true;
  current_ = 0;
  return true;
}

// Room does not depend on the number of positions, but for the marks.
void Recurrent::shrink(uint32_t positions) {
  cut_marks(positions);
  if (positions > 0) return;
  for (const State& state : states_) pool_.give_back(state.memory, shape_.state_bytes());
  states_.clear();
  step_count_ = 0;
}

uint32_t Recurrent::free_state() const {
  for (uint32_t i = 0; i < states_.size(); ++i) {
    const auto* targets_end = targets_.begin() + step_count_;
    if (!states_[i].holds && std::find(targets_.begin(), targets_end, i) == targets_end) return i;
  }
  CHECK(false);
  return 0;
}

std::span<const Recurrent::Step> Recurrent::begin(uint32_t end) {
  const uint32_t length = states_[current_].position;
  CHECK(end > length);
  // The borders worth keeping once `end` is reached; position 0 needs no state.
  const uint32_t last = (end - 1) / kStateBlock * kStateBlock;
  const uint32_t before = last >= kStateBlock ? last - kStateBlock : 0;
  for (uint32_t i = 0; i < states_.size(); ++i)
    if (i != current_ && states_[i].position != last && states_[i].position != before)
      states_[i].holds = false;
  step_count_ = 0;
  const float* from = states_[current_].values();
  const auto add_step = [&](uint32_t stop, uint32_t target, float* to) {
    steps_[step_count_] = {stop, from, to};
    targets_[step_count_++] = target;
    from = to;
  };
  auto mark = marked_.begin();
  for (const uint32_t stop : {before, last, end}) {
    if (stop <= length) continue;
    // A mark where the pass stops in any case is copied from there.
    for (; mark != marked_.end() && mark->position <= stop; ++mark)
      if (mark->position > length && mark->position < stop) add_step(mark->position, kToMark, mark->values());
    const uint32_t target = free_state();
    add_step(stop, target, states_[target].values());
  }
  return {steps_.data(), step_count_};
}

void Recurrent::advance(uint32_t length) {
  if (filled_) {
    states_[current_].position = length;
    filled_ = false;
    return;
  }
  CHECK(step_count_ > 0 && steps_[step_count_ - 1].end == length);
  const uint32_t old = states_[current_].position;
  // A border that all of this pass's lie beyond is one too many.
  const auto borders = step_count_ - std::count(targets_.begin(), targets_.begin() + step_count_, kToMark);
  if (old == 0 || old % kStateBlock != 0 || borders > kKeptBorders) states_[current_].holds = false;
  for (uint32_t i = 0; i < step_count_; ++i) {
    if (targets_[i] == kToMark) continue;
    states_[targets_[i]].position = steps_[i].end;
    states_[targets_[i]].holds = true;
  }
  current_ = targets_[step_count_ - 1];
  step_count_ = 0;
  for (State& mark : marked_) {
    if (mark.holds || mark.position > length) continue;
    for (const State& state : states_)
      if (state.holds && state.position == mark.position)
        std::copy_n(state.values(), shape_.state_floats, mark.values());
    mark.holds = true;  // Else the pass has written it.
  }
}

bool Recurrent::mark(uint32_t position) {
  uint16_t* const memory = pool_.take(shape_.state_bytes());
  if (memory == nullptr) return false;
  const auto place = std::upper_bound(marked_.begin(), marked_.end(), position,
                                      [](uint32_t at, const State& mark) { return at < mark.position; });
  marked_.insert(place, {memory, position, false});
  return true;
}

void Recurrent::unmark(uint32_t position) {
  const auto mark = std::find_if(marked_.begin(), marked_.end(),
                                 [&](const State& one) { return one.position == position; });
  CHECK(mark != marked_.end());
  pool_.give_back(mark->memory, shape_.state_bytes());
  marked_.erase(mark);
}

void Recurrent::cut_marks(uint32_t length) {
  while (!marked_.empty() && marked_.back().position > length) {
    pool_.give_back(marked_.back().memory, shape_.state_bytes());
    marked_.pop_back();
  }
}

void Recurrent::go_to_mark(uint32_t length, uint32_t slot) {
  const auto mark = std::find_if(marked_.begin(), marked_.end(),
                                 [&](const State& one) { return one.holds && one.position == length; });
  CHECK(mark != marked_.end());
  std::copy_n(mark->values(), shape_.state_floats, states_[slot].values());
  states_[slot].position = length;
  states_[slot].holds = true;
  current_ = slot;
}

uint32_t Recurrent::truncatable(uint32_t length) const {
  uint32_t best = 0;
  for (const std::vector<State>* states : {&states_, &marked_})
    for (const State& state : *states)
      if (state.holds && state.position <= length) best = std::max(best, state.position);
  return best;
}

void Recurrent::truncate(uint32_t length) {
  if (length == 0) return shrink(0);
  step_count_ = 0;
  cut_marks(length);
  bool found = false;
  for (uint32_t i = 0; i < states_.size(); ++i) {
    states_[i].holds = states_[i].holds && states_[i].position <= length;
    if (!states_[i].holds || states_[i].position != length) continue;
    current_ = i;
    found = true;
  }
  if (!found) go_to_mark(length, free_state());
}

uint64_t Recurrent::missing_bytes(uint32_t positions) const {
  return positions > 0 && states_.empty() ? RecurrentShape::kStates * shape_.state_bytes() : 0;
}

uint64_t Recurrent::bytes() const { return (states_.size() + marked_.size()) * shape_.state_bytes(); }

void Recurrent::fill_from(uint32_t, uint32_t& random) {
  for (State& state : states_) state.holds = false;
  State& current = states_[current_];
  for (uint64_t i = 0; i < shape_.state_floats; ++i) {
    random = random * 1664525u + 1013904223u;
    current.values()[i] = (static_cast<float>(random >> 8) * 0x1p-24f - 0.5f) * 0.1f;
  }
  current.holds = true;
  filled_ = true;
}

std::vector<Recurrent::State> Recurrent::held() const {
  std::vector<State> held;
  std::copy_if(states_.begin(), states_.end(), std::back_inserter(held),
               [](const State& state) { return state.holds && state.position > 0; });
  std::sort(held.begin(), held.end(), [](const State& a, const State& b) { return a.position < b.position; });
  CHECK(held.size() <= 1 + kKeptBorders);
  return held;
}

void Recurrent::add_geometry(Words& words) const {
  words.push_back(static_cast<uint32_t>(shape_.state_floats));
  words.push_back(static_cast<uint32_t>(shape_.state_floats >> 32));
}

void Recurrent::add_layout(Words& words) const {
  const std::vector<State> states = held();
  words.push_back(static_cast<uint32_t>(states.size()));
  for (const State& state : states) words.push_back(state.position);
}

void Recurrent::add_contents(Contents& contents) {
  for (const std::vector<State>& states : {held(), marked_})
    for (const State& state : states)
      contents.emplace_back(reinterpret_cast<uint8_t*>(state.memory), shape_.state_bytes());
}

Status Recurrent::restore(uint32_t length, const Marks& marks, std::span<const uint32_t>& layout) {
  uint32_t count = 0, before = 0;
  std::array<uint32_t, 1 + kKeptBorders> positions{};
  bool fits = take_word(layout, count) && count >= 1 && count <= positions.size();
  for (uint32_t i = 0; fits && i < count; ++i) {
    fits = take_word(layout, positions[i]) && positions[i] > before &&
           (i + 1 == count ? positions[i] == length : positions[i] % kStateBlock == 0);
    before = positions[i];
  }
  if (!fits) return fail(ErrorCode::kCorrupt, "a recurrent layer's states are not at its borders");
  // Not as grow() does: who restores touches no memory.
  bool room = take_states();
  for (const uint32_t position : marks.all()) room = room && mark(position);
  if (!room) return fail(ErrorCode::kOutOfBudget, "no memory for recurrent states");
  for (State& mark : marked_) mark.holds = true;
  for (uint32_t i = 0; i < count; ++i) {
    states_[i].position = positions[i];
    states_[i].holds = true;
  }
  current_ = count - 1;
  return {};
}

bool Recurrent::share(const Recurrent& source, uint32_t length) {
  CHECK(states_.empty());
  if (!take_states()) return false;
  uint32_t count = 0;
  for (const State& state : source.held()) {
    if (state.position > length) break;
    State& copy = states_[count++];
    std::copy_n(state.values(), shape_.state_floats, copy.values());
    copy.position = state.position;
    copy.holds = true;
  }
  for (const State& mark : source.marked_) {
    if (!mark.holds || mark.position > length) break;
    pool_.share(mark.memory);
    marked_.push_back(mark);
  }
  if (count > 0 && states_[count - 1].position == length) {
    current_ = count - 1;
  } else {
    go_to_mark(length, count);
  }
  return true;
}

}  // namespace mlxf::kv
