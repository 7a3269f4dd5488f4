// What the operating system says about this process: the processors it may use and the memory it holds.
// Stateless; any thread.
// Sizes are in bytes.
#pragma once

#include <cstdint>
#include <string>

namespace mlxf::platform {

// Processors in this process's affinity set; at least 1.
[[nodiscard]] uint32_t usable_processors();

// The most memory this process ever had resident, in bytes; 0 where the system does not tell.
[[nodiscard]] uint64_t peak_resident_bytes();

// Memory that only this process can give back: anonymous and shared-memory pages, resident or swapped out. What a
// memory budget is held against; mapped files are not in it. 0 where the system does not tell.
[[nodiscard]] uint64_t own_memory_bytes();

// Gives back to the system what the allocator keeps of freed memory, where it can.
void return_free_memory();

// The file that this process runs: its size and when it was written; another build of the same version differs. Empty
// where the system does not tell.
[[nodiscard]] std::string program_identity();

// Raises this process's limit of open files as far as it may, to at most 65536, and returns it.
uint64_t raise_open_files_limit();

// Writing to a pipe that nobody reads fails from now on, instead of ending the process (SIGPIPE).
void ignore_broken_pipes();

}  // namespace mlxf::platform
