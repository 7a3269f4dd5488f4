#include "engine/prefix_store.h"

#include <algorithm>
#include <utility>

namespace mlxf::engine {
namespace {

uint32_t common_tokens(std::span<const TokenId> a, std::span<const TokenId> b) {
  return static_cast<uint32_t>(std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin());
}

}  // namespace

std::optional<PrefixStore::Taken> PrefixStore::take(const std::string& user,
                                                    std::span<const TokenId> prompt) {
  uint32_t longest = 0;
  size_t best = entries_.size();
  for (size_t i = 0; i < entries_.size(); ++i) {
    const Entry& entry = entries_[i];
    if (entry.user != user) continue;
    const uint32_t common = common_tokens(entry.tokens, prompt.first(prompt.size() - 1));
    // Layers that forget cannot go back to every length; then a shorter match may serve better.
    const uint32_t reach = common < entry.sequence->length() ? entry.sequence->truncatable(common) : common;
    if (reach < kCommonTokensMin || uint64_t{reach} * 2 < entry.tokens.size() || reach <= longest) continue;
    longest = reach;
    best = i;
  }
  if (best == entries_.size() || !entries_[best].sequence->truncate(longest)) return std::nullopt;
  Taken taken{std::move(entries_[best].sequence), longest};
  remove(best);
  return taken;
}

void PrefixStore::keep(const std::string& user, std::span<const TokenId> tokens,
                       std::unique_ptr<kv::Sequence> sequence) {
  if (tokens.size() < kCommonTokensMin || !sequence->truncate(sequence->length())) return;
  for (size_t i = entries_.size(); i-- > 0;)
    if (entries_[i].user == user && common_tokens(entries_[i].tokens, tokens) == entries_[i].tokens.size())
      remove(i);  // What is kept now holds all of it.
  const uint64_t bytes = sequence->bytes();
  if (bytes > bytes_max_) return;
  while (bytes_ + bytes > bytes_max_ || entries_.size() >= kEntriesMax) evict_one();
  auto reservation = ledger_.reserve(memory::Tag::kPrefix, bytes);
  while (!reservation && evict_one()) reservation = ledger_.reserve(memory::Tag::kPrefix, bytes);
  if (!reservation) return;
  bytes_ += bytes;
  entries_.push_back(
      {user, {tokens.begin(), tokens.end()}, std::move(sequence), std::move(*reservation), ++uses_});
}

bool PrefixStore::evict_one() {
  if (entries_.empty()) return false;
  const auto oldest = std::min_element(entries_.begin(), entries_.end(),
                                       [](const Entry& a, const Entry& b) { return a.used < b.used; });
  remove(static_cast<size_t>(oldest - entries_.begin()));
  return true;
}

void PrefixStore::remove(size_t index) {
  bytes_ -= entries_[index].reservation.bytes();
  entries_.erase(entries_.begin() + static_cast<ptrdiff_t>(index));
}

}  // namespace mlxf::engine
