#include "platform/process.h"

#include <sys/resource.h>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstring>
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

void ignore_broken_pipes() { std::signal(SIGPIPE, SIG_IGN); }

uint64_t own_memory_bytes() {
#if defined(__linux__)
  std::FILE* status = std::fopen("/proc/self/status", "r");
  if (status == nullptr) return 0;
  uint64_t kib = 0;
  char line[256];
  while (std::fgets(line, sizeof line, status) != nullptr)
    for (const char* field : {"RssAnon:", "RssShmem:", "VmSwap:"}) {
      unsigned long long value = 0;
      const size_t length = std::strlen(field);
      if (std::strncmp(line, field, length) == 0 && std::sscanf(line + length, "%llu", &value) == 1)
        kib += value;
    }
  std::fclose(status);
  return kib * 1024;
#else
  return 0;
#endif
}

}  // namespace mlxf::platform
