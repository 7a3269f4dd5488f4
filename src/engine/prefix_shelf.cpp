#include "engine/prefix_shelf.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace mlxf::engine {
namespace {

constexpr double kReadSeconds = 1e-3;  // Of any read, however short.

}  // namespace

PrefixShelf::~PrefixShelf() {
  set_working(false);
  folder_.detach(side_);
}

void PrefixShelf::set_working(bool working) {
  if (working == std::exchange(working_, working)) return;
  folder_.working_.fetch_add(working ? 1u : ~0u, std::memory_order_relaxed);
}

std::unique_ptr<PrefixFolder::Job> PrefixShelf::write_job(const std::string& user,
                                                          std::span<const TokenId> tokens, FileTime used,
                                                          kv::Sequence& sequence) {
  auto job = std::make_unique<PrefixFolder::Job>();
  PrefixHead& head = job->head;
  head.scope = folder_.options_.scope_of(folder_.salt_, user);
  head.tokens.assign(tokens.begin(), tokens.end());
  head.maker = side_.maker;
  head.geometry = side_.geometry;
  std::string there;
  {
    const MutexLock lock(folder_.mutex_);
    if (folder_.stats_.off || folder_.stats_.writes_off) return nullptr;
    for (PrefixFolder::File& file : folder_.files_)
      if (side_.made(file.head) && file.head.scope == head.scope && file.head.tokens == head.tokens) {
        file.used = std::max(file.used, used);
        there = file.path;
      }
  }
  if (!there.empty()) {
    PrefixFolder::set_used(there, used);
    return nullptr;
  }
  head.layout = sequence.layout();
  head.cuts = cuts_of(sequence);
  job->contents = sequence.contents();
  for (const std::span<uint8_t> part : job->contents) head.payload_bytes += part.size();
  const uint64_t bytes = prefix_file_bytes(head);
  if (bytes > folder_.options_.bytes_max || bytes - head.payload_bytes > kPrefixHeadBytesMax) return nullptr;
  job->side = &side_;
  job->writes = true;
  job->used = used;
  folder_.name(*job);
  return job;
}

bool PrefixShelf::write(const std::string& user, std::span<const TokenId> tokens, FileTime used,
                        std::unique_ptr<kv::Sequence>& sequence, memory::Reservation& charge) {
  std::unique_ptr<PrefixFolder::Job> job = write_job(user, tokens, used, *sequence);
  if (job == nullptr) return false;
  job->sequence = std::move(sequence);
  job->charge = std::move(charge);
  leaving_bytes_ += job->charge.bytes();
  folder_.add_job(std::move(job));
  return true;
}

bool PrefixShelf::write_behind(const std::string& user, std::span<const TokenId> tokens, FileTime used,
                               kv::Sequence& sequence) {
  CHECK(behind_ == 0);
  std::unique_ptr<PrefixFolder::Job> job = write_job(user, tokens, used, sequence);
  if (job == nullptr) return false;
  job->behind = true;
  behind_ = ++behind_last_;
  side_.behind_unwanted = false;
  side_.behind_read = false;
  folder_.add_job(std::move(job));
  return true;
}

void PrefixShelf::leave_behind(std::unique_ptr<kv::Sequence> sequence, memory::Reservation charge) {
  CHECK(behind_ != 0 && left_ == nullptr);
  left_ = std::move(sequence);
  left_charge_ = std::move(charge);
  leaving_bytes_ += left_charge_.bytes();
}

PrefixShelf::Held PrefixShelf::held(const std::string& user, std::span<const TokenId> tokens,
                                    uint64_t bytes) const {
  const PrefixScope scope = folder_.options_.scope_of(folder_.salt_, user);
  const MutexLock lock(folder_.mutex_);
  Held held{0, kReadSeconds + static_cast<double>(bytes) / folder_.read_bytes_s_};
  for (const PrefixFolder::File& file : folder_.files_)
    if (side_.made(file.head) && file.head.scope == scope)
      held.tokens = std::max(held.tokens, file.head.reach(common_tokens(file.head.tokens, tokens)));
  return held;
}

std::optional<PrefixShelf::Match> PrefixShelf::find(const std::string& user,
                                                    std::span<const TokenId> prompt) const {
  const PrefixScope scope = folder_.options_.scope_of(folder_.salt_, user);
  const std::span<const TokenId> wanted = prompt.first(prompt.size() - 1);
  const MutexLock lock(folder_.mutex_);
  if (folder_.stats_.off) return std::nullopt;
  const PrefixFolder::File* best = nullptr;
  uint32_t longest = 0;
  for (const PrefixFolder::File& file : folder_.files_) {
    if (!side_.made(file.head) || file.head.scope != scope) continue;
    const uint32_t reach = file.head.reach(common_tokens(file.head.tokens, wanted));
    if (reach < longest || reach == 0 || (reach == longest && file.bytes >= best->bytes)) continue;
    longest = reach;
    best = &file;
  }
  if (best == nullptr) return std::nullopt;
  return Match{best->id, longest, static_cast<uint32_t>(best->head.tokens.size()), best->head.layout,
               kReadSeconds + static_cast<double>(best->bytes) / folder_.read_bytes_s_};
}

void PrefixShelf::read(const Match& match, uint64_t ticket, std::unique_ptr<kv::Sequence> sequence,
                       memory::Reservation charge) {
  auto job = std::make_unique<PrefixFolder::Job>();
  job->side = &side_;
  job->file = match.file;
  job->ticket = ticket;
  job->sequence = std::move(sequence);
  job->charge = std::move(charge);
  job->contents = job->sequence->contents();
  job->untouched = job->sequence->untouched();
  ++reads_;
  {
    const MutexLock lock(folder_.mutex_);
    if (PrefixFolder::File* file = folder_.file_of(match.file)) {  // Or it left meanwhile.
      ++file->readers;
      job->path = file->path;
      job->head = file->head;
    }
  }
  folder_.add_job(std::move(job));
}

std::vector<PrefixShelf::Restored> PrefixShelf::collect() {
  std::vector<std::unique_ptr<PrefixFolder::Job>> ended;
  {
    const MutexLock lock(folder_.mutex_);
    ended.swap(side_.ended);
  }
  std::vector<Restored> restored;
  for (const auto& job : ended) {
    if (job->behind) {
      leaving_bytes_ -= left_charge_.bytes();
      left_.reset();
      left_charge_.release();
      behind_ = 0;
      continue;
    }
    if (job->writes) {
      leaving_bytes_ -= job->charge.bytes();
      continue;
    }
    --reads_;
    if (!job->done) job->sequence.reset();
    restored.push_back({job->ticket, std::move(job->sequence), std::move(job->charge)});
  }
  return restored;
}

}  // namespace mlxf::engine
