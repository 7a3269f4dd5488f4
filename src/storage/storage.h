// Storage: reads byte ranges of model files from the SSD into the caller's memory, many at a time.
//
// How to use it:
//   auto storage = open_storage({});                                 // storage/open_storage.h; a Result
//   auto file = (*storage)->open("model.gguf");                      // a Result<FileId>
//   ReadRequest read{.file = *file, .offset = o, .length = n, .into = slot, .capacity = Storage::span_bytes(o, n)};
//   Ticket ticket;
//   RETURN_IF_ERROR((*storage)->submit({&read, 1}, {&ticket, 1}));   // starts it and returns at once
//   ... compute; now and then (*storage)->advance() ...
//   Completion done = *(*storage)->wait(ticket);                     // done.payload, or done.status' error
//
// Memory. Reads bypass the page cache, so whole 4096-byte blocks are read: [offset, offset + length) widened to
// multiples of kAlign on both sides. `into` is a multiple of kAlign and has room (`capacity`) for the widened range,
// span_bytes(); the payload begins at into + offset % kAlign, whatever the backend. Bytes around the payload are
// overwritten with file content or left alone. The memory is the caller's and must stay valid and untouched until the
// ticket was claimed (wait or poll returned its Completion), also after cancel(); huge pages, touched before, are
// several times faster than fresh or 4 KiB pages (platform/huge_memory.h).
//
// Order. Requests are cut into pieces of `piece_bytes`, and at most `depth` pieces are at the device: one large read
// fills the queue by itself. Demand goes before look-ahead, and look-ahead before guesses, each first come, first
// served. Look-ahead is surely needed, so it may fill the queue (`lookahead_depth`). A guess begins only while no
// demand is at the device and less than `guess_depth` else, so that a demand never queues behind much. Equal reads are
// not joined.
//
// Threads. One owner thread at a time; no callbacks, and io_uring has no thread of its own: completed reads are taken
// up, and waiting ones begun, inside submit, advance, poll and wait. A thread that computes for long calls advance().
// Every ticket must be claimed once. The destructor gives up what has not begun and waits for what has.
//
// Errors name file, offset, length and cause. Interrupted and short reads are continued here. kIo: the disk failed;
// kChanged: the file was truncated, replaced or rewritten; kCancelled; kDeadline: expired before it began. Nothing is
// mapped, so a truncated file is an error and never a signal.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "platform/direct_file.h"
#include "storage/device.h"

namespace mlxf::storage {

struct FileId {
  uint32_t index = 0;
  friend bool operator==(const FileId&, const FileId&) = default;
};

// Names a submitted read until it is claimed.
struct Ticket {
  uint32_t slot = 0;
  uint32_t generation = 0;
  friend bool operator==(const Ticket&, const Ticket&) = default;
};

enum class Priority : uint8_t { kDemand, kLookahead, kGuess };

struct ReadRequest {
  FileId file;
  uint64_t offset = 0;
  uint64_t length = 0;  // At least 1; the range must lie inside the file.
  uint8_t* into = nullptr;
  uint64_t capacity = 0;
  Priority priority = Priority::kDemand;
  // A read whose turn comes only after this time is not begun and completes with kDeadline. For guesses.
  TimePoint expires = kNever;
};

struct Completion {
  Ticket ticket;
  Status status;
  std::span<uint8_t> payload;  // The bytes asked for, inside `into`; empty unless status is good.
};

struct StorageStats {
  uint64_t reads = 0;          // Requests submitted.
  uint64_t bytes = 0;          // Payload of the reads that succeeded.
  uint64_t device_bytes = 0;   // What the device delivered, with the widening.
  uint64_t pieces = 0;         // Reads given to the device, without retries.
  uint64_t retries = 0;        // Interrupted or short, and continued.
  uint64_t through_cache = 0;  // Pieces that could not bypass the page cache.
  uint64_t failed = 0;         // Requests that ended with kIo or kChanged.
  uint64_t cancelled = 0;
  uint64_t expired = 0;
  uint64_t promoted = 0;   // Look-ahead that became demand.
  uint64_t queued = 0;     // Now: requests with pieces that have not begun.
  uint64_t in_flight = 0;  // Now: pieces at the device.
  uint64_t in_flight_max = 0;
  double demand_wait_seconds = 0;  // The owner blocked in wait() or wait_any().
  double busy_seconds = 0;         // At least one piece was at the device, as seen by the owner.
};

struct QueueOptions {
  uint32_t depth = 16;                       // Pieces at the device at a time.
  uint32_t lookahead_depth = 0;              // Of them look-ahead at most; 0: all.
  uint32_t guess_depth = 0;                  // Of them guesses at most; 0: a quarter, at least 1.
  uint64_t piece_bytes = uint64_t{1} << 20;  // Rounded up to kAlign.
  uint32_t requests_max = 4096;              // Unclaimed tickets at a time.
  platform::DirectFile::Access access = platform::DirectFile::Access::kDirect;
};

class Storage {
 public:
  static constexpr uint64_t kAlign = platform::kDirectAlign;

  // How much of the widened range lies before the payload, and how long it is.
  [[nodiscard]] static constexpr uint64_t payload_at(uint64_t offset) { return offset % kAlign; }
  [[nodiscard]] static constexpr uint64_t span_bytes(uint64_t offset, uint64_t length) {
    return (offset % kAlign + length + kAlign - 1) / kAlign * kAlign;
  }

  // See open_storage(); tests pass devices of their own. `note` is appended to the description.
  Storage(std::unique_ptr<Device> device, const QueueOptions& options, std::string note = {});
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  // Which backend, how deep, and why not a better one; for logs and doctor.
  [[nodiscard]] std::string description() const { return device_->description() + note_; }

  // Files stay open as long as this.
  [[nodiscard]] Result<FileId> open(const std::string& path);
  [[nodiscard]] uint64_t file_bytes(FileId file) const;
  // As it was when opened; compare with what a header was read from.
  [[nodiscard]] const platform::FileIdentity& identity(FileId file) const;
  // kChanged when the file is no longer what was opened.
  [[nodiscard]] Status check_identity(FileId file) const;

  // Starts all of `reads`, or none and says why: kInvalidArgument for a range outside its file or unfit memory,
  // kUnavailable when requests_max tickets are unclaimed. REQUIRES: tickets.size() == reads.size().
  [[nodiscard]] Status submit(std::span<const ReadRequest> reads, std::span<Ticket> tickets);
  // Takes up what finished and begins what waits; never blocks.
  void advance();
  // Claims the read if it is complete. A claimed ticket must not be used again.
  [[nodiscard]] std::optional<Completion> poll(Ticket ticket);
  // Blocks until the read is complete, and claims it; nothing when `deadline` passed first (the read goes on, and its
  // ticket stays valid). Waiting for look-ahead makes it demand.
  [[nodiscard]] std::optional<Completion> wait(Ticket ticket, TimePoint deadline = kNever);
  // The same for whichever of `tickets` completes first. REQUIRES: not empty, none claimed.
  [[nodiscard]] std::optional<Completion> wait_any(std::span<const Ticket> tickets,
                                                   TimePoint deadline = kNever);
  // submit() and wait() of one read.
  [[nodiscard]] Result<std::span<uint8_t>> read(const ReadRequest& request);

  // Look-ahead or a guess that turned out to be needed. No effect on others.
  void promote(Ticket ticket);
  // What has not begun is dropped; what has begun goes on. Must still be claimed; unless all of it had begun (then it
  // may still succeed), the claim gives kCancelled.
  void cancel(Ticket ticket);

  // Pieces at the device at a time, from 1 to the depth that this was made with. Those that are there stay.
  void set_depth(uint32_t depth) { depth_ = std::clamp(depth, 1U, options_.depth); }
  [[nodiscard]] uint32_t depth() const { return depth_; }

  [[nodiscard]] StorageStats stats() const;

 private:
  enum class State : uint8_t {
    kFree,
    kQueued,
    kRunning,
    kComplete
  };  // Queued: has pieces that have not begun.
  static constexpr uint32_t kNone = UINT32_MAX;
  struct Request {
    ReadRequest read;
    State state = State::kFree;
    uint32_t generation = 0;
    uint64_t begin = 0;  // The widened range in the file.
    uint64_t end = 0;
    uint64_t next = 0;  // Where the first piece begins that has not begun.
    uint32_t pieces_in_flight = 0;
    uint32_t before = kNone;  // Neighbours in the queue, or the next free one.
    uint32_t after = kNone;
    std::optional<Error> error;
  };
  struct Piece {
    uint32_t request = 0;
    uint64_t offset = 0;
    uint64_t bytes = 0;
    uint64_t needed = 0;  // Of bytes; the rest may lie beyond the end of the file.
    uint64_t done = 0;
    uint32_t idle_retries = 0;
    bool through_cache = false;
  };
  struct Queue {
    uint32_t first = kNone;
    uint32_t last = kNone;
  };

  [[nodiscard]] Status check(const ReadRequest& read) const;
  [[nodiscard]] Ticket enqueue(const ReadRequest& read);
  [[nodiscard]] Queue& queue_of(const Request& request);
  void append(uint32_t slot);
  void unlink(uint32_t slot);
  [[nodiscard]] Request& at(Ticket ticket);
  [[nodiscard]] Completion claim(Ticket ticket);
  void pump();
  [[nodiscard]] uint32_t next_to_begin();
  void begin_piece(uint32_t slot);
  void start_piece(uint32_t piece);
  void take_up(TimePoint deadline);
  void handle(const DeviceResult& result);
  void continue_piece(uint32_t slot, uint64_t got);
  void end_piece(uint32_t slot);
  void stop(uint32_t slot, Error error);
  void complete_if_over(uint32_t slot);
  [[nodiscard]] Error read_error(const Piece& piece, int number) const;
  [[nodiscard]] Error end_of_file(const Piece& piece) const;
  [[nodiscard]] std::string where(const Request& request) const;

  const QueueOptions options_;
  const std::string note_;
  uint32_t depth_;
  std::deque<platform::DirectFile> files_;  // Addresses are stable; outlives the device.
  std::unique_ptr<Device> device_;
  std::vector<Request> requests_;
  std::vector<Piece> pieces_;
  std::vector<uint32_t> free_pieces_;
  std::vector<DeviceResult> results_;
  uint32_t free_request_ = kNone;
  uint32_t unclaimed_ = 0;
  uint32_t lookahead_in_flight_ = 0;  // Pieces of anything but demand.
  Queue demand_;
  Queue lookahead_;
  Queue guesses_;
  TimePoint busy_since_;
  StorageStats stats_;
};

}  // namespace mlxf::storage
