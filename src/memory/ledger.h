// Ledger: the one account of the bytes that this process may hold, by what they are for.
//
// Whoever is about to hold more than a few KiB reserves first, keeps the Reservation beside the memory, and lets go of
// both together. Owned by the engine; outlives every Reservation (checked). Invariants: (1) what is held is the sum of
// the live reservations, per tag and in all; (2) reserve() and a growing resize() never take it above the budget:
// only set_budget() and hold() can, and over() tells by how much.
// Thread-safe: Ledger. A Reservation belongs to one thread at a time. Sizes are bytes.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <utility>

#include "base/mutex.h"
#include "base/result.h"

namespace mlxf::memory {

enum class Tag : uint8_t {
  kWeights,      // Resident tensors.
  kSlots,        // What streamed weights are read into: the part that the governor resizes.
  kKv,           // Caches and recurrent states of running sequences.
  kActivations,  // Between the blocks of a forward pass.
  kPrefix,       // Caches kept for prompts to come.
  kScratch,      // Buffers of kernels and readers.
  kProcess,      // The rest: tokenizer, tables, stacks, allocator.
};
constexpr size_t kTagCount = 7;
[[nodiscard]] const char* tag_name(Tag tag);

struct LedgerSnapshot {
  uint64_t budget_bytes = 0;
  uint64_t held_bytes = 0;
  uint64_t held_bytes_max = 0;  // The most that was ever held at once.
  uint64_t refusals = 0;
  std::array<uint64_t, kTagCount> by_tag{};
  [[nodiscard]] uint64_t held(Tag tag) const { return by_tag[static_cast<size_t>(tag)]; }
};

class Ledger;

// Bytes charged to a tag until this is destroyed. Default: nothing, of no ledger.
class Reservation {
 public:
  Reservation() = default;
  Reservation(Reservation&& other) noexcept;
  Reservation& operator=(Reservation&& other) noexcept;
  Reservation(const Reservation&) = delete;
  Reservation& operator=(const Reservation&) = delete;
  ~Reservation() { release(); }

  [[nodiscard]] Tag tag() const { return tag_; }
  [[nodiscard]] uint64_t bytes() const { return bytes_; }
  // Growing fails with kOutOfBudget as reserve() does, and then changes nothing; shrinking never fails.
  // REQUIRES: made by a ledger.
  [[nodiscard]] Status resize(uint64_t bytes);
  void release();

 private:
  friend class Ledger;
  Reservation(Ledger* ledger, Tag tag, uint64_t bytes) : ledger_(ledger), tag_(tag), bytes_(bytes) {}
  Ledger* ledger_ = nullptr;
  Tag tag_ = Tag::kProcess;
  uint64_t bytes_ = 0;
};

class Ledger {
 public:
  explicit Ledger(uint64_t budget_bytes);
  ~Ledger();
  Ledger(const Ledger&) = delete;
  Ledger& operator=(const Ledger&) = delete;

  // kOutOfBudget names the tag, what was wanted, what every tag holds, and the budget.
  [[nodiscard]] Result<Reservation> reserve(Tag tag, uint64_t bytes);
  // For what is held whether it fits or not (the program itself, what a library took): never refused.
  [[nodiscard]] Reservation hold(Tag tag, uint64_t bytes);

  // May be below what is held: then nothing more can be reserved until enough was let go of.
  void set_budget(uint64_t bytes);
  [[nodiscard]] uint64_t budget() const;
  // What more could be reserved, and what is held above the budget; one of them is 0.
  [[nodiscard]] uint64_t room() const;
  [[nodiscard]] uint64_t over() const;
  [[nodiscard]] LedgerSnapshot snapshot() const;  // A consistent copy.

 private:
  friend class Reservation;
  [[nodiscard]] Status add(Tag tag, uint64_t bytes);
  void subtract(Tag tag, uint64_t bytes);
  void charge(Tag tag, uint64_t bytes) MLXF_REQUIRES(mutex_);

  mutable Mutex mutex_;
  LedgerSnapshot account_ MLXF_GUARDED_BY(mutex_);
};

}  // namespace mlxf::memory
