#include "platform/new_folder.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

namespace mlxf::platform {
namespace {

Error system_error(const std::string& path, const char* what, int number) {
  const ErrorCode code = number == ENOENT || number == ENOTDIR ? ErrorCode::kNotFound : ErrorCode::kIo;
  return {code, path + ": " + what + ": " + std::strerror(number)};
}

bool exists(const std::string& path) {
  struct stat status {};
  return ::lstat(path.c_str(), &status) == 0;
}

Error exists_error(const std::string& path) {
  return {ErrorCode::kInvalidArgument, path + ": exists already and is not overwritten; choose another name"};
}

std::vector<std::string> entries_of(const std::string& folder) {
  std::vector<std::string> names;
  DIR* stream = ::opendir(folder.c_str());
  if (stream == nullptr) return names;
  while (const dirent* entry = ::readdir(stream)) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(name);
  }
  ::closedir(stream);
  return names;
}

}  // namespace

NewFolder::NewFolder(std::string path, std::string temporary)
    : path_(std::move(path)), temporary_(std::move(temporary)) {}

NewFolder::NewFolder(NewFolder&& other) noexcept
    : path_(std::move(other.path_)), temporary_(std::exchange(other.temporary_, std::string())) {}

NewFolder& NewFolder::operator=(NewFolder&& other) noexcept {
  if (this != &other) {
    discard();
    path_ = std::move(other.path_);
    temporary_ = std::exchange(other.temporary_, std::string());
  }
  return *this;
}

NewFolder::~NewFolder() { discard(); }

void NewFolder::discard() {
  if (temporary_.empty()) return;
  for (const std::string& name : entries_of(temporary_)) ::unlink(file(name).c_str());
  ::rmdir(temporary_.c_str());
  temporary_.clear();
}

Result<NewFolder> NewFolder::create(const std::string& path) {
  std::string clean = path;
  while (clean.size() > 1 && clean.back() == '/') clean.pop_back();
  if (clean.empty()) return fail(ErrorCode::kInvalidArgument, "the output folder has no name");
  if (exists(clean)) return tl::unexpected<Error>(exists_error(clean));
  std::string temporary = clean + ".part-XXXXXX";
  if (::mkdtemp(temporary.data()) == nullptr)
    return tl::unexpected<Error>(system_error(clean, "cannot create a folder beside it", errno));
  ::chmod(temporary.c_str(), 0755);  // mkdtemp() makes private folders.
  return NewFolder(std::move(clean), std::move(temporary));
}

Status NewFolder::write_file(const std::string& name, const std::string& text) const {
  ASSIGN_OR_RETURN(NewFile out, NewFile::create(file(name), Overwrite::kRefuse));
  RETURN_IF_ERROR(out.append({reinterpret_cast<const uint8_t*>(text.data()), text.size()}));
  return out.commit();
}

Status NewFolder::commit() {
  if (temporary_.empty()) return fail(ErrorCode::kInternal, path_ + ": finished twice");
  // rename() would replace an empty folder, which somebody else made meanwhile.
  if (exists(path_)) return tl::unexpected<Error>(exists_error(path_));
  if (::rename(temporary_.c_str(), path_.c_str()) != 0)
    return tl::unexpected<Error>(system_error(path_, "cannot rename into place", errno));
  temporary_.clear();
  return flush_folder_of(path_);
}

Status make_folder(const std::string& path, Readers readers) {
  struct stat status {};
  const auto is_there = [&] { return ::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode); };
  if (is_there()) return {};
  if (::mkdir(path.c_str(), readers == Readers::kOwner ? 0700 : 0777) == 0) return flush_folder_of(path);
  const int number = errno;
  if (number == EEXIST && is_there()) return {};  // Another program was faster.
  return tl::unexpected<Error>(system_error(path, "cannot make the folder", number));
}

Status make_folders(const std::string& path, Readers readers) {
  const std::string clean = path.substr(0, path.find_last_not_of('/') + 1);
  for (size_t end = clean.find('/', 1); end != std::string::npos; end = clean.find('/', end + 1))
    RETURN_IF_ERROR(make_folder(clean.substr(0, end), Readers::kEverybody));
  return make_folder(clean.empty() ? path : clean, readers);
}

}  // namespace mlxf::platform
