// PrefixStore: the caches of finished conversations, kept so that a prompt that goes on with one costs only its new
// tokens.
//
// An entry is a whole sequence with the tokens that it holds. take() moves the one with the longest common beginning
// out and cuts it there, so an entry serves one request at a time and comes back when that request ends. Entries belong
// to a user; nobody ever gets, or can measure, another's. Bytes are capped and charged to the ledger as Tag::kPrefix;
// the least recently used entry leaves first. Owned by the scheduler; one thread, the engine's.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/token_id.h"
#include "kv/sequence.h"
#include "memory/ledger.h"

namespace mlxf::engine {

class PrefixStore {
 public:
  // A shorter common beginning is not worth an entry.
  static constexpr uint32_t kCommonTokensMin = 16;
  static constexpr size_t kEntriesMax = 256;

  // `ledger` outlives this.
  PrefixStore(memory::Ledger& ledger, uint64_t bytes_max) : ledger_(ledger), bytes_max_(bytes_max) {}

  struct Taken {
    std::unique_ptr<kv::Sequence> sequence;
    uint32_t tokens = 0;  // Its length: what it shares with the prompt.
  };
  // At most all but the prompt's last token, whose logits are needed. Nothing when no entry shares enough: an entry is
  // not cut to less than half, because what it would lose may be worth more than what this prompt gains.
  [[nodiscard]] std::optional<Taken> take(const std::string& user, std::span<const TokenId> prompt);
  // `tokens` are what `sequence` holds. Drops it when it cannot be kept.
  void keep(const std::string& user, std::span<const TokenId> tokens, std::unique_ptr<kv::Sequence> sequence);
  // Lets go of the least recently used entry; false: there is none.
  bool evict_one();

  [[nodiscard]] uint64_t bytes() const { return bytes_; }
  [[nodiscard]] size_t entries() const { return entries_.size(); }

 private:
  struct Entry {
    std::string user;
    std::vector<TokenId> tokens;
    std::unique_ptr<kv::Sequence> sequence;
    memory::Reservation reservation;
    uint64_t used = 0;
  };
  void remove(size_t index);

  memory::Ledger& ledger_;
  const uint64_t bytes_max_;
  std::vector<Entry> entries_;
  uint64_t bytes_ = 0;
  uint64_t uses_ = 0;
};

}  // namespace mlxf::engine
