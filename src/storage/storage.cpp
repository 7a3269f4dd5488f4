#include "storage/storage.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/checked.h"

namespace mlxf::storage {
namespace {

// A device that says "try again" this often without delivering a byte is broken.
constexpr uint32_t kIdleRetriesMax = 1000;

double seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

QueueOptions completed(QueueOptions options) {
  options.depth = std::max(1U, options.depth);
  if (options.lookahead_depth == 0) options.lookahead_depth = options.depth;
  options.lookahead_depth = std::min(options.lookahead_depth, options.depth);
  if (options.guess_depth == 0) options.guess_depth = std::max(1U, options.depth / 4);
  options.guess_depth = std::min(options.guess_depth, options.lookahead_depth);
  options.requests_max = std::max(1U, options.requests_max);
  options.piece_bytes =
      std::max<uint64_t>(1, (options.piece_bytes + Storage::kAlign - 1) / Storage::kAlign) * Storage::kAlign;
  return options;
}

}  // namespace

Storage::Storage(std::unique_ptr<Device> device, const QueueOptions& options, std::string note)
    : options_(completed(options)),
      note_(std::move(note)),
      depth_(options_.depth),
      device_(std::move(device)),
      requests_(options_.requests_max),
      pieces_(options_.depth),
      results_(options_.depth) {
  for (uint32_t slot = options_.requests_max; slot-- > 0;) {
    requests_[slot].after = free_request_;
    free_request_ = slot;
  }
  for (uint32_t slot = options_.depth; slot-- > 0;) free_pieces_.push_back(slot);
}

Storage::~Storage() {
  for (uint32_t slot = 0; slot < requests_.size(); ++slot)
    if (requests_[slot].state == State::kQueued) stop(slot, {ErrorCode::kCancelled, "storage is closing"});
  while (stats_.in_flight > 0) take_up(kNever);
}

Result<FileId> Storage::open(const std::string& path) {
  ASSIGN_OR_RETURN(platform::DirectFile file, platform::DirectFile::open(path, options_.access));
  files_.push_back(std::move(file));
  device_->add_file(files_.back());
  return FileId{static_cast<uint32_t>(files_.size() - 1)};
}

uint64_t Storage::file_bytes(FileId file) const { return identity(file).bytes; }

const platform::FileIdentity& Storage::identity(FileId file) const {
  CHECK(file.index < files_.size());
  return files_[file.index].file().identity();
}

Status Storage::check_identity(FileId file) const {
  CHECK(file.index < files_.size());
  return files_[file.index].file().check_unchanged();
}

// ---- submitting and claiming ----

Status Storage::check(const ReadRequest& read) const {
  CHECK(read.file.index < files_.size());
  const platform::File& file = files_[read.file.index].file();
  const auto end = checked_add(read.offset, read.length);
  if (read.length == 0 || !end || *end > file.size())
    return fail(ErrorCode::kInvalidArgument, file.path() + ": cannot read " + std::to_string(read.length) +
                                                 " bytes at byte " + std::to_string(read.offset) +
                                                 " of a file of " + std::to_string(file.size()));
  if (reinterpret_cast<uintptr_t>(read.into) % kAlign != 0 || read.into == nullptr)
    return fail(ErrorCode::kInvalidArgument,
                file.path() + ": reads need memory at a multiple of " + std::to_string(kAlign) + " bytes");
  if (read.capacity < span_bytes(read.offset, read.length))
    return fail(ErrorCode::kInvalidArgument, file.path() + ": reading " + std::to_string(read.length) +
                                                 " bytes at byte " + std::to_string(read.offset) +
                                                 " needs room for " +
                                                 std::to_string(span_bytes(read.offset, read.length)) +
                                                 ", not " + std::to_string(read.capacity));
  return {};
}

Status Storage::submit(std::span<const ReadRequest> reads, std::span<Ticket> tickets) {
  CHECK(reads.size() == tickets.size());
  if (reads.size() > options_.requests_max - unclaimed_)
    return fail(ErrorCode::kUnavailable, "cannot take " + std::to_string(reads.size()) +
                                             " more reads: " + std::to_string(unclaimed_) + " of at most " +
                                             std::to_string(options_.requests_max) + " are not claimed yet");
  for (const ReadRequest& read : reads) RETURN_IF_ERROR(check(read));
  for (size_t i = 0; i < reads.size(); ++i) tickets[i] = enqueue(reads[i]);
  pump();
  device_->flush();
  return {};
}

Ticket Storage::enqueue(const ReadRequest& read) {
  const uint32_t slot = free_request_;
  Request& request = requests_[slot];
  free_request_ = request.after;
  request.read = read;
  request.begin = read.offset - payload_at(read.offset);
  request.end = request.begin + span_bytes(read.offset, read.length);
  request.next = request.begin;
  request.pieces_in_flight = 0;
  request.error.reset();
  append(slot);
  ++unclaimed_;
  ++stats_.reads;
  return {slot, request.generation};
}

Storage::Request& Storage::at(Ticket ticket) {
  CHECK(ticket.slot < requests_.size());
  Request& request = requests_[ticket.slot];
  CHECK(request.generation == ticket.generation && request.state != State::kFree);
  return request;
}

Completion Storage::claim(Ticket ticket) {
  Request& request = at(ticket);
  CHECK(request.state == State::kComplete);
  Completion completion{ticket, {}, {}};
  if (request.error) {
    completion.status = tl::unexpected<Error>(*std::move(request.error));
    request.error.reset();
  } else {
    completion.payload = {request.read.into + payload_at(request.read.offset), request.read.length};
  }
  request.state = State::kFree;
  ++request.generation;
  request.after = free_request_;
  free_request_ = ticket.slot;
  --unclaimed_;
  return completion;
}

void Storage::advance() {
  take_up(TimePoint::min());
  pump();
  device_->flush();
}

std::optional<Completion> Storage::poll(Ticket ticket) {
  if (at(ticket).state != State::kComplete) advance();
  if (at(ticket).state != State::kComplete) return std::nullopt;
  return claim(ticket);
}

std::optional<Completion> Storage::wait(Ticket ticket, TimePoint deadline) {
  return wait_any({&ticket, 1}, deadline);
}

std::optional<Completion> Storage::wait_any(std::span<const Ticket> tickets, TimePoint deadline) {
  CHECK(!tickets.empty());
  const auto complete = [&] {
    return std::find_if(tickets.begin(), tickets.end(),
                        [&](Ticket ticket) { return at(ticket).state == State::kComplete; });
  };
  auto found = complete();
  if (found != tickets.end()) return claim(*found);
  for (const Ticket ticket : tickets) promote(ticket);
  advance();
  found = complete();
  const TimePoint started = Clock::now();
  while (found == tickets.end()) {
    const bool late = deadline != kNever && Clock::now() >= deadline;
    take_up(late ? TimePoint::min() : deadline);
    pump();
    device_->flush();
    found = complete();
    if (late && found == tickets.end()) break;
  }
  stats_.demand_wait_seconds += seconds(Clock::now() - started);
  if (found == tickets.end()) return std::nullopt;
  return claim(*found);
}

Result<std::span<uint8_t>> Storage::read(const ReadRequest& request) {
  Ticket ticket;
  RETURN_IF_ERROR(submit({&request, 1}, {&ticket, 1}));
  const std::optional<Completion> completion = wait(ticket);
  RETURN_IF_ERROR(completion->status);
  return completion->payload;
}

// ---- the queues ----

Storage::Queue& Storage::queue_of(const Request& request) {
  switch (request.read.priority) {
    case Priority::kDemand:
      return demand_;
    case Priority::kLookahead:
      return lookahead_;
    case Priority::kGuess:
      break;
  }
  return guesses_;
}

void Storage::append(uint32_t slot) {
  Request& request = requests_[slot];
  Queue& queue = queue_of(request);
  request.state = State::kQueued;
  request.before = queue.last;
  request.after = kNone;
  (queue.last == kNone ? queue.first : requests_[queue.last].after) = slot;
  queue.last = slot;
  ++stats_.queued;
}

// Leaves the request running; the caller may know better.
void Storage::unlink(uint32_t slot) {
  Request& request = requests_[slot];
  Queue& queue = queue_of(request);
  (request.before == kNone ? queue.first : requests_[request.before].after) = request.after;
  (request.after == kNone ? queue.last : requests_[request.after].before) = request.before;
  request.state = State::kRunning;
  --stats_.queued;
}

void Storage::promote(Ticket ticket) {
  Request& request = at(ticket);
  if (request.read.priority == Priority::kDemand || request.state == State::kComplete) return;
  const bool queued = request.state == State::kQueued;
  if (queued) unlink(ticket.slot);
  lookahead_in_flight_ -= request.pieces_in_flight;
  request.read.priority = Priority::kDemand;
  request.read.expires = kNever;
  if (queued) append(ticket.slot);
  ++stats_.promoted;
}

void Storage::cancel(Ticket ticket) {
  if (at(ticket).state != State::kQueued) return;
  ++stats_.cancelled;
  stop(ticket.slot, {ErrorCode::kCancelled, where(at(ticket)) + ": cancelled"});
}

// Ends a request: no further piece begins, and it completes when those at the device are back.
void Storage::stop(uint32_t slot, Error error) {
  Request& request = requests_[slot];
  if (!request.error) request.error = std::move(error);
  if (request.state == State::kQueued) unlink(slot);
  request.next = request.end;
  complete_if_over(slot);
}

void Storage::complete_if_over(uint32_t slot) {
  Request& request = requests_[slot];
  if (request.state != State::kRunning || request.pieces_in_flight > 0) return;
  request.state = State::kComplete;
  if (!request.error) stats_.bytes += request.read.length;
}

uint32_t Storage::next_to_begin() {
  if (demand_.first != kNone) return demand_.first;
  if (lookahead_.first != kNone)
    return lookahead_in_flight_ < options_.lookahead_depth ? lookahead_.first : kNone;
  const bool idle = stats_.in_flight == lookahead_in_flight_ && lookahead_in_flight_ < options_.guess_depth;
  return idle ? guesses_.first : kNone;
}

void Storage::pump() {
  while (!free_pieces_.empty() && stats_.in_flight < depth_) {
    const uint32_t slot = next_to_begin();
    if (slot == kNone) return;
    const Request& request = requests_[slot];
    if (request.next == request.begin && request.read.expires != kNever &&
        Clock::now() > request.read.expires) {
      ++stats_.expired;
      stop(slot, {ErrorCode::kDeadline, where(request) + ": expired before it began"});
    } else {
      begin_piece(slot);
    }
  }
}

// ---- pieces ----

void Storage::begin_piece(uint32_t slot) {
  Request& request = requests_[slot];
  const uint32_t piece_slot = free_pieces_.back();
  free_pieces_.pop_back();
  Piece& piece = pieces_[piece_slot];
  piece = {};
  piece.request = slot;
  piece.offset = request.next;
  piece.bytes = std::min(options_.piece_bytes, request.end - request.next);
  piece.needed =
      std::min(piece.offset + piece.bytes, request.read.offset + request.read.length) - piece.offset;
  piece.through_cache = files_[request.read.file.index].direct_descriptor() < 0;
  request.next += piece.bytes;
  if (request.next == request.end) unlink(slot);
  ++request.pieces_in_flight;
  if (request.read.priority != Priority::kDemand) ++lookahead_in_flight_;
  if (stats_.in_flight++ == 0) busy_since_ = Clock::now();
  stats_.in_flight_max = std::max(stats_.in_flight_max, stats_.in_flight);
  ++stats_.pieces;
  if (piece.through_cache) ++stats_.through_cache;
  start_piece(piece_slot);
}

void Storage::start_piece(uint32_t slot) {
  const Piece& piece = pieces_[slot];
  const Request& request = requests_[piece.request];
  const platform::DirectFile& file = files_[request.read.file.index];
  DeviceRead read;
  read.slot = slot;
  read.file = request.read.file.index;
  read.descriptor = piece.through_cache ? file.buffered_descriptor() : file.direct_descriptor();
  read.direct = !piece.through_cache;
  read.offset = piece.offset + piece.done;
  read.bytes = piece.bytes - piece.done;
  read.into = request.read.into + (read.offset - request.begin);
  device_->start(read);
}

void Storage::take_up(TimePoint deadline) {
  if (stats_.in_flight == 0) return;
  device_->flush();
  const size_t count = device_->reap(results_, deadline);
  for (size_t i = 0; i < count; ++i) handle(results_[i]);
}

void Storage::handle(const DeviceResult& result) {
  Piece& piece = pieces_[result.slot];
  if (result.result > 0) {
    stats_.device_bytes += static_cast<uint64_t>(result.result);
    continue_piece(result.slot, static_cast<uint64_t>(result.result));
    return;
  }
  const int number = static_cast<int>(-result.result);
  // ECANCELED: io_uring gives up what is not at the disk yet when the thread that submitted it ends.
  const bool passing = number == EINTR || number == EAGAIN || number == ECANCELED;
  if (passing && ++piece.idle_retries <= kIdleRetriesMax) {
    ++stats_.retries;
    start_piece(result.slot);
  } else if (number == EINVAL && !piece.through_cache) {
    // A file system that takes O_DIRECT at open but not for this range, as some do at the end of the file.
    piece.through_cache = true;
    ++stats_.through_cache;
    start_piece(result.slot);
  } else {
    ++stats_.failed;
    stop(piece.request, number == 0 ? end_of_file(piece) : read_error(piece, number));
    end_piece(result.slot);
  }
}

void Storage::continue_piece(uint32_t slot, uint64_t got) {
  Piece& piece = pieces_[slot];
  const uint64_t done = piece.done + got;
  if (done >= piece.needed) {
    end_piece(slot);
    return;
  }
  ++stats_.retries;
  // Direct reads go on at a block border. If that is where this one began, the file ends inside the block or the
  // device counts in smaller sectors: the page cache can tell.
  const uint64_t border = done / kAlign * kAlign;
  if (!piece.through_cache && border == piece.done) {
    piece.through_cache = true;
    ++stats_.through_cache;
  }
  piece.done = piece.through_cache ? done : border;
  start_piece(slot);
}

void Storage::end_piece(uint32_t slot) {
  const uint32_t owner = pieces_[slot].request;
  Request& request = requests_[owner];
  --request.pieces_in_flight;
  if (request.read.priority != Priority::kDemand) --lookahead_in_flight_;
  free_pieces_.push_back(slot);
  if (--stats_.in_flight == 0) stats_.busy_seconds += seconds(Clock::now() - busy_since_);
  complete_if_over(owner);
}

// ---- errors and statistics ----

std::string Storage::where(const Request& request) const {
  return files_[request.read.file.index].file().path() + ": reading " + std::to_string(request.read.length) +
         " bytes at byte " + std::to_string(request.read.offset);
}

Error Storage::read_error(const Piece& piece, int number) const {
  const ErrorCode code = number == ESTALE ? ErrorCode::kChanged : ErrorCode::kIo;
  return {code, where(requests_[piece.request]) + ": failed at byte " +
                    std::to_string(piece.offset + piece.done) + ": " + std::strerror(number)};
}

Error Storage::end_of_file(const Piece& piece) const {
  const Request& request = requests_[piece.request];
  // Ranges are checked against the size at opening, so the file must have shrunk.
  if (const Status status = check_identity(request.read.file); !status)
    return status.error().within(where(request));
  return {ErrorCode::kIo,
          where(request) + ": the file ends at byte " + std::to_string(piece.offset + piece.done)};
}

StorageStats Storage::stats() const {
  StorageStats stats = stats_;
  if (stats.in_flight > 0) stats.busy_seconds += seconds(Clock::now() - busy_since_);
  return stats;
}

}  // namespace mlxf::storage
