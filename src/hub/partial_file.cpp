#include "hub/partial_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>
#include <vector>

#include "platform/file.h"

namespace mlxf::hub {
namespace {

constexpr size_t kBlockBytes = size_t{1} << 20;

Digest digest_for(const RemoteFile& file) {
  return file.sha256.empty() ? Digest::git_blob(file.bytes) : Digest::sha256();
}

tl::unexpected<Error> system_error(const std::string& path, const char* what) {
  return fail(ErrorCode::kIo, path + ": " + what + ": " + std::strerror(errno));
}

}  // namespace

PartialFile::PartialFile(std::string path, const RemoteFile& file, int descriptor)
    : path_(std::move(path)), file_(file), descriptor_(descriptor), digest_(digest_for(file)) {}

PartialFile::PartialFile(PartialFile&& other) noexcept
    : path_(std::move(other.path_)),
      file_(std::move(other.file_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      size_(other.size_),
      digest_(std::move(other.digest_)) {}

PartialFile::~PartialFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

Result<PartialFile> PartialFile::open(const std::string& path, const RemoteFile& file) {
  const std::string partial = path + ".partial";
  const int descriptor =
      ::open(partial.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0644);
  if (descriptor < 0) return system_error(partial, "cannot open");
  PartialFile made(path, file, descriptor);
  struct stat status {};
  if (::fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode))
    return fail(ErrorCode::kIo, partial + ": is not a regular file");
  const auto there = static_cast<uint64_t>(status.st_size);
  if (there > file.bytes) {
    RETURN_IF_ERROR(made.restart());
  } else {
    RETURN_IF_ERROR(made.read_back(there));
  }
  return made;
}

Status PartialFile::read_back(uint64_t bytes) {
  std::vector<uint8_t> block(std::min<uint64_t>(bytes, kBlockBytes));
  while (size_ < bytes) {
    const size_t wanted = std::min<uint64_t>(block.size(), bytes - size_);
    const ssize_t got = ::pread(descriptor_, block.data(), wanted, static_cast<off_t>(size_));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return system_error(path_ + ".partial", "cannot read");
    digest_.add({block.data(), static_cast<size_t>(got)});
    size_ += static_cast<uint64_t>(got);
  }
  return {};
}

Status PartialFile::append(std::span<const uint8_t> bytes) {
  if (bytes.size() > file_.bytes - size_) {
    RETURN_IF_ERROR(restart());  // The rest cannot be trusted either.
    return fail(ErrorCode::kCorrupt,
                file_.path + ": the server sends more than its " + std::to_string(file_.bytes) + " bytes");
  }
  while (!bytes.empty()) {
    const ssize_t put = ::pwrite(descriptor_, bytes.data(), bytes.size(), static_cast<off_t>(size_));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return system_error(path_ + ".partial", "cannot write");
    digest_.add(bytes.subspan(0, static_cast<size_t>(put)));
    bytes = bytes.subspan(static_cast<size_t>(put));
    size_ += static_cast<uint64_t>(put);
  }
  return {};
}

Status PartialFile::restart() {
  if (::ftruncate(descriptor_, 0) != 0) return system_error(path_ + ".partial", "cannot truncate");
  size_ = 0;
  digest_ = digest_for(file_);
  return {};
}

Status PartialFile::finish() {
  const std::string partial = path_ + ".partial";
  const std::string& expected = file_.sha256.empty() ? file_.git_sha1 : file_.sha256;
  if (size_ != file_.bytes || digest_.finish() != expected) {
    ::unlink(partial.c_str());
    return fail(ErrorCode::kCorrupt,
                file_.path +
                    ": what arrived is not what the repository lists (wrong checksum); it "
                    "was deleted, and pulling again gets it anew");
  }
  if (::fsync(descriptor_) != 0) return system_error(partial, "cannot flush to the disk");
  if (::rename(partial.c_str(), path_.c_str()) != 0) return system_error(path_, "cannot rename into place");
  return {};
}

}  // namespace mlxf::hub
