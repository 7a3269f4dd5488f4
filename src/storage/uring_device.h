// UringDevice: reads with io_uring: no thread of its own, one system call for many reads.
//
// Completions are reaped by the thread that waits, whichever it is: neither the ring's descriptor nor a single issuer
// is registered, which would bind it to the thread that made it. Files are registered, which saves a reference count
// per read. Buffers are not: that needs RLIMIT_MEMLOCK beyond the usual 8 MiB, and could save no more than a part of
// the 13 ms of processor time per GB that 1 MiB reads into huge pages cost (docs/measurements/2026-11-storage.md).
// Systems without liburing get uring_device_absent.cpp.
// Called by one thread at a time, see device.h.
#pragma once

#include <memory>

#include "base/result.h"
#include "storage/device.h"

namespace mlxf::storage {

// kUnsupported, with the kernel's reason, where io_uring is not to be had.
[[nodiscard]] Result<std::unique_ptr<Device>> make_uring_device(uint32_t depth);

}  // namespace mlxf::storage
