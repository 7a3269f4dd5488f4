#include "platform/service_manager.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string>

namespace mlxf::platform {
namespace {

TEST(ServiceManager, IsToldOverItsSocket) {
  const std::string path = testing::TempDir() + "notify." + std::to_string(::getpid());
  ::unlink(path.c_str());
  const int socket = ::socket(AF_UNIX, SOCK_DGRAM, 0);
  ASSERT_GE(socket, 0);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  ASSERT_LT(path.size(), sizeof(address.sun_path));
  std::memcpy(address.sun_path, path.data(), path.size());
  ASSERT_EQ(::bind(socket, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0) << path;
  ::setenv("NOTIFY_SOCKET", path.c_str(), 1);
  const Status told = notify_service_manager("READY=1\nSTATUS=serving x");
  ASSERT_TRUE(told) << told.error().message;
  char text[64] = {};
  ASSERT_GT(::recv(socket, text, sizeof(text) - 1, MSG_DONTWAIT), 0);
  EXPECT_STREQ(text, "READY=1\nSTATUS=serving x");
  ::close(socket);
  ::unlink(path.c_str());
  EXPECT_FALSE(notify_service_manager("READY=1")) << "nobody listens";
  ::setenv("NOTIFY_SOCKET", "relative", 1);
  EXPECT_FALSE(notify_service_manager("READY=1"));
  ::setenv("NOTIFY_SOCKET", ("/" + std::string(200, 'x')).c_str(), 1);
  EXPECT_FALSE(notify_service_manager("READY=1"));
  ::unsetenv("NOTIFY_SOCKET");
  EXPECT_TRUE(notify_service_manager("READY=1")) << "there is no manager";
}

}  // namespace
}  // namespace mlxf::platform
