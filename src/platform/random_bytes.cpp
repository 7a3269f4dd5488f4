#include "platform/random_bytes.h"

#include <sys/random.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace mlxf::platform {

Status fill_random(std::span<uint8_t> bytes) {
  if (::getentropy(bytes.data(), bytes.size()) == 0) return {};
  return fail(ErrorCode::kIo, std::string("the system gives no random bytes: ") + std::strerror(errno));
}

}  // namespace mlxf::platform
