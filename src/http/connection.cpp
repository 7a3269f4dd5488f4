#include "http/connection.h"

#include <netinet/in.h>
#include <netinet/tcp.h>

#include <algorithm>
#include <exception>
#include <utility>
#include <vector>

namespace mlxf::http {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;

using UnsentBytes = asio::detail::socket_option::integer<IPPROTO_TCP, TCP_NOTSENT_LOWAT>;

constexpr size_t kReadBytes = 16 << 10;
constexpr int kUnsentBytesMax = 32 << 10;  // Given to the system and not yet on their way.
// Of the next requests, while one is answered.
constexpr size_t kPipelinedBytesMax = 64 << 10;
// What a refused client may still send before it is cut off, so that it gets to read why.
constexpr size_t kLingerBytesMax = 4 << 20;
constexpr std::chrono::seconds kLingerWait(2);

std::string head_text(int status, const std::vector<Header>& headers, bool keep_alive) {
  std::string text = "HTTP/1.1 " + std::to_string(status) + " " + std::string(reason_of(status)) + "\r\n";
  for (const Header& header : headers) text += header.name + ": " + header.value + "\r\n";
  text += keep_alive ? "Connection: keep-alive\r\n" : "Connection: close\r\n";
  return text + "\r\n";
}

std::string chunk_text(const std::string& bytes) {
  char size[20];
  std::snprintf(size, sizeof(size), "%zx\r\n", bytes.size());
  return size + bytes + "\r\n";
}

}  // namespace

Connection::Connection(tcp::socket socket, const ServerOptions& options, Shared& shared)
    : socket_(std::move(socket)),
      timer_(socket_.get_executor()),
      beat_timer_(socket_.get_executor()),
      write_timer_(socket_.get_executor()),
      options_(options),
      shared_(shared) {
  ++shared_.connections;
  error_code ignored;
  socket_.set_option(tcp::no_delay(true), ignored);
  // Else the system takes megabytes for a client that reads slowly, whatever is held back here.
  socket_.set_option(UnsentBytes(kUnsentBytesMax), ignored);
  const auto endpoint = socket_.remote_endpoint(ignored);
  if (!ignored) peer_ = endpoint.address().to_string();
}

void Connection::start() {
  await(options_.limits.head_wait);
  read_more();
}

void Connection::refuse_connection() { refuse({503, "there are too many connections"}); }

void Connection::close_if_idle() {
  if (state_ == State::kHead && in_.empty()) close();
}

void Connection::close() {
  if (state_ == State::kClosed) return;
  state_ = State::kClosed;
  error_code ignored;
  timer_.cancel();
  beat_timer_.cancel();
  write_timer_.cancel();
  socket_.close(ignored);
  client_left();
}

void Connection::reset() {
  error_code ignored;
  // An answer that is out may still be on its way.
  if (exchange_ != nullptr) socket_.set_option(asio::socket_base::linger(true, 0), ignored);
  close();
}

// The exchange, if there is one, is over before its answer was.
void Connection::client_left() {
  if (exchange_ == nullptr) return;
  const std::shared_ptr<ExchangeOf> exchange = std::move(exchange_);
  exchange_.reset();
  exchange->ended_ = exchange->left_ = true;
  report(*exchange, false);
  const std::function<void()> closed = std::move(exchange->closed_);
  exchange->closed_ = exchange->writable_ = {};
  if (closed) closed();
}

void Connection::await(std::chrono::milliseconds wait) {
  timer_.expires_after(wait);
  timer_.async_wait([self = shared_from_this()](error_code error) {
    if (!error && self->timer_.expiry() <= Clock::now()) self->on_deadline();
  });
}

void Connection::on_deadline() {
  if (state_ == State::kBusy || state_ == State::kClosed) return;
  if (state_ == State::kLinger || (state_ == State::kHead && in_.empty())) {
    close();
  } else {
    refuse({408, "the request took too long to arrive"});
  }
}

void Connection::read_more() {
  const size_t held_max = state_ == State::kBusy ? kPipelinedBytesMax : SIZE_MAX;
  if (reading_ || state_ == State::kClosed || in_.size() >= held_max) return;
  reading_ = true;
  read_buffer_.resize(state_ == State::kBusy ? 512 : kReadBytes);
  socket_.async_read_some(
      asio::buffer(read_buffer_),
      [self = shared_from_this()](error_code error, size_t bytes) { self->on_read(error, bytes); });
}

void Connection::on_read(error_code error, size_t bytes) {
  reading_ = false;
  if (state_ == State::kClosed) return;
  // Who has all of an answer may leave before the write that brought it is known to be over: that write's outcome says
  // whether it went out whole, and the next read says again that this is the end.
  if (error == asio::error::eof && answered_ && writing_) return;
  if (error) {
    close();
    return;
  }
  if (state_ == State::kLinger) {
    lingered_ += bytes;
    if (lingered_ > kLingerBytesMax) {
      close();
    } else {
      read_more();
    }
    return;
  }
  in_.append(read_buffer_, 0, bytes);
  if (state_ == State::kHead && !std::exchange(head_began_, true)) await(options_.limits.head_wait);
  if (state_ == State::kBody) await(options_.limits.body_wait);
  if (state_ != State::kBusy) advance();
  read_more();
}

// Uses what was read, as far as it goes.
void Connection::advance() {
  while (true) {
    if (state_ == State::kHead) {
      if (!advance_head()) return;
    } else if (state_ == State::kBody) {
      if (!advance_body()) return;
    } else {
      return;
    }
  }
}

bool Connection::advance_head() {
  if (in_ == "\r") return false;
  if (in_.starts_with("\r\n")) in_.erase(0, 2);  // RFC 9112, section 2.2: some clients end a body so.
  size_t length = 0;
  if (const auto refusal = find_head_end(in_, options_.limits.head, length)) {
    refuse(*refusal);
    return false;
  }
  if (length == 0) return false;
  if (const auto refusal = parse_head(std::string_view(in_).substr(0, length), options_.limits.head, head_)) {
    refuse(*refusal);
    return false;
  }
  in_.erase(0, length);
  head_.request.peer = peer_;
  if (options_.check_head) {
    if (auto response = options_.check_head(head_.request)) {
      response->close = true;  // Its body was not read.
      keep_alive_ = false;
      state_ = State::kBusy;
      exchange_ = std::make_shared<ExchangeOf>(shared_from_this(), std::move(head_.request));
      respond(*exchange_, std::move(*response));
      return false;
    }
  }
  if (head_.content_length.value_or(0) > options_.limits.body_bytes) {
    refuse({413, "the body is over " + std::to_string(options_.limits.body_bytes) + " bytes"},
           std::move(head_.request));
    return false;
  }
  body_.clear();
  body_share_ = BodyShare(shared_);
  chunked_.reset();
  if (head_.chunked) chunked_.emplace(options_.limits.body_bytes);
  state_ = State::kBody;
  if (head_.expects_continue && in_.empty() && (head_.chunked || head_.content_length.value_or(0) != 0))
    send("HTTP/1.1 100 Continue\r\n\r\n");
  await(options_.limits.body_wait);
  return true;
}

bool Connection::advance_body() {
  bool whole = false;
  if (chunked_) {
    std::string_view rest(in_);
    const ChunkedDecoder::State state = chunked_->push(rest, body_);
    in_.erase(0, in_.size() - rest.size());
    whole = state == ChunkedDecoder::State::kDone;
    if (!whole && state != ChunkedDecoder::State::kMore) {
      refuse(state == ChunkedDecoder::State::kBad
                 ? Refusal{400, "the body is not a chunked one"}
                 : Refusal{413, "the body is over " + std::to_string(options_.limits.body_bytes) + " bytes"});
      return false;
    }
  } else {
    const uint64_t wanted = head_.content_length.value_or(0) - body_.size();
    const size_t take = static_cast<size_t>(std::min<uint64_t>(wanted, in_.size()));
    body_.append(in_, 0, take);
    in_.erase(0, take);
    whole = take == wanted;
  }
  if (!body_share_.grow_to(body_.size(), options_.limits.bodies_bytes)) {
    body_ = {};
    body_share_.release();
    refuse({503, "the requests under way are too large together: try again"});
    return false;
  }
  if (whole) dispatch();
  return false;
}

void Connection::dispatch() {
  state_ = State::kBusy;
  timer_.cancel();
  in_.shrink_to_fit();  // Streams last long and are many.
  head_.request.body = std::move(body_);
  body_ = {};
  keep_alive_ = head_.keep_alive;
  exchange_ =
      std::make_shared<ExchangeOf>(shared_from_this(), std::move(head_.request), std::move(body_share_));
  try {
    options_.handler(exchange_);
  } catch (const std::exception&) {  // A library's, or out of memory: this request's, not the server's, end.
    if (streaming_ || answered_ || exchange_ == nullptr) {
      reset();
    } else {
      Request request = exchange_->request_;
      release_exchange();
      refuse({500, "the server failed to answer this request"}, std::move(request));
    }
  }
}

void Connection::refuse(const Refusal& refusal) {
  Request request;
  if (state_ == State::kBody) request = std::move(head_.request);  // Its head was understood.
  request.peer = peer_;
  refuse(refusal, std::move(request));
}

void Connection::refuse(const Refusal& refusal, Request request) {
  Response response = options_.refuse
                          ? options_.refuse(refusal)
                          : Response{refusal.status, "text/plain", refusal.message + "\n", {}, true};
  response.close = true;
  state_ = State::kBusy;
  keep_alive_ = false;
  timer_.cancel();
  exchange_ = std::make_shared<ExchangeOf>(shared_from_this(), std::move(request));
  respond(*exchange_, std::move(response));
}

void Connection::respond(ExchangeOf& exchange, Response response) {
  if (exchange.ended_ || streaming_ || answered_) return;
  if (options_.on_answered) {
    exchange.outcome_.status = response.status;
    exchange.outcome_.bytes = response.body.size();
    exchange.outcome_.headers = response.headers;
  }
  std::vector<Header> headers = std::move(response.headers);
  if (options_.add_headers) options_.add_headers(exchange.request_, headers);
  if (!response.content_type.empty()) headers.push_back({"Content-Type", std::move(response.content_type)});
  if (response.status != 204) headers.push_back({"Content-Length", std::to_string(response.body.size())});
  if (response.close || shared_.closing) keep_alive_ = false;
  const bool with_body = exchange.request_.method != "HEAD" && response.status != 204;
  answered_ = true;
  send(head_text(response.status, headers, keep_alive_) + (with_body ? response.body : std::string()));
}

void Connection::begin(ExchangeOf& exchange, StreamHead head) {
  if (exchange.ended_ || streaming_ || answered_) return;
  streaming_ = true;
  in_chunks_ = exchange.request_.minor_version == 1;
  if (!in_chunks_ || shared_.closing) keep_alive_ = false;
  stream_ = std::move(head);
  if (options_.on_answered) {
    exchange.outcome_.status = stream_.status;
    exchange.outcome_.headers = stream_.headers;
  }
  std::vector<Header> headers = std::move(stream_.headers);
  if (options_.add_headers) options_.add_headers(exchange.request_, headers);
  headers.push_back({"Content-Type", stream_.content_type});
  if (in_chunks_) headers.push_back({"Transfer-Encoding", "chunked"});
  send(head_text(stream_.status, headers, keep_alive_));
  if (stream_.heartbeat) beat();
}

void Connection::beat() {
  beat_timer_.expires_at(sent_at_ + stream_.heartbeat_wait);
  beat_timer_.async_wait([self = shared_from_this()](error_code error) {
    if (error || !self->streaming_ || self->answered_ || self->state_ != State::kBusy) return;
    if (Clock::now() - self->sent_at_ >= self->stream_.heartbeat_wait) {
      if (self->out_.empty()) {
        std::string bytes = self->stream_.heartbeat();
        if (!bytes.empty()) self->send(self->in_chunks_ ? chunk_text(bytes) : std::move(bytes));
      }
      self->sent_at_ = Clock::now();
    }
    self->beat();
  });
}

void Connection::write(ExchangeOf& exchange, std::string bytes) {
  const uint64_t size = bytes.size();
  if (exchange.ended_ || !streaming_ || answered_ || size == 0) {
    exchange.waiting_bytes_ -= size;
    return;
  }
  if (out_bytes_ > options_.limits.write_bytes_max) {
    reset();
    return;
  }
  exchange.outcome_.bytes += size;
  send(in_chunks_ ? chunk_text(bytes) : std::move(bytes));
  exchange.waiting_bytes_ = out_bytes_;
}

void Connection::finish(ExchangeOf& exchange) {
  if (exchange.ended_ || !streaming_ || answered_) return;
  answered_ = true;
  if (in_chunks_) {
    send("0\r\n\r\n");
  } else if (!writing_) {
    all_sent();
  }
}

void Connection::send(std::string bytes) {
  if (state_ == State::kClosed) return;
  sent_at_ = Clock::now();
  out_bytes_ += bytes.size();
  out_.push_back(std::move(bytes));
  flush();
}

void Connection::flush() {
  if (writing_ || out_.empty()) return;
  writing_ = true;
  write_timer_.expires_after(options_.limits.write_wait);
  write_timer_.async_wait([self = shared_from_this()](error_code error) {
    if (!error && self->writing_ && self->write_timer_.expiry() <= Clock::now()) self->reset();
  });
  // What waits goes out together, and what a slow client takes counts as progress.
  std::vector<asio::const_buffer> buffers;
  for (const std::string& part : out_) {
    buffers.push_back(asio::buffer(part));
    if (buffers.size() == 16) break;
  }
  socket_.async_write_some(buffers, [self = shared_from_this()](error_code error, size_t bytes) {
    self->on_written(error, bytes);
  });
}

void Connection::on_written(error_code error, size_t bytes) {
  writing_ = false;
  write_timer_.cancel();
  if (state_ == State::kClosed) return;
  if (error) {
    close();
    return;
  }
  out_bytes_ -= bytes;
  while (bytes > 0 && bytes >= out_.front().size()) {
    bytes -= out_.front().size();
    out_.pop_front();
  }
  if (bytes > 0) out_.front().erase(0, bytes);
  if (exchange_ != nullptr) {
    exchange_->waiting_bytes_ = out_bytes_;
    if (out_bytes_ < options_.limits.write_bytes / 2 && streaming_ && !answered_ && exchange_->writable_) {
      const std::function<void()> writable = exchange_->writable_;
      writable();
    }
  }
  if (state_ == State::kClosed) return;
  if (out_.empty() && answered_) {
    all_sent();
  } else {
    flush();
  }
}

// The answer is out: on to the next request, or to the end.
void Connection::all_sent() {
  if (exchange_ != nullptr) report(*exchange_, true);
  release_exchange();
  answered_ = streaming_ = false;
  beat_timer_.cancel();
  if (keep_alive_ && !shared_.closing) {
    state_ = State::kHead;
    head_began_ = !in_.empty();
    await(head_began_ ? options_.limits.head_wait : options_.limits.idle_wait);
    advance();
  } else {
    error_code ignored;
    socket_.shutdown(tcp::socket::shutdown_send, ignored);
    state_ = State::kLinger;
    await(std::chrono::duration_cast<std::chrono::milliseconds>(kLingerWait));
  }
  read_more();
}

void Connection::report(ExchangeOf& exchange, bool complete) {
  if (!options_.on_answered) return;
  exchange.outcome_.complete = complete;
  exchange.outcome_.took =
      std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - exchange.began_);
  options_.on_answered(exchange.request_, exchange.outcome_);
}

void Connection::release_exchange() {
  if (exchange_ == nullptr) return;
  exchange_->ended_ = true;
  exchange_->writable_ = exchange_->closed_ = {};
  stream_.heartbeat = {};
  exchange_.reset();
}

void ExchangeOf::respond(Response response) {
  asio::dispatch(connection_->executor(), [self = shared_from_this(), r = std::move(response)]() mutable {
    self->connection_->respond(*self, std::move(r));
  });
}

void ExchangeOf::begin(StreamHead head) {
  asio::dispatch(connection_->executor(), [self = shared_from_this(), h = std::move(head)]() mutable {
    self->connection_->begin(*self, std::move(h));
  });
}

void ExchangeOf::write(std::string bytes) {
  waiting_bytes_ += bytes.size();
  asio::dispatch(connection_->executor(), [self = shared_from_this(), b = std::move(bytes)]() mutable {
    self->connection_->write(*self, std::move(b));
  });
}

void ExchangeOf::finish() {
  asio::dispatch(connection_->executor(), [self = shared_from_this()] { self->connection_->finish(*self); });
}

void ExchangeOf::abort() {
  asio::dispatch(connection_->executor(), [self = shared_from_this()] {
    if (!self->ended_) self->connection_->reset();
  });
}

void ExchangeOf::note(std::string name, uint64_t value) {
  asio::dispatch(connection_->executor(), [self = shared_from_this(), n = std::move(name), value]() mutable {
    self->outcome_.notes.emplace_back(std::move(n), value);
  });
}

void ExchangeOf::on_writable(std::function<void()> callback) {
  asio::dispatch(connection_->executor(), [self = shared_from_this(), c = std::move(callback)]() mutable {
    if (!self->ended_) self->writable_ = std::move(c);
  });
}

void ExchangeOf::on_closed(std::function<void()> callback) {
  asio::dispatch(connection_->executor(), [self = shared_from_this(), c = std::move(callback)]() mutable {
    if (self->left_) {
      c();
    } else if (!self->ended_) {
      self->closed_ = std::move(c);
    }
  });
}

void ExchangeOf::post(std::function<void()> work) {
  asio::post(connection_->executor(), [self = shared_from_this(), w = std::move(work)] {
    if (self->ended_) return;
    try {
      w();
    } catch (const std::exception&) {  // As in dispatch(): nobody else will end this request.
      if (!self->ended_) self->connection_->reset();
    }
  });
}

}  // namespace mlxf::http
