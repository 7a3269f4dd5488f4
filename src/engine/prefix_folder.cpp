#include "engine/prefix_folder.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <system_error>
#include <utility>

#include "base/check.h"
#include "engine/prefix_shelf.h"
#include "platform/new_folder.h"
#include "platform/random_bytes.h"

namespace mlxf::engine {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSuffix = ".prefix";
constexpr const char* kModelSuffix = ".model";
constexpr size_t kNumberDigits = 16;
constexpr size_t kSaltBytes = 32;
constexpr uint64_t kTimedBytesMin = uint64_t{4} << 20;  // A shorter read says little about the disk.

// The number in "0123456789abcdef.prefix", say, which may be followed by `rest`.
std::optional<uint64_t> number_in(const std::string& name, const char* suffix, std::string_view rest) {
  const std::string end = suffix + std::string(rest);
  if (name.size() < kNumberDigits + end.size() || name.compare(kNumberDigits, end.size(), end) != 0 ||
      (rest.empty() && name.size() != kNumberDigits + end.size()))
    return std::nullopt;
  uint64_t number = 0;
  for (size_t i = 0; i < kNumberDigits; ++i) {
    const char c = name[i];
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (digit < 0) return std::nullopt;
    number = number << 4 | static_cast<uint64_t>(digit);
  }
  return number;
}

std::string named(uint64_t number, const char* suffix) {
  char name[kNumberDigits + 1];
  std::snprintf(name, sizeof name, "%016llx", static_cast<unsigned long long>(number));
  return std::string(name) + suffix;
}

// A model's folder: FNV-1a of what it is called. The files say it in full, and are asked: two models in one folder
// would do no harm.
std::string place_of(const std::string& model) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : model) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  return named(hash, kModelSuffix);
}

}  // namespace

PrefixFolder::PrefixFolder(PrefixFolderOptions options, platform::FolderLock lock, ContentsReader reader)
    : options_(std::move(options)), lock_(std::move(lock)), reader_(std::move(reader)) {}

PrefixFolder::~PrefixFolder() {
  {
    const MutexLock lock(mutex_);
    CHECK(sides_.empty());
    closing_ = true;
  }
  work_.notify_all();
  if (thread_.joinable()) thread_.join();
}

Result<std::unique_ptr<PrefixFolder>> PrefixFolder::open(PrefixFolderOptions options) {
  // It tells what was said.
  RETURN_IF_ERROR(platform::make_folders(options.path, platform::Readers::kOwner));
  ASSIGN_OR_RETURN(platform::FolderLock lock, platform::FolderLock::take(options.path));
  ASSIGN_OR_RETURN(ContentsReader reader, ContentsReader::make(options.io));
  std::unique_ptr<PrefixFolder> folder(
      new PrefixFolder(std::move(options), std::move(lock), std::move(reader)));
  RETURN_IF_ERROR(folder->load_salt());
  RETURN_IF_ERROR(folder->scan());
  folder->thread_ = std::thread([f = folder.get()] { f->run(); });
  return folder;
}

// Without the salt of before, prefixes of before are nobody's.
Status PrefixFolder::load_salt() {
  const std::string path = options_.path + "/salt";
  if (const auto text = platform::read_whole_file(path, kSaltBytes); text && text->size() == kSaltBytes) {
    salt_.assign(text->begin(), text->end());
    return {};
  }
  salt_.resize(kSaltBytes);
  RETURN_IF_ERROR(platform::fill_random(salt_));
  ASSIGN_OR_RETURN(platform::NewFile file,
                   platform::NewFile::create(path, platform::Overwrite::kReplace, platform::Readers::kOwner));
  RETURN_IF_ERROR(file.append(salt_));
  return file.commit();
}

Status PrefixFolder::scan() {
  std::vector<std::string> models;
  RETURN_IF_ERROR(scan_folder(options_.path, models));
  for (size_t i = 0, count = models.size(); i < count; ++i)  // Those within are nobody's.
    RETURN_IF_ERROR(scan_folder(models[i], models));
  (void)make_room(0, FileTime::max());
  std::error_code ignored;
  for (const std::string& model : models) fs::remove(model, ignored);  // Those that are empty.
  return {};
}

Status PrefixFolder::scan_folder(const std::string& folder, std::vector<std::string>& models) {
  std::error_code code;
  std::vector<std::string> names;
  for (fs::directory_iterator it(folder, code), end; !code && it != end; it.increment(code)) {
    const std::string name = it->path().filename();
    if (const auto number = number_in(name, kSuffix, "")) {  // Whatever it is, its name is taken.
      const MutexLock lock(mutex_);
      next_name_ = std::max(next_name_, *number + 1);
    }
    std::error_code ignored;
    const fs::file_status status = it->symlink_status(ignored);
    if (fs::is_regular_file(status)) names.push_back(name);
    if (fs::is_directory(status) && number_in(name, kModelSuffix, "")) models.push_back(it->path());
  }
  if (code) return fail(ErrorCode::kIo, folder + ": cannot list the folder: " + code.message());
  for (const std::string& name : names) {
    const std::string path = folder + "/" + name;
    if (number_in(name, kSuffix, platform::kPartSuffix) ||
        name.rfind("salt" + std::string(platform::kPartSuffix), 0) == 0) {
      fs::remove(path, code);  // Whoever wrote it was ended.
    } else if (number_in(name, kSuffix, "")) {
      find_file(path);
    }
  }
  return {};
}

void PrefixFolder::find_file(const std::string& path) {
  const auto read = [&]() -> Result<File> {
    ASSIGN_OR_RETURN(const platform::File opened, platform::File::open(path));
    ASSIGN_OR_RETURN(PrefixHead head, read_head(opened));
    std::error_code ignored;
    return File{0, path, std::move(head), opened.size(), fs::last_write_time(path, ignored), 0};
  };
  Result<File> file = read();
  if (file) {
    const MutexLock lock(mutex_);
    file->id = next_id_++;
    stats_.bytes += file->bytes;
    files_.push_back(std::move(*file));
    return;
  }
  // What cannot be read now may be whole.
  if (file.error().code == ErrorCode::kCorrupt) return reject_file(path, file.error());
  tell("the kept prefix " + path + " is not used: " + file.error().message);
}

PrefixFolderStats PrefixFolder::stats() const {
  const MutexLock lock(mutex_);
  PrefixFolderStats stats = stats_;
  stats.entries = files_.size();
  return stats;
}

bool PrefixFolder::busy() const {
  const MutexLock lock(mutex_);
  return !sides_.empty();
}

PrefixFolder::File* PrefixFolder::file_of(uint64_t id) {
  const auto file = std::find_if(files_.begin(), files_.end(), [&](const File& f) { return f.id == id; });
  return file != files_.end() ? &*file : nullptr;
}

std::unique_ptr<PrefixShelf> PrefixFolder::attach(const Result<std::string>& model, kv::Words geometry,
                                                  std::function<void()> wake) {
  if (!model) {
    tell("prefixes of this model are not kept on the disk: " + model.error().message);
    return nullptr;
  }
  auto side = std::make_unique<Side>();
  side->maker = options_.program + "; " + *model;
  side->geometry = std::move(geometry);
  side->place = place_of(*model);
  side->wake = std::move(wake);
  std::unique_ptr<PrefixShelf> shelf(new PrefixShelf(*this, *side));
  const MutexLock lock(mutex_);
  sides_.push_back(std::move(side));
  return shelf;
}

void PrefixFolder::detach(Side& side) {
  std::unique_ptr<Side> gone;  // With what ended: destroyed under no lock.
  const MutexLock lock(mutex_);
  while (side.under_way != 0) idle_.wait(mutex_);
  const auto place =
      std::find_if(sides_.begin(), sides_.end(), [&](const auto& one) { return one.get() == &side; });
  gone = std::move(*place);
  sides_.erase(place);
}

void PrefixFolder::add_job(std::unique_ptr<Job> job) {
  {
    const MutexLock lock(mutex_);
    ++job->side->under_way;
    auto place = queue_.end();
    if (!job->writes)
      place = std::find_if(queue_.begin(), queue_.end(), [](const auto& other) { return other->writes; });
    queue_.insert(place, std::move(job));
  }
  work_.notify_one();
}

void PrefixFolder::run() {
  for (;;) {
    std::unique_ptr<Job> job;
    {
      const MutexLock lock(mutex_);
      while (queue_.empty() && !closing_) work_.wait(mutex_);
      if (queue_.empty()) return;
      job = std::move(queue_.front());
      queue_.pop_front();
    }
    run_job(std::move(job));
  }
}

void PrefixFolder::run_job(std::unique_ptr<Job> job) {
  if (job->writes) {
    run_write(*job);
  } else {
    run_read(*job);
  }
  Side& side = *job->side;
  {
    const MutexLock lock(mutex_);
    side.ended.push_back(std::move(job));
  }
  side.wake();  // Before detach() may return.
  const MutexLock lock(mutex_);
  if (--side.under_way == 0) idle_.notify_all();
}

std::unique_ptr<PrefixFolder::Job> PrefixFolder::next_read() {
  const MutexLock lock(mutex_);
  if (queue_.empty() || queue_.front()->writes) return nullptr;
  std::unique_ptr<Job> job = std::move(queue_.front());
  queue_.pop_front();
  return job;
}

Status PrefixFolder::write_file(const Job& job) {
  const std::string folder = options_.path + "/" + job.side->place;
  RETURN_IF_ERROR(platform::make_folder(folder, platform::Readers::kOwner));
  ASSIGN_OR_RETURN(platform::NewFile file, platform::NewFile::create(job.path, platform::Overwrite::kReplace,
                                                                     platform::Readers::kOwner));
  std::function<bool()> goes_on;
  if (job.behind)
    goes_on = [&] {
      while (std::unique_ptr<Job> read = next_read()) run_job(std::move(read));  // Somebody waits for it.
      return !job.side->behind_unwanted;
    };
  RETURN_IF_ERROR(write_prefix(file, job.head, job.contents, goes_on));
  if (job.behind) job.side->behind_read = true;
  return file.commit();
}

void PrefixFolder::run_write(Job& job) {
  {
    const MutexLock lock(mutex_);
    if (stats_.off || stats_.writes_off) return;
  }
  const uint64_t bytes = prefix_file_bytes(job.head);
  if (!make_room(bytes, job.used)) return;  // All that is there was needed later than this one.
  if (const Status written = write_file(job); !written) {
    if (written.error().code == ErrorCode::kCancelled) return;
    {
      const MutexLock lock(mutex_);
      stats_.writes_off = true;
    }
    return tell("kept prefixes are no longer written, until the server starts again: " +
                written.error().message);
  }
  set_used(job.path, job.used);
  job.done = true;
  std::vector<uint64_t> replaced;  // What is there now holds all of them.
  {
    const MutexLock lock(mutex_);
    for (const File& file : files_)
      if (job.side->made(file.head) && file.readers == 0 && file.head.scope == job.head.scope &&
          common_tokens(file.head.tokens, job.head.tokens) == file.head.tokens.size())
        replaced.push_back(file.id);
    files_.push_back({job.file, job.path, job.head, bytes, job.used, 0});
    stats_.bytes += bytes;
    ++stats_.writes;
  }
  for (const uint64_t id : replaced) forget(id);
}

Status PrefixFolder::read_file(const Job& job) {
  ASSIGN_OR_RETURN(const platform::File file, platform::File::open(job.path));
  ASSIGN_OR_RETURN(const PrefixHead head, read_head(file));
  if (head != job.head) return fail(ErrorCode::kCorrupt, "it is not the one that was found here");
  return reader_.read(file, head, job.contents, job.untouched);
}

void PrefixFolder::run_read(Job& job) {
  {
    const MutexLock lock(mutex_);
    if (file_of(job.file) == nullptr) return;  // It left meanwhile.
  }
  const auto start = std::chrono::steady_clock::now();
  const Status read = read_file(job);
  // The pages will be others': nothing in them may be infinite.
  if (!read)
    for (const std::span<uint8_t> part : job.contents) std::fill(part.begin(), part.end(), uint8_t{0});
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const FileTime now = FileTime::clock::now();
  {
    const MutexLock lock(mutex_);
    if (File* file = file_of(job.file)) {
      --file->readers;
      file->used = std::max(file->used, now);
    }
    if (read) ++stats_.hits;
    if (read && job.head.payload_bytes >= kTimedBytesMin && seconds > 0.0)
      read_bytes_s_ = static_cast<double>(job.head.payload_bytes) / seconds;
    if (!read && read.error().code == ErrorCode::kIo) stats_.off = true;
  }
  if (read) {
    job.done = true;
    set_used(job.path, now);
  } else if (read.error().code == ErrorCode::kIo) {
    tell("kept prefixes are no longer read or written, until the server starts again: " +
         read.error().message);
  } else if (read.error().code == ErrorCode::kCorrupt || read.error().code == ErrorCode::kNotFound) {
    reject(job.file, read.error());
  } else {  // What cannot be read now may be whole.
    tell("a kept prefix could not be read this time: " + read.error().message);
  }
}

bool PrefixFolder::make_room(uint64_t bytes, FileTime used) {
  for (;;) {
    std::optional<uint64_t> oldest;
    {
      const MutexLock lock(mutex_);
      if (stats_.bytes + bytes <= options_.bytes_max && files_.size() < kEntriesMax) return true;
      FileTime before = used;
      for (const File& file : files_)
        if (file.readers == 0 && file.used < before) {
          oldest = file.id;
          before = file.used;
        }
    }
    if (!oldest) return false;
    forget(*oldest);
  }
}

void PrefixFolder::forget(uint64_t id) {
  std::string path;
  {
    const MutexLock lock(mutex_);
    const auto file = std::find_if(files_.begin(), files_.end(), [&](const File& f) { return f.id == id; });
    if (file == files_.end()) return;
    stats_.bytes -= file->bytes;
    path = std::move(file->path);
    files_.erase(file);
  }
  std::error_code ignored;
  fs::remove(path, ignored);
}

void PrefixFolder::reject(uint64_t id, const Error& why) {
  std::string path;
  {
    const MutexLock lock(mutex_);
    const File* file = file_of(id);
    if (file == nullptr) return;
    path = file->path;
  }
  forget(id);
  reject_file(path, why);
}

void PrefixFolder::reject_file(const std::string& path, const Error& why) {
  {
    const MutexLock lock(mutex_);
    ++stats_.rejected;
  }
  std::error_code ignored;
  fs::remove(path, ignored);
  tell("removed the kept prefix " + path + ", which is not used: " + why.message);
}

// Its last use; a file system that keeps no such times makes the order of leaving another one.
void PrefixFolder::set_used(const std::string& path, FileTime used) {
  std::error_code ignored;
  fs::last_write_time(path, used, ignored);
}

void PrefixFolder::name(Job& job) {
  const MutexLock lock(mutex_);
  job.file = next_id_++;
  job.path = options_.path + "/" + job.side->place + "/" + named(next_name_++, kSuffix);
}

void PrefixFolder::tell(const std::string& line) const {
  if (options_.log) options_.log(line);
}

}  // namespace mlxf::engine
