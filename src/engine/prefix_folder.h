// PrefixFolder: kept prefixes on the SSD, so that they outlive the memory that they took and the process.
//
// A folder of files (prefix_file.h) with a byte cap; the least recently used leaves first. One thread, `prefix-io`,
// reads and writes them; what it works on it owns until that is done, so nobody waits for the disk. A file appears
// whole or not at all, is checked when it is found and again when it is read, and one with any fault is removed and
// never used. A disk that fails is left alone from then on: writing ends with the first write that fails, all of it
// with the first read.
//
// Opened before the model and closed after it; another process cannot open it meanwhile. One scheduler at a time is
// attached: its thread calls what follows attach(). Thread-safe: stats() and busy().
// Invariants: (1) the bytes of all files stay below the cap, but for the trailing moments of a replacement; (2) a
// sequence that was handed over is destroyed by the thread that handed it over, in collect() or detach().
#pragma once

#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
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
  // Whose prefixes a user's are, by the folder's own salt. Called by the attached thread.
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

class PrefixFolder {
 public:
  static constexpr size_t kEntriesMax = 512;

  // Finds what is there and removes what is unfinished, faulty or beyond the cap. kUnavailable while another process
  // has the folder.
  [[nodiscard]] static Result<std::unique_ptr<PrefixFolder>> open(PrefixFolderOptions options);
  ~PrefixFolder();  // REQUIRES: nobody is attached.
  PrefixFolder(const PrefixFolder&) = delete;
  PrefixFolder& operator=(const PrefixFolder&) = delete;

  [[nodiscard]] PrefixFolderStats stats() const MLXF_EXCLUDES(mutex_);
  // Somebody is attached, or something is being read or written.
  [[nodiscard]] bool busy() const MLXF_EXCLUDES(mutex_);

  // `model` names what, besides the program, gives the same bits; without it nothing is found or taken. `geometry` is
  // that of its sequences. `wake` is called by prefix-io when something is to be collected.
  void attach(const Result<std::string>& model, kv::Words geometry, std::function<void()> wake)
      MLXF_EXCLUDES(mutex_);
  // Waits for what is under way.
  void detach() MLXF_EXCLUDES(mutex_);

  // Takes a sequence with its memory's charge, to be written; `used` is when it was needed last. False, and nothing
  // taken: it is not to be written (it is there already, is too large for the cap, or the disk failed).
  [[nodiscard]] bool write(const std::string& user, std::span<const TokenId> tokens, FileTime used,
                           std::unique_ptr<kv::Sequence>& sequence, memory::Reservation& charge)
      MLXF_EXCLUDES(mutex_);

  struct Match {
    uint64_t file = 0;
    uint32_t tokens = 0;  // Of the prompt.
    uint32_t length = 0;  // That are read.
    kv::Words layout;
    double seconds = 0.0;  // That reading it will take.
  };
  // The file with the longest beginning of all but the prompt's last token.
  [[nodiscard]] std::optional<Match> find(const std::string& user, std::span<const TokenId> prompt) const
      MLXF_EXCLUDES(mutex_);
  // Reads that file into a sequence that was restored to its layout. The end of it comes from collect().
  void read(const Match& match, uint64_t ticket, std::unique_ptr<kv::Sequence> sequence,
            memory::Reservation charge) MLXF_EXCLUDES(mutex_);

  // Removes the file: its layout is none that a sequence can have.
  void refuse(const Match& match, const Error& why) MLXF_EXCLUDES(mutex_) { reject(match.file, why); }

  struct Restored {
    uint64_t ticket = 0;
    std::unique_ptr<kv::Sequence> sequence;  // Null: the file could not be used.
    memory::Reservation charge;
  };
  // Reads that have ended; lets go of what has been written.
  [[nodiscard]] std::vector<Restored> collect() MLXF_EXCLUDES(mutex_);
  // What is charged for sequences that are being written or not yet collected.
  [[nodiscard]] uint64_t leaving_bytes() const { return leaving_bytes_; }
  [[nodiscard]] bool reading() const { return reads_ != 0; }

 private:
  struct File {
    uint64_t number = 0;  // Its name.
    PrefixHead head;
    uint64_t bytes = 0;
    FileTime used;
    bool ours = false;     // Of the attached model.
    uint32_t readers = 0;  // Then it stays.
  };
  struct Job {
    bool writes = false;
    uint64_t number = 0;
    uint64_t ticket = 0;
    PrefixHead head;
    FileTime used;
    std::unique_ptr<kv::Sequence> sequence;
    memory::Reservation charge;
    kv::Contents contents;
    std::span<uint8_t> untouched;  // Of their memory.
    bool done = false;             // As wanted.
  };

  PrefixFolder(PrefixFolderOptions options, platform::FolderLock lock, ContentsReader reader);
  [[nodiscard]] Status load_salt();
  [[nodiscard]] Status scan() MLXF_EXCLUDES(mutex_);
  void find_file(uint64_t number, const std::string& path) MLXF_EXCLUDES(mutex_);
  [[nodiscard]] std::string path_of(uint64_t number) const;
  [[nodiscard]] bool is_ours(const PrefixHead& head) const MLXF_REQUIRES(mutex_);

  void run() MLXF_EXCLUDES(mutex_);
  void run_write(Job& job) MLXF_EXCLUDES(mutex_);
  void run_read(Job& job) MLXF_EXCLUDES(mutex_);
  [[nodiscard]] Status write_file(const Job& job, uint64_t number) const;
  [[nodiscard]] Status read_file(const Job& job);
  // Removes files that were used before `used` until `bytes` more fit; false: they do not.
  [[nodiscard]] bool make_room(uint64_t bytes, FileTime used) MLXF_EXCLUDES(mutex_);
  void forget(uint64_t number) MLXF_EXCLUDES(mutex_);  // And removes the file.
  void reject(uint64_t number, const Error& why) MLXF_EXCLUDES(mutex_);
  void tell(const std::string& line) const;

  const PrefixFolderOptions options_;
  const platform::FolderLock lock_;
  std::vector<uint8_t> salt_;  // Constant once opened.
  ContentsReader reader_;      // The thread's.

  mutable Mutex mutex_;
  std::vector<File> files_ MLXF_GUARDED_BY(mutex_);
  uint64_t next_number_ MLXF_GUARDED_BY(mutex_) = 0;
  std::string maker_ MLXF_GUARDED_BY(mutex_);  // Empty: nobody is attached.
  kv::Words geometry_ MLXF_GUARDED_BY(mutex_);
  std::function<void()> wake_ MLXF_GUARDED_BY(mutex_);
  std::deque<std::unique_ptr<Job>> queue_ MLXF_GUARDED_BY(mutex_);  // Reads come before writes.
  std::vector<std::unique_ptr<Job>> ended_ MLXF_GUARDED_BY(mutex_);
  uint32_t under_way_ MLXF_GUARDED_BY(mutex_) = 0;  // Queued or with the thread.
  PrefixFolderStats stats_ MLXF_GUARDED_BY(mutex_);
  double read_bytes_s_ MLXF_GUARDED_BY(mutex_) = 1e9;  // A guess until a file was read.
  bool closing_ MLXF_GUARDED_BY(mutex_) = false;
  CondVar work_;  // Something in queue_, or closing_.
  CondVar idle_;  // under_way_ became 0.

  // The attached thread's.
  uint64_t leaving_bytes_ = 0;
  uint32_t reads_ = 0;

  std::thread thread_;  // Last: it uses the others.
};

}  // namespace mlxf::engine
