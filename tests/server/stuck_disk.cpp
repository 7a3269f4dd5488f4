// Stands between a program and its disk (LD_PRELOAD): reads of large files hang, or fail, while a file says so.
//
// MLXF_STUCK_DISK names that file. While it is there, pread() from a regular file of a MiB or more waits until it is
// gone; where it holds "EIO", pread() fails with that. Reads through io_uring do not come by here (--io pread).
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace {

constexpr off_t kLargeBytes = 1 << 20;

enum class Disk { kWell, kStuck, kBroken };

Disk disk() {
  static const char* const path = std::getenv("MLXF_STUCK_DISK");
  const int file = path == nullptr ? -1 : open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return Disk::kWell;
  char text[4] = {};
  const ssize_t length = read(file, text, 3);
  close(file);
  return length == 3 && std::strcmp(text, "EIO") == 0 ? Disk::kBroken : Disk::kStuck;
}

bool is_large(int file) {
  struct stat facts {};
  return fstat(file, &facts) == 0 && S_ISREG(facts.st_mode) && facts.st_size >= kLargeBytes;
}

}  // namespace

extern "C" ssize_t pread(int file, void* into, size_t bytes, off_t offset) {
  while (is_large(file)) {
    const Disk state = disk();
    if (state == Disk::kWell) break;
    if (state == Disk::kBroken) {
      errno = EIO;
      return -1;
    }
    (void)poll(nullptr, 0, 5);  // Milliseconds, until it is looked again.
  }
  return syscall(SYS_pread64, file, into, bytes, offset);
}

extern "C" ssize_t pread64(int file, void* into, size_t bytes, off_t offset) {
  return pread(file, into, bytes, offset);
}
