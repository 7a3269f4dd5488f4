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

}  // namespace

Result<HugeMemory> HugeMemory::allocate(uint64_t bytes) { return map(bytes, kHugePageBytes); }

Result<HugeMemory> HugeMemory::allocate_tight(uint64_t bytes) {
  return map(bytes, static_cast<uint64_t>(sysconf(_SC_PAGESIZE)));
}

uint64_t HugeMemory::tight_bytes(uint64_t bytes) {
  const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  return (bytes + page - 1) / page * page;
}

Result<HugeMemory> HugeMemory::map(uint64_t bytes, uint64_t granule) {
  HugeMemory memory;
  if (bytes == 0) return memory;
  const uint64_t rounded = (bytes + granule - 1) / granule * granule;
  // One huge page more than needed, so that an aligned range of the right size lies inside; the rest is
  // unmapped.
  void* mapped =
      mmap(nullptr, rounded + kHugePageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED)
    return fail(ErrorCode::kOutOfBudget,
                "cannot allocate " + std::to_string(bytes >> 20) + " MiB of memory: " + std::strerror(errno));
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
