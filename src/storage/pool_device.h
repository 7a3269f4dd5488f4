// PoolDevice: reads with pread on a few threads of its own: for systems without io_uring, and for buffered reads.
//
// The threads are created by the constructor, live as long as this and sleep when there is nothing to read. Buffered
// reads leave nothing in the page cache: what was copied out is dropped from it at once.
// Called by one thread, see device.h.
#pragma once

#include <memory>

#include "storage/device.h"

namespace mlxf::storage {

[[nodiscard]] std::unique_ptr<Device> make_pool_device(uint32_t depth, uint32_t threads);

}  // namespace mlxf::storage
