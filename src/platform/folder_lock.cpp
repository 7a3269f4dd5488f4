#include "platform/folder_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace mlxf::platform {

Result<FolderLock> FolderLock::take(const std::string& folder) {
  const std::string path = folder + "/lock";
  const int descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (descriptor < 0) return fail(ErrorCode::kIo, path + ": cannot open: " + std::strerror(errno));
  int number = 0;
  do {
    number = ::flock(descriptor, LOCK_EX | LOCK_NB) == 0 ? 0 : errno;
  } while (number == EINTR);
  if (number == 0) return FolderLock(descriptor);
  ::close(descriptor);
  if (number == EWOULDBLOCK) return fail(ErrorCode::kUnavailable, folder + ": is in use by another process");
  return fail(ErrorCode::kIo, path + ": cannot lock: " + std::strerror(number));
}

FolderLock::FolderLock(FolderLock&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}

FolderLock::~FolderLock() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

}  // namespace mlxf::platform
