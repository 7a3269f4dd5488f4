// open_storage: chooses the device behind Storage.
//
// kAuto is io_uring where the kernel allows it (seccomp filters of containers often do not), else pread; the
// description of the Storage then says why. kIoUring fails where it is refused. kBuffered reads through the page cache
// and drops what it read: for disks and file systems where direct reads are slower.
#pragma once

#include <memory>
#include <string_view>

#include "base/result.h"
#include "storage/storage.h"

namespace mlxf::storage {

enum class Backend : uint8_t { kAuto, kIoUring, kPread, kBuffered };

struct StorageOptions {
  Backend backend = Backend::kAuto;
  uint32_t threads = 4;     // Of the pread pools.
  QueueOptions queue = {};  // `access` follows from the backend.
};

[[nodiscard]] Result<std::unique_ptr<Storage>> open_storage(const StorageOptions& options);

// "auto", "io_uring", "pread", "buffered".
[[nodiscard]] std::string_view backend_name(Backend backend);
[[nodiscard]] Result<Backend> parse_backend(std::string_view name);

}  // namespace mlxf::storage
