#include "hub/pull.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <optional>
#include <set>
#include <utility>

#include "base/json.h"
#include "formats/name_text.h"
#include "hub/http_client.h"
#include "hub/partial_file.h"
#include "hub/repository.h"
#include "platform/file.h"

namespace mlxf::hub {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kDescriptionBytesMax = uint64_t{32} << 20;
constexpr uint64_t kSpareBytes = uint64_t{64} << 20;  // Left free on the disk.
constexpr uint64_t kTokenBytesMax = 4096;
constexpr const char* kRecordName = ".mlx-flash.json";
constexpr const char* kLockName = ".lock";

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// Held until it is destroyed.
class Lock {
 public:
  static Result<Lock> take(const std::string& path) {
    const int descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (descriptor < 0) return fail(ErrorCode::kIo, path + ": cannot open: " + std::strerror(errno));
    Lock lock(descriptor);
    if (::flock(descriptor, LOCK_EX | LOCK_NB) != 0)
      return fail(ErrorCode::kUnavailable, "another mlx-flash is pulling this model");
    return lock;
  }
  Lock(Lock&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  Lock& operator=(Lock&&) = delete;
  ~Lock() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }

 private:
  explicit Lock(int descriptor) : descriptor_(descriptor) {}
  int descriptor_;
};

std::string escaped(const std::string& path) {
  constexpr const char* kDigits = "0123456789ABCDEF";
  std::string text;
  for (const char c : path) {
    const auto byte = static_cast<unsigned char>(c);
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
        std::strchr("/._-~", c) != nullptr) {
      text += c;
    } else {
      text += '%';
      text += kDigits[byte >> 4];
      text += kDigits[byte & 15];
    }
  }
  return text;
}

// One model on its way.
class Pull {
 public:
  Pull(const ModelName& name, const PullOptions& options, HttpClient& client)
      : name_(name), options_(options), client_(client) {}
  Result<PullReport> run();

 private:
  Status choose();
  Result<bool> is_there() const;
  Status check_space() const;
  Status get_file(const RemoteFile& file);
  Status complete();
  [[nodiscard]] std::string local(const RemoteFile& file) const { return partial_ + "/" + file.local_name(); }
  void tell(uint64_t done) const {
    if (options_.progress) options_.progress(done, selection_.bytes());
  }

  const ModelName& name_;
  const PullOptions& options_;
  HttpClient& client_;
  Repository repository_;
  Selection selection_;
  std::string folder_, partial_;
  uint64_t done_ = 0;
};

// Finds out what to get, and where it goes.
Status Pull::choose() {
  const std::string revision = name_.revision.empty() ? "main" : name_.revision;
  ASSIGN_OR_RETURN(const std::string description,
                   client_.get("/api/models/" + name_.name + "/revision/" + revision + "?blobs=true",
                               kDescriptionBytesMax));
  ASSIGN_OR_RETURN(repository_, parse_repository(description));
  auto selection = select_files(repository_, name_.variant);
  if (!selection) return tl::unexpected<Error>(selection.error().within(name_.name));
  selection_ = std::move(*selection);
  std::set<std::string> names;
  for (const RemoteFile& file : selection_.files)
    if (!names.insert(file.local_name()).second)
      return fail(ErrorCode::kUnsupported,
                  name_.name + ": has two files named " + formats::quoted_name(file.local_name()));
  if (!selection_.choices.empty() && options_.note) {
    std::string others;
    for (const std::string& choice : selection_.choices)
      others.append(others.empty() ? "" : ", ").append(choice);
    options_.note("taking " + selection_.variant + "; there are also: " + others + " (" + name_.name +
                  ":QUANT)");
  }
  const std::string made = selection_.variant.empty() ? revision : revision + "~" + selection_.variant;
  folder_ = (fs::path(options_.models) / name_.name / made).string();
  std::string flat = name_.name;
  std::replace(flat.begin(), flat.end(), '/', '~');
  flat.append("~").append(repository_.commit).append("~").append(made);
  partial_ = (fs::path(options_.models) / ".partial" / flat).string();
  return {};
}

Result<bool> Pull::is_there() const {
  std::error_code error;
  if (!fs::exists(fs::symlink_status(folder_, error))) return false;
  const auto text = platform::read_whole_file((fs::path(folder_) / kRecordName).string(), kTokenBytesMax);
  const auto record = text ? parse_json(*text) : tl::unexpected<Error>(text.error());
  if (record && find_string(*record, "commit").value_or("") == repository_.commit) return true;
  return fail(ErrorCode::kInvalidArgument,
              folder_ + ": holds another state of this model than the server's " +
                  repository_.commit.substr(0, 12) + "; remove it (mlx-flash rm), then pull again");
}

Status Pull::check_space() const {
  uint64_t there = 0;
  std::error_code error;
  for (const RemoteFile& file : selection_.files) {
    uint64_t bytes = fs::file_size(local(file), error);
    if (error) bytes = fs::file_size(local(file) + ".partial", error);
    if (!error) there += std::min(bytes, file.bytes);
  }
  const uint64_t needed = selection_.bytes() - there;
  const fs::space_info space = fs::space(partial_, error);
  if (error || space.available >= needed + kSpareBytes) return {};
  return fail(ErrorCode::kIo,
              partial_ + ": the disk has " + std::to_string(space.available >> 20) + " MiB free, and " +
                  std::to_string((needed + kSpareBytes) >> 20) +
                  " MiB are needed; make room, or set MLX_FLASH_MODELS to a folder elsewhere");
}

Status Pull::get_file(const RemoteFile& file) {
  const std::string path = local(file);
  std::error_code error;
  const fs::file_status status = fs::symlink_status(path, error);
  // A file under its own name was checked.
  if (!fs::is_regular_file(status) || fs::file_size(path, error) != file.bytes) {
    ASSIGN_OR_RETURN(PartialFile partial, PartialFile::open(path, file));
    RETURN_IF_ERROR(
        client_.download("/" + name_.name + "/resolve/" + repository_.commit + "/" + escaped(file.path),
                         partial, [&] { tell(done_ + partial.size()); }));
    RETURN_IF_ERROR(partial.finish());
  }
  done_ += file.bytes;
  tell(done_);
  return {};
}

// Gives the folder its name.
Status Pull::complete() {
  const std::string text =
      dump_json(
          Json{{"repository", name_.name}, {"endpoint", options_.endpoint}, {"commit", repository_.commit}}) +
      "\n";
  ASSIGN_OR_RETURN(platform::NewFile record,
                   platform::NewFile::create(partial_ + "/" + kRecordName, platform::Overwrite::kReplace));
  RETURN_IF_ERROR(record.append({reinterpret_cast<const uint8_t*>(text.data()), text.size()}));
  RETURN_IF_ERROR(record.commit());
  std::error_code error;
  fs::create_directories(fs::path(folder_).parent_path(), error);
  if (!error) fs::rename(partial_, folder_, error);
  if (error) return fail(ErrorCode::kIo, folder_ + ": cannot be made: " + error.message());
  fs::remove(fs::path(folder_) / kLockName, error);
  return {};
}

Result<PullReport> Pull::run() {
  RETURN_IF_ERROR(choose());
  PullReport report;
  report.folder = folder_;
  report.bytes = selection_.bytes();
  report.title = name_.name;
  if (!selection_.variant.empty()) report.title.append(":").append(selection_.variant);
  if (!name_.revision.empty() && name_.revision != "main") report.title.append("@").append(name_.revision);
  ASSIGN_OR_RETURN(report.was_there, is_there());
  if (report.was_there) return report;
  std::error_code error;
  fs::create_directories(partial_, error);
  if (error) return fail(ErrorCode::kIo, partial_ + ": cannot make the folder: " + error.message());
  ASSIGN_OR_RETURN(const Lock lock, Lock::take(partial_ + "/" + kLockName));
  RETURN_IF_ERROR(check_space());
  for (const RemoteFile& file : selection_.files) {
    const Status status = get_file(file);
    const bool resumable = !status && (status.error().code == ErrorCode::kUnavailable ||
                                       status.error().code == ErrorCode::kCancelled);
    if (resumable)
      return fail(
          status.error().code,
          status.error().message + "; what has arrived is kept, and the same command goes on from there");
    RETURN_IF_ERROR(status);
  }
  RETURN_IF_ERROR(complete());
  return report;
}

}  // namespace

std::string endpoint_from_environment() {
  const std::string set = environment("HF_ENDPOINT");
  return set.empty() ? "https://huggingface.co" : set;
}

Result<std::string> token_from_environment() {
  std::string token = environment("HF_TOKEN");
  if (token.empty()) {
    std::string path = environment("HF_TOKEN_PATH"), home = environment("HF_HOME");
    if (home.empty()) home = environment("HOME") + "/.cache/huggingface";
    if (path.empty()) path = home + "/token";
    std::error_code error;
    if (!fs::exists(path, error)) return std::string();
    ASSIGN_OR_RETURN(token, platform::read_whole_file(path, kTokenBytesMax));
  }
  const auto is_blank = [](char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; };
  while (!token.empty() && is_blank(token.back())) token.pop_back();
  while (!token.empty() && is_blank(token.front())) token.erase(0, 1);
  return token;
}

Result<PullReport> pull(const ModelName& name, const PullOptions& options) {
  if (name.name.find('/') == std::string::npos || name.name.find('/') != name.name.rfind('/'))
    return fail(ErrorCode::kInvalidArgument, "pull needs ORG/NAME, not " + formats::quoted_name(name.name));
  if (!name.source.empty() && name.source != "hf")
    return fail(ErrorCode::kInvalidArgument,
                "models are pulled from Hugging Face-compatible servers alone, not " +
                    formats::quoted_name(name.source));
  ASSIGN_OR_RETURN(const auto client, HttpClient::make({options.endpoint, options.token, options.cancelled}));
  return Pull(name, options, *client).run();
}

}  // namespace mlxf::hub
