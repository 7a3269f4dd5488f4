#include "platform/direct_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace mlxf::platform {
namespace {

// O_NONBLOCK serves only to refuse FIFOs; io_uring may answer reads of such descriptors with EAGAIN.
void make_blocking(int descriptor) {
  const int flags = ::fcntl(descriptor, F_GETFL);
  if (flags >= 0) ::fcntl(descriptor, F_SETFL, flags & ~O_NONBLOCK);
}

// -1 where direct access is not to be had.
int open_direct(const std::string& path) {
#if defined(O_DIRECT)
  int descriptor = -1;
  do {
    descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT | O_NOCTTY | O_NONBLOCK);
  } while (descriptor < 0 && errno == EINTR);
  return descriptor;
#elif defined(F_NOCACHE)
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
  if (descriptor >= 0 && ::fcntl(descriptor, F_NOCACHE, 1) != 0) {
    ::close(descriptor);
    return -1;
  }
  return descriptor;
#else
  static_cast<void>(path);
  return -1;
#endif
}

}  // namespace

Result<DirectFile> DirectFile::open(const std::string& path, Access access) {
  ASSIGN_OR_RETURN(File file, File::open(path));
  make_blocking(file.descriptor());
#if defined(POSIX_FADV_RANDOM)
  // Reads are of the sizes that are wanted; read-ahead would only fill the cache with their neighbours.
  ::posix_fadvise(file.descriptor(), 0, 0, POSIX_FADV_RANDOM);
#endif
  if (access == Access::kBuffered) return DirectFile(std::move(file), -1);
  const int direct = open_direct(path);
  struct stat status {};
  if (direct >= 0 &&
      (::fstat(direct, &status) != 0 || static_cast<uint64_t>(status.st_ino) != file.identity().inode ||
       static_cast<uint64_t>(status.st_dev) != file.identity().device)) {
    ::close(direct);
    return fail(ErrorCode::kChanged, path + ": was replaced while it was being opened; try again");
  }
  if (direct >= 0) make_blocking(direct);
  return DirectFile(std::move(file), direct);
}

DirectFile::DirectFile(DirectFile&& other) noexcept
    : file_(std::move(other.file_)), direct_(std::exchange(other.direct_, -1)) {}

DirectFile& DirectFile::operator=(DirectFile&& other) noexcept {
  file_ = std::move(other.file_);
  std::swap(direct_, other.direct_);
  return *this;
}

DirectFile::~DirectFile() {
  if (direct_ >= 0) ::close(direct_);
}

int64_t read_some(int descriptor, uint64_t offset, uint8_t* into, uint64_t bytes) {
  const ssize_t got = ::pread(descriptor, into, bytes, static_cast<off_t>(offset));
  return got < 0 ? -static_cast<int64_t>(errno) : static_cast<int64_t>(got);
}

void drop_cached(int descriptor, uint64_t offset, uint64_t bytes) {
#if defined(POSIX_FADV_DONTNEED)
  ::posix_fadvise(descriptor, static_cast<off_t>(offset), static_cast<off_t>(bytes), POSIX_FADV_DONTNEED);
#else
  static_cast<void>(descriptor);
  static_cast<void>(offset);
  static_cast<void>(bytes);
#endif
}

}  // namespace mlxf::platform
