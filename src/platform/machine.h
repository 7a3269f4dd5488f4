// What machine this is: processor, system, load and huge pages, as the operating system tells.
//
// For reports and for telling whether a stored profile is of this machine. Stateless; any thread; reads a few files
// of /proc and /sys. What the system does not tell is empty or 0. Sizes are in bytes.
#pragma once

#include <cstdint>
#include <string>

namespace mlxf::platform {

[[nodiscard]] std::string processor_name();       // "AMD EPYC 9654 96-Core Processor"
[[nodiscard]] std::string system_name();          // "Linux 6.1.0-18-amd64 x86_64"
[[nodiscard]] uint64_t last_level_cache_bytes();  // Of all such caches together.

// How many threads of the whole machine wanted to run in the last minute, on average; 0 where it is not told.
[[nodiscard]] double load_average();

// Of transparent huge pages: "always", "madvise" or "never"; empty where there are none.
[[nodiscard]] std::string huge_page_mode();
// This process's anonymous memory that lies in huge pages now.
[[nodiscard]] uint64_t huge_page_bytes();

}  // namespace mlxf::platform
