#include "platform/huge_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

namespace mlxf::platform {
namespace {

constexpr uint64_t kHugePageBytes = uint64_t{2} << 20;

uint64_t rounded_up(uint64_t bytes, uint64_t unit) { return (bytes + unit - 1) / unit * unit; }

}  // namespace

uint64_t small_page_bytes() {
  static const auto bytes = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

Result<HugeMemory> HugeMemory::allocate(uint64_t bytes) { return map(rounded_up(bytes, kHugePageBytes)); }

// A huge page is only given where all of it is mapped.
Result<HugeMemory> HugeMemory::allocate_tight(uint64_t bytes) { return map(tight_bytes(bytes)); }

uint64_t HugeMemory::tight_bytes(uint64_t bytes) { return rounded_up(bytes, small_page_bytes()); }

Result<HugeMemory> HugeMemory::map(uint64_t rounded) {
  HugeMemory memory;
  if (rounded == 0) return memory;
  // One huge page more than needed, so that an aligned range of the right size lies inside; the rest is
  // unmapped.
  void* mapped =
      mmap(nullptr, rounded + kHugePageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED)
    return fail(ErrorCode::kOutOfBudget, "cannot allocate " + std::to_string(rounded >> 20) +
                                             " MiB of memory: " + std::strerror(errno));
  const auto start = reinterpret_cast<uintptr_t>(mapped);
  const uintptr_t aligned = (start + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
  if (aligned > start) munmap(mapped, aligned - start);
  const uintptr_t end = start + rounded + kHugePageBytes;
  if (end > aligned + rounded) munmap(reinterpret_cast<void*>(aligned + rounded), end - aligned - rounded);
  memory.data_ = reinterpret_cast<uint8_t*>(aligned);
  memory.bytes_ = rounded;
#if defined(MADV_HUGEPAGE)
  madvise(memory.data_, rounded, MADV_HUGEPAGE);  // A refusal only costs speed.
#endif
  return memory;
}

void HugeMemory::shrink(uint64_t bytes) {
  const uint64_t kept = rounded_up(bytes, small_page_bytes());
  if (kept >= bytes_) return;
  munmap(data_ + kept, bytes_ - kept);
  bytes_ = kept;
  if (kept == 0) data_ = nullptr;
}

void touch(std::span<uint8_t> memory) {
  if (memory.empty()) return;
  const uint64_t page = small_page_bytes();
  const uint64_t before = reinterpret_cast<uintptr_t>(memory.data()) % page;
#if defined(MADV_POPULATE_WRITE)
  if (madvise(memory.data() - before, memory.size() + before, MADV_POPULATE_WRITE) == 0 || errno != EINVAL)
    return;  // What could not be had now is had, or fails, at the first access.
#endif
  // Kernels before 5.14.
  volatile uint8_t* const bytes = memory.data();
  for (uint64_t at = 0; at < memory.size(); at += page - (before + at) % page) bytes[at] = bytes[at];
}

void let_go(std::span<uint8_t> memory) {
  if (!memory.empty()) madvise(memory.data(), memory.size(), MADV_DONTNEED);
}

HugeMemory::~HugeMemory() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

HugeMemory::HugeMemory(HugeMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

HugeMemory& HugeMemory::operator=(HugeMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

}  // namespace mlxf::platform
