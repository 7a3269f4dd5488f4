#if defined(__APPLE__)
#include <mach/mach.h>
#include <sys/sysctl.h>

#include <algorithm>
#include <utility>

#include "platform/memory_info.h"

namespace mlxf::platform {

// The port is asked for once; there is nothing else to keep.
struct MemorySource::State {
  mach_port_t host = MACH_PORT_NULL;
  uint64_t total_bytes = 0;
  uint64_t page_bytes = 0;

  ~State() {
    if (host != MACH_PORT_NULL) mach_port_deallocate(mach_task_self(), host);
  }
};

MemorySource::MemorySource(std::unique_ptr<State> state) : state_(std::move(state)) {}
MemorySource::MemorySource(MemorySource&& other) noexcept = default;
MemorySource& MemorySource::operator=(MemorySource&& other) noexcept = default;
MemorySource::~MemorySource() = default;

Result<MemorySource> MemorySource::open(const std::string& /*root*/) {
  auto state = std::make_unique<State>();
  state->host = mach_host_self();
  size_t length = sizeof state->total_bytes;
  vm_size_t page = 0;
  if (sysctlbyname("hw.memsize", &state->total_bytes, &length, nullptr, 0) != 0 ||
      host_page_size(state->host, &page) != KERN_SUCCESS)
    return fail(ErrorCode::kUnsupported,
                "the system does not tell hw.memsize: how much memory there is cannot be known");
  state->page_bytes = page;
  return MemorySource(std::move(state));
}

Result<MemoryReading> MemorySource::read() {
  vm_statistics64_data_t pages{};
  mach_msg_type_number_t count = HOST_VM_INFO64_COUNT;
  const kern_return_t told =
      host_statistics64(state_->host, HOST_VM_INFO64, reinterpret_cast<host_info64_t>(&pages), &count);
  if (told != KERN_SUCCESS)
    return fail(ErrorCode::kIo, "host_statistics64 failed: how much memory is free is unknown");
  MemoryReading reading;
  reading.total_bytes = state_->total_bytes;
  // What can be had without compressing anyone's memory: free pages, file cache, and what programs marked purgeable.
  const uint64_t had = uint64_t{pages.free_count} + pages.external_page_count + pages.purgeable_count;
  reading.available_bytes = std::min(reading.total_bytes, had * state_->page_bytes);
  int level = 0;
  size_t length = sizeof level;
  if (sysctlbyname("kern.memorystatus_vm_pressure_level", &level, &length, nullptr, 0) == 0) {
    // 1 normal, 2 warning, 4 critical, as in the dispatch source of the same name.
    if (level >= 4)
      reading.pressure = MemoryPressure::kCritical;
    else if (level >= 2)
      reading.pressure = MemoryPressure::kWarning;
  }
  return reading;
}

}  // namespace mlxf::platform
#endif
