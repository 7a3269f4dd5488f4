#include "platform/machine.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>

#if defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace mlxf::platform {
namespace {

// The rest of the first line of `path` that begins with `field`, without blanks and colons around it.
std::string field_of(const char* path, const std::string& field) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.compare(0, field.size(), field) != 0) continue;
    const size_t begin = line.find_first_not_of(" \t:", field.size());
    return begin == std::string::npos ? std::string() : line.substr(begin);
  }
  return {};
}

// A size such as "24576 kB", in bytes.
uint64_t kib_field(const char* path, const std::string& field) {
  return std::strtoull(field_of(path, field).c_str(), nullptr, 10) * 1024;
}

// The caches of one level of all processors, each counted once however many processors share it; 0 without /sys.
// sysconf() is no help: in a virtual machine it tells the cache of the host's whole socket.
uint64_t caches_of_level(int level) {
  std::map<std::string, uint64_t> caches;  // By the processors that share it.
  const std::string cpus = "/sys/devices/system/cpu/cpu";
  for (int cpu = 0; std::ifstream(cpus + std::to_string(cpu) + "/cache/index0/level").good(); ++cpu) {
    const std::string folder = cpus + std::to_string(cpu) + "/cache/index" + std::to_string(level) + "/";
    std::string sharers, unit;
    uint64_t size = 0;  // "32768K"
    if (std::getline(std::ifstream(folder + "shared_cpu_list"), sharers) &&
        std::ifstream(folder + "size") >> size >> unit && unit == "K")
      caches[sharers] = size * 1024;
  }
  uint64_t total = 0;
  for (const auto& [sharers, bytes] : caches) total += bytes;
  return total;
}

#if defined(__APPLE__)
template <typename T>
T system_value(const char* name, T fallback) {
  T value{};
  size_t bytes = sizeof value;
  return sysctlbyname(name, &value, &bytes, nullptr, 0) == 0 ? value : fallback;
}
#endif

}  // namespace

std::string processor_name() {
#if defined(__APPLE__)
  char name[256] = {};
  size_t bytes = sizeof name - 1;
  return sysctlbyname("machdep.cpu.brand_string", name, &bytes, nullptr, 0) == 0 ? name : "";
#else
  return field_of("/proc/cpuinfo", "model name");
#endif
}

std::string system_name() {
  utsname name{};
  if (uname(&name) != 0) return {};
  return std::string(name.sysname) + " " + name.release + " " + name.machine;
}

uint64_t last_level_cache_bytes() {
#if defined(__APPLE__)
  return system_value<uint64_t>("hw.perflevel0.l2cachesize", 0);
#else
  // index0 and 1 are the first level's data and instructions, 2 the second level, 3 the third.
  const uint64_t third = caches_of_level(3);
  return third != 0 ? third : caches_of_level(2);
#endif
}

double load_average() {
  double load = 0;
  return getloadavg(&load, 1) == 1 ? load : 0;
}

std::string huge_page_mode() {
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/enabled");
  std::string line;  // "always [madvise] never"
  std::getline(file, line);
  const size_t begin = line.find('['), end = line.find(']');
  if (begin == std::string::npos || end == std::string::npos || end < begin) return {};
  return line.substr(begin + 1, end - begin - 1);
}

uint64_t huge_page_bytes() { return kib_field("/proc/self/smaps_rollup", "AnonHugePages"); }

}  // namespace mlxf::platform
