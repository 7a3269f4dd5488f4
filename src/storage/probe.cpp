#include "storage/probe.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "platform/huge_memory.h"

namespace mlxf::storage {
namespace {

using Memory = ProbeOptions::Memory;

struct Buffers {
  platform::HugeMemory huge;
  std::unique_ptr<uint8_t, void (*)(void*)> small{nullptr, &std::free};
  uint8_t* data = nullptr;
};

Result<Buffers> make_buffers(Memory kind, uint64_t bytes) {
  Buffers buffers;
  if (kind == Memory::kHuge) {
    ASSIGN_OR_RETURN(buffers.huge, platform::HugeMemory::allocate(bytes));
    buffers.data = buffers.huge.data();
  } else {
    // Systems that give every allocation huge pages (transparent_hugepage=always) give them here too.
    buffers.small.reset(static_cast<uint8_t*>(std::aligned_alloc(Storage::kAlign, bytes)));
    buffers.data = buffers.small.get();
    if (buffers.data == nullptr)
      return fail(ErrorCode::kOutOfBudget,
                  "cannot allocate " + std::to_string(bytes) + " bytes to read into");
  }
  std::memset(buffers.data, 1, bytes);
  return buffers;
}

Status check(const ProbeOptions& options) {
  if (options.block_bytes == 0 || options.block_bytes % Storage::kAlign != 0)
    return fail(ErrorCode::kInvalidArgument,
                "cannot probe with blocks of " + std::to_string(options.block_bytes) +
                    " bytes; they are multiples of " + std::to_string(Storage::kAlign));
  if (options.depth == 0 || options.depth > 1024 || options.block_bytes > (uint64_t{1} << 30) / options.depth)
    return fail(ErrorCode::kInvalidArgument, "cannot probe with " + std::to_string(options.depth) +
                                                 " blocks of " + std::to_string(options.block_bytes) +
                                                 " bytes at a time; at most 1024 blocks and 1 GiB");
  return {};
}

StorageOptions storage_options(const ProbeOptions& options) {
  StorageOptions storage;
  storage.backend = options.backend;
  storage.threads = options.threads != 0 ? options.threads : std::min(options.depth, 16U);
  storage.queue.depth = options.depth;
  storage.queue.piece_bytes = options.piece_bytes != 0 ? options.piece_bytes : options.block_bytes;
  return storage;
}

}  // namespace

Result<ProbeResult> probe(const std::string& path, const ProbeOptions& options) {
  RETURN_IF_ERROR(check(options));
  // Declared before the storage, whose destructor waits for what is still written into them.
  ASSIGN_OR_RETURN(const Buffers buffers, make_buffers(options.memory, options.depth * options.block_bytes));
  ASSIGN_OR_RETURN(const std::unique_ptr<Storage> storage, open_storage(storage_options(options)));
  ASSIGN_OR_RETURN(const FileId file, storage->open(path));
  const uint64_t blocks = storage->file_bytes(file) / options.block_bytes;
  if (blocks == 0)
    return fail(ErrorCode::kInvalidArgument, path + ": is shorter than the blocks of " +
                                                 std::to_string(options.block_bytes) + " bytes to read");

  std::mt19937_64 random(options.seed);
  std::vector<Ticket> tickets(options.depth);
  const auto submit = [&](size_t i) {
    ReadRequest read;
    read.file = file;
    read.offset = random() % blocks * options.block_bytes;
    read.length = options.block_bytes;
    read.into = buffers.data + i * options.block_bytes;
    read.capacity = options.block_bytes;
    return storage->submit({&read, 1}, {&tickets[i], 1});
  };
  ProbeResult result;
  result.description = storage->description();
  const uint64_t bytes_min = 4 * options.depth * options.block_bytes;
  const auto since = [](TimePoint start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  // Rounds with pauses, in which this thread stays busy, as a program that computes does.
  while (options.pause_seconds > 0 && (result.seconds < options.seconds || result.bytes < bytes_min)) {
    const TimePoint round = Clock::now();
    for (size_t i = 0; i < tickets.size(); ++i) RETURN_IF_ERROR(submit(i));
    for (const Ticket& ticket : tickets) RETURN_IF_ERROR(storage->wait(ticket)->status);
    result.bytes += options.depth * options.block_bytes;
    result.seconds += since(round);
    for (const TimePoint pause = Clock::now(); since(pause) < options.pause_seconds;) {
    }
  }
  if (options.pause_seconds > 0) return result;
  const std::clock_t cpu_before = std::clock();
  const TimePoint started = Clock::now();
  for (size_t i = 0; i < tickets.size(); ++i) RETURN_IF_ERROR(submit(i));
  while (result.seconds < options.seconds || result.bytes < bytes_min) {
    const std::optional<Completion> done = storage->wait_any(tickets);
    RETURN_IF_ERROR(done->status);
    result.bytes += options.block_bytes;
    result.seconds = since(started);
    RETURN_IF_ERROR(submit(
        static_cast<size_t>(std::find(tickets.begin(), tickets.end(), done->ticket) - tickets.begin())));
  }
  result.cpu_seconds = static_cast<double>(std::clock() - cpu_before) / CLOCKS_PER_SEC;
  return result;
}

}  // namespace mlxf::storage
