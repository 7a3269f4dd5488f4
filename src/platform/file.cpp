#include "platform/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

namespace mlxf::platform {
namespace {

// Linux transfers at most 0x7ffff000 bytes a call; asking for less keeps the loop the same everywhere.
constexpr size_t kTransferBytesMax = size_t{1} << 30;

Error system_error(const std::string& path, const char* what, int number) {
  const ErrorCode code = number == ENOENT || number == ENOTDIR ? ErrorCode::kNotFound : ErrorCode::kIo;
  return {code, path + ": " + what + ": " + std::strerror(number)};
}

const char* kind_of(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISCHR(mode) || S_ISBLK(mode)) return "a device";
  if (S_ISSOCK(mode)) return "a socket";
  return "not a regular file";
}

FileIdentity identity_of(const struct stat& status) {
#ifdef __APPLE__
  const timespec& modified = status.st_mtimespec;
  const timespec& changed = status.st_ctimespec;
#else
  const timespec& modified = status.st_mtim;
  const timespec& changed = status.st_ctim;
#endif
  const auto nanoseconds = [](const timespec& time) {
    return static_cast<int64_t>(time.tv_sec) * 1'000'000'000 + time.tv_nsec;
  };
  return {static_cast<uint64_t>(status.st_dev), static_cast<uint64_t>(status.st_ino),
          static_cast<uint64_t>(status.st_size), nanoseconds(modified), nanoseconds(changed)};
}

void close_if_open(int descriptor) {
  if (descriptor >= 0) ::close(descriptor);
}

}  // namespace

Status flush_folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, std::max<size_t>(slash, 1));
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECTORY);
  if (descriptor < 0) return {};  // One that may be written to and not be read.
  const int number = ::fsync(descriptor) == 0 ? 0 : errno;
  ::close(descriptor);
  if (number != EIO) return {};
  return tl::unexpected<Error>(system_error(folder, "cannot flush to the disk", number));
}

File::File(std::string path, int descriptor, const FileIdentity& identity)
    : path_(std::move(path)), descriptor_(descriptor), identity_(identity) {}

File::File(File&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      identity_(other.identity_) {}

File& File::operator=(File&& other) noexcept {
  if (this != &other) {
    close_if_open(descriptor_);
    path_ = std::move(other.path_);
    descriptor_ = std::exchange(other.descriptor_, -1);
    identity_ = other.identity_;
  }
  return *this;
}

File::~File() { close_if_open(descriptor_); }

Result<File> File::open(const std::string& path) {
  if (path.find('\0') != std::string::npos)
    return fail(ErrorCode::kInvalidArgument, "a path holds a NUL byte: " + path.substr(0, path.find('\0')));
  // O_NONBLOCK: opening a FIFO without a writer must return so that it can be refused. It has no effect on
  // regular files.
  int descriptor = -1;
  do {
    descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  } while (descriptor < 0 && errno == EINTR);
  if (descriptor < 0) return tl::unexpected<Error>(system_error(path, "cannot open", errno));
  struct stat status {};
  if (::fstat(descriptor, &status) != 0) {
    const int number = errno;
    ::close(descriptor);
    return tl::unexpected<Error>(system_error(path, "cannot stat", number));
  }
  if (!S_ISREG(status.st_mode)) {
    ::close(descriptor);
    return fail(ErrorCode::kInvalidArgument,
                path + ": is " + kind_of(status.st_mode) + "; a regular file is needed");
  }
  return File(path, descriptor, identity_of(status));
}

Status File::check_unchanged() const {
  const char* const remedy = " since it was opened; load the model again";
  struct stat opened {};
  if (::fstat(descriptor_, &opened) != 0)
    return tl::unexpected<Error>(system_error(path_, "cannot stat the open file", errno));
  const FileIdentity now = identity_of(opened);
  if (now.bytes != identity_.bytes)
    return fail(ErrorCode::kChanged, path_ + ": went from " + std::to_string(identity_.bytes) + " to " +
                                         std::to_string(now.bytes) + " bytes" + remedy);
  struct stat named {};
  if (::stat(path_.c_str(), &named) != 0)
    return fail(ErrorCode::kChanged,
                path_ + ": was removed or cannot be reached (" + std::strerror(errno) + ")" + remedy);
  const FileIdentity there = identity_of(named);
  if (there.device != identity_.device || there.inode != identity_.inode)
    return fail(ErrorCode::kChanged, path_ + ": was replaced by another file" + remedy);
  if (now != identity_) return fail(ErrorCode::kChanged, path_ + ": was written to" + remedy);
  return {};
}

Status File::read_exact(uint64_t offset, std::span<uint8_t> out) const {
  if (offset > static_cast<uint64_t>(INT64_MAX) || out.size() > static_cast<uint64_t>(INT64_MAX) - offset)
    return fail(ErrorCode::kInvalidArgument,
                path_ + ": a read at byte " + std::to_string(offset) + " is beyond what a file can hold");
  while (!out.empty()) {
    const size_t wanted = std::min(out.size(), kTransferBytesMax);
    const ssize_t got = ::pread(descriptor_, out.data(), wanted, static_cast<off_t>(offset));
    if (got < 0) {
      if (errno == EINTR || errno == EAGAIN) continue;
      return fail(ErrorCode::kIo, path_ + ": cannot read " + std::to_string(out.size()) + " bytes at byte " +
                                      std::to_string(offset) + ": " + std::strerror(errno));
    }
    if (got == 0)
      return fail(ErrorCode::kIo, path_ + ": ends at byte " + std::to_string(offset) + ", " +
                                      std::to_string(out.size()) + " bytes short of what was to be read");
    out = out.subspan(static_cast<size_t>(got));
    offset += static_cast<uint64_t>(got);
  }
  return {};
}

Result<std::string> read_whole_file(const std::string& path, uint64_t bytes_max) {
  ASSIGN_OR_RETURN(const File file, File::open(path));
  if (file.size() > bytes_max)
    return fail(ErrorCode::kInvalidArgument, path + ": is " + std::to_string(file.size()) +
                                                 " bytes, over the limit of " + std::to_string(bytes_max));
  std::string text(file.size(), '\0');
  RETURN_IF_ERROR(file.read_exact(0, {reinterpret_cast<uint8_t*>(text.data()), text.size()}));
  return text;
}

NewFile::NewFile(std::string path, std::string temporary, int descriptor, Overwrite overwrite)
    : path_(std::move(path)),
      temporary_(std::move(temporary)),
      descriptor_(descriptor),
      overwrite_(overwrite) {}

NewFile::NewFile(NewFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::exchange(other.temporary_, std::string())),
      descriptor_(std::exchange(other.descriptor_, -1)),
      overwrite_(other.overwrite_),
      size_(other.size_) {}

NewFile& NewFile::operator=(NewFile&& other) noexcept {
  if (this != &other) {
    discard();
    path_ = std::move(other.path_);
    temporary_ = std::exchange(other.temporary_, std::string());
    descriptor_ = std::exchange(other.descriptor_, -1);
    overwrite_ = other.overwrite_;
    size_ = other.size_;
  }
  return *this;
}

NewFile::~NewFile() { discard(); }

void NewFile::discard() {
  close_if_open(std::exchange(descriptor_, -1));
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
  temporary_.clear();
}

Result<NewFile> NewFile::create(const std::string& path, Overwrite overwrite, Readers readers) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) == 0) {
    if (overwrite == Overwrite::kRefuse)
      return fail(ErrorCode::kInvalidArgument, path + ": exists already and is not overwritten unless asked");
    if (S_ISDIR(status.st_mode)) return fail(ErrorCode::kInvalidArgument, path + ": is a directory");
  }
  std::string temporary = path + kPartSuffix + "XXXXXX";
  const int descriptor = ::mkstemp(temporary.data());
  if (descriptor < 0)
    return tl::unexpected<Error>(system_error(path, "cannot create a file beside it", errno));
  ::fcntl(descriptor, F_SETFD, FD_CLOEXEC);
  // mkstemp() makes files private; a model is as readable as the umask says. The umask can only be read by
  // setting it, which is not thread-safe, so the usual 0644 is assumed.
  if (readers == Readers::kEverybody) ::fchmod(descriptor, 0644);
  return NewFile(path, std::move(temporary), descriptor, overwrite);
}

Status NewFile::append(std::span<const uint8_t> bytes) {
  if (descriptor_ < 0)
    return fail(ErrorCode::kInternal, path_ + ": appended to after it was finished or failed");
  while (!bytes.empty()) {
    const ssize_t put = ::write(descriptor_, bytes.data(), std::min(bytes.size(), kTransferBytesMax));
    if (put < 0) {
      if (errno == EINTR) continue;
      const std::string reason = std::strerror(errno);
      discard();  // What reached the disk is unknown, so the file cannot be continued.
      return fail(ErrorCode::kIo, path_ + ": cannot write at byte " + std::to_string(size_) + ": " + reason);
    }
    bytes = bytes.subspan(static_cast<size_t>(put));
    size_ += static_cast<uint64_t>(put);
  }
  return {};
}

Status NewFile::append_hole(uint64_t bytes) {
  if (descriptor_ < 0)
    return fail(ErrorCode::kInternal, path_ + ": appended to after it was finished or failed");
  const auto end = static_cast<off_t>(size_ + bytes);
  if (::ftruncate(descriptor_, end) != 0 || ::lseek(descriptor_, end, SEEK_SET) != end) {
    const Error error = system_error(path_, "cannot be made longer", errno);
    discard();
    return tl::unexpected<Error>(error);
  }
  size_ += bytes;
  return {};
}

Status NewFile::commit() {
  if (descriptor_ < 0) return fail(ErrorCode::kInternal, path_ + ": finished twice, or after a failure");
  // Delayed allocation reports a full disk only here, so both results count.
  if (::fsync(descriptor_) != 0) {
    const Error error = system_error(path_, "cannot flush to the disk", errno);
    discard();
    return tl::unexpected<Error>(error);
  }
  if (::close(std::exchange(descriptor_, -1)) != 0) {
    const Error error = system_error(path_, "cannot close", errno);
    discard();
    return tl::unexpected<Error>(error);
  }
  if (overwrite_ == Overwrite::kRefuse) {
    // link() fails when the name exists, which rename() does not.
    if (::link(temporary_.c_str(), path_.c_str()) == 0) {
      discard();
      return flush_folder_of(path_);
    }
    const int number = errno;
    struct stat status {};
    if (number == EEXIST || ::lstat(path_.c_str(), &status) == 0) {
      discard();
      return fail(ErrorCode::kInvalidArgument, path_ + ": appeared while it was being written; it is kept");
    }
    // A file system without hard links: the check above is then all that can be done.
  }
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
    const Error error = system_error(path_, "cannot rename into place", errno);
    discard();
    return tl::unexpected<Error>(error);
  }
  temporary_.clear();
  return flush_folder_of(path_);
}

}  // namespace mlxf::platform
