// The twin of uring_device.cpp for systems without liburing.
#include "storage/uring_device.h"

namespace mlxf::storage {

Result<std::unique_ptr<Device>> make_uring_device(uint32_t) {
  return fail(ErrorCode::kUnsupported, "io_uring: this program was built without liburing");
}

}  // namespace mlxf::storage
