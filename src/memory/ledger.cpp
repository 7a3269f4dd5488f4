#include "memory/ledger.h"

#include <algorithm>

#include "base/check.h"
#include "base/checked.h"
#include "memory/budget.h"

namespace mlxf::memory {
namespace {

constexpr std::array<const char*, kTagCount> kTagNames{"weights", "slots",   "kv",     "activations",
                                                       "prefix",  "scratch", "process"};

// "2 GiB for kv do not fit into the memory budget of 8 GiB: 7 GiB are held (weights 5 GiB, slots 2 GiB); …"
Error refusal(Tag tag, uint64_t wanted, const LedgerSnapshot& account) {
  std::string message = size_text(wanted) + " for " + tag_name(tag) +
                        " do not fit into the memory budget of " + size_text(account.budget_bytes) + ": " +
                        size_text(account.held_bytes) + " held";
  const char* separator = " (";
  for (size_t i = 0; i < kTagCount; ++i) {
    if (account.by_tag[i] == 0) continue;
    message += std::string(separator) + kTagNames[i] + " " + size_text(account.by_tag[i]);
    separator = ", ";
  }
  if (account.held_bytes != 0) message += ")";
  message += "; a larger --memory-budget, or less context, makes room";
  return {ErrorCode::kOutOfBudget, std::move(message)};
}

}  // namespace

const char* tag_name(Tag tag) { return kTagNames[static_cast<size_t>(tag)]; }

Reservation::Reservation(Reservation&& other) noexcept
    : ledger_(std::exchange(other.ledger_, nullptr)),
      tag_(other.tag_),
      bytes_(std::exchange(other.bytes_, 0)) {}

Reservation& Reservation::operator=(Reservation&& other) noexcept {
  if (this == &other) return *this;
  release();
  ledger_ = std::exchange(other.ledger_, nullptr);
  tag_ = other.tag_;
  bytes_ = std::exchange(other.bytes_, 0);
  return *this;
}

Status Reservation::resize(uint64_t bytes) {
  CHECK(ledger_ != nullptr);
  if (bytes > bytes_)
    RETURN_IF_ERROR(ledger_->add(tag_, bytes - bytes_));
  else
    ledger_->subtract(tag_, bytes_ - bytes);
  bytes_ = bytes;
  return {};
}

void Reservation::release() {
  if (ledger_ != nullptr) ledger_->subtract(tag_, bytes_);
  ledger_ = nullptr;
  bytes_ = 0;
}

Ledger::Ledger(uint64_t budget_bytes) { account_.budget_bytes = budget_bytes; }

Ledger::~Ledger() { CHECK(snapshot().held_bytes == 0); }

Result<Reservation> Ledger::reserve(Tag tag, uint64_t bytes) {
  RETURN_IF_ERROR(add(tag, bytes));
  return Reservation(this, tag, bytes);
}

Reservation Ledger::hold(Tag tag, uint64_t bytes) {
  const MutexLock lock(mutex_);
  charge(tag, bytes);
  return {this, tag, bytes};
}

Status Ledger::add(Tag tag, uint64_t bytes) {
  LedgerSnapshot account;
  {
    const MutexLock lock(mutex_);
    const auto sum = checked_add(account_.held_bytes, bytes);
    // Zero bytes need no room, whatever the budget.
    if (bytes == 0 || (sum && *sum <= account_.budget_bytes)) {
      charge(tag, bytes);
      return {};
    }
    ++account_.refusals;
    account = account_;
  }
  return tl::unexpected<Error>(refusal(tag, bytes, account));
}

void Ledger::charge(Tag tag, uint64_t bytes) {
  const auto sum = checked_add(account_.held_bytes, bytes);
  CHECK(sum.has_value());
  account_.held_bytes = *sum;
  account_.by_tag[static_cast<size_t>(tag)] += bytes;
  account_.held_bytes_max = std::max(account_.held_bytes_max, *sum);
}

void Ledger::subtract(Tag tag, uint64_t bytes) {
  const MutexLock lock(mutex_);
  CHECK(account_.by_tag[static_cast<size_t>(tag)] >= bytes);
  account_.by_tag[static_cast<size_t>(tag)] -= bytes;
  account_.held_bytes -= bytes;
}

void Ledger::set_budget(uint64_t bytes) {
  const MutexLock lock(mutex_);
  account_.budget_bytes = bytes;
}

uint64_t Ledger::budget() const { return snapshot().budget_bytes; }

uint64_t Ledger::room() const {
  const LedgerSnapshot account = snapshot();
  return account.budget_bytes - std::min(account.budget_bytes, account.held_bytes);
}

uint64_t Ledger::over() const {
  const LedgerSnapshot account = snapshot();
  return account.held_bytes - std::min(account.budget_bytes, account.held_bytes);
}

LedgerSnapshot Ledger::snapshot() const {
  const MutexLock lock(mutex_);
  return account_;
}

}  // namespace mlxf::memory
