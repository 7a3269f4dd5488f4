// PrefixShelf: one model's part of a PrefixFolder, by which its scheduler finds, reads and writes.
//
// Several shelves share the folder, its thread, its cap and what it has learned of the disk. Owned by the scheduler,
// before the folder is closed; one thread, the engine's. A sequence that was handed over is destroyed by that thread,
// too, in collect() or the destructor.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/prefix_folder.h"

namespace mlxf::engine {

class PrefixShelf {
 public:
  ~PrefixShelf();  // Waits for what is under way.
  PrefixShelf(const PrefixShelf&) = delete;
  PrefixShelf& operator=(const PrefixShelf&) = delete;

  // Takes a sequence with its memory's charge, to be written; `used` is when it was needed last. False, and nothing
  // taken: it is not to be written (it is there already, is too large for the cap, or the disk failed).
  [[nodiscard]] bool write(const std::string& user, std::span<const TokenId> tokens, FileTime used,
                           std::unique_ptr<kv::Sequence>& sequence, memory::Reservation& charge);

  // Writes it while the caller keeps it, before it has to leave; one at a time, after all else, and reads go between.
  // Until behind() is 0 again, behind_read() is true, or leave_behind() took it, it may neither change nor go. False:
  // it is not to be written, as above.
  [[nodiscard]] bool write_behind(const std::string& user, std::span<const TokenId> tokens, FileTime used,
                                  kv::Sequence& sequence);
  // What is written so: its number, from 1 on; 0: nothing. Changes in collect() alone.
  [[nodiscard]] uint64_t behind() const { return behind_; }
  // All of the sequence has been read.
  [[nodiscard]] bool behind_read() const { return side_.behind_read; }
  // It is not to be written any more; that ends soon.
  void stop_behind() { side_.behind_unwanted = true; }
  // Takes the sequence that is written so with its charge, to be kept until that is done.
  void leave_behind(std::unique_ptr<kv::Sequence> sequence, memory::Reservation charge);
  // How much of `tokens` the files hold, and how long reading one of `bytes` would take.
  struct Held {
    uint32_t tokens = 0;
    double seconds = 0.0;
  };
  [[nodiscard]] Held held(const std::string& user, std::span<const TokenId> tokens, uint64_t bytes) const;
  // Whether its scheduler is at work, and whether that of any shelf is.
  void set_working(bool working);
  [[nodiscard]] bool all_idle() const { return folder_.working_.load(std::memory_order_relaxed) == 0; }

  struct Match {
    uint64_t file = 0;
    uint32_t tokens = 0;  // Of the prompt.
    uint32_t length = 0;  // That are read.
    kv::Words layout;
    double seconds = 0.0;  // That reading it will take.
  };
  // The file with the longest beginning of all but the prompt's last token.
  [[nodiscard]] std::optional<Match> find(const std::string& user, std::span<const TokenId> prompt) const;
  // Reads that file into a sequence that was restored to its layout, and touches its memory. The end of it comes from
  // collect().
  void read(const Match& match, uint64_t ticket, std::unique_ptr<kv::Sequence> sequence,
            memory::Reservation charge);
  // Removes the file: its layout is none that a sequence can have.
  void refuse(const Match& match, const Error& why) { folder_.reject(match.file, why); }

  struct Restored {
    uint64_t ticket = 0;
    std::unique_ptr<kv::Sequence> sequence;  // Null: the file could not be used.
    memory::Reservation charge;
  };
  // Reads that have ended; lets go of what has been written.
  [[nodiscard]] std::vector<Restored> collect();
  // What is charged for sequences that are being written or not yet collected.
  [[nodiscard]] uint64_t leaving_bytes() const { return leaving_bytes_; }
  [[nodiscard]] bool reading() const { return reads_ != 0; }

 private:
  friend class PrefixFolder;
  PrefixShelf(PrefixFolder& folder, PrefixFolder::Side& side) : folder_(folder), side_(side) {}

  PrefixFolder& folder_;
  PrefixFolder::Side& side_;  // The folder's; what of it is not constant is the folder's business.
  // Null: it is not to be written.
  [[nodiscard]] std::unique_ptr<PrefixFolder::Job> write_job(const std::string& user,
                                                             std::span<const TokenId> tokens, FileTime used,
                                                             kv::Sequence& sequence);

  uint64_t leaving_bytes_ = 0;
  uint32_t reads_ = 0;
  bool working_ = false;
  uint64_t behind_ = 0, behind_last_ = 0;
  std::unique_ptr<kv::Sequence> left_;  // What is written behind and was handed over since,
  memory::Reservation left_charge_;     // with its charge.
};

}  // namespace mlxf::engine
