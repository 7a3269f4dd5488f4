#include "storage/probe.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "platform/huge_memory.h"
#include "storage/settled_rate.h"

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

double since(TimePoint start, TimePoint now) { return std::chrono::duration<double>(now - start).count(); }

// Random blocks, each into a place of its own, `depth` at a time at most.
class Reads {
 public:
  Reads(Storage& storage, FileId file, uint8_t* memory, const ProbeOptions& options)
      : storage_(storage),
        file_(file),
        memory_(memory),
        block_bytes_(options.block_bytes),
        blocks_(storage.file_bytes(file) / options.block_bytes),
        random_(options.seed),
        tickets_(options.depth) {}

  Status submit(size_t place) {
    ReadRequest read;
    read.file = file_;
    read.offset = random_() % blocks_ * block_bytes_;
    read.length = block_bytes_;
    read.into = memory_ + place * block_bytes_;
    read.capacity = block_bytes_;
    return storage_.submit({&read, 1}, {&tickets_[place], 1});
  }
  Status submit_all() {
    for (size_t i = 0; i < tickets_.size(); ++i) RETURN_IF_ERROR(submit(i));
    return {};
  }
  Status wait_all() {
    for (const Ticket& ticket : tickets_) RETURN_IF_ERROR(storage_.wait(ticket)->status);
    return {};
  }
  Result<size_t> wait_any() {  // Whose place is free.
    const std::optional<Completion> done = storage_.wait_any(tickets_);
    RETURN_IF_ERROR(done->status);
    return static_cast<size_t>(std::find(tickets_.begin(), tickets_.end(), done->ticket) - tickets_.begin());
  }

 private:
  Storage& storage_;
  FileId file_;
  uint8_t* memory_;
  uint64_t block_bytes_, blocks_;
  std::mt19937_64 random_;
  std::vector<Ticket> tickets_;
};

using Now = std::function<TimePoint()>;

// With pauses, in which this thread stays busy, as a program that computes does.
Status read_in_rounds(Reads& reads, const Now& now, const ProbeOptions& options, uint64_t bytes_min,
                      ProbeResult& result) {
  while (result.seconds < options.seconds || result.bytes < bytes_min) {
    const TimePoint round = now();
    RETURN_IF_ERROR(reads.submit_all());
    RETURN_IF_ERROR(reads.wait_all());
    result.bytes += options.depth * options.block_bytes;
    result.seconds += since(round, now());
    for (const TimePoint pause = now(); since(pause, now()) < options.pause_seconds;) {
    }
  }
  return {};
}

Status read_steadily(Reads& reads, const Now& now, const ProbeOptions& options, uint64_t bytes_min,
                     ProbeResult& result) {
  SettledRate rate(options.seconds, bytes_min);
  const auto over = [&] {
    if (rate.settled()) return true;
    return rate.bytes() >= bytes_min &&
           (rate.seconds() >= options.seconds + options.settle_max || rate.bytes() >= options.bytes_max);
  };
  const std::clock_t cpu_before = std::clock();
  const TimePoint started = now();
  RETURN_IF_ERROR(reads.submit_all());
  while (!over()) {
    ASSIGN_OR_RETURN(const size_t place, reads.wait_any());
    rate.add(since(started, now()), options.block_bytes);
    RETURN_IF_ERROR(reads.submit(place));
  }
  const double cpu_seconds = static_cast<double>(std::clock() - cpu_before) / CLOCKS_PER_SEC;
  const SettledRate::Amount amount = rate.amount();
  result.bytes = amount.bytes;
  result.seconds = amount.seconds;
  result.left_out_seconds = amount.left_out_seconds;
  result.cpu_seconds = cpu_seconds * static_cast<double>(amount.bytes) / static_cast<double>(rate.bytes());
  return {};
}

}  // namespace

Result<ProbeResult> probe(const std::string& path, const ProbeOptions& options) {
  RETURN_IF_ERROR(check(options));
  ASSIGN_OR_RETURN(std::unique_ptr<Storage> storage, open_storage(storage_options(options)));
  return probe(std::move(storage), Clock::now, path, options);
}

Result<ProbeResult> probe(std::unique_ptr<Storage> storage, const Now& now, const std::string& path,
                          const ProbeOptions& options) {
  RETURN_IF_ERROR(check(options));
  ASSIGN_OR_RETURN(const Buffers buffers, make_buffers(options.memory, options.depth * options.block_bytes));
  // Declared after the buffers: its destructor waits for what is still written into them.
  const std::unique_ptr<Storage> device = std::move(storage);
  ASSIGN_OR_RETURN(const FileId file, device->open(path));
  if (device->file_bytes(file) < options.block_bytes)
    return fail(ErrorCode::kInvalidArgument, path + ": is shorter than the blocks of " +
                                                 std::to_string(options.block_bytes) + " bytes to read");
  Reads reads(*device, file, buffers.data, options);
  ProbeResult result;
  result.description = device->description();
  const uint64_t bytes_min = 4 * options.depth * options.block_bytes;
  RETURN_IF_ERROR(options.pause_seconds > 0 ? read_in_rounds(reads, now, options, bytes_min, result)
                                            : read_steadily(reads, now, options, bytes_min, result));
  return result;
}

}  // namespace mlxf::storage
