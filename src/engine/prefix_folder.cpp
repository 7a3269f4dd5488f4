#include "engine/prefix_folder.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <system_error>
#include <utility>

#include "base/check.h"
#include "platform/random_bytes.h"

namespace mlxf::engine {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSuffix = ".prefix";
constexpr size_t kNumberDigits = 16;
constexpr size_t kSaltBytes = 32;
constexpr uint64_t kTimedBytesMin = uint64_t{4} << 20;  // A shorter read says little about the disk.
constexpr double kReadSeconds = 1e-3;                   // Of any read, however short.

// The number in "0123456789abcdef.prefix", which may be followed by `rest`.
std::optional<uint64_t> number_in(const std::string& name, std::string_view rest) {
  const std::string end = kSuffix + std::string(rest);
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

uint32_t common_tokens(std::span<const TokenId> a, std::span<const TokenId> b) {
  return static_cast<uint32_t>(std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin());
}

// Its last use; a file system that keeps no such times makes the order of leaving another one.
void set_used(const std::string& path, FileTime used) {
  std::error_code ignored;
  fs::last_write_time(path, used, ignored);
}

}  // namespace

PrefixFolder::PrefixFolder(PrefixFolderOptions options, platform::FolderLock lock, ContentsReader reader)
    : options_(std::move(options)), lock_(std::move(lock)), reader_(std::move(reader)) {}

PrefixFolder::~PrefixFolder() {
  {
    const MutexLock lock(mutex_);
    CHECK(maker_.empty());
    closing_ = true;
  }
  work_.notify_all();
  if (thread_.joinable()) thread_.join();
}

Result<std::unique_ptr<PrefixFolder>> PrefixFolder::open(PrefixFolderOptions options) {
  std::error_code code;
  if (fs::create_directories(options.path, code) && !code)
    fs::permissions(options.path, fs::perms::owner_all, code);  // It tells what was said.
  if (code) return fail(ErrorCode::kIo, options.path + ": cannot make the folder: " + code.message());
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
  std::error_code code;
  std::vector<std::string> names;
  for (fs::directory_iterator it(options_.path, code), end; !code && it != end; it.increment(code)) {
    const std::string name = it->path().filename();
    if (const auto number = number_in(name, "")) {  // Whatever it is, its name is taken.
      const MutexLock lock(mutex_);
      next_number_ = std::max(next_number_, *number + 1);
    }
    if (std::error_code ignored; fs::is_regular_file(it->symlink_status(ignored))) names.push_back(name);
  }
  if (code) return fail(ErrorCode::kIo, options_.path + ": cannot list the folder: " + code.message());
  for (const std::string& name : names) {
    const std::string path = options_.path + "/" + name;
    if (number_in(name, platform::kPartSuffix) ||
        name.rfind("salt" + std::string(platform::kPartSuffix), 0) == 0) {
      fs::remove(path, code);  // Whoever wrote it was ended.
    } else if (const auto number = number_in(name, "")) {
      find_file(*number, path);
    }
  }
  (void)make_room(0, FileTime::max());
  return {};
}

void PrefixFolder::find_file(uint64_t number, const std::string& path) {
  const auto read = [&]() -> Result<File> {
    ASSIGN_OR_RETURN(const platform::File opened, platform::File::open(path));
    ASSIGN_OR_RETURN(PrefixHead head, read_head(opened));
    std::error_code ignored;
    return File{number, std::move(head), opened.size(), fs::last_write_time(path, ignored), false, 0};
  };
  Result<File> file = read();
  {
    const MutexLock lock(mutex_);
    if (file) {
      stats_.bytes += file->bytes;
      files_.push_back(std::move(*file));
      return;
    }
  }
  // What cannot be read now may be whole.
  if (file.error().code == ErrorCode::kCorrupt) return reject(number, file.error());
  tell("the kept prefix " + path + " is not used: " + file.error().message);
}

std::string PrefixFolder::path_of(uint64_t number) const {
  char name[kNumberDigits + 1];
  std::snprintf(name, sizeof name, "%016llx", static_cast<unsigned long long>(number));
  return options_.path + "/" + name + kSuffix;
}

PrefixFolderStats PrefixFolder::stats() const {
  const MutexLock lock(mutex_);
  PrefixFolderStats stats = stats_;
  stats.entries = files_.size();
  return stats;
}

bool PrefixFolder::busy() const {
  const MutexLock lock(mutex_);
  return under_way_ != 0 || !maker_.empty();
}

bool PrefixFolder::is_ours(const PrefixHead& head) const {
  return head.maker == maker_ && head.geometry == geometry_;
}

void PrefixFolder::attach(const Result<std::string>& model, kv::Words geometry, std::function<void()> wake) {
  if (!model) return tell("prefixes of this model are not kept on the disk: " + model.error().message);
  const MutexLock lock(mutex_);
  CHECK(maker_.empty());
  maker_ = options_.program + "; " + *model;
  geometry_ = std::move(geometry);
  wake_ = std::move(wake);
  for (File& file : files_) file.ours = is_ours(file.head);
}

void PrefixFolder::detach() {
  std::vector<std::unique_ptr<Job>> ended;
  {
    const MutexLock lock(mutex_);
    while (under_way_ != 0) idle_.wait(mutex_);
    ended.swap(ended_);
    maker_.clear();
    geometry_.clear();
    wake_ = nullptr;
    for (File& file : files_) file.ours = false;
  }
  leaving_bytes_ = 0;
  reads_ = 0;
}

bool PrefixFolder::write(const std::string& user, std::span<const TokenId> tokens, FileTime used,
                         std::unique_ptr<kv::Sequence>& sequence, memory::Reservation& charge) {
  auto job = std::make_unique<Job>();
  PrefixHead& head = job->head;
  head.scope = options_.scope_of(salt_, user);
  head.tokens.assign(tokens.begin(), tokens.end());
  std::optional<uint64_t> there;
  {
    const MutexLock lock(mutex_);
    if (maker_.empty() || stats_.off || stats_.writes_off) return false;
    head.maker = maker_;
    head.geometry = geometry_;
    for (File& file : files_)
      if (file.ours && file.head.scope == head.scope && file.head.tokens == head.tokens) {
        file.used = std::max(file.used, used);
        there = file.number;
      }
  }
  if (there) {
    set_used(path_of(*there), used);
    return false;
  }
  head.layout = sequence->layout();
  head.cuts = cuts_of(*sequence);
  job->contents = sequence->contents();
  for (const std::span<uint8_t> part : job->contents) head.payload_bytes += part.size();
  const uint64_t bytes = prefix_file_bytes(head);
  if (bytes > options_.bytes_max || bytes - head.payload_bytes > kPrefixHeadBytesMax) return false;
  job->writes = true;
  job->used = used;
  job->sequence = std::move(sequence);
  job->charge = std::move(charge);
  leaving_bytes_ += job->charge.bytes();
  {
    const MutexLock lock(mutex_);
    job->number = next_number_++;
    queue_.push_back(std::move(job));
    ++under_way_;
  }
  work_.notify_one();
  return true;
}

std::optional<PrefixFolder::Match> PrefixFolder::find(const std::string& user,
                                                      std::span<const TokenId> prompt) const {
  const PrefixScope scope = options_.scope_of(salt_, user);
  const std::span<const TokenId> wanted = prompt.first(prompt.size() - 1);
  const MutexLock lock(mutex_);
  if (stats_.off) return std::nullopt;
  const File* best = nullptr;
  uint32_t longest = 0;
  for (const File& file : files_) {
    if (!file.ours || file.head.scope != scope) continue;
    const uint32_t reach = file.head.reach(common_tokens(file.head.tokens, wanted));
    if (reach < longest || reach == 0 || (reach == longest && file.bytes >= best->bytes)) continue;
    longest = reach;
    best = &file;
  }
  if (best == nullptr) return std::nullopt;
  return Match{best->number, longest, static_cast<uint32_t>(best->head.tokens.size()), best->head.layout,
               kReadSeconds + static_cast<double>(best->bytes) / read_bytes_s_};
}

void PrefixFolder::read(const Match& match, uint64_t ticket, std::unique_ptr<kv::Sequence> sequence,
                        memory::Reservation charge) {
  auto job = std::make_unique<Job>();
  job->number = match.file;
  job->ticket = ticket;
  job->sequence = std::move(sequence);
  job->charge = std::move(charge);
  job->contents = job->sequence->contents();
  job->untouched = job->sequence->untouched();
  ++reads_;
  {
    const MutexLock lock(mutex_);
    for (File& file : files_)
      if (file.number == match.file) {
        ++file.readers;
        job->head = file.head;
      }
    const auto first_write =
        std::find_if(queue_.begin(), queue_.end(), [](const auto& other) { return other->writes; });
    queue_.insert(first_write, std::move(job));
    ++under_way_;
  }
  work_.notify_one();
}

std::vector<PrefixFolder::Restored> PrefixFolder::collect() {
  std::vector<std::unique_ptr<Job>> ended;
  {
    const MutexLock lock(mutex_);
    ended.swap(ended_);
  }
  std::vector<Restored> restored;
  for (const auto& job : ended) {
    if (job->writes) {
      leaving_bytes_ -= job->charge.bytes();
      continue;
    }
    --reads_;
    if (!job->done) job->sequence.reset();
    restored.push_back({job->ticket, std::move(job->sequence), std::move(job->charge)});
  }
  return restored;
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
    if (job->writes) {
      run_write(*job);
    } else {
      run_read(*job);
    }
    std::function<void()> wake;
    {
      const MutexLock lock(mutex_);
      ended_.push_back(std::move(job));
      wake = wake_;
    }
    wake();  // Before detach() may return.
    const MutexLock lock(mutex_);
    if (--under_way_ == 0) idle_.notify_all();
  }
}

Status PrefixFolder::write_file(const Job& job, uint64_t number) const {
  ASSIGN_OR_RETURN(
      platform::NewFile file,
      platform::NewFile::create(path_of(number), platform::Overwrite::kReplace, platform::Readers::kOwner));
  RETURN_IF_ERROR(write_prefix(file, job.head, job.contents));
  return file.commit();
}

void PrefixFolder::run_write(Job& job) {
  {
    const MutexLock lock(mutex_);
    if (stats_.off || stats_.writes_off) return;
  }
  const uint64_t bytes = prefix_file_bytes(job.head);
  if (!make_room(bytes, job.used)) return;  // All that is there was needed later than this one.
  if (const Status written = write_file(job, job.number); !written) {
    {
      const MutexLock lock(mutex_);
      stats_.writes_off = true;
    }
    return tell("kept prefixes are no longer written, until the server starts again: " +
                written.error().message);
  }
  set_used(path_of(job.number), job.used);
  job.done = true;
  std::vector<uint64_t> replaced;  // What is there now holds all of them.
  {
    const MutexLock lock(mutex_);
    for (const File& file : files_)
      if (file.ours && file.readers == 0 && file.head.scope == job.head.scope &&
          common_tokens(file.head.tokens, job.head.tokens) == file.head.tokens.size())
        replaced.push_back(file.number);
    files_.push_back({job.number, job.head, bytes, job.used, is_ours(job.head), 0});
    stats_.bytes += bytes;
    ++stats_.writes;
  }
  for (const uint64_t number : replaced) forget(number);
}

Status PrefixFolder::read_file(const Job& job) {
  ASSIGN_OR_RETURN(const platform::File file, platform::File::open(path_of(job.number)));
  ASSIGN_OR_RETURN(const PrefixHead head, read_head(file));
  if (head != job.head) return fail(ErrorCode::kCorrupt, "it is not the one that was found here");
  return reader_.read(file, head, job.contents, job.untouched);
}

void PrefixFolder::run_read(Job& job) {
  {
    const MutexLock lock(mutex_);
    if (std::none_of(files_.begin(), files_.end(),
                     [&](const File& file) { return file.number == job.number; }))
      return;  // It left meanwhile.
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
    for (File& file : files_)
      if (file.number == job.number) {
        --file.readers;
        file.used = std::max(file.used, now);
      }
    if (read) ++stats_.hits;
    if (read && job.head.payload_bytes >= kTimedBytesMin && seconds > 0.0)
      read_bytes_s_ = static_cast<double>(job.head.payload_bytes) / seconds;
    if (!read && read.error().code == ErrorCode::kIo) stats_.off = true;
  }
  if (read) {
    job.done = true;
    set_used(path_of(job.number), now);
  } else if (read.error().code == ErrorCode::kIo) {
    tell("kept prefixes are no longer read or written, until the server starts again: " +
         read.error().message);
  } else if (read.error().code == ErrorCode::kCorrupt || read.error().code == ErrorCode::kNotFound) {
    reject(job.number, read.error());
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
          oldest = file.number;
          before = file.used;
        }
    }
    if (!oldest) return false;
    forget(*oldest);
  }
}

void PrefixFolder::forget(uint64_t number) {
  {
    const MutexLock lock(mutex_);
    const auto file =
        std::find_if(files_.begin(), files_.end(), [&](const File& f) { return f.number == number; });
    if (file != files_.end()) {
      stats_.bytes -= file->bytes;
      files_.erase(file);
    }
  }
  std::error_code ignored;
  fs::remove(path_of(number), ignored);
}

void PrefixFolder::reject(uint64_t number, const Error& why) {
  {
    const MutexLock lock(mutex_);
    ++stats_.rejected;
  }
  forget(number);
  tell("removed the kept prefix " + path_of(number) + ", which is not used: " + why.message);
}

void PrefixFolder::tell(const std::string& line) const {
  if (options_.log) options_.log(line);
}

}  // namespace mlxf::engine
