#include "storage/open_storage.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "storage/pool_device.h"
#include "storage/uring_device.h"

namespace mlxf::storage {
namespace {

constexpr std::array<std::string_view, 4> kNames{"auto", "io_uring", "pread", "buffered"};

}  // namespace

Result<std::unique_ptr<Storage>> open_storage(const StorageOptions& options) {
  QueueOptions queue = options.queue;
  queue.depth = std::clamp(queue.depth, 1U, 1024U);
  queue.access = options.backend == Backend::kBuffered ? platform::DirectFile::Access::kBuffered
                                                       : platform::DirectFile::Access::kDirect;
  std::string note;
  if (options.backend == Backend::kAuto || options.backend == Backend::kIoUring) {
    auto uring = make_uring_device(queue.depth);
    if (uring) return std::make_unique<Storage>(*std::move(uring), queue);
    if (options.backend == Backend::kIoUring) return tl::unexpected<Error>(uring.error());
    note = " (" + uring.error().message + ")";
  }
  if (options.backend == Backend::kBuffered) note = ", through the page cache";
  const uint32_t threads = std::clamp(options.threads, 1U, queue.depth);
  return std::make_unique<Storage>(make_pool_device(queue.depth, threads), queue, std::move(note));
}

std::string_view backend_name(Backend backend) { return kNames.at(static_cast<size_t>(backend)); }

Result<Backend> parse_backend(std::string_view name) {
  const auto* found = std::find(kNames.begin(), kNames.end(), name);
  if (found == kNames.end())
    return fail(ErrorCode::kInvalidArgument, "no storage backend '" + std::string(name) +
                                                 "'; there are auto, io_uring, pread and buffered");
  return static_cast<Backend>(found - kNames.begin());
}

}  // namespace mlxf::storage
