#include "platform/service_manager.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <string>

namespace mlxf::platform {

Status notify_service_manager(std::string_view state) {
  const char* named = std::getenv("NOTIFY_SOCKET");
  if (named == nullptr || *named == '\0') return {};
  const std::string_view path(named);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if ((path.front() != '/' && path.front() != '@') || path.size() >= sizeof(address.sun_path))
    return fail(ErrorCode::kInvalidArgument, "NOTIFY_SOCKET is no path of a socket: " + std::string(path));
  std::memcpy(address.sun_path, path.data(), path.size());
  if (path.front() == '@') address.sun_path[0] = '\0';  // Linux's abstract names.
#ifdef SOCK_CLOEXEC
  const int socket = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
#else  // macOS
  const int socket = ::socket(AF_UNIX, SOCK_DGRAM, 0);
#endif
  if (socket < 0) return fail(ErrorCode::kIo, std::string("NOTIFY_SOCKET: ") + std::strerror(errno));
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size());
  const ssize_t sent = ::sendto(socket, state.data(), state.size(), MSG_NOSIGNAL,
                                reinterpret_cast<const sockaddr*>(&address), length);
  const int problem = errno;
  ::close(socket);
  if (sent == static_cast<ssize_t>(state.size())) return {};
  return fail(ErrorCode::kIo, "NOTIFY_SOCKET " + std::string(path) + ": " + std::strerror(problem));
}

}  // namespace mlxf::platform
