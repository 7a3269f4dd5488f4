#include "platform/process.h"

#include <sys/resource.h>

#if defined(__linux__)
#include <fcntl.h>
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>
#endif
#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include <algorithm>
#include <array>
#include <charconv>
#include <csignal>
#include <string>
#include <string_view>
#include <thread>

namespace mlxf::platform {

uint32_t usable_processors() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0)
    return static_cast<uint32_t>(CPU_COUNT(&set));
#endif
  const uint32_t count = std::thread::hardware_concurrency();
  return count != 0 ? count : 1;
}

void return_free_memory() {
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
}

uint64_t raise_open_files_limit() {
  constexpr rlim_t kMost = 65536;
  rlimit files{};
  if (getrlimit(RLIMIT_NOFILE, &files) != 0) return 0;
  const rlim_t before = files.rlim_cur;
  files.rlim_cur = std::max(before, std::min(files.rlim_max, kMost));
  return setrlimit(RLIMIT_NOFILE, &files) == 0 ? files.rlim_cur : before;
}

uint64_t peak_resident_bytes() {
  rusage usage{};
  if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
#if defined(__APPLE__)
  return static_cast<uint64_t>(usage.ru_maxrss);  // Bytes there, KiB elsewhere.
#else
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;
#endif
}

std::string program_identity() {
#if defined(__linux__)
  struct stat status {};
  if (::stat("/proc/self/exe", &status) != 0) return "";
  return std::to_string(status.st_size) + " bytes of " + std::to_string(status.st_mtim.tv_sec) + "." +
         std::to_string(status.st_mtim.tv_nsec);
#else
  return "";
#endif
}

void ignore_broken_pipes() { std::signal(SIGPIPE, SIG_IGN); }

uint64_t own_memory_bytes() {
#if defined(__linux__)
  // Read without stdio: this runs between tokens, where nothing takes memory.
  const int status = ::open("/proc/self/status", O_RDONLY | O_CLOEXEC);
  if (status < 0) return 0;
  std::array<char, 4096> buffer;
  const ssize_t length = ::read(status, buffer.data(), buffer.size());
  ::close(status);
  const std::string_view text(buffer.data(), static_cast<size_t>(std::max<ssize_t>(length, 0)));
  uint64_t kib = 0;
  for (const std::string_view field : {"\nRssAnon:", "\nRssShmem:", "\nVmSwap:"}) {
    const size_t at = text.find(field);
    if (at == std::string_view::npos) continue;
    const size_t digits = text.find_first_of("0123456789", at);
    uint64_t value = 0;
    if (digits != std::string_view::npos &&
        std::from_chars(text.data() + digits, text.data() + text.size(), value).ec == std::errc())
      kib += value;
  }
  return kib * 1024;
#else
  return 0;
#endif
}

}  // namespace mlxf::platform
