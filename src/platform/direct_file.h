// DirectFile: a regular file opened twice, past the page cache (O_DIRECT, F_NOCACHE) and through it.
//
// Direct reads need memory, offset and length in multiples of kDirectAlign; where the file system refuses direct
// access altogether (some network and memory file systems) only the buffered descriptor exists. Read-only,
// move-only; threads may share one for reading. Sizes and offsets are bytes.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "base/result.h"
#include "platform/file.h"

namespace mlxf::platform {

// Enough for every disk with 512 B or 4 KiB sectors.
constexpr uint64_t kDirectAlign = 4096;

class DirectFile {
 public:
  enum class Access : uint8_t { kDirect, kBuffered };

  [[nodiscard]] static Result<DirectFile> open(const std::string& path, Access access);
  DirectFile(DirectFile&& other) noexcept;
  DirectFile& operator=(DirectFile&& other) noexcept;
  DirectFile(const DirectFile&) = delete;
  DirectFile& operator=(const DirectFile&) = delete;
  ~DirectFile();

  [[nodiscard]] const File& file() const { return file_; }
  [[nodiscard]] int buffered_descriptor() const { return file_.descriptor(); }
  // -1 when opened as kBuffered, or when the file system has no direct access.
  [[nodiscard]] int direct_descriptor() const { return direct_; }

 private:
  DirectFile(File file, int direct) : file_(std::move(file)), direct_(direct) {}
  File file_;
  int direct_ = -1;
};

// One pread; bytes read or -errno. Direct descriptors: see kDirectAlign.
[[nodiscard]] int64_t read_some(int descriptor, uint64_t offset, uint8_t* into, uint64_t bytes);

// Lets the page cache forget what a buffered read of this range left there; a hint.
void drop_cached(int descriptor, uint64_t offset, uint64_t bytes);

}  // namespace mlxf::platform
