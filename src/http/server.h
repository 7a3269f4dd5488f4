// Server: HTTP/1.1 over TCP for a handler that answers at once, later, or piece by piece. It knows nothing of what is
// said.
//
// A few threads, `http-i`, run everything: accepting, reading, the handler, writing. Handlers may take some milliseconds,
// not block. Each request comes as an Exchange, which any thread may answer. Everything that a client can make grow is
// bounded by Limits: heads, bodies, connections, what waits to be written, and every wait has a deadline. A client that
// goes away ends its exchange: on_closed is called and work for it should stop.
//
// Thread-safe: Server, Exchange. Callbacks of an exchange are called by the http threads, one at a time, under no lock,
// and are let go of when the exchange ends.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "http/head.h"
#include "http/message.h"

namespace mlxf::http {

struct Limits {
  HeadLimits head;
  uint64_t body_bytes = uint64_t{32} << 20;
  uint64_t bodies_bytes = uint64_t{256} << 20;  // Of all bodies being read or not yet taken.
  uint64_t write_bytes = 128 << 10;  // Of one exchange, waiting to be sent: what a careful writer keeps to,
  uint64_t write_bytes_max = uint64_t{64} << 20;  // and what ends the connection.
  size_t connections = 4096;
  // To the end of a request's head: of a connection's first one from the beginning, of others from their first byte.
  std::chrono::milliseconds head_wait{10'000};
  std::chrono::milliseconds body_wait{30'000};   // Between two parts of a body.
  std::chrono::milliseconds idle_wait{75'000};   // For a connection's next request.
  std::chrono::milliseconds write_wait{60'000};  // For a client that takes nothing.
};

// How a streamed response begins. What `heartbeat` returns is sent whenever nothing else was for `heartbeat_wait`; it
// is called as the exchange's callbacks are, and its bytes follow at once what was written before.
struct StreamHead {
  int status = 200;
  std::string content_type;
  std::vector<Header> headers = {};
  std::function<std::string()> heartbeat = {};
  std::chrono::milliseconds heartbeat_wait{5'000};
};

// What became of a request, for a log.
struct Outcome {
  int status = 0;         // 0: nothing was answered.
  bool complete = false;  // The answer went out whole; else the client left or was too slow.
  uint64_t bytes = 0;     // Of the answer, as passed to respond() and write().
  std::chrono::microseconds took{0};
  std::vector<Header> headers;                          // Of the answer, as the handler gave them.
  std::vector<std::pair<std::string, uint64_t>> notes;  // Exchange::note()
};

class Exchange {
 public:
  virtual ~Exchange() = default;

  [[nodiscard]] virtual const Request& request() const = 0;
  // The request's body, which is empty from then on: an answer may take long, and need not keep it. In the handler.
  [[nodiscard]] virtual std::string take_body() = 0;
  // The whole answer. Once; or begin(), any number of write(), and finish() or abort(). Calls after the end, or after
  // the client left, do nothing.
  virtual void respond(Response response) = 0;
  virtual void begin(StreamHead head) = 0;
  virtual void write(std::string bytes) = 0;
  virtual void finish() = 0;
  // Resets the connection: the client sees a failure, never a clean end.
  virtual void abort() = 0;

  // Bytes that wait to be sent. A writer stops above Limits::write_bytes and goes on in on_writable.
  [[nodiscard]] virtual uint64_t waiting_bytes() const = 0;
  // Called when less than half of Limits::write_bytes wait again. Before begin().
  virtual void on_writable(std::function<void()> callback) = 0;
  // Called once if the client leaves before the end of the answer; at once if it already has.
  virtual void on_closed(std::function<void()> callback) = 0;
  // A number for the log of requests; before the answer's end.
  virtual void note(std::string name, uint64_t value) = 0;
  // Runs `work` on an http thread, after and before the exchange's other callbacks; not at all once it has ended.
  virtual void post(std::function<void()> work) = 0;
};

struct ServerOptions {
  // Addresses or names, as --host gives them; all get the same port.
  std::vector<std::string> hosts = {"127.0.0.1"};
  uint16_t port = 0;  // 0: any free one.
  uint32_t threads = 2;
  Limits limits;
  // Judges a request by its head, before its body is read: a response refuses it.
  std::function<std::optional<Response>(const Request& request)> check_head = {};
  // Adds what each answer to a request says, whole or streamed, refused by its head or not.
  std::function<void(const Request& request, std::vector<Header>& headers)> add_headers = {};
  // Called once for each request at its end, on an http thread; it may take microseconds.
  std::function<void(const Request& request, const Outcome& outcome)> on_answered = {};
  // What a request that is not HTTP, too large or too slow is told.
  std::function<Response(const Refusal& refusal)> refuse = {};
  std::function<void(std::shared_ptr<Exchange>)> handler;  // REQUIRES: given.
  // Called by start() once the addresses are taken, before anybody can connect; its error is that of start().
  std::function<Status()> prepare = {};
};

class Server {
 public:
  // Listens and answers from now on. The first host must be free; the others are left out where they are not there
  // (::1 on a machine without IPv6). Errors name the address.
  [[nodiscard]] static Result<std::unique_ptr<Server>> start(ServerOptions options);
  virtual ~Server() = default;  // stop()

  [[nodiscard]] virtual uint16_t port() const = 0;
  [[nodiscard]] virtual size_t connections() const = 0;
  // Ends every connection that has no exchange, and others as their exchanges end; takes no new ones.
  virtual void close_idle() = 0;
  // Ends everything and joins the threads. Not from a callback.
  virtual void stop() = 0;
};

}  // namespace mlxf::http
