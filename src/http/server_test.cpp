#include "http/server.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>

#include "base/bounded_queue.h"

namespace mlxf::http {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::HasSubstr;
using testing::StartsWith;

// A blocking client that knows nothing of HTTP.
class Client {
 public:
  explicit Client(uint16_t port) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    const timeval wait{60, 0};
    ::setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
  }
  ~Client() { leave(); }
  void leave() {
    if (socket_ >= 0) ::close(socket_);
    socket_ = -1;
  }
  void send_no_more() const { EXPECT_EQ(::shutdown(socket_, SHUT_WR), 0); }
  void send(const std::string& bytes) const {
    EXPECT_EQ(::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
  }
  // False: the connection has ended.
  [[nodiscard]] bool try_send(const std::string& bytes) const {
    return ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size());
  }
  // Until `end` was read, or the connection ends.
  std::string read_to(const std::string& end) {
    while (end.empty() || held_.find(end) == std::string::npos) {
      char bytes[4096];
      const ssize_t count = ::recv(socket_, bytes, sizeof(bytes), 0);
      if (count <= 0) return std::exchange(held_, {});
      held_.append(bytes, static_cast<size_t>(count));
    }
    const size_t length = held_.find(end) + end.size();
    std::string out = held_.substr(0, length);
    held_.erase(0, length);
    return out;
  }
  std::string read_all() { return read_to(""); }
  // That have arrived and were not read.
  [[nodiscard]] uint64_t held_bytes() const {
    int bytes = 0;
    EXPECT_EQ(::ioctl(socket_, FIONREAD, &bytes), 0);
    return static_cast<uint64_t>(bytes);
  }

 private:
  int socket_;
  std::string held_;
};

std::string get(const std::string& path) { return "GET " + path + " HTTP/1.1\r\nHost: localhost\r\n\r\n"; }

// Answers "/echo" with the body at once and hands every other exchange to the test.
class ServerTest : public testing::Test {
 protected:
  void start(ServerOptions options = {}) {
    options.handler = [this](std::shared_ptr<Exchange> exchange) {
      if (exchange->request().path == "/echo") {
        exchange->respond({200, "text/plain", exchange->request().body, {}, false});
      } else {
        exchange->on_closed([this] { ++closed_; });
        exchanges_.push(std::move(exchange));
      }
    };
    auto server = Server::start(std::move(options));
    ASSERT_TRUE(server) << server.error().message;
    server_ = std::move(*server);
  }
  std::shared_ptr<Exchange> next() { return exchanges_.wait(seconds(60)).value(); }
  void await_closed(uint32_t count) {
    for (int i = 0; i < 60'000 && closed_ < count; ++i) (void)quiet_.wait(milliseconds(1));
    EXPECT_EQ(closed_, count);
  }

  BoundedQueue<std::shared_ptr<Exchange>> exchanges_{16};
  BoundedQueue<int> quiet_{1};
  std::atomic<uint32_t> closed_{0};
  std::unique_ptr<Server> server_;  // Last: its callbacks use the others.
};

TEST_F(ServerTest, AnswersOneRequestAfterTheOther) {
  start();
  Client client(server_->port());
  client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc" + get("/echo") +
              "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nxy\r\n0\r\n\r\n");
  EXPECT_THAT(client.read_to("abc"), HasSubstr("HTTP/1.1 200 OK\r\n"));
  EXPECT_THAT(client.read_to("\r\n\r\n"), HasSubstr("Content-Length: 0\r\n"));
  EXPECT_THAT(client.read_to("xy"), HasSubstr("Connection: keep-alive\r\n"));
  client.send("HEAD /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nConnection: close\r\n\r\nzz");
  const std::string last = client.read_all();
  EXPECT_THAT(last, HasSubstr("Content-Length: 2\r\n"));
  EXPECT_THAT(last, testing::EndsWith("\r\n\r\n")) << "HEAD has no body";
}

// What takes minutes, such as reading a model, is not done for a port that another program has.
TEST_F(ServerTest, PreparesOnceThePortIsItsOwnAndBeforeAnybodyConnects) {
  start();
  ServerOptions second;
  second.port = server_->port();
  second.handler = [](const std::shared_ptr<Exchange>&) {};
  int prepared = 0;
  second.prepare = [&prepared]() -> Status {
    ++prepared;
    return {};
  };
  const auto refused = Server::start(second);
  ASSERT_FALSE(refused);
  EXPECT_EQ(prepared, 0);
  EXPECT_THAT(refused.error().message, HasSubstr("cannot listen on 127.0.0.1, port"));
  EXPECT_THAT(refused.error().message, HasSubstr("choose another port"));
  server_->stop();
  server_.reset();
  second.prepare = [&prepared, port = second.port]() -> Status {
    ++prepared;
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
    EXPECT_NE(::connect(socket, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    ::close(socket);
    return prepared == 1 ? Status(fail(ErrorCode::kCorrupt, "there is nothing to serve")) : Status();
  };
  const auto unprepared = Server::start(second);
  ASSERT_FALSE(unprepared);
  EXPECT_EQ(unprepared.error().message, "there is nothing to serve");
  const auto started = Server::start(second);
  ASSERT_TRUE(started) << started.error().message;
  EXPECT_EQ(prepared, 2);
  const Client client((*started)->port());
}

TEST_F(ServerTest, RefusesAndClosesSoThatNothingIsSmuggled) {
  start();
  Client client(server_->port());
  client.send(
      "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" +
      get("/echo"));
  const std::string answer = client.read_all();
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 400 Bad Request\r\n"));
  EXPECT_EQ(answer.find("HTTP/1.1 200"), std::string::npos);
}

TEST_F(ServerTest, JudgesTheHeadBeforeItReadsTheBody) {
  ServerOptions options;
  options.limits.body_bytes = 10;
  options.check_head = [](const Request& request) -> std::optional<Response> {
    if (request.find_header("key") != nullptr) return std::nullopt;
    return Response{401, "text/plain", "no key", {}, false};
  };
  start(std::move(options));
  const std::string head = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n";
  Client stranger(server_->port());
  stranger.send(head + "\r\n");
  EXPECT_THAT(stranger.read_all(), StartsWith("HTTP/1.1 401"));
  Client friendly(server_->port());
  friendly.send(head + "Key: 1\r\n\r\n");
  EXPECT_THAT(friendly.read_all(), StartsWith("HTTP/1.1 413"));
  Client patient(server_->port());
  patient.send(
      "POST /echo HTTP/1.1\r\nHost: a\r\nKey: 1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_EQ(patient.read_to("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  patient.send("ok");
  EXPECT_THAT(patient.read_to("ok"), StartsWith("HTTP/1.1 200"));
}

TEST_F(ServerTest, ReportsEachRequestOnceWithWhatBecameOfIt) {
  struct Report {
    Request request;
    Outcome outcome;
  };
  BoundedQueue<Report> reports(16);
  ServerOptions options;
  options.limits.body_bytes = 10;
  options.on_answered = [&reports](const Request& request, const Outcome& outcome) {
    reports.push({request, outcome});
  };
  options.add_headers = [](const Request& request, std::vector<Header>& headers) {
    headers.push_back({"Seen", request.path.empty() ? "nothing" : request.path});
  };
  start(std::move(options));
  Client client(server_->port());
  client.send(get("/echo"));
  EXPECT_THAT(client.read_to("\r\n\r\n"), HasSubstr("Seen: /echo\r\n"));
  Report report = reports.wait(seconds(60)).value();
  EXPECT_EQ(report.request.path, "/echo");
  EXPECT_EQ(report.outcome.status, 200);
  EXPECT_TRUE(report.outcome.complete);

  // Refused behind its head: a browser has to see why.
  client.send("POST /large HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n");
  EXPECT_THAT(client.read_all(), testing::AllOf(StartsWith("HTTP/1.1 413"), HasSubstr("Seen: /large\r\n")));
  report = reports.wait(seconds(60)).value();
  EXPECT_EQ(report.request.path, "/large");
  EXPECT_EQ(report.request.peer, "127.0.0.1");
  EXPECT_EQ(report.outcome.status, 413);

  Client nonsense(server_->port());
  nonsense.send("\x16\x03\x01\r\n\r\n");
  EXPECT_THAT(nonsense.read_all(), HasSubstr("Seen: nothing\r\n"));
  report = reports.wait(seconds(60)).value();
  EXPECT_EQ(report.request.peer, "127.0.0.1");
  EXPECT_EQ(report.outcome.status, 400);

  Client hasty(server_->port());
  hasty.send(get("/later"));
  const std::shared_ptr<Exchange> left = next();
  left->note("number", 7);
  hasty.leave();
  report = reports.wait(seconds(60)).value();
  EXPECT_EQ(report.outcome.status, 0);
  EXPECT_FALSE(report.outcome.complete);
  ASSERT_EQ(report.outcome.notes.size(), 1U);
  EXPECT_EQ(report.outcome.notes[0].second, 7U);
  EXPECT_FALSE(reports.poll()) << "each once";
  server_->stop();
}

// As a client's leaving looks to the server when it is noticed before the end of the write that satisfied the client.
TEST_F(ServerTest, AnAnswerUnderWayOutlivesItsClientsEnd) {
  BoundedQueue<bool> complete(1);
  ServerOptions options;
  options.on_answered = [&complete](const Request&, const Outcome& outcome) {
    complete.push(outcome.complete);
  };
  start(std::move(options));
  Client client(server_->port());
  client.send(get("/large"));
  const std::string body(8 << 20, 'x');  // More than the system takes at once.
  next()->respond({200, "text/plain", body, {}, false});
  EXPECT_THAT(client.read_to("\r\n\r\n"), StartsWith("HTTP/1.1 200"));
  client.send_no_more();
  EXPECT_FALSE(complete.wait(milliseconds(200)));  // Long enough that the end was seen.
  EXPECT_EQ(client.read_all().size(), body.size());
  EXPECT_EQ(complete.wait(seconds(60)), true);
  server_->stop();
}

TEST_F(ServerTest, BoundsAllBodiesTogetherUntilTheyAreTaken) {
  ServerOptions options;
  options.limits.body_bytes = 100;
  options.limits.bodies_bytes = 150;
  start(std::move(options));
  const auto post = [](const std::string& path) {
    return "POST " + path + " HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n" + std::string(100, 'b');
  };
  Client holder(server_->port()), second(server_->port()), third(server_->port());
  holder.send(post("/later"));
  const std::shared_ptr<Exchange> held = next();
  second.send(post("/echo"));
  EXPECT_THAT(second.read_all(), StartsWith("HTTP/1.1 503 "));
  EXPECT_EQ(held->take_body(), std::string(100, 'b'));
  EXPECT_EQ(held->request().body, "");
  third.send(post("/echo"));
  EXPECT_THAT(third.read_to("bbb"), StartsWith("HTTP/1.1 200 "));
  held->respond({200, "text/plain", "", {}, false});
  EXPECT_THAT(holder.read_to("\r\n\r\n"), StartsWith("HTTP/1.1 200 "));
}

TEST_F(ServerTest, StreamsInChunksWithAHeartbeat) {
  start();
  Client client(server_->port());
  client.send(get("/stream"));
  const auto exchange = next();
  exchange->begin({200, "text/event-stream", {{"X-A", "b"}}, [] { return ": \n\n"; }, milliseconds(20)});
  EXPECT_THAT(client.read_to("\r\n\r\n"), HasSubstr("Transfer-Encoding: chunked\r\n"));
  EXPECT_EQ(client.read_to("4\r\n: \n\n\r\n"), "4\r\n: \n\n\r\n") << "while nothing is written";
  exchange->write("data: 1\n\n");
  exchange->finish();
  EXPECT_THAT(client.read_to("0\r\n\r\n"), HasSubstr("9\r\ndata: 1\n\n\r\n"));
  client.send(get("/echo"));
  EXPECT_THAT(client.read_to("\r\n\r\n"), StartsWith("HTTP/1.1 200")) << "the connection goes on";
  EXPECT_EQ(closed_, 0u);
}

TEST_F(ServerTest, StreamsToHttp10UntilTheEnd) {
  start();
  Client client(server_->port());
  client.send("GET /stream HTTP/1.0\r\nHost: a\r\n\r\n");
  const auto exchange = next();
  exchange->begin({200, "text/plain", {}, {}, milliseconds(1000)});
  exchange->write("one");
  exchange->write("two");
  exchange->finish();
  EXPECT_THAT(client.read_all(), testing::EndsWith("\r\n\r\nonetwo"));
}

TEST_F(ServerTest, TellsWhenAClientLeaves) {
  start();
  Client early(server_->port()), streaming(server_->port());
  early.send(get("/wait"));
  const auto waiting = next();
  streaming.send(get("/stream"));
  const auto stream = next();
  stream->begin({200, "text/plain", {}, {}, milliseconds(1000)});
  early.leave();
  streaming.leave();
  await_closed(2);
  waiting->respond({200, "text/plain", "nobody hears this", {}, false});
  stream->write("nor this");
  stream->finish();
  waiting->on_closed([&] { ++closed_; });
  await_closed(3);  // Who asks later is told at once.
}

TEST_F(ServerTest, AHeadHasItsTimeFromTheConnectionsBeginning) {
  ServerOptions options;
  options.limits.head_wait = milliseconds(50);
  options.limits.idle_wait = seconds(600);  // Longer than anybody here waits.
  start(std::move(options));
  Client silent(server_->port()), head(server_->port()), lines(server_->port());
  head.send("GET / HT");
  lines.send("\r\n");  // Which many send behind a body, and is no head.
  EXPECT_EQ(silent.read_all(), "") << "nothing was asked, so nothing is answered";
  EXPECT_EQ(lines.read_all(), "");
  EXPECT_THAT(head.read_all(), StartsWith("HTTP/1.1 408"));
}

TEST_F(ServerTest, EmptyLinesBeforeARequestBuyNoTime) {
  ServerOptions options;
  options.limits.head_wait = milliseconds(200);
  options.limits.idle_wait = seconds(600);
  start(std::move(options));
  Client client(server_->port());
  client.send(get("/echo"));
  EXPECT_THAT(client.read_to("\r\n\r\n"), StartsWith("HTTP/1.1 200"));
  // One every tenth of that time, as long as they are taken: whoever takes them for ever never ends.
  for (int i = 0; i < 20 * 60 && client.try_send("\r\n"); ++i) (void)quiet_.wait(milliseconds(20));
  EXPECT_FALSE(client.try_send("\r\n")) << "the connection has ended";
  Client patient(server_->port());
  patient.send("\r\n" + get("/echo"));
  EXPECT_THAT(patient.read_to("\r\n\r\n"), StartsWith("HTTP/1.1 200")) << "one empty line is read over";
}

TEST_F(ServerTest, CutsOffWhoIsTooSlowAndWhoTakesNothing) {
  ServerOptions options;
  options.limits.body_wait = milliseconds(50);
  options.limits.write_wait = milliseconds(50);
  start(std::move(options));
  Client body(server_->port());
  body.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\na");
  EXPECT_THAT(body.read_all(), StartsWith("HTTP/1.1 408"));
  Client deaf(server_->port());
  deaf.send(get("/stream"));
  const auto exchange = next();
  exchange->begin({200, "text/plain", {}, {}, milliseconds(1000)});
  for (int i = 0; i < 200; ++i) exchange->write(std::string(100'000, 'x'));
  await_closed(1);
}

TEST_F(ServerTest, SaysHowMuchWaitsAndWhenThereIsRoom) {
  start();
  Client client(server_->port());
  client.send(get("/stream"));
  const auto exchange = next();
  BoundedQueue<int> writable(1000);
  exchange->on_writable([&] { (void)writable.push(1); });
  exchange->begin({200, "text/plain", {}, {}, milliseconds(1000)});
  EXPECT_THAT(client.read_to("\r\n\r\n"), StartsWith("HTTP/1.1 200"));
  while (exchange->waiting_bytes() < 300'000) exchange->write(std::string(100'000, 'x'));
  while (writable.poll()) continue;  // Of the beginning, when next to nothing waited.
  std::string read;
  while (!writable.wait(milliseconds(1))) read += client.read_to("\r\n");
  EXPECT_LT(exchange->waiting_bytes(), 300'000u);
  exchange->finish();
  EXPECT_THAT(client.read_to("\r\n0\r\n\r\n"), testing::EndsWith("x\r\n0\r\n\r\n"));
  server_->stop();
}

// A client that takes nothing: what waits for it, here and in the system, is what the writer was told, and no more.
TEST_F(ServerTest, TheSystemHoldsLittleForWhoReadsSlowly) {
  start();
  Client client(server_->port());
  client.send(get("/stream"));
  const auto exchange = next();
  exchange->begin({200, "text/plain", {}, {}, milliseconds(1000)});
  EXPECT_THAT(client.read_to("\r\n\r\n"), StartsWith("HTTP/1.1 200"));
  const Limits limits;
  const auto written = [&] {  // As a careful writer does, until nothing moves any more.
    uint64_t bytes = 0;
    for (int quiet = 0; quiet < 50; ++quiet) {
      for (; exchange->waiting_bytes() < limits.write_bytes; quiet = 0, bytes += 4096)
        exchange->write(std::string(4096, 'x'));
      (void)quiet_.wait(milliseconds(2));
    }
    return bytes;
  }();
  const uint64_t arrived = client.held_bytes();
  EXPECT_LE(written - std::min(written, arrived), uint64_t{256} << 10)
      << written << " bytes written, of which " << arrived << " have reached the client's system";
  client.leave();
  await_closed(1);
}

TEST_F(ServerTest, ResetsAStreamThatFails) {
  start();
  Client client(server_->port());
  client.send(get("/stream"));
  const auto exchange = next();
  exchange->begin({200, "text/plain", {}, {}, milliseconds(1000)});
  exchange->write("part");
  exchange->abort();
  EXPECT_EQ(client.read_all().find("0\r\n\r\n"), std::string::npos) << "never a clean end";
}

TEST_F(ServerTest, LimitsConnectionsAndClosesTheIdleOnes) {
  ServerOptions options;
  options.limits.connections = 1;
  start(std::move(options));
  Client first(server_->port());
  first.send(get("/echo"));
  EXPECT_THAT(first.read_to("\r\n\r\n"), StartsWith("HTTP/1.1 200"));
  Client second(server_->port());
  EXPECT_THAT(second.read_all(), StartsWith("HTTP/1.1 503"));
  server_->close_idle();
  EXPECT_EQ(first.read_all(), "");
}

TEST(Server, NamesTheAddressThatItCannotHave) {
  ServerOptions options;
  options.handler = [](const std::shared_ptr<Exchange>&) {};
  const auto first = Server::start(options);
  ASSERT_TRUE(first);
  options.port = (*first)->port();
  const auto second = Server::start(options);
  ASSERT_FALSE(second);
  EXPECT_THAT(second.error().message, HasSubstr("127.0.0.1, port " + std::to_string(options.port)));
}

}  // namespace
}  // namespace mlxf::http
