#include "http/server.h"

#include <algorithm>
#include <atomic>
#include <boost/asio.hpp>
#include <deque>
#include <exception>
#include <optional>
#include <thread>
#include <utility>

#include "base/mutex.h"
#include "http/connection.h"

namespace mlxf::http {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

constexpr std::chrono::milliseconds kAcceptPause(100);

std::string failure_text(const std::string& host, uint16_t port, const error_code& error) {
  std::string text = "cannot listen on " + host + ", port " + std::to_string(port) + ": " + error.message();
  if (error == asio::error::address_in_use)
    text += "; another program, or another server, has it: choose another port (0: any that is free)";
  return text;
}

class ServerOf final : public Server {
 public:
  explicit ServerOf(ServerOptions options)
      : options_(std::move(options)),
        io_(static_cast<int>(options_.threads)),
        work_(asio::make_work_guard(io_)) {}
  // NOLINTNEXTLINE(bugprone-exception-escape): asio lacks memory to stop with, and so does everybody else.
  ~ServerOf() override { stop(); }

  // Takes the addresses, has the owner prepare, and lets clients in.
  [[nodiscard]] Status open();
  void run();
  uint16_t port() const override { return port_; }
  size_t connections() const override { return shared_.connections; }
  void close_idle() override;
  void stop() override;

 private:
  [[nodiscard]] Status bind_to(const std::string& host);
  void accept(tcp::acceptor& acceptor);
  void on_accept(tcp::acceptor& acceptor, error_code error, tcp::socket socket);
  void pause_accepting(tcp::acceptor& acceptor);
  void remember(const std::shared_ptr<Connection>& connection);
  void close_acceptors();

  const ServerOptions options_;
  Shared shared_;
  asio::io_context io_;
  std::optional<asio::executor_work_guard<asio::io_context::executor_type>> work_;  // Until stop().
  std::deque<tcp::acceptor> acceptors_;  // Each on a strand of its own.
  uint16_t port_ = 0;
  Mutex mutex_;
  std::vector<std::weak_ptr<Connection>> connections_ MLXF_GUARDED_BY(mutex_);
  std::vector<std::thread> threads_;
};

Status ServerOf::open() {
  port_ = options_.port;
  for (size_t i = 0; i < options_.hosts.size(); ++i) {
    Status status = bind_to(options_.hosts[i]);
    // A machine may lack the second address, but a port that another program has there would get our clients.
    if (!status && (i == 0 || status.error().code != ErrorCode::kNotFound)) return status;
  }
  if (options_.prepare) RETURN_IF_ERROR(options_.prepare());
  for (tcp::acceptor& acceptor : acceptors_) {
    error_code error;
    const tcp::endpoint endpoint = acceptor.local_endpoint(error);
    acceptor.listen(1024, error);
    if (error)
      return fail(ErrorCode::kUnavailable, failure_text(endpoint.address().to_string(), port_, error));
  }
  return {};
}

Status ServerOf::bind_to(const std::string& host) {
  const auto failed = [&](const error_code& error) {
    const bool no_address = error == asio::error::address_family_not_supported ||
                            error == boost::system::errc::address_not_available;
    return fail(no_address || (options_.port == 0 && !acceptors_.empty()) ? ErrorCode::kNotFound
                                                                          : ErrorCode::kUnavailable,
                failure_text(host, port_, error));
  };
  error_code error;
  tcp::resolver resolver(io_);
  const auto found = resolver.resolve(host, std::to_string(port_), tcp::resolver::passive, error);
  if (error) return failed(error);
  const tcp::endpoint endpoint = found.begin()->endpoint();
  tcp::acceptor acceptor(asio::make_strand(io_));
  acceptor.open(endpoint.protocol(), error);
  if (error) return failed(error);
  acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  if (endpoint.address().is_v6()) acceptor.set_option(asio::ip::v6_only(true), error);
  acceptor.bind(endpoint, error);
  if (error) return failed(error);
  port_ = acceptor.local_endpoint(error).port();
  acceptors_.push_back(std::move(acceptor));
  return {};
}

void ServerOf::run() {
  for (tcp::acceptor& acceptor : acceptors_) accept(acceptor);
  for (uint32_t i = 0; i < options_.threads; ++i)
    threads_.emplace_back([this] {
      while (!io_.stopped()) try {
          io_.run();
        } catch (const std::exception&) {
          // Out of memory, most likely, in what a callback did: its exchange is lost, the others go on.
        }
    });
}

void ServerOf::accept(tcp::acceptor& acceptor) {
  acceptor.async_accept(asio::make_strand(io_), [this, &acceptor](error_code error, tcp::socket socket) {
    on_accept(acceptor, error, std::move(socket));
  });
}

void ServerOf::on_accept(tcp::acceptor& acceptor, error_code error, tcp::socket socket) {
  if (shared_.closing || error == asio::error::operation_aborted || !acceptor.is_open()) return;
  if (error) {  // Out of descriptors, most likely: the connections that are there go on.
    pause_accepting(acceptor);
    return;
  }
  const auto executor = socket.get_executor();
  const auto connection = std::make_shared<Connection>(std::move(socket), options_, shared_);
  const bool full = shared_.connections > options_.limits.connections;
  remember(connection);
  asio::dispatch(executor, [this, connection, full] {
    if (shared_.closing) {  // stop() may have come too early to know it.
      connection->reset();
    } else if (full) {
      connection->refuse_connection();
    } else {
      connection->start();
    }
  });
  accept(acceptor);
}

void ServerOf::pause_accepting(tcp::acceptor& acceptor) {
  const auto timer = std::make_shared<asio::steady_timer>(acceptor.get_executor(), kAcceptPause);
  timer->async_wait([this, timer, &acceptor](error_code) {
    if (!shared_.closing && acceptor.is_open()) accept(acceptor);
  });
}

void ServerOf::remember(const std::shared_ptr<Connection>& connection) {
  const MutexLock lock(mutex_);
  if (connections_.size() >= 64 && connections_.size() >= 2 * shared_.connections)
    connections_.erase(std::remove_if(connections_.begin(), connections_.end(),
                                      [](const auto& weak) { return weak.expired(); }),
                       connections_.end());
  connections_.push_back(connection);
}

void ServerOf::close_acceptors() {
  for (tcp::acceptor& acceptor : acceptors_)
    asio::post(acceptor.get_executor(), [&acceptor] {
      error_code ignored;
      acceptor.close(ignored);
    });
}

void ServerOf::close_idle() {
  shared_.closing = true;
  close_acceptors();
  std::vector<std::weak_ptr<Connection>> connections;
  {
    const MutexLock lock(mutex_);
    connections = connections_;
  }
  for (const auto& weak : connections)
    if (const auto connection = weak.lock())
      asio::post(connection->executor(), [connection] { connection->close_if_idle(); });
}

void ServerOf::stop() {
  if (threads_.empty()) return;
  shared_.closing = true;
  close_acceptors();
  std::vector<std::weak_ptr<Connection>> connections;
  {
    const MutexLock lock(mutex_);
    connections.swap(connections_);
  }
  for (const auto& weak : connections)
    if (const auto connection = weak.lock())
      asio::post(connection->executor(), [connection] { connection->reset(); });
  work_.reset();  // The threads end once everything has.
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

}  // namespace

Result<std::unique_ptr<Server>> Server::start(ServerOptions options) {
  auto server = std::make_unique<ServerOf>(std::move(options));
  RETURN_IF_ERROR(server->open());
  server->run();
  return std::unique_ptr<Server>(std::move(server));
}

}  // namespace mlxf::http
