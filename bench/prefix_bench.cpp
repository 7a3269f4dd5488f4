// What it costs to write a kept prefix to the SSD and to bring it back: prefix_bench FOLDER [MIB [IO]].
//
// A sequence as of an 8B model (36 layers of 8 heads of 128: 144 KiB a token) of MIB (1024) is written to a file in
// FOLDER, which is then dropped from the page cache, and read into a second sequence, by IO (auto, pread, buffered), by
// another thread, as in a server. Prints seconds and GB/s of each step, and of the last ones their thread's page faults
// and CPU seconds, which other work on the machine changes less; docs/measurements/2026-11-prefixes.md.
#include <sys/resource.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <string>
#include <thread>

#include "base/crc32c.h"
#include "engine/prefix_file.h"
#include "platform/direct_file.h"

namespace mlxf {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kTokenBytes = uint64_t{36} * 2 * 8 * 128 * 2;

void print(const char* what, Clock::time_point start, uint64_t bytes) {
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  std::printf("%-28s %7.3f s  %6.2f GB/s\n", what, seconds, static_cast<double>(bytes) / 1e9 / seconds);
}

// What this thread has cost so far.
struct Cost {
  double seconds = 0;
  long faults = 0;
  static Cost now() {
    rusage usage{};
    getrusage(RUSAGE_THREAD, &usage);
    const auto seconds = [](const timeval& time) {
      return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
    };
    return {seconds(usage.ru_utime) + seconds(usage.ru_stime), usage.ru_minflt};
  }
  void print_since() const {
    const Cost end = now();
    std::printf("%28s %7.3f s of CPU, %ld page faults\n", "", end.seconds - seconds, end.faults - faults);
  }
};

Status run(const std::string& folder, uint64_t bytes, storage::Backend backend) {
  const std::string path = folder + "/prefix_bench.prefix";
  const std::vector<kv::LayerShape> shapes(36, kv::PageShape{8, 128, 128, 0});
  const auto tokens = static_cast<uint32_t>(bytes / kTokenBytes);
  kv::PagePool pool;
  kv::Sequence original(pool, shapes, tokens), copy(pool, shapes, tokens);
  RETURN_IF_ERROR(original.fill(tokens));
  engine::PrefixHead head;
  head.tokens.resize(tokens);
  std::iota(head.tokens.begin(), head.tokens.end(), 0);
  head.geometry = original.geometry();
  head.layout = original.layout();
  head.cuts = engine::cuts_of(original);
  const kv::Contents contents = original.contents();
  for (const std::span<uint8_t> part : contents) head.payload_bytes += part.size();
  const uint64_t payload = head.payload_bytes;

  auto start = Clock::now();
  uint32_t sum = 0;
  for (const std::span<uint8_t> part : contents) sum = crc32c(part, sum);
  print("checksum", start, payload);
  start = Clock::now();
  {
    ASSIGN_OR_RETURN(platform::NewFile file, platform::NewFile::create(path, platform::Overwrite::kReplace,
                                                                       platform::Readers::kOwner));
    RETURN_IF_ERROR(engine::write_prefix(file, head, contents));
    RETURN_IF_ERROR(file.commit());
  }
  print("written, and on the disk", start, payload);
  ASSIGN_OR_RETURN(const platform::File file, platform::File::open(path));
  platform::drop_cached(file.descriptor(), 0, file.size());
  ASSIGN_OR_RETURN(engine::ContentsReader reader, engine::ContentsReader::make(backend));
  {  // As a sequence grows that nobody restores.
    kv::PagePool own;
    kv::Sequence grown(own, shapes, tokens);
    start = Clock::now();
    const Cost before = Cost::now();
    RETURN_IF_ERROR(grown.reserve(tokens));
    print("memory, page by page", start, payload);
    before.print_since();
  }
  start = Clock::now();
  const Cost before = Cost::now();
  RETURN_IF_ERROR(copy.restore(tokens, head.layout));
  const kv::Contents into = copy.contents();
  print("memory for it", start, payload);
  before.print_since();
  Status read;
  std::thread([&] {
    const auto begun = Clock::now();
    const Cost reading = Cost::now();
    read = reader.read(file, head, into, copy.untouched());
    print("read, checked and copied", begun, payload);
    reading.print_since();
  }).join();
  RETURN_IF_ERROR(read);
  uint32_t again = 0;
  for (const std::span<uint8_t> part : into) again = crc32c(part, again);
  std::remove(path.c_str());
  if (again != sum) return fail(ErrorCode::kCorrupt, "it came back as something else");
  return {};
}

}  // namespace
}  // namespace mlxf

int main(int argc, char** argv) {
  const long mib = argc > 2 ? std::strtol(argv[2], nullptr, 10) : 1024;
  const auto backend = mlxf::storage::parse_backend(argc > 3 ? argv[3] : "auto");
  if (argc < 2 || mib < 16 || !backend) {
    std::fprintf(stderr, "usage: prefix_bench FOLDER [MIB [IO]]\n");
    return 2;
  }
  if (const mlxf::Status status = mlxf::run(argv[1], static_cast<uint64_t>(mib) << 20, *backend); !status) {
    std::fprintf(stderr, "prefix_bench: %s\n", status.error().message.c_str());
    return 1;
  }
  return 0;
}
