// PrefixStore: the caches of finished conversations, kept so that a prompt that goes on with one costs only its new
// tokens.
//
// An entry is a whole sequence with the tokens that it holds. A prompt that goes on with one takes it and returns it
// longer; one that leaves it before its end shares its beginning, so that the entry stays for who goes on with it.
// take() also serves the latter where there is no room for both. Entries belong to a user; nobody ever gets, or can
// measure, another's. Bytes are capped and charged to the ledger as Tag::kPrefix. Whoever has pages that are shared is
// charged with them in full, entries and others; settle() makes the cap and the ledger's budget greater by what is
// charged more than once for that. What others nearly hold leaves first, then the least recently used entry. With a
// shelf on the SSD it is written there, and its bytes stay charged until that is done. Owned by the scheduler; one
// thread, the engine's.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/token_id.h"
#include "engine/prefix_shelf.h"
#include "kv/sequence.h"
#include "memory/ledger.h"

namespace mlxf::engine {

class PrefixStore {
 public:
  // A shorter common beginning is not worth an entry.
  static constexpr uint32_t kCommonTokensMin = 16;
  static constexpr size_t kEntriesMax = 256;
  // Of what is written behind, a file may hold 4/5 at most: so what is written for a conversation that grows, until it
  // leaves memory, is less than five times what it comes to.
  static constexpr uint32_t kGrowthPartMin = 5;

  // `ledger` and `shelf`, which may be null, outlive this. `doubled_bytes`: what sequences hold more than once; null:
  // nothing.
  PrefixStore(memory::Ledger& ledger, uint64_t bytes_max, PrefixShelf* shelf = nullptr,
              std::function<uint64_t()> doubled_bytes = {})
      : ledger_(ledger),
        budget_(ledger.budget()),
        bytes_max_(bytes_max),
        shelf_(shelf),
        doubled_bytes_(std::move(doubled_bytes)) {}

  // To be called when sequences began or ended to share, before the ledger is asked.
  void settle();

  // What of an entry a prompt begins with: less than half, more, or all of it but for what is not worth an entry.
  enum class Part : uint8_t { kLess, kMost, kAll };
  struct Match {
    uint64_t entry = 0;
    uint32_t tokens = 0;  // Of the prompt.
    uint64_t bytes = 0;   // That its taking frees.
    Part part = Part::kLess;
  };
  // The entry with the longest beginning of the prompt, of which at most all but the last token counts, whose logits
  // are needed; of several the one that would lose the least if it was taken. Nothing when no entry shares enough.
  [[nodiscard]] std::optional<Match> find(const std::string& user, std::span<const TokenId> prompt) const;
  // How much of the prompt's beginning, but for its last token, some entry begins with, whether it can be cut there or
  // not.
  [[nodiscard]] uint32_t common(const std::string& user, std::span<const TokenId> prompt) const;
  // Its sequence, cut to the match. What it loses may be worth more than what the prompt gains: one of which less than
  // half matches is for share(). REQUIRES: found, and no other call since but make_room() sparing it.
  [[nodiscard]] std::unique_ptr<kv::Sequence> take(const Match& match);
  // Makes `sequence` share the match's beginning with the entry, which has been used by that. kOutOfBudget without
  // memory. REQUIRES: as take(); an empty sequence of the same geometry and pool.
  [[nodiscard]] Status share(const Match& match, kv::Sequence& sequence);
  // `tokens` are what `sequence` holds. Drops it when it cannot be kept.
  void keep(const std::string& user, std::span<const TokenId> tokens, std::unique_ptr<kv::Sequence> sequence);

  // True: its sequence is being written, cannot be taken yet, and will be free soon; the shelf wakes.
  [[nodiscard]] bool withheld(const Match& match);
  // Has an entry that was last used before `before` written while it stays; each is tried once, one at a time, the last
  // one first: to be called again and again while there is nothing else to do. To spare the disk, only where reading it
  // beats computing what files do not hold, at `token_seconds` a token (0: not known), and that is a good part of it:
  // a conversation that grows is not written anew with each turn.
  void write_behind(FileTime before, double token_seconds);

  // kLater: what leaves is still being written.
  enum class Room : uint8_t { kNow, kLater, kNone };
  // Lets go of entries, least recently used ones first, until the ledger has or will have room for `bytes`.
  [[nodiscard]] Room make_room(uint64_t bytes, const std::optional<Match>& spared = std::nullopt);
  // Lets go of all entries; those used last are written first.
  void clear();

  [[nodiscard]] uint64_t bytes() const { return bytes_; }
  // All that entries are charged with, those included that are being written.
  [[nodiscard]] uint64_t charged_bytes() const { return bytes_ + leaving_bytes(); }
  [[nodiscard]] size_t entries() const { return entries_.size(); }

 private:
  struct Entry {
    std::string user;
    std::vector<TokenId> tokens;
    std::unique_ptr<kv::Sequence> sequence;
    memory::Reservation reservation;
    uint64_t number = 0;  // Ascending by last use.
    FileTime used;
    bool repeated =
        false;           // One that came later holds so much of it that the rest is not worth room or a file.
    bool tried = false;  // To write it behind,
    uint64_t behind = 0;  // and as which.
  };
  [[nodiscard]] std::vector<Entry>::iterator entry_of(const Match& match);
  void touch(std::vector<Entry>::iterator entry);
  // How many of the entry's tokens, of which `common` are asked for, it can be cut to.
  [[nodiscard]] static uint32_t reach(const Entry& entry, uint32_t common) {
    return common < entry.sequence->length() ? entry.sequence->truncatable(common) : common;
  }
  [[nodiscard]] uint64_t doubled() const { return doubled_bytes_ ? doubled_bytes_() : 0; }
  [[nodiscard]] bool evict_oldest(const std::optional<Match>& spared = std::nullopt);
  void write(Entry& entry);
  [[nodiscard]] bool lent(const Entry& entry) const {
    return entry.behind != 0 && entry.behind == shelf_->behind();
  }
  void remove(size_t index);
  [[nodiscard]] uint64_t leaving_bytes() const { return shelf_ != nullptr ? shelf_->leaving_bytes() : 0; }

  memory::Ledger& ledger_;
  const uint64_t budget_;  // Without what is shared.
  const uint64_t bytes_max_;
  PrefixShelf* const shelf_;
  const std::function<uint64_t()> doubled_bytes_;
  std::vector<Entry> entries_;  // By number.
  uint64_t bytes_ = 0;
  uint64_t uses_ = 0;
};

}  // namespace mlxf::engine
