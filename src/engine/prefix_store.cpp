#include "engine/prefix_store.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace mlxf::engine {

std::optional<PrefixStore::Match> PrefixStore::find(const std::string& user,
                                                    std::span<const TokenId> prompt) const {
  Match best;
  const std::span<const TokenId> wanted = prompt.first(prompt.size() - 1);
  for (const Entry& entry : entries_) {
    if (entry.user != user) continue;
    // Layers that forget cannot go back to every length; then a shorter match may serve better.
    const uint32_t tokens = reach(entry, common_tokens(entry.tokens, wanted));
    const uint64_t lost = entry.tokens.size() - tokens;
    const Part part = lost < kCommonTokensMin ? Part::kAll : lost <= tokens ? Part::kMost : Part::kLess;
    if (tokens < kCommonTokensMin || tokens < best.tokens || (tokens == best.tokens && part <= best.part))
      continue;
    best = {entry.number, tokens, entry.reservation.bytes(), part};
  }
  return best.tokens != 0 ? std::optional(best) : std::nullopt;
}

uint32_t PrefixStore::common(const std::string& user, std::span<const TokenId> prompt) const {
  uint32_t longest = 0;
  for (const Entry& entry : entries_)
    if (entry.user == user)
      longest = std::max(longest, common_tokens(entry.tokens, prompt.first(prompt.size() - 1)));
  return longest;
}

std::vector<PrefixStore::Entry>::iterator PrefixStore::entry_of(const Match& match) {
  const auto entry =
      std::find_if(entries_.begin(), entries_.end(), [&](const Entry& e) { return e.number == match.entry; });
  CHECK(entry != entries_.end());
  return entry;
}

std::unique_ptr<kv::Sequence> PrefixStore::take(const Match& match) {
  const auto entry = entry_of(match);
  std::unique_ptr<kv::Sequence> sequence = std::move(entry->sequence);
  remove(static_cast<size_t>(entry - entries_.begin()));
  CHECK(sequence->truncate(match.tokens));
  return sequence;
}

Status PrefixStore::share(const Match& match, kv::Sequence& sequence) {
  const auto entry = entry_of(match);
  RETURN_IF_ERROR(sequence.share(*entry->sequence, match.tokens));
  settle();
  touch(entry);
  return {};
}

void PrefixStore::touch(std::vector<Entry>::iterator entry) {
  entry->number = ++uses_;
  entry->used = FileTime::clock::now();
  entry->repeated = false;
  std::rotate(entry, entry + 1, entries_.end());
}

bool PrefixStore::withheld(const Match& match) {
  const auto entry = entry_of(match);
  if (!lent(*entry) || shelf_->behind_read()) return false;
  shelf_->stop_behind();
  return true;
}

void PrefixStore::write_behind(FileTime before, double token_seconds) {
  if (shelf_ == nullptr || shelf_->behind() != 0 || !shelf_->all_idle()) return;
  for (size_t i = entries_.size(); i-- > 0;) {
    Entry& entry = entries_[i];
    if (entry.tried || entry.used > before) continue;
    entry.tried = true;
    const auto length = static_cast<uint32_t>(entry.tokens.size());
    const PrefixShelf::Held held = shelf_->held(entry.user, entry.tokens, entry.sequence->bytes());
    const uint32_t gained = length - held.tokens;
    if (gained < kCommonTokensMin || gained < length / kGrowthPartMin) continue;
    if (token_seconds != 0.0 && token_seconds * gained < held.seconds) continue;
    if (!shelf_->write_behind(entry.user, entry.tokens, entry.used, *entry.sequence)) continue;
    entry.behind = shelf_->behind();
    return;
  }
}

void PrefixStore::keep(const std::string& user, std::span<const TokenId> tokens,
                       std::unique_ptr<kv::Sequence> sequence) {
  if (tokens.size() < kCommonTokensMin || !sequence->truncate(sequence->length())) return;
  for (size_t i = entries_.size(); i-- > 0;)
    if (entries_[i].user == user && common_tokens(entries_[i].tokens, tokens) == entries_[i].tokens.size())
      remove(i);  // What is kept now holds all of it.
  for (auto entry = entries_.begin(); entry != entries_.end(); ++entry)
    if (entry->user == user && common_tokens(entry->tokens, tokens) == tokens.size() &&
        reach(*entry, static_cast<uint32_t>(tokens.size())) == tokens.size())
      return touch(entry);  // Or the other way round.
  const uint64_t bytes = sequence->bytes();
  if (bytes > bytes_max_) return;
  while (bytes_ + bytes > bytes_max_ + doubled() || entries_.size() >= kEntriesMax)
    if (!evict_oldest()) return;
  if (make_room(bytes) != Room::kNow) return;
  auto reservation = ledger_.reserve(memory::Tag::kPrefix, bytes);
  if (!reservation) return;
  for (Entry& entry : entries_)
    if (entry.user == user) {
      const size_t held = sequence->truncatable(common_tokens(entry.tokens, tokens));
      entry.repeated = entry.repeated || entry.tokens.size() - held < entry.tokens.size() / kGrowthPartMin;
    }
  bytes_ += bytes;
  entries_.push_back({user,
                      {tokens.begin(), tokens.end()},
                      std::move(sequence),
                      std::move(*reservation),
                      ++uses_,
                      FileTime::clock::now()});
}

void PrefixStore::settle() { ledger_.set_budget(budget_ + doubled()); }

PrefixStore::Room PrefixStore::make_room(uint64_t bytes, const std::optional<Match>& spared) {
  settle();
  while (ledger_.room() + leaving_bytes() < bytes)
    if (!evict_oldest(spared)) return Room::kNone;
  return ledger_.room() >= bytes ? Room::kNow : Room::kLater;
}

bool PrefixStore::evict_oldest(const std::optional<Match>& spared) {
  const auto may_leave = [&](const Entry& entry) { return !spared || entry.number != spared->entry; };
  auto leaves = std::find_if(entries_.begin(), entries_.end(),
                             [&](const Entry& entry) { return entry.repeated && may_leave(entry); });
  if (leaves == entries_.end()) leaves = std::find_if(entries_.begin(), entries_.end(), may_leave);
  if (leaves == entries_.end()) return false;
  write(*leaves);
  remove(static_cast<size_t>(leaves - entries_.begin()));
  settle();
  return true;
}

void PrefixStore::clear() {
  while (!entries_.empty()) {
    write(entries_.back());
    remove(entries_.size() - 1);
  }
}

// Leaves it what the shelf does not want.
void PrefixStore::write(Entry& entry) {
  if (shelf_ == nullptr || entry.repeated) return;
  bytes_ -= entry.reservation.bytes();
  if (lent(entry)) {
    shelf_->leave_behind(std::move(entry.sequence), std::move(entry.reservation));
    return;
  }
  (void)shelf_->write(entry.user, entry.tokens, entry.used, entry.sequence, entry.reservation);
  bytes_ += entry.reservation.bytes();
}

void PrefixStore::remove(size_t index) {
  Entry& entry = entries_[index];
  bytes_ -= entry.reservation.bytes();
  if (entry.sequence != nullptr && lent(entry)) {
    shelf_->stop_behind();
    shelf_->leave_behind(std::move(entry.sequence), std::move(entry.reservation));
  }
  entries_.erase(entries_.begin() + static_cast<ptrdiff_t>(index));
}

}  // namespace mlxf::engine
