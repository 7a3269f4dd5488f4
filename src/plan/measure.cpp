#include "plan/measure.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <random>
#include <system_error>
#include <utility>

#include "kernels/kernel_table.h"
#include "platform/direct_file.h"
#include "platform/huge_memory.h"
#include "platform/machine.h"
#include "platform/memory_info.h"
#include "platform/process.h"
#include "storage/probe.h"

namespace mlxf::plan {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kMiB = uint64_t{1} << 20;
// Bursts: the pause lets a disk of 0.5 GB/s earn a whole burst; some twenty bursts at 4 GB/s.
constexpr double kBurstPauseSeconds = 0.02, kBurstSeconds = 0.04;
// Long enough for the prefetchers, short enough that a thread that lost its core delays little.
constexpr uint64_t kPieceBytes = kMiB;
constexpr uint64_t kTouchedMin = 64 * kMiB;
constexpr uint64_t kWriteBytes = 4 * kMiB;
constexpr uint64_t kLargestBlocksMin = 16;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Sums 64-bit words in eight independent chains, which vectorise; the sum keeps the reads from being removed. Plain
// loads reach at least what software prefetch and more streams do (docs/measurements/2026-11-doctor.md).
uint64_t read_all(const uint8_t* data, uint64_t bytes) {
  uint64_t sums[8] = {};
  for (uint64_t at = 0; at + sizeof sums <= bytes; at += sizeof sums) {
    uint64_t words[8];
    std::memcpy(words, data + at, sizeof words);
    for (int i = 0; i < 8; ++i) sums[i] += words[i];
  }
  uint64_t sum = 0;
  for (const uint64_t part : sums) sum += part;
  return sum;
}

// How much is timed at a time: a pass of a few milliseconds, so that some passes run undisturbed on a busy machine,
// and 16 pieces or more for each thread, so that waiting for the last one costs little.
uint32_t pieces_of_a_pass(const compute::ThreadPool& pool, uint64_t bytes) {
  const uint64_t wanted = std::max<uint64_t>(64, uint64_t{16} * pool.threads());
  return static_cast<uint32_t>(std::min(wanted, bytes / kPieceBytes));
}

void fill_random(std::vector<uint64_t>& words, std::mt19937_64& random) {
  for (uint64_t& word : words) word = random();
}

}  // namespace

uint64_t memory_probe_bytes() {
  const uint64_t wanted = std::max(256 * kMiB, 8 * platform::last_level_cache_bytes());
  auto source = platform::MemorySource::open();
  if (!source) return wanted;
  const auto memory = source->read();
  if (!memory) return wanted;
  const uint64_t available = std::min(memory->available_bytes, memory->limit_room_bytes);
  return std::clamp(wanted, kPieceBytes, std::max(kPieceBytes, available / 8));
}

Result<ProbeMemory> ProbeMemory::touch(compute::ThreadPool& pool, uint64_t bytes, double seconds_max) {
  const uint64_t wanted =
      std::max(kPieceBytes, (bytes != 0 ? bytes : memory_probe_bytes()) / kPieceBytes * kPieceBytes);
  const uint64_t huge_before = platform::huge_page_bytes();
  ProbeMemory memory;
  ASSIGN_OR_RETURN(memory.memory_, platform::HugeMemory::allocate(wanted));
  const auto start = Clock::now();
  while (memory.bytes_ < wanted && (memory.bytes_ < kTouchedMin || seconds_since(start) < seconds_max)) {
    uint8_t* data = memory.memory_.data() + memory.bytes_;
    const uint32_t pieces = pieces_of_a_pass(pool, wanted - memory.bytes_);
    // Each piece filled with another byte, so that no two pages can be merged into one.
    pool.parallel_for(pieces, [data](uint32_t piece, uint32_t) {
      std::memset(data + piece * kPieceBytes, static_cast<int>(piece + 1), kPieceBytes);
    });
    memory.bytes_ += pieces * kPieceBytes;
  }
  const uint64_t huge_after = platform::huge_page_bytes();
  if (huge_after > huge_before)
    memory.huge_page_share_ =
        std::min(1.0, static_cast<double>(huge_after - huge_before) / static_cast<double>(memory.bytes_));
  return memory;
}

double measure_ram_read(compute::ThreadPool& pool, const ProbeMemory& memory, double seconds) {
  const uint64_t pass_bytes = pieces_of_a_pass(pool, memory.bytes()) * kPieceBytes;
  std::atomic<uint64_t> sink{0};  // Relaxed: only keeps the sums alive.
  double best = 0;
  uint64_t at = 0;
  const auto start = Clock::now();
  do {
    // Each pass continues where the one before ended: what a cache kept is long replaced when its turn comes again.
    if (at + pass_bytes > memory.bytes()) at = 0;
    const uint8_t* data = memory.data() + at;
    const auto pass = Clock::now();
    pool.parallel_for(static_cast<uint32_t>(pass_bytes / kPieceBytes), [&](uint32_t piece, uint32_t) {
      sink.fetch_add(read_all(data + piece * kPieceBytes, kPieceBytes), std::memory_order_relaxed);
    });
    best = std::max(best, static_cast<double>(pass_bytes) / seconds_since(pass));
    at += pass_bytes;
  } while (seconds_since(start) < seconds);
  return best;
}

Result<double> measure_fresh_copy(compute::ThreadPool& pool, const ProbeMemory& source, double seconds) {
  const uint32_t pieces = pieces_of_a_pass(pool, source.bytes());
  double best = 0;
  const auto start = Clock::now();
  do {
    ASSIGN_OR_RETURN(const platform::HugeMemory fresh, platform::HugeMemory::allocate(pieces * kPieceBytes));
    const auto pass = Clock::now();
    pool.parallel_for(pieces, [&](uint32_t piece, uint32_t) {
      std::memcpy(fresh.data() + piece * kPieceBytes, source.data() + piece * kPieceBytes, kPieceBytes);
    });
    best = std::max(best, static_cast<double>(pieces * kPieceBytes) / seconds_since(pass));
  } while (seconds_since(start) < seconds);
  return best;
}

double measure_peak(compute::ThreadPool& pool, kernels::PeakFn run, double seconds) {
  // Chunks of about 0.1 ms, found by doubling; the shortest of three runs counts, since any may have been interrupted.
  uint64_t rounds = 64;
  for (double elapsed = 0; elapsed < 5e-5 && rounds < (uint64_t{1} << 40); rounds *= 2) {
    elapsed = 1;
    for (int i = 0; i < 3; ++i) {
      const auto start = Clock::now();
      run(rounds);
      elapsed = std::min(elapsed, seconds_since(start));
    }
  }
  // Enough of them that the wait for the last one is a few percent of the pass.
  const uint32_t chunks = 16 * pool.threads();
  double best = 0;
  const auto start = Clock::now();
  do {
    std::atomic<uint64_t> operations{0};  // Relaxed: parallel_for orders it before the read below.
    const auto pass = Clock::now();
    pool.parallel_for(
        chunks, [&](uint32_t, uint32_t) { operations.fetch_add(run(rounds), std::memory_order_relaxed); });
    best = std::max(best, static_cast<double>(operations.load()) / seconds_since(pass));
  } while (seconds_since(start) < seconds);
  return best;
}

Result<double> measure_ssd_bursts(const std::string& path, double seconds) {
  storage::ProbeOptions probe;
  probe.block_bytes = kBurstBlockBytes;
  probe.depth = kBurstBlocks;
  probe.seconds = seconds;
  probe.pause_seconds = kBurstPauseSeconds;
  ASSIGN_OR_RETURN(const storage::ProbeResult result, storage::probe(path, probe));
  return result.bytes_per_second();
}

Result<SsdTable> measure_ssd(const std::string& path, const SsdOptions& options) {
  SsdTable table;
  {
    ASSIGN_OR_RETURN(const auto file,
                     platform::DirectFile::open(path, platform::DirectFile::Access::kDirect));
    table.file_bytes = file.file().size();
    table.direct = file.direct_descriptor() >= 0;
  }
  const uint64_t largest = *std::max_element(options.blocks.begin(), options.blocks.end());
  if (table.file_bytes / largest < kLargestBlocksMin)
    return fail(ErrorCode::kInvalidArgument, path + ": is too short to measure the disk with (" +
                                                 std::to_string(table.file_bytes) +
                                                 " bytes); give a file of at least " +
                                                 std::to_string(kLargestBlocksMin * largest / kMiB) + " MiB");
  const auto start = Clock::now();
  for (const uint64_t block : options.blocks)
    for (const uint32_t depth : options.depths) {
      if (seconds_since(start) > options.seconds_max) return table;
      storage::ProbeOptions probe;
      probe.block_bytes = block;
      probe.depth = depth;
      probe.seconds = probe.settle_max = options.seconds_each;
      probe.seed = block + depth;
      ASSIGN_OR_RETURN(const storage::ProbeResult result, storage::probe(path, probe));
      table.rates.push_back({block, depth, result.bytes_per_second()});
      table.storage = result.description;
    }
  ASSIGN_OR_RETURN(table.burst_bytes_s, measure_ssd_bursts(path, kBurstSeconds));
  return table;
}

Result<ScratchFile> ScratchFile::write(const std::string& path, uint64_t bytes, double seconds) {
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  std::error_code code;
  if (!folder.empty()) std::filesystem::create_directories(folder, code);
  if (code) return fail(ErrorCode::kIo, folder.string() + ": cannot make the folder: " + code.message());
  ASSIGN_OR_RETURN(platform::NewFile file, platform::NewFile::create(path, platform::Overwrite::kReplace));
  std::mt19937_64 random(1);
  std::vector<uint64_t> words(kWriteBytes / sizeof(uint64_t));
  const auto start = Clock::now();
  while (file.size() < bytes && (file.size() == 0 || seconds_since(start) < seconds)) {
    fill_random(words, random);
    RETURN_IF_ERROR(file.append({reinterpret_cast<const uint8_t*>(words.data()), kWriteBytes}));
  }
  RETURN_IF_ERROR(file.commit());
  ScratchFile scratch(path);
  ASSIGN_OR_RETURN(const platform::File written, platform::File::open(path));
  platform::drop_cached(written.descriptor(), 0, written.size());
  return scratch;
}

ScratchFile::ScratchFile(ScratchFile&& other) noexcept : path_(std::exchange(other.path_, {})) {}

ScratchFile::~ScratchFile() {
  std::error_code ignored;  // Nothing can be done about it here, and the next doctor replaces the file.
  if (!path_.empty()) std::filesystem::remove(path_, ignored);
}

}  // namespace mlxf::plan
