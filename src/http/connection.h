// Connection and its exchanges: one client's TCP connection, request by request. Internal to http/.
//
// Everything of a connection runs on its strand: reading, the handler, writing, timers; an exchange passes calls of
// other threads on to it. The state machine: kHead (reading a head), kBody, kBusy (a request is being answered; bytes
// of the next ones wait, and the end of the stream means that the client left), kLinger (answered for the last time;
// reads on so that the client gets to read it), kClosed. A connection lives as long as an operation of it is under way.
#pragma once

#include <atomic>
#include <boost/asio.hpp>
#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "http/head.h"
#include "http/server.h"

namespace mlxf::http {

class Connection;

// What the connections of a server have in common. Outlives them.
struct Shared {
  std::atomic<bool> closing{false};     // Set once, read by connections; seq_cst.
  std::atomic<size_t> connections{0};   // Each counts itself.
  std::atomic<uint64_t> body_bytes{0};  // Of bodies being read or not yet taken; relaxed: a level.
};

// One body's part of Shared::body_bytes, given back with it.
class BodyShare {
 public:
  BodyShare() = default;
  explicit BodyShare(Shared& shared) : shared_(&shared) {}
  BodyShare(BodyShare&& other) noexcept { *this = std::move(other); }
  BodyShare& operator=(BodyShare&& other) noexcept {
    release();
    shared_ = std::exchange(other.shared_, nullptr);
    bytes_ = std::exchange(other.bytes_, 0);
    return *this;
  }
  ~BodyShare() { release(); }
  // To `bytes`, which are no fewer than before. False if all bodies together are more than `most` then.
  [[nodiscard]] bool grow_to(uint64_t bytes, uint64_t most) {
    const uint64_t more = bytes - bytes_;
    bytes_ = bytes;
    return shared_->body_bytes.fetch_add(more, std::memory_order_relaxed) + more <= most;
  }
  void release() {
    if (shared_ != nullptr) shared_->body_bytes.fetch_sub(bytes_, std::memory_order_relaxed);
    shared_ = nullptr;
    bytes_ = 0;
  }

 private:
  Shared* shared_ = nullptr;
  uint64_t bytes_ = 0;
};

// One request's answer. Calls are passed on to the connection's strand.
class ExchangeOf final : public Exchange, public std::enable_shared_from_this<ExchangeOf> {
 public:
  ExchangeOf(std::shared_ptr<Connection> connection, Request request, BodyShare share = {})
      : connection_(std::move(connection)), request_(std::move(request)), share_(std::move(share)) {}

  const Request& request() const override { return request_; }
  std::string take_body() override {
    share_.release();
    return std::exchange(request_.body, {});
  }
  void respond(Response response) override;
  void begin(StreamHead head) override;
  void write(std::string bytes) override;
  void finish() override;
  void abort() override;
  uint64_t waiting_bytes() const override { return waiting_bytes_.load(std::memory_order_relaxed); }
  void on_writable(std::function<void()> callback) override;
  void on_closed(std::function<void()> callback) override;
  void note(std::string name, uint64_t value) override;
  void post(std::function<void()> work) override;

 private:
  friend class Connection;
  const std::shared_ptr<Connection> connection_;
  Request request_;  // Constant but for its body, which the handler takes.
  BodyShare share_;
  std::atomic<uint64_t> waiting_bytes_{
      0};  // Added to by writers, taken from by the connection; relaxed: a level.
  // The connection's strand only.
  std::function<void()> writable_, closed_;
  bool ended_ = false;
  bool left_ = false;  // The client went away.
  Outcome outcome_;
  const std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
};

// A client's connection: reads a request, hands it on, writes its answer, and so on. Everything runs on its strand.
class Connection final : public std::enable_shared_from_this<Connection> {
 public:
  // `options` and `shared` outlive this.
  Connection(boost::asio::ip::tcp::socket socket, const ServerOptions& options, Shared& shared);
  ~Connection() { --shared_.connections; }

  boost::asio::any_io_executor executor() { return socket_.get_executor(); }
  void start();
  void refuse_connection();  // Too many are there.
  void close_if_idle();
  void close();
  void reset();  // The client of an exchange sees a failure; without one it is close().

  // Of the current exchange.
  void respond(ExchangeOf& exchange, Response response);
  void begin(ExchangeOf& exchange, StreamHead head);
  void write(ExchangeOf& exchange, std::string bytes);
  void finish(ExchangeOf& exchange);

 private:
  enum class State : uint8_t { kHead, kBody, kBusy, kLinger, kClosed };

  void read_more();
  void on_read(boost::system::error_code error, size_t bytes);
  void advance();
  [[nodiscard]] bool advance_head();
  [[nodiscard]] bool advance_body();
  void dispatch();
  void refuse(const Refusal& refusal);
  void refuse(const Refusal& refusal, Request request);
  void client_left();
  void await(std::chrono::milliseconds wait);
  void on_deadline();
  void send(std::string bytes);
  void flush();
  void on_written(boost::system::error_code error, size_t bytes);
  void all_sent();
  void beat();
  void release_exchange();
  void report(ExchangeOf& exchange, bool complete);

  boost::asio::ip::tcp::socket socket_;
  boost::asio::steady_timer timer_, beat_timer_, write_timer_;
  const ServerOptions& options_;
  Shared& shared_;
  std::string peer_;

  State state_ = State::kHead;
  bool reading_ = false;
  std::string read_buffer_;
  std::string in_;  // Read and not yet used.
  size_t lingered_ = 0;
  Head head_;
  std::string body_;
  BodyShare body_share_;
  std::optional<ChunkedDecoder> chunked_;
  std::shared_ptr<ExchangeOf> exchange_;
  StreamHead stream_;
  bool head_began_ = true;  // The time of the head that is awaited runs.
  bool streaming_ = false, in_chunks_ = false, keep_alive_ = false;
  std::chrono::steady_clock::time_point sent_at_;

  std::deque<std::string> out_;
  uint64_t out_bytes_ = 0;
  bool writing_ = false;
  bool answered_ = false;  // The answer's last byte is in out_.
};

}  // namespace mlxf::http
