// PrefixFolder: kept prefixes on the SSD, so that they outlive the memory that they took and the process.
//
// A folder with one folder for each model in it, of files (prefix_file.h), under one byte cap; the least recently used
// leaves first, whosever it is. One thread, `prefix-io`, reads and writes them; what it works on it owns until that is
// done, so nobody waits for the disk. A file appears whole or not at all, is checked when it is found and again when it
// is read, and one with any fault is removed and never used. A disk that fails is left alone from then on: writing ends
// with the first write that fails, all of it with the first read.
//
// Opened before the models and closed after them; another process cannot open it meanwhile. Each scheduler attaches a
// PrefixShelf (prefix_shelf.h), which is all that it sees of it. Thread-safe.
// Invariant: the bytes of all files stay below the cap, but for the trailing moments of a replacement.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "base/result.h"
#include "base/token_id.h"
#include "engine/prefix_file.h"
#include "kv/sequence.h"
#include "memory/ledger.h"
#include "platform/folder_lock.h"

namespace mlxf::engine {

using FileTime = std::filesystem::file_time_type;

struct PrefixFolderOptions {
  std::string path;  // Made if it is not there.
  uint64_t bytes_max = 0;
  std::string program;  // Whose arithmetic it is: name and version.
  storage::Backend io = storage::Backend::kAuto;
  // Whose prefixes a user's are, by the folder's own salt. Called by the shelves' threads.
  std::function<PrefixScope(std::span<const uint8_t> salt, const std::string& user)> scope_of;
  std::function<void(const std::string& line)> log = {};  // Any thread.
};

struct PrefixFolderStats {
  uint64_t entries = 0;
  uint64_t bytes = 0;
  uint64_t hits = 0;      // Prefixes that were restored.
  uint64_t writes = 0;    // And written.
  uint64_t rejected = 0;  // Files that were removed because of a fault.
  bool writes_off = false;
  bool off = false;
};

class PrefixShelf;

class PrefixFolder {
 public:
  static constexpr size_t kEntriesMax = 512;

  // Finds what is there and removes what is unfinished, faulty or beyond the cap. kUnavailable while another process
  // has the folder.
  [[nodiscard]] static Result<std::unique_ptr<PrefixFolder>> open(PrefixFolderOptions options);
  ~PrefixFolder();  // REQUIRES: all shelves are gone.
  PrefixFolder(const PrefixFolder&) = delete;
  PrefixFolder& operator=(const PrefixFolder&) = delete;

  [[nodiscard]] PrefixFolderStats stats() const MLXF_EXCLUDES(mutex_);
  // Somebody is attached.
  [[nodiscard]] bool busy() const MLXF_EXCLUDES(mutex_);

  // `model` names what, besides the program, gives the same bits, and with it the folder within; without it there is
  // none, and null. `geometry` is that of its sequences. `wake` is called by prefix-io when something is to be
  // collected. The shelf, which this outlives, belongs to one thread.
  [[nodiscard]] std::unique_ptr<PrefixShelf> attach(const Result<std::string>& model, kv::Words geometry,
                                                    std::function<void()> wake) MLXF_EXCLUDES(mutex_);

 private:
  friend class PrefixShelf;
  struct File {
    uint64_t id = 0;  // Here and now.
    std::string path;
    PrefixHead head;
    uint64_t bytes = 0;
    FileTime used;
    uint32_t readers = 0;  // Then it stays.
  };
  struct Side;
  struct Job {
    Side* side = nullptr;
    bool writes = false;
    bool behind = false;  // Whoever asked keeps the sequence.
    uint64_t file = 0;
    std::string path;
    uint64_t ticket = 0;
    PrefixHead head;
    FileTime used;
    std::unique_ptr<kv::Sequence> sequence;
    memory::Reservation charge;
    kv::Contents contents;
    std::span<uint8_t> untouched;  // Of their memory.
    bool done = false;             // As wanted.
  };
  // What belongs to a shelf; `ended` and `under_way` are guarded by mutex_, the others constant or atomic.
  struct Side {
    std::string maker;
    kv::Words geometry;
    std::string place;  // Its folder.
    std::function<void()> wake;
    std::vector<std::unique_ptr<Job>> ended = {};
    uint32_t under_way = 0;  // Queued or with the thread.
    // Of the one job that is behind: set by the shelf, read by prefix-io, and the other way round; seq_cst, so that
    // what a writer has read of the sequence comes before what its owner does with it.
    std::atomic<bool> behind_unwanted = false;
    std::atomic<bool> behind_read = false;  // The sequence is needed no more.

    // Whose sequences are its own.
    [[nodiscard]] bool made(const PrefixHead& head) const {
      return head.maker == maker && head.geometry == geometry;
    }
  };

  PrefixFolder(PrefixFolderOptions options, platform::FolderLock lock, ContentsReader reader);
  [[nodiscard]] Status load_salt();
  [[nodiscard]] Status scan() MLXF_EXCLUDES(mutex_);
  // Finds what is in a folder, and adds the folders of models in it to `models`.
  [[nodiscard]] Status scan_folder(const std::string& folder, std::vector<std::string>& models)
      MLXF_EXCLUDES(mutex_);
  void find_file(const std::string& path) MLXF_EXCLUDES(mutex_);
  [[nodiscard]] File* file_of(uint64_t id) MLXF_REQUIRES(mutex_);  // Null: it is there no more.

  void add_job(std::unique_ptr<Job> job) MLXF_EXCLUDES(mutex_);
  // Waits for what is under way.
  void detach(Side& side) MLXF_EXCLUDES(mutex_);

  void run() MLXF_EXCLUDES(mutex_);
  void run_job(std::unique_ptr<Job> job) MLXF_EXCLUDES(mutex_);
  // Null: none is waiting.
  [[nodiscard]] std::unique_ptr<Job> next_read() MLXF_EXCLUDES(mutex_);
  void run_write(Job& job) MLXF_EXCLUDES(mutex_);
  void run_read(Job& job) MLXF_EXCLUDES(mutex_);
  [[nodiscard]] Status write_file(const Job& job);
  [[nodiscard]] Status read_file(const Job& job);
  // Removes files that were used before `used` until `bytes` more fit; false: they do not.
  [[nodiscard]] bool make_room(uint64_t bytes, FileTime used) MLXF_EXCLUDES(mutex_);
  void forget(uint64_t id) MLXF_EXCLUDES(mutex_);  // And removes the file.
  void reject(uint64_t id, const Error& why) MLXF_EXCLUDES(mutex_);
  void reject_file(const std::string& path, const Error& why) MLXF_EXCLUDES(mutex_);
  void name(Job& job) MLXF_EXCLUDES(mutex_);  // What it will write.
  static void set_used(const std::string& path, FileTime used);
  void tell(const std::string& line) const;

  const PrefixFolderOptions options_;
  const platform::FolderLock lock_;
  std::vector<uint8_t> salt_;  // Constant once opened.
  ContentsReader reader_;      // The thread's.

  mutable Mutex mutex_;
  std::vector<File> files_ MLXF_GUARDED_BY(mutex_);
  uint64_t next_id_ MLXF_GUARDED_BY(mutex_) = 0;
  uint64_t next_name_ MLXF_GUARDED_BY(mutex_) = 0;
  std::vector<std::unique_ptr<Side>> sides_ MLXF_GUARDED_BY(mutex_);
  std::deque<std::unique_ptr<Job>> queue_ MLXF_GUARDED_BY(mutex_);  // Reads come before writes.
  PrefixFolderStats stats_ MLXF_GUARDED_BY(mutex_);
  double read_bytes_s_ MLXF_GUARDED_BY(mutex_) = 1e9;  // A guess until a file was read.
  bool closing_ MLXF_GUARDED_BY(mutex_) = false;
  std::atomic<uint32_t> working_{0};  // Shelves whose schedulers are at work; relaxed, a hint.
  CondVar work_;                      // Something in queue_, or closing_.
  CondVar idle_;                      // A side's under_way became 0.

  std::thread thread_;  // Last: it uses the others.
};

}  // namespace mlxf::engine
